"""What an answer bears beside its type where no model was asked: the answer of a list, a file, a stored thing."""

import time

from serve.asgi import Headers
from serve.callers import REQUEST_ID, Caller
from serve.exchange import API_VERSION


def headers_for(caller: Caller) -> Headers:
    """OpenAI's headers."""
    return [
        (REQUEST_ID, caller.request_id.encode()),
        (b"openai-version", API_VERSION),
        (b"openai-organization", caller.principal.organisation_id.encode()),
        (b"openai-processing-ms", b"%d" % ((time.monotonic() - caller.started) * 1_000)),
    ]
