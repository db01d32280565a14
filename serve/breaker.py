"""Whether an upstream of ours is worth waiting for: a circuit breaker that asks instead of counting.

A dead engine does not refuse calls: Serve's proxy holds them until a new replica has loaded, which takes a minute. And
a slow answer is no sign of death, for a whole answer may take minutes. So the upstream's health is what decides.

1. Closed: a call that has waited ``doubt_seconds`` for its first byte, or failed to reach the upstream, raises doubt:
   the upstream's health is asked until it is known.
2. ``FAILURES`` unhealthy answers in a row open it. Calls that wait end with Unavailable, new ones are refused at once.
3. Open: asked every ``PROBE_SECONDS`` until it is well again, by one task however many calls there are.

Source: M. Nygard, Release It!, "Circuit Breaker"; the probe stands for its half-open call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

from models.errors import Unavailable

PROBE_SECONDS = 0.25
FAILURES = 2
RETRY_SECONDS = 2.0


class Breaker:
    """One upstream's, in one process. ``probe``: whether it is well, within a bounded time; it never raises."""

    def __init__(self, probe: Callable[[], Awaitable[bool]], doubt_seconds: float) -> None:
        self._probe = probe
        self._doubt_seconds = doubt_seconds
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self.open = False

    @contextmanager
    def waiting(self, model: str, timeout: asyncio.Timeout) -> Generator[None]:
        """While a call waits for its first byte; ``timeout`` is running and ends the wait where the breaker opens.

        Raises Unavailable where it is open.
        """
        if self.open:
            raise away(model)
        loop = asyncio.get_running_loop()
        self._waiting[timeout] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._doubt_seconds, self._look)
        try:
            yield
        finally:
            del self._waiting[timeout]

    def doubt(self) -> None:
        """Something speaks against the upstream: ask it."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())

    async def close(self) -> None:
        """End what runs in the background."""
        if self._timer is not None:
            self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _look(self) -> None:
        """The oldest call that waits is the first in the mapping: in doubt, or to be looked at when it would be."""
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        due = next(iter(self._waiting.values())) + self._doubt_seconds
        if due <= loop.time():
            self.doubt()
            due = loop.time() + self._doubt_seconds
        self._timer = loop.call_at(due, self._look)

    async def _ask(self) -> None:
        failures = 0
        try:
            while not await self._probe():
                failures += 1
                if failures == FAILURES:
                    self._trip()
                await asyncio.sleep(PROBE_SECONDS)
        finally:
            self.open = False
            self._asking = None

    def _trip(self) -> None:
        self.open = True
        now = asyncio.get_running_loop().time()
        for timeout in self._waiting:
            if not timeout.expired():
                timeout.reschedule(now)


def away(model: str) -> Unavailable:
    """What a caller is told while the upstream is away."""
    return Unavailable(f"The model '{model}' cannot be reached at the moment.", retry_after_seconds=RETRY_SECONDS)
