"""A model with several places, over real sockets: who answers, who is left alone, how often a failing one is hit."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from models.doubles.scripted_engine import Script, ScriptedEngine
from serve.config import CircuitPolicy, ModelRoute, Place, RetryPolicy, Timeouts, Upstream

Platform = Callable[..., Awaitable[Any]]
WELL = Script()


@dataclass
class Places:
    """A gateway with the model ``gpt`` at ``east`` and ``west``, both hosted, and its fallback ``spare``."""

    stage: Any
    east: ScriptedEngine
    west: ScriptedEngine
    spare: ScriptedEngine

    async def ask(self, **body: Any) -> Any:
        return await self.stage.chat(model="gpt", **body)

    async def metric(self, name: str) -> dict[str, float]:
        page = (await self.stage.http.get("/metrics")).text
        found = re.findall(rf"^objecta_gateway_{name}\{{(.*)\}} (\S+)$", page, re.MULTILINE)
        return {label.replace('"', ""): float(value) for label, value in found}


@pytest.fixture
async def places(platform: Platform, serve_app: Any, catalogue_entry: Any) -> Callable[..., Awaitable[Places]]:
    async def start(**changes: Any) -> Places:
        east, west, spare = ScriptedEngine(), ScriptedEngine(), ScriptedEngine()
        home = Upstream(name="east", base_url=await serve_app(east), api_key=SecretStr("sk-east"))
        other = Upstream(name="west", base_url=await serve_app(west), api_key=SecretStr("sk-west"))
        third = Upstream(name="spare", base_url=await serve_app(spare))
        stage = await platform(
            routes=(
                ModelRoute(
                    entry=catalogue_entry("gpt", source="hosted:east", upstream_model="gpt-east"),
                    upstream=home,
                    others=(Place(upstream=other, upstream_model="gpt-west"),),
                    fallbacks=("spare",),
                ),
                ModelRoute(entry=catalogue_entry("spare", source="hosted:spare"), upstream=third),
            ),
            **changes,
        )
        return Places(stage, east, west, spare)

    return start


Start = Callable[..., Awaitable[Places]]


@pytest.mark.parametrize("stream", [False, True])
async def test_each_place_is_asked_in_its_own_words_and_all_answer_as_one_model(places: Start, stream: bool) -> None:
    here = await places()
    answers = [await here.ask(stream=stream) for _ in range(8)]
    assert {answer.headers["x-objecta-upstream"] for answer in answers} == {"east", "west"}
    assert {answer.headers["x-objecta-attempts"] for answer in answers} == {"1"}
    assert all('"model":"gpt"' in answer.text for answer in answers)
    for engine, name in ((here.east, "east"), (here.west, "west")):
        assert {body["model"] for _, _, body in engine.requests} == {f"gpt-{name}"}
        assert {headers["authorization"] for _, headers, _ in engine.requests} == {f"Bearer sk-{name}"}
    told = sorted(answer.headers["x-objecta-upstream"] for answer in answers)
    assert sorted(event.upstream for event in await here.stage.events(8)) == told
    assert here.spare.requests == []


@pytest.mark.parametrize("script", [Script(status=500), Script(status=503), Script(status=429), Script(fail_after=0)])
async def test_where_one_place_fails_the_other_answers_before_a_fallback_does(places: Start, script: Script) -> None:
    here = await places()
    here.east.script = script
    answers = [await here.ask(stream=True) for _ in range(6)]
    assert {(answer.status_code, answer.headers["x-objecta-upstream"]) for answer in answers} == {(200, "west")}
    assert [answer.headers["x-objecta-model"] for answer in answers] == ["gpt"] * 6
    tried = sum(int(answer.headers["x-objecta-attempts"]) for answer in answers)
    assert tried == len(here.east.requests) + len(here.west.requests) > 6
    assert {event.upstream for event in await here.stage.events(6)} == {"west"}
    assert here.spare.requests == []


async def test_a_place_that_fails_is_avoided(places: Start) -> None:
    here = await places()
    here.east.script = Script(status=500)
    for _ in range(20):
        assert (await here.ask()).status_code == 200
    assert len(here.east.requests) < 5


async def test_when_all_places_fail_the_fallback_answers(places: Start) -> None:
    here = await places()
    here.east.script = here.west.script = Script(status=500)
    answer = await here.ask()
    assert (answer.status_code, answer.headers["x-objecta-model"], answer.headers["x-objecta-attempts"]) == (
        200,
        "spare",
        "3",
    )


async def test_a_caller_without_fallbacks_keeps_the_places(places: Start) -> None:
    here = await places()
    off = {"x-objecta-fallbacks": "off"}
    here.east.script = Script(status=500)
    for _ in range(3):
        assert (await here.ask(headers=off)).headers["x-objecta-upstream"] == "west"
    here.west.script = Script(status=500)
    assert (await here.ask(headers=off)).status_code == 502
    assert here.spare.requests == []


async def test_a_prompt_too_long_for_the_model_is_not_tried_at_its_other_place(places: Start) -> None:
    here = await places()
    error = b'{"error":{"message":"This model\'s maximum context length is 100 tokens","code":400}}'
    here.east.script = here.west.script = Script(status=400, error=error)
    answer = await here.ask()
    assert (answer.headers["x-objecta-model"], answer.headers["x-objecta-attempts"]) == ("spare", "2")


async def test_the_quicker_place_gets_more(places: Start) -> None:
    here = await places()
    here.east.script, here.west.script = Script(delay=0.05), WELL
    for _ in range(30):
        assert (await here.ask(stream=True)).status_code == 200
    assert len(here.west.requests) > 3 * len(here.east.requests) > 0


# -- the circuit


async def test_a_place_that_cannot_be_reached_is_left_alone_and_tried_by_one_call(places: Start) -> None:
    here = await places(circuit=CircuitPolicy(failures=2, rest_seconds=0.2, rest_seconds_max=0.2))
    here.east.script = here.west.script = here.spare.script = Script(status=503)
    for _ in range(2):
        assert (await here.ask()).status_code == 503
    assert [len(one.requests) for one in (here.east, here.west, here.spare)] == [2, 2, 2]
    refused = await here.ask()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert [len(one.requests) for one in (here.east, here.west, here.spare)] == [2, 2, 2]
    opened = await here.metric("circuit")
    assert {opened[f"upstream={name}"] for name in ("east", "west", "spare")} <= {1.0, 2.0}
    here.east.script, here.east.gate = WELL, asyncio.Event()

    async def through() -> bool:
        waiting = asyncio.create_task(here.ask(headers={"x-objecta-fallbacks": "off"}))
        await here.stage.until(lambda: waiting.done() or here.east.running)
        if here.east.running:
            others = await asyncio.gather(*(here.ask(headers={"x-objecta-fallbacks": "off"}) for _ in range(5)))
            assert {answer.status_code for answer in others} == {503}
            assert here.east.running == 1
            here.east.gate.set()
        return (await waiting).status_code == 200

    await here.stage.until(through)
    assert (await here.metric("circuit"))["upstream=east"] == 0
    assert (await here.ask()).headers["x-objecta-upstream"] == "east"


async def test_calls_without_a_first_byte_in_time_open_it(places: Start) -> None:
    here = await places(
        timeouts=Timeouts(first_byte_seconds=0.1),
        circuit=CircuitPolicy(failures=2, rest_seconds=60, rest_seconds_max=60),
    )
    here.spare.gate = asyncio.Event()
    for _ in range(2):
        assert (await here.stage.chat(model="spare")).status_code == 504
    began = time.monotonic()
    refused = await here.stage.chat(model="spare")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
    assert time.monotonic() - began < 0.1 or len(here.spare.requests) == 2
    assert len(here.spare.requests) == 2


async def test_a_plain_500_shuts_nobody_out(places: Start) -> None:
    here = await places(circuit=CircuitPolicy(failures=2, rest_seconds=60))
    here.spare.script = Script(status=500)
    for _ in range(6):
        assert (await here.stage.chat(model="spare")).status_code == 502
    assert len(here.spare.requests) == 6


# -- the retry budget


async def test_upstreams_that_always_fail_see_a_bounded_number_of_retries(places: Start) -> None:
    policy = RetryPolicy(share=0.2, per_second=0.5, seconds=10)
    here = await places(retries=policy)
    here.east.script = here.west.script = here.spare.script = Script(status=500)
    began = time.monotonic()
    calls = 120
    for _ in range(calls):
        assert (await here.ask()).status_code == 502
    each = policy.per_second * (policy.seconds + time.monotonic() - began)
    seen = len(here.east.requests) + len(here.west.requests)
    assert calls <= seen <= calls + policy.share * calls + 2 * each
    assert 0 < len(here.spare.requests) <= each
    said = await here.metric("retries_total")
    assert said["said=sent,upstream=spare"] == len(here.spare.requests)
    assert said["said=refused,upstream=spare"] > 0


async def test_a_healthy_fallback_stands_in_without_end(places: Start) -> None:
    here = await places(retries=RetryPolicy(share=0, per_second=0.2, seconds=10))
    here.east.script = here.west.script = Script(status=500)
    answers = [await here.ask() for _ in range(40)]
    assert {answer.headers["x-objecta-model"] for answer in answers if answer.status_code == 200} == {"spare"}
    assert len(here.spare.requests) == 40
