"""Which of a model's places takes a call.

``latency``: of two places drawn at random the one that costs less takes it, where a place costs

    time to its first byte · (calls in flight + 1) / weight

The time is a moving average that decays while nothing is heard, so that a place that was slow is tried again. For
streams a sample above it replaces it at once (their first byte tells how busy a place is); for whole answers it does
not, for these take as long as they are long.

``prefix``: consistent hashing with bounded loads over ``serve.ring``. Calls with the same beginning go to the place
that has it in its prefix cache, or to the next on the ring while that one has more than its bound of the calls in
flight, ⌈ LOAD_FACTOR · calls · weight / weights ⌉.

Each gateway process sees its own calls; the bound of the sum is the sum of the bounds.

Sources: Finagle's Peak EWMA (twitter/finagle, finagle-core/…/loadbalancer/PeakEwma.scala); M. Mitzenmacher, "The Power
of Two Choices in Randomized Load Balancing", 2001; V. Mirrokni, M. Thorup, M. Zadimoghaddam, "Consistent Hashing with
Bounded Loads", 2016 (arXiv:1608.01350).
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from serve.asgi import ClientDisconnected
from serve.ring import Ring

DECAY_SECONDS = 10.0
# How much the last whole answer says.
RECENT = 0.2
# A mean below it is old: the place is as good as unknown.
KNOWN_SECONDS = 0.001
# What a place costs whose first answer is still awaited: more than any that is known.
UNKNOWN_SECONDS = 1e6
# A failure is quick, and a place that fails quickly must not look like a fast one.
FAILED_SECONDS = 5.0
LOAD_FACTOR = 1.25


class Latency:
    """An average of seconds, over unevenly spaced samples, that decays from its last one on.

    ``peak``: a larger sample replaces it, a smaller one counts the more the longer the last one is past.
    """

    def __init__(self, clock: Callable[[], float], *, peak: bool) -> None:
        self._clock = clock
        self._peak = peak
        self._at = clock()
        self._mean = 0.0

    def observe(self, seconds: float) -> None:
        """A sample."""
        now = self.seconds()
        if now < KNOWN_SECONDS or (self._peak and seconds > now):
            self._mean = seconds
        elif self._peak:
            self._mean = now + seconds * (1 - now / self._mean)
        else:
            self._mean += RECENT * (seconds - self._mean)
        self._at = self._clock()

    def at_least(self, seconds: float) -> None:
        """A sample that was cut short."""
        self._mean = max(self.seconds(), seconds)
        self._at = self._clock()

    def seconds(self) -> float:
        """The average as of now."""
        return self._mean * math.exp((self._at - self._clock()) / DECAY_SECONDS)


class Load:
    """What a place has to do, as this process sees it."""

    def __init__(self, name: str, weight: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.weight = weight
        self.in_flight = 0
        self._clock = clock
        self._whole = Latency(clock, peak=False)
        self._streams = Latency(clock, peak=True)

    @contextmanager
    def taken(self) -> Generator[None]:
        """While a call runs."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @contextmanager
    def first_byte(self, faults: tuple[type[Exception], ...], *, streamed: bool) -> Generator[Callable[[], None]]:
        """While a call runs; call what it gives when something comes. An exception of ``faults`` is the place's own.

        Any other is the caller's, and says nothing of how quick the place is.
        """
        latency = self._streams if streamed else self._whole
        started = self._clock()
        waiting = True

        def came() -> None:
            nonlocal waiting
            if waiting:
                waiting = False
                latency.observe(self._clock() - started)

        try:
            yield came
        except faults:
            latency.at_least(max(self._clock() - started, FAILED_SECONDS))
            raise
        except (asyncio.CancelledError, ClientDisconnected):
            if waiting:
                latency.at_least(self._clock() - started)
            raise

    def cost(self, *, streamed: bool) -> float:
        """Of one more call, in seconds."""
        seconds = (self._streams if streamed else self._whole).seconds()
        if seconds < KNOWN_SECONDS and self.in_flight:
            seconds = UNKNOWN_SECONDS
        return seconds * (self.in_flight + 1) / self.weight


class Balance:
    """The places of one model."""

    def __init__(self, loads: Sequence[Load], *, by_prefix: bool, chance: random.Random | None = None) -> None:
        self.by_prefix = by_prefix
        self._ring = Ring({load.name: load.weight for load in loads})
        self._chance = chance or random.Random()

    def choose(self, free: Sequence[Load], key: int | None, *, streamed: bool) -> Load:
        """One of ``free``; ``key`` None: the call has no beginning to go by."""
        if self.by_prefix and key is not None:
            return self._on_the_ring(free, key)
        first, second = self._chance.sample(free, 2) if len(free) > 1 else (free[0], free[0])
        return second if second.cost(streamed=streamed) < first.cost(streamed=streamed) else first

    def _on_the_ring(self, free: Sequence[Load], key: int) -> Load:
        named = {load.name: load for load in free}
        each = LOAD_FACTOR * (sum(load.in_flight for load in free) + 1) / sum(load.weight for load in free)
        # There is always one: all of them at their bounds would be more calls than there are.
        return next(
            load
            for name in self._ring.walk(key)
            if (load := named.get(name)) is not None and load.in_flight < math.ceil(each * load.weight)
        )
