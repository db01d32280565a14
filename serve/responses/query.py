"""The query of an address: what is in it is taken or refused by name."""

from urllib.parse import parse_qsl

from models.errors import InvalidRequest
from serve.asgi import Scope
from serve.messages.reader import unsupported, wrong
from serve.responses.request import INCLUDABLE

LIMIT_MAX = 100
ORDERS = ("asc", "desc")
CURSOR_LENGTH_MAX = 128


def page_query(scope: Scope) -> dict[str, str]:
    """Of a list of items: ``limit``, ``after``, ``order``. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for name, value in _pairs(scope):
        if name == "limit":
            if not (value.isascii() and value.isdecimal() and 1 <= int(value[:6]) <= LIMIT_MAX):
                raise wrong(name, f"must be an integer from 1 to {LIMIT_MAX}")
        elif name == "order":
            if value not in ORDERS:
                raise wrong(name, f"must be one of {', '.join(ORDERS)}")
        elif name == "after":
            if not 1 <= len(value) <= CURSOR_LENGTH_MAX:
                raise wrong(name, "must be the id of an item of this list")
        else:
            _includable(name, value)
            continue
        found[name] = value
    return found


def plain_query(scope: Scope) -> dict[str, str]:
    """Of a single thing: nothing but ``include``. Raises InvalidRequest."""
    for name, value in _pairs(scope):
        if name == "stream" and value.lower() == "false":
            continue
        if name in {"stream", "starting_after"}:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}': a response that was created is not streamed again; poll it.",
                param=name,
                code="unsupported_parameter",
            )
        _includable(name, value)
    return {}


def _pairs(scope: Scope) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(scope.get("query_string", b"").decode(), keep_blank_values=True, max_num_fields=100)
    except (UnicodeDecodeError, ValueError):
        raise InvalidRequest("The address cannot be read.") from None
    return [(name.removesuffix("[]"), value) for name, value in pairs]


def _includable(name: str, value: str) -> None:
    """What is always included may be asked for."""
    if name != "include":
        raise unsupported(name)
    if value not in INCLUDABLE:
        raise InvalidRequest(f"Unsupported value of 'include': {value!r}.", param=name, code="unsupported_value")
