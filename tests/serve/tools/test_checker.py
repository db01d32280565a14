"""The last word on a call, where a schema is a stranger's."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from serve.tools.assembler import Malformed
from serve.tools.checker import Checker
from serve.tools.request import Tool


@pytest.fixture
def fetched() -> Iterator[tuple[str, list[str]]]:
    """The address of a server with a schema that anything satisfies, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            return

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/schema", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_reference_to_elsewhere_is_not_followed(fetched: tuple[str, list[str]]) -> None:
    url, asked = fetched
    schema = {"type": "object", "properties": {"a": {"$ref": url}}}
    checker = Checker([Tool("f", {}, schema, schema)])
    with pytest.raises(Malformed):
        checker.check("f", '{"a": 1}')
    assert asked == []
    checker.check("f", "{}")
