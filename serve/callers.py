"""Who calls: an API key, or one of our own processes for a principal it names; and what its headers ask of the call."""

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pydantic import SecretStr
from uuid_utils import uuid7

from models.channels import BATCH_CLASS, CLASS_HEADER, PARENT_REQUEST_HEADER, PRINCIPAL_HEADER, REQUEST_ID_HEADER
from models.errors import Unauthenticated
from models.identity import Principal
from serve.asgi import Scope, header
from serve.auth import Authenticator
from serve.cache.wishes import Wish, wish_of
from serve.guard import holds_secret

AUTHORIZATION = b"authorization"
# Where Anthropic's clients put a key.
API_KEY = b"x-api-key"
FALLBACKS = b"x-objecta-fallbacks"
PRINCIPAL = PRINCIPAL_HEADER.encode()
PARENT = PARENT_REQUEST_HEADER.encode()
CLASS = CLASS_HEADER.encode()
BATCH = BATCH_CLASS.encode()
REQUEST_ID = REQUEST_ID_HEADER.encode()
SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id(scope: Scope) -> str:
    """The client's own where it is sane, else a new one."""
    given = header(scope, REQUEST_ID)
    return given.decode() if given and SANE_ID.fullmatch(given) else f"req_{uuid7().hex}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, under which request id; ``parent`` is the request on whose behalf one of our processes calls.

    ``fallbacks``: whether another model may answer in place of the one asked for. ``batch``: for a line of a batch.
    ``cache``: what it says of stored answers.
    """

    principal: Principal
    request_id: str
    parent: str | None = None
    fallbacks: bool = True
    started: float = field(default_factory=time.monotonic)
    batch: bool = False
    cache: Wish | None = None


Identify = Callable[[str, Scope], Awaitable[Caller]]
"""The caller behind a request id and a scope. Raises Unauthenticated, Unavailable; InvalidRequest by header."""


class Callers:
    """Knows who calls one replica. ``ttl_seconds_max``: that a request may name for a stored answer."""

    def __init__(self, authenticator: Authenticator, secret: SecretStr, ttl_seconds_max: int) -> None:
        self._authenticator = authenticator
        self._secret = secret.get_secret_value().encode()
        self._ttl_seconds_max = ttl_seconds_max

    async def caller(self, request: str, scope: Scope) -> Caller:
        """Who calls. Raises Unauthenticated, Unavailable; InvalidRequest where a header of ours is wrong."""
        started = time.monotonic()
        fallbacks = header(scope, FALLBACKS) != b"off"
        named = header(scope, PRINCIPAL)
        if named is None or not holds_secret(scope, self._secret):
            authorization = header(scope, AUTHORIZATION)
            if authorization is None and (key := header(scope, API_KEY)) is not None:
                authorization = b"Bearer " + key
            principal = await self._authenticator.authenticate(authorization)
            return Caller(principal, request, None, fallbacks, started, cache=wish_of(scope, self._ttl_seconds_max))
        try:
            principal = Principal.from_header(named.decode())
        except ValueError:
            raise Unauthenticated("The principal's header is not one.") from None
        parent, batch = header(scope, PARENT), header(scope, CLASS) == BATCH
        inner = parent.decode(errors="replace") if parent else None
        wish = wish_of(scope, self._ttl_seconds_max)
        return Caller(principal, request, inner, fallbacks, started, batch, wish)
