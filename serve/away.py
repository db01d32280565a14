"""What holds while Redis is away: a rate for each API key in this replica alone, for nobody can say what others admit.

GCRA with a burst of a whole minute's calls, as in Redis.
"""

import time
from collections.abc import Callable

from models.errors import LimitReached
from models.identity import Principal

MINUTE = 60.0
KEYS_MAX = 10_000


class LocalLimit:
    """Calls a minute for each API key; ``None`` limits nothing."""

    def __init__(self, requests_per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._step = MINUTE / requests_per_minute if requests_per_minute else 0.0
        self._clock = clock
        self._whole: dict[str, float] = {}

    def take(self, principal: Principal) -> None:
        """Count one call. Raises LimitReached."""
        if not self._step:
            return
        now = self._clock()
        whole = max(self._whole.pop(principal.api_key_id, 0.0), now) + self._step
        early = whole - MINUTE - now
        if early > 1e-9:
            self._whole[principal.api_key_id] = whole - self._step
            raise LimitReached(
                "Calls are limited more tightly than usual at the moment. Try again later.", retry_after_seconds=early
            )
        if len(self._whole) >= KEYS_MAX:
            del self._whole[next(iter(self._whole))]
        self._whole[principal.api_key_id] = whole
