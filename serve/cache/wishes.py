"""What a request's headers say of the response cache."""

from collections.abc import Mapping
from dataclasses import dataclass

from models.errors import InvalidRequest
from serve.asgi import Scope, header

OUTCOME = b"x-objecta-cache"
TTL = b"x-objecta-cache-ttl"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request says of the cache."""

    look: bool
    keep: bool
    ttl_seconds: int | None = None


ON = Wish(look=True, keep=True)
WISHES: Mapping[bytes, Wish] = {
    b"on": ON,
    b"refresh": Wish(look=False, keep=True),
    b"off": Wish(look=False, keep=False),
}


def wish_of(scope: Scope, ttl_seconds_max: int) -> Wish | None:
    """What the request's headers ask for; None where they say nothing. Raises InvalidRequest."""
    asked = header(scope, OUTCOME)
    if asked is None:
        return None
    wish = WISHES.get(asked)
    if wish is None:
        raise InvalidRequest("'x-objecta-cache' must be 'on', 'off' or 'refresh'.", param="x-objecta-cache")
    ttl = header(scope, TTL)
    if ttl is None or not wish.keep:
        return wish
    if not (ttl.isdigit() and len(ttl) <= len(str(ttl_seconds_max)) and 1 <= int(ttl) <= ttl_seconds_max):
        raise InvalidRequest(
            f"'x-objecta-cache-ttl' must be a whole number of seconds from 1 to {ttl_seconds_max}.",
            param="x-objecta-cache-ttl",
        )
    return Wish(wish.look, wish.keep, int(ttl))
