"""The circuit breaker: it opens on ill health alone, lets nobody wait for the dead, and closes by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from models.errors import Unavailable
from serve.breaker import FAILURES, Breaker

DOUBT_SECONDS = 0.02
DEADLINE_SECONDS = 10.0


class Upstream:
    """How it is, and how often it was asked; it says so once it ``speaks``."""

    def __init__(self) -> None:
        self.well = True
        self.asked = 0
        self.speaks = asyncio.Event()
        self.speaks.set()

    async def probe(self) -> bool:
        self.asked += 1
        await self.speaks.wait()
        return self.well


@pytest.fixture
async def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def breaker(upstream: Upstream) -> AsyncIterator[Breaker]:
    breaker = Breaker(upstream.probe, DOUBT_SECONDS)
    yield breaker
    await breaker.close()


async def call(breaker: Breaker, answered: asyncio.Event) -> str:
    try:
        async with asyncio.timeout(None) as timeout:
            with breaker.waiting("m", timeout):
                await answered.wait()
    except TimeoutError:
        return "given up"
    return "answered"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


async def test_a_slow_answer_of_a_healthy_upstream_is_waited_for(breaker: Breaker, upstream: Upstream) -> None:
    answered = asyncio.Event()
    slow = asyncio.create_task(call(breaker, answered))
    await until(lambda: upstream.asked >= 3 * FAILURES)
    assert not slow.done()
    answered.set()
    assert await slow == "answered"
    assert not breaker.open


async def test_a_quick_answer_raises_no_doubt(breaker: Breaker, upstream: Upstream) -> None:
    answered = asyncio.Event()
    answered.set()
    assert await call(breaker, answered) == "answered"
    second = asyncio.create_task(call(breaker, asyncio.Event()))
    await until(lambda: upstream.asked >= 1)
    second.cancel()
    await asyncio.wait({second})
    assert upstream.asked == 1


async def test_calls_that_wait_for_the_dead_end_and_new_ones_are_refused(breaker: Breaker, upstream: Upstream) -> None:
    upstream.well = False
    waiting = [asyncio.create_task(call(breaker, asyncio.Event())) for _ in range(5)]
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await asyncio.gather(*waiting) == ["given up"] * 5
    assert breaker.open
    with pytest.raises(Unavailable) as refused:
        await call(breaker, asyncio.Event())
    assert refused.value.retry_after_seconds


async def test_one_bad_answer_opens_nothing(breaker: Breaker, upstream: Upstream) -> None:
    upstream.well = False
    breaker.doubt()
    await until(lambda: upstream.asked >= FAILURES - 1)
    upstream.well = True
    await until(lambda: upstream.asked >= FAILURES)
    answered = asyncio.Event()
    answered.set()
    assert await call(breaker, answered) == "answered"


async def test_it_closes_when_the_upstream_is_well_again_and_only_one_asks(
    breaker: Breaker, upstream: Upstream
) -> None:
    upstream.well = False
    for _ in range(10):
        breaker.doubt()
    await until(lambda: upstream.asked >= FAILURES + 1)
    assert breaker.open
    upstream.speaks.clear()
    asked = upstream.asked + 1
    await until(lambda: upstream.asked == asked)
    breaker.doubt()
    await asyncio.sleep(0)
    assert upstream.asked == asked
    upstream.well = True
    upstream.speaks.set()
    await until(lambda: not breaker.open)


async def test_closing_ends_the_asking(upstream: Upstream) -> None:
    upstream.speaks.clear()
    breaker = Breaker(upstream.probe, DOUBT_SECONDS)
    breaker.doubt()
    await until(lambda: upstream.asked >= 1)
    await breaker.close()
    assert not breaker.open
