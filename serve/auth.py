"""Who calls: API keys to principals, from a cache that forgets what it is told to forget (``serve.remembered``).

Invariants
1. Keys are neither kept nor logged: the cache knows their SHA-256.
2. A key is asked about once at a time, however many calls wait for the answer.
3. An expired key is refused to the second, whatever the cache says.
4. While invalidations are heard an entry is believed for ``age_seconds_max``; while they are not, and after each gap
   in hearing, for ``unheard_seconds_max``. An answer that was under way when an invalidation came is used once.
5. The control plane away: an entry serves on for ``stale_seconds_max``, unless it was invalidated.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable
from functools import partial

from models.errors import Unauthenticated, Unavailable
from models.identity import Principal
from serve.config import KeyCache
from serve.directory import WRONG_KEY
from serve.remembered import RETRY_SECONDS, Remembered

KEY_BYTES_MAX = 512
NO_KEY = "You did not provide an API key: send it as 'Authorization: Bearer YOUR_KEY'."


class Authenticator:
    """Principals of API keys. ``ask`` is the control plane; raises Unauthenticated, Unavailable.

    ``clock`` tells seconds that never go back.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Principal]],
        limits: KeyCache,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._limits = limits
        # None: the key is wrong.
        self._remembered = Remembered[bytes, Principal | None](limits, clock, self._age)
        self.hears = self._remembered.hears
        self.deaf = self._remembered.deaf

    @property
    def hearing(self) -> bool:
        """Whether invalidations are heard."""
        return self._remembered.hearing

    @property
    def holds_principals(self) -> bool:
        """Whether some call could be admitted without the control plane."""
        return any(principal is not None for principal in self._remembered.known())

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """The principal of an ``Authorization`` header. Raises Unauthenticated, Unavailable."""
        key = _bearer(authorization)
        digest = hashlib.sha256(key).digest()
        entry = self._remembered.believed(digest)
        if entry is not None:
            principal = entry.answer
        else:
            principal = await self._remembered.answer(digest, partial(self._asked, key.decode()))
        if principal is None or (principal.expires_at is not None and principal.expires_at <= time.time()):
            raise Unauthenticated(WRONG_KEY)
        return principal

    def invalidate(self, message: str) -> None:
        """Forget what a message of ``channels.INVALIDATIONS`` names; an unknown kind forgets everything."""
        kind, _, owner = message.partition(":")
        field = {"key": "api_key_id", "organisation": "organisation_id"}.get(kind)
        self._remembered.forget(
            lambda _, principal: not field or (principal is not None and getattr(principal, field) == owner)
        )

    def _age(self, principal: Principal | None) -> float:
        return self._limits.refused_seconds_max if principal is None else self._limits.age_seconds_max

    async def _asked(self, key: str) -> Principal | None:
        try:
            return await self._ask(key)
        except Unauthenticated:
            return None
        except Unavailable:
            raise Unavailable("API keys cannot be checked at the moment.", retry_after_seconds=RETRY_SECONDS) from None


def _bearer(authorization: bytes | None) -> bytes:
    scheme, _, key = (authorization or b"").strip().partition(b" ")
    key = key.strip()
    if not key or scheme.lower() != b"bearer":
        raise Unauthenticated(NO_KEY)
    if len(key) > KEY_BYTES_MAX or not key.isascii():
        raise Unauthenticated(WRONG_KEY)
    return key
