"""Who calls: API keys to principals, from a cache that forgets what it is told to forget.

Invariants
1. Keys are neither kept nor logged: the cache knows their SHA-256.
2. A key is asked about once at a time, however many calls wait for the answer.
3. An expired key is refused to the second, whatever the cache says.
4. While invalidations are heard an entry is believed for ``age_seconds_max``; while they are not, and after each gap
   in hearing, for ``unheard_seconds_max``. An answer that was under way when an invalidation came is used once.
5. The control plane away: an entry serves on for ``stale_seconds_max``, unless it was invalidated.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from models.errors import Unauthenticated, Unavailable
from models.identity import Principal
from serve.config import KeyCache
from serve.directory import WRONG_KEY

KEY_BYTES_MAX = 512
RETRY_SECONDS = 1.0
NO_KEY = "You did not provide an API key: send it as 'Authorization: Bearer YOUR_KEY'."


@dataclass(slots=True)
class _Entry:
    """``principal`` None: the key is wrong. Times are monotonic seconds."""

    principal: Principal | None
    asked_at: float
    ask_again_at: float
    excused_until: float = 0.0


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
        self._clock = clock
        self._ask = ask
        self._limits = limits
        self._entries: dict[bytes, _Entry] = {}
        self._asking: dict[bytes, asyncio.Task[_Entry]] = {}
        self._hearing_since: float | None = None
        self._invalidations = 0

    @property
    def holds_principals(self) -> bool:
        """Whether some call could be admitted without the control plane."""
        return any(entry.principal is not None for entry in self._entries.values())

    async def authenticate(self, authorization: bytes | None) -> Principal:
        """The principal of an ``Authorization`` header. Raises Unauthenticated, Unavailable."""
        key = _bearer(authorization)
        digest = hashlib.sha256(key).digest()
        entry = self._entries.get(digest)
        if entry is None or not self._believed(entry):
            entry = await self._refreshed(digest, key.decode())
        principal = entry.principal
        if principal is None or (principal.expires_at is not None and principal.expires_at <= time.time()):
            raise Unauthenticated(WRONG_KEY)
        return principal

    def hears(self) -> None:
        """Told by the listener: from now on invalidations are heard."""
        self._hearing_since = self._clock()

    def deaf(self) -> None:
        """Told by the listener: invalidations may be missed from now on."""
        self._hearing_since = None

    def invalidate(self, message: str) -> None:
        """Forget what a message of ``channels.INVALIDATIONS`` names; an unknown kind forgets everything."""
        self._invalidations += 1
        kind, _, owner = message.partition(":")
        field = {"key": "api_key_id", "organisation": "organisation_id"}.get(kind)
        self._entries = {
            digest: entry
            for digest, entry in self._entries.items()
            if field and (entry.principal is None or getattr(entry.principal, field) != owner)
        }

    def _believed(self, entry: _Entry) -> bool:
        now = self._clock()
        heard = self._hearing_since is not None and self._hearing_since <= entry.asked_at
        if heard or now < entry.asked_at + self._limits.unheard_seconds_max:
            return now < max(entry.ask_again_at, entry.excused_until)
        return now < entry.excused_until

    async def _refreshed(self, digest: bytes, key: str) -> _Entry:
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.ensure_future(self._ask_and_keep(digest, key))
            task.add_done_callback(lambda done: self._answered(digest, done))
        # One caller's hang-up must not take the answer from the others.
        return await asyncio.shield(task)

    def _answered(self, digest: bytes, task: asyncio.Task[_Entry]) -> None:
        del self._asking[digest]
        if not task.cancelled():
            # Looked at here, for all who waited may have left.
            task.exception()

    async def _ask_and_keep(self, digest: bytes, key: str) -> _Entry:
        asked_at = self._clock()
        invalidations = self._invalidations
        try:
            entry = _Entry(await self._ask(key), asked_at, asked_at + self._limits.age_seconds_max)
        except Unauthenticated:
            entry = _Entry(None, asked_at, asked_at + self._limits.refused_seconds_max)
        except Unavailable:
            return self._stale(digest)
        if invalidations == self._invalidations:
            self._keep(digest, entry)
        return entry

    def _stale(self, digest: bytes) -> _Entry:
        """What was known before, for a little longer. Raises Unavailable."""
        entry = self._entries.get(digest)
        if entry is None or self._clock() > entry.asked_at + self._limits.stale_seconds_max:
            raise Unavailable("API keys cannot be checked at the moment.", retry_after_seconds=RETRY_SECONDS)
        entry.excused_until = self._clock() + RETRY_SECONDS
        return entry

    def _keep(self, digest: bytes, entry: _Entry) -> None:
        # The most recently asked is last, so what goes first was asked longest ago.
        self._entries.pop(digest, None)
        if len(self._entries) >= self._limits.entries_max:
            del self._entries[next(iter(self._entries))]
        self._entries[digest] = entry


def _bearer(authorization: bytes | None) -> bytes:
    scheme, _, key = (authorization or b"").strip().partition(b" ")
    key = key.strip()
    if not key or scheme.lower() != b"bearer":
        raise Unauthenticated(NO_KEY)
    if len(key) > KEY_BYTES_MAX or not key.isascii():
        raise Unauthenticated(WRONG_KEY)
    return key
