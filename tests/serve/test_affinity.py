"""Conversations over several engines of one model, over real sockets: what their caches find, and how even it is."""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from models.doubles.scripted_engine import ScriptedEngine
from serve.asgi import Receive, Scope, Send, send_json
from serve.balance import LOAD_FACTOR
from serve.config import ModelRoute, Place, Timeouts, Upstream

Platform = Callable[..., Awaitable[Any]]
ENGINES = 4
CONVERSATIONS = 48
TURNS = 5
SYSTEM = {"role": "system", "content": "You answer questions about the handbook."}


@dataclass
class Engine:
    """A scripted engine that may be away, and remembers how each conversation that it was asked began."""

    name: str
    scripted: ScriptedEngine = field(default_factory=ScriptedEngine)
    away: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.away:
            await send_json(send, 503, {})
        else:
            await self.scripted(scope, receive, send)

    @property
    def beginnings(self) -> list[str]:
        return [body["messages"][1]["content"] for _, _, body in self.scripted.requests]


@dataclass
class Fleet:
    """A gateway before the engines of one model."""

    stage: Any
    engines: list[Engine]

    async def ask(self, conversation: int, turn: int = 0, **body: Any) -> str:
        """A turn of a conversation; who answered it."""
        first = {"role": "user", "content": f"Question {conversation}"}
        said = [({"role": "assistant", "content": "w0"}, {"role": "user", "content": f"More {n}"}) for n in range(turn)]
        messages = [SYSTEM, first, *(message for pair in said for message in pair)]
        answer = await self.stage.chat(model="m", messages=messages, **body)
        assert answer.status_code == 200
        return answer.headers["x-objecta-upstream"]

    async def talk(self, at_once: int) -> None:
        """All turns of all conversations, so many calls at once."""
        room = asyncio.Semaphore(at_once)

        async def turn(conversation: int, number: int) -> None:
            async with room:
                await self.ask(conversation, number)

        for number in range(TURNS):
            await asyncio.gather(*(turn(conversation, number) for conversation in range(CONVERSATIONS)))

    def hit_rate(self) -> float:
        """The share of calls whose engine had seen the beginning before."""
        seen = [engine.beginnings for engine in self.engines]
        assert sum(map(len, seen)) == CONVERSATIONS * TURNS
        return 1 - sum(len(set(beginnings)) for beginnings in seen) / (CONVERSATIONS * TURNS)


@pytest.fixture
async def fleet(platform: Platform, serve_app: Any, catalogue_entry: Any) -> Callable[..., Awaitable[Fleet]]:
    async def start(choose: str = "prefix", **changes: Any) -> Fleet:
        engines = [Engine("m"), *(Engine(f"m@{number}") for number in range(2, ENGINES + 1))]
        upstreams = [Upstream(name=one.name, base_url=await serve_app(one), internal=True) for one in engines]
        route = ModelRoute(
            entry=catalogue_entry("m"),
            upstream=upstreams[0],
            others=tuple(Place(upstream=upstream) for upstream in upstreams[1:]),
            choose=choose,
        )
        return Fleet(await platform(routes=(route,), **changes), engines)

    return start


Start = Callable[..., Awaitable[Fleet]]


async def test_a_conversation_s_turns_find_their_beginning_in_the_cache(fleet: Start) -> None:
    by_prefix, by_latency = await fleet(), await fleet("latency")
    for one in (by_prefix, by_latency):
        await one.talk(at_once=1)
    assert by_prefix.hit_rate() == 1 - 1 / TURNS
    assert by_latency.hit_rate() < 0.6
    shares = [len(engine.beginnings) for engine in by_prefix.engines]
    assert min(shares) > CONVERSATIONS * TURNS / ENGINES / 4


async def test_under_load_the_cache_is_still_found_more_often_than_by_chance(fleet: Start) -> None:
    by_prefix, by_latency = await fleet(), await fleet("latency")
    for one in (by_prefix, by_latency):
        await one.talk(at_once=8)
    assert by_prefix.hit_rate() > by_latency.hit_rate() + 0.1


@pytest.mark.parametrize("stream", [False, True])
async def test_no_engine_has_more_than_its_bound_of_the_calls_however_hot_a_conversation_is(
    fleet: Start, stream: bool
) -> None:
    one = await fleet()
    calls = 40
    for engine in one.engines:
        engine.scripted.gate = asyncio.Event()
    asked = [asyncio.create_task(one.ask(7, stream=stream)) for _ in range(calls)]
    await one.stage.until(lambda: sum(engine.scripted.running for engine in one.engines) == calls)
    running = [engine.scripted.running for engine in one.engines]
    assert max(running) <= math.ceil(LOAD_FACTOR * calls / ENGINES)
    assert min(running) > 0
    for engine in one.engines:
        engine.scripted.gate.set()
    told = Counter(await asyncio.gather(*asked))
    assert [told[engine.name] for engine in one.engines] == running


async def test_an_engine_that_goes_moves_its_own_conversations_alone_and_they_come_back(fleet: Start) -> None:
    one = await fleet(timeouts=Timeouts(doubt_seconds=0.05))
    homes = {number: await one.ask(number) for number in range(CONVERSATIONS)}
    gone = one.engines[1]
    gone.away = True
    moved = {number: await one.ask(number) for number in range(CONVERSATIONS)}
    assert gone.name not in moved.values()
    assert {number for number in homes if homes[number] != moved[number]} == {
        number for number, home in homes.items() if home == gone.name
    }
    gone.away = False

    async def back() -> bool:
        return {number: await one.ask(number) for number in homes} == homes

    await one.stage.until(back)


async def test_a_key_of_the_caller_s_own_keeps_different_beginnings_together(fleet: Start) -> None:
    one = await fleet()
    told = {await one.ask(number, prompt_cache_key="handbook") for number in range(12)}
    assert len(told) == 1
