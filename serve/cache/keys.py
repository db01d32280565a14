"""What two requests must share to have the same answer.

The digest is over the address, the model that is to answer with all that makes it what it is, and the request without
what says nothing to the model. It is the same in whichever order a JSON object's members come. The organisation is no
part of it but of the key's name, so that one can be erased.
"""

import hashlib
from typing import Any

import orjson

from serve.config import ModelRoute
from serve.routing import Endpoint
from serve.validation import Body

# How the answer travels, and the caller's own books.
IGNORED = frozenset(
    {
        *("model", "stream", "stream_options"),
        *("user", "safety_identifier", "metadata", "store", "service_tier"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)


def fingerprint(route: ModelRoute) -> bytes:
    """Of a served model: another template, source or upstream makes other answers."""
    entry = route.entry
    parts: dict[str, Any] = entry.model_dump(mode="json", exclude={"prices", "scaling", "hardware"})
    parts |= {"upstream": route.upstream.name, "address": route.upstream.base_url}
    return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)


def digest(endpoint: Endpoint, model: bytes, body: Body) -> str:
    """Hexadecimal; ``model`` is its fingerprint."""
    asked = {name: value for name, value in body.items() if value is not None and name not in IGNORED}
    canonical = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(b"\0".join((endpoint.path.encode(), model, canonical))).hexdigest()
