"""Calls that wait for an upstream's place, through a gateway: who goes first, who leaves, and what is told."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from models.channels import CLASS_HEADER, CLUSTER_SECRET_HEADER, PRINCIPAL_HEADER
from models.doubles.scripted_engine import ScriptedEngine
from models.identity import Limits, Principal
from serve.config import ModelRoute, Queueing, Upstream

SECRET = "cluster-secret"
PATH = "/v1/chat/completions"
LINE = {
    CLUSTER_SECRET_HEADER: SECRET,
    PRINCIPAL_HEADER: Principal(organisation_id="org_a", project_id="prj_a", api_key_id="key_a").to_header(),
    CLASS_HEADER: "batch",
}


class Saturated:
    """A stage whose engine takes ``concurrency`` calls, each until ``open``; ``asked`` are the words it was sent."""

    def __init__(self, stage: Any, engine: ScriptedEngine) -> None:
        self.stage = stage
        self.engine = engine
        self.tasks: list[asyncio.Task[httpx.Response]] = []

    def send(self, text: str, headers: dict[str, str] | None = None, **body: Any) -> "asyncio.Task[httpx.Response]":
        messages = [{"role": "user", "content": text}]
        task = asyncio.ensure_future(self.stage.chat(headers=headers, messages=messages, max_tokens=4, **body))
        self.tasks.append(task)
        return task

    async def waits(self, text: str, **options: Any) -> "asyncio.Task[httpx.Response]":
        """Send a call that has to wait; it waits on return."""
        before = await self.queued()
        task = self.send(text, **options)
        await self.stage.until(lambda: self._is(before + 1))
        return task

    async def queued(self) -> int:
        text = (await self.stage.http.get("/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("objecta_gateway_queued{")]
        return sum(int(float(line.rpartition(" ")[2])) for line in lines)

    async def _is(self, number: int) -> bool:
        return await self.queued() == number

    def asked(self) -> list[str]:
        return [body["messages"][0]["content"] for _, _, body in self.engine.requests]

    async def takes(self, count: int) -> None:
        await self.stage.until(lambda: len(self.engine.requests) == count)

    def open(self) -> None:
        assert self.engine.gate is not None
        self.engine.gate.set()

    async def answers(self) -> list[httpx.Response]:
        return await asyncio.gather(*self.tasks)


Start = Callable[..., Awaitable[Saturated]]


@pytest.fixture
def saturated(platform, serve_app, catalogue_entry) -> Start:
    async def start(concurrency: int = 1, spare: bool = False, **queueing: Any) -> Saturated:
        engine, other = ScriptedEngine(gate=asyncio.Event()), ScriptedEngine()
        here = Upstream(name="engine", base_url=await serve_app(engine), internal=True, concurrency=concurrency)
        there = Upstream(name="other", base_url=await serve_app(other), internal=True)
        routes = (
            ModelRoute(entry=catalogue_entry("scripted"), upstream=here, fallbacks=("spare",) if spare else ()),
            ModelRoute(entry=catalogue_entry("spare"), upstream=there),
        )
        return Saturated(await platform(routes=routes, queueing=Queueing(**queueing)), engine)

    return start


async def test_live_calls_go_before_flex_and_flex_before_batch_lines(saturated: Start) -> None:
    bench = await saturated()
    bench.send("first")
    await bench.takes(1)
    await bench.waits("line", headers=LINE, service_tier="priority")
    await bench.waits("flex", service_tier="flex")
    await bench.waits("live")
    bench.open()
    assert {answer.status_code for answer in await bench.answers()} == {200}
    assert bench.asked() == ["first", "live", "flex", "line"]
    # The engine puts them in the same order where it has to.
    assert [body.get("priority") for _, _, body in bench.engine.requests] == [None, None, 1, 2]


async def test_tenants_share_by_the_weight_of_their_organisation(saturated: Start) -> None:
    bench = await saturated()
    bench.stage.admit("heavy", organisation_id="org_b", api_key_id="key_b", organisation_limits=Limits(weight=2))
    bearer = {"authorization": "Bearer heavy"}
    bench.send("first")
    await bench.takes(1)
    for number in range(6):
        await bench.waits(f"a{number}")
    for number in range(6):
        await bench.waits(f"b{number}", headers=bearer)
    bench.open()
    await bench.answers()
    served = [text[0] for text in bench.asked()[1:]]
    # While both wait, two of b's for one of a's, in any stretch of three within a call.
    assert 3 <= served[:6].count("b") <= 5
    assert served[:9].count("b") == 6
    assert served[9:] == ["a"] * 3
    assert [text for text in bench.asked() if text[0] == "a"] == [f"a{number}" for number in range(6)]


async def test_a_stream_keeps_its_place_to_its_end(saturated: Start) -> None:
    bench = await saturated()
    bench.send("stream", stream=True)
    await bench.takes(1)
    waiting = await bench.waits("whole")
    assert bench.engine.running == 1
    bench.open()
    assert (await waiting).status_code == 200
    assert bench.asked() == ["stream", "whole"]


async def test_a_client_that_leaves_while_it_waits_costs_nothing_and_keeps_no_place(saturated: Start) -> None:
    bench = await saturated()
    bench.send("first")
    await bench.takes(1)
    left = await bench.waits("left")
    await bench.waits("next")
    left.cancel()
    await bench.stage.until(lambda: bench._is(1))
    bench.tasks.remove(left)
    bench.open()
    await bench.answers()
    assert bench.asked() == ["first", "next"]
    events = await bench.stage.events(3)
    (gone,) = [event for event in events if event.status == "client_gone"]
    assert (gone.http_status, gone.usage.completion) == (499, 0)


async def test_a_wait_that_is_too_long_ends_as_openai_says(saturated: Start) -> None:
    bench = await saturated(live_seconds_max=0.05, patient_seconds_max=0.05)
    bench.send("first")
    await bench.takes(1)
    live = await bench.send("live")
    assert (live.status_code, live.json()["error"]["code"]) == (503, "unavailable")
    flex = await bench.send("flex", service_tier="flex")
    assert (flex.status_code, flex.json()["error"]["type"]) == (429, "rate_limit_exceeded")
    assert flex.json()["error"]["code"] == "resource_unavailable"
    line = await bench.send("line", headers=LINE)
    assert line.status_code == 429
    for answer in (live, flex, line):
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    bench.open()
    await bench.answers()
    assert bench.asked() == ["first"]
    assert {event.cost_micro for event in await bench.stage.events(4) if event.status == "error"} == {0}


async def test_beyond_its_length_the_queue_refuses_the_tenant_that_fills_it(saturated: Start) -> None:
    bench = await saturated(waiting_max=2)
    bench.stage.admit("other", organisation_id="org_b", api_key_id="key_b")
    bench.send("first")
    await bench.takes(1)
    await bench.waits("a1")
    second = await bench.waits("a2")
    assert (await bench.send("a3")).status_code == 503
    late = bench.send("b1", headers={"authorization": "Bearer other"})
    assert (await second).status_code == 503
    bench.open()
    assert (await late).status_code == 200
    await bench.answers()
    assert sorted(bench.asked()) == ["a1", "b1", "first"]


async def test_another_model_of_the_chain_answers_what_has_no_place(saturated: Start) -> None:
    bench = await saturated(spare=True, live_seconds_max=0.05)
    bench.send("first")
    await bench.takes(1)
    answer = await bench.send("second")
    assert (answer.status_code, answer.headers["x-objecta-model"]) == (200, "spare")
    bench.open()
    await bench.answers()


async def test_no_place_is_lost_whoever_leaves_when(saturated: Start) -> None:
    bench = await saturated(concurrency=3)
    bench.open()
    bench.engine.script = type(bench.engine.script)(delay=0.002)
    chance = random.Random(11)
    for number in range(60):
        task = bench.send(f"{number}", stream=chance.random() < 0.5)
        if chance.random() < 0.4:
            asyncio.get_running_loop().call_later(chance.random() * 0.05, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*bench.tasks, return_exceptions=True)
    await bench.stage.until(lambda: not bench.engine.running)
    assert await bench.queued() == 0
    # All three places are there again: three calls are taken at once.
    bench.engine.gate = asyncio.Event()
    before = len(bench.engine.requests)
    bench.tasks = []
    for number in range(3):
        bench.send(f"last {number}")
    await bench.takes(before + 3)
    bench.open()
    assert {answer.status_code for answer in await bench.answers()} == {200}


@pytest.mark.parametrize(
    ("asked", "told"),
    [("flex", "flex"), ("priority", "default"), ("auto", "default"), ("default", "default")],
)
async def test_an_answer_names_the_tier_that_was_asked_for(saturated: Start, asked: Any, told: str) -> None:
    bench = await saturated()
    bench.open()
    client = bench.stage.client()
    messages: Any = [{"role": "user", "content": 'say data: {"id" and "service_tier":null'}]
    whole = await client.chat.completions.create(model="scripted", messages=messages, service_tier=asked)
    assert (whole.service_tier, whole.choices[0].message.content) == (told, "w0 w1 w2 w3 ")
    stream = await client.chat.completions.create(
        model="scripted", messages=messages, service_tier=asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert {chunk.service_tier for chunk in chunks if chunk.choices} == {told}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "w0 w1 w2 w3 "
    assert chunks[-1].usage is not None


async def test_an_answer_names_no_tier_where_none_was_asked_for(saturated: Start) -> None:
    bench = await saturated()
    bench.open()
    assert "service_tier" not in (await bench.send("hi")).json()


async def test_only_the_platform_says_what_an_engines_priority_is(saturated: Start) -> None:
    bench = await saturated()
    bench.open()
    answer = await bench.send("hi", priority=-1_000)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "priority")
    wrong = await bench.send("hi", service_tier="gold")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "service_tier")
    assert bench.asked() == []


async def test_a_callers_own_class_header_means_nothing(saturated: Start) -> None:
    bench = await saturated()
    bench.open()
    assert (await bench.send("hi", headers={CLASS_HEADER: "batch"})).status_code == 200
    assert "priority" not in bench.engine.requests[0][2]


async def test_waits_are_measured_by_class(saturated: Start) -> None:
    bench = await saturated()
    bench.send("first")
    await bench.takes(1)
    await bench.waits("flex", service_tier="flex")
    bench.open()
    await bench.answers()
    text = (await bench.stage.http.get("/metrics")).text
    assert 'objecta_gateway_queued_seconds_count{class="flex",upstream="engine"} 1.0' in text
    assert 'objecta_gateway_queued_seconds_count{class="live",upstream="engine"} 0.0' in text
