"""``/v1/conversations`` and all below it: items under one id, which responses build on and add to."""

from collections.abc import Mapping

from models.errors import InvalidRequest
from serve.allowlist import local_path
from serve.asgi import Receive, Scope, Send, read_body, send_json
from serve.calls import Calls
from serve.config import GatewayConfig
from serve.headers import headers_for
from serve.messages.reader import Reader, missing
from serve.responses.app import allowed, split
from serve.responses.items import Item, new_id, read_items
from serve.responses.query import page_query, plain_query
from serve.responses.request import read_metadata
from serve.responses.store import Object, ResponseStore
from serve.validation import Body, parse_body

ROOT = "/v1/conversations"
ITEMS_MAX = 20

METHODS: Mapping[tuple[int, str], frozenset[str]] = {
    (0, ""): frozenset({"POST"}),
    (1, ""): frozenset({"GET", "POST", "DELETE"}),
    (2, "items"): frozenset({"GET", "POST"}),
    (3, "items"): frozenset({"GET", "DELETE"}),
}


class Conversations:
    """The family of paths below ``/v1/conversations``."""

    def __init__(self, calls: Calls, store: ResponseStore, config: GatewayConfig) -> None:
        self._calls = calls
        self._store = store
        self._body_bytes_max = config.body_bytes_max

    async def __call__(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One call. Raises what the client is to be told."""
        parts = split(local_path(scope), ROOT)
        method = allowed(scope["method"], METHODS, parts)
        caller = await self._calls.caller(request_id, scope)
        order: Object | None = None
        listing = method == "GET" and len(parts) == 2
        query = page_query(scope) if listing else plain_query(scope)
        if method == "POST":
            raw = await read_body(receive, scope, self._body_bytes_max)
            order = read_order(parse_body(scope, raw) if raw else {}, parts)
        path = "/".join(["/conversations", *parts])
        answer = await self._store.ask(method, caller.principal, path, order, query)
        await send_json(send, 200, answer, headers_for(caller))


def read_order(body: Body, parts: list[str]) -> Object:
    """A body, as the store takes it. Raises InvalidRequest that names the parameter at fault."""
    reader = Reader(body)
    if not parts:
        order: Object = {"id": new_id("conv"), "metadata": read_metadata(reader), "items": _items(reader)}
    elif len(parts) == 1:
        if body.get("metadata") is None:
            raise missing("metadata")
        order = {"metadata": read_metadata(reader)}
    else:
        reader.need("items")
        order = {"items": _items(reader)}
        if not order["items"]:
            raise InvalidRequest("Invalid value for 'items': it must not be empty.", "items", "invalid_value")
    reader.done()
    return order


def _items(reader: Reader) -> list[Item]:
    return read_items(reader, "items", ITEMS_MAX, references=False)
