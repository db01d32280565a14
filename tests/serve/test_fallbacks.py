"""Aliases and fallbacks: who answers when the model asked for cannot, and what that costs."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from models.doubles.scripted_engine import Script, ScriptedEngine
from serve.config import ModelRoute, Upstream

Platform = Callable[..., Awaitable[Any]]
DEAR = {"since": "2026-01-01", "prompt_micro": 50_000_000, "cached_micro": 0, "completion_micro": 90_000_000}
CHEAP = {"since": "2026-01-01", "prompt_micro": 1_000_000, "cached_micro": 0, "completion_micro": 2_000_000}


@dataclass
class Chain:
    """A gateway with the model ``first``, known as ``default`` as well, whose fallback is ``second``."""

    stage: Any
    first: ScriptedEngine
    second: ScriptedEngine


@pytest.fixture
async def chain(platform: Platform, serve_app: Any, catalogue_entry: Any) -> Chain:
    first, second = ScriptedEngine(), ScriptedEngine()
    upstreams = [
        Upstream(name=name, base_url=await serve_app(app), internal=True)
        for name, app in (("one", first), ("two", second))
    ]
    cheap = catalogue_entry("first", context_window=100, prices=(CHEAP,))
    dear = catalogue_entry("second", context_window=1_000, prices=(DEAR,))
    stage = await platform(
        routes=(
            ModelRoute(entry=cheap, upstream=upstreams[0], fallbacks=("second",)),
            ModelRoute(entry=dear, upstream=upstreams[1]),
        ),
        aliases={"default": "first"},
    )
    return Chain(stage, first, second)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_answers_while_it_can(chain: Chain, stream: bool) -> None:
    answer = await chain.stage.chat(model="first", stream=stream)
    assert (answer.status_code, answer.headers["x-objecta-model"], answer.headers["x-objecta-attempts"]) == (
        200,
        "first",
        "1",
    )
    assert chain.second.requests == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        Script(status=500),
        Script(status=429),
        Script(status=503),
        Script(fail_after=0),
        Script(
            status=400, error=b'{"error":{"message":"This model\'s maximum context length is 100 tokens","code":400}}'
        ),
        Script(status=400, error=b'{"error":{"message":"Filtered.","code":"content_filter"}}'),
        Script(status=400, error=b'{"error":{"message":"Against our policy.","code":"content_policy_violation"}}'),
    ],
)
async def test_a_failure_that_is_not_the_caller_s_goes_to_the_next(chain: Chain, script: Script, stream: bool) -> None:
    chain.first.script = script
    if script.fail_after == 0 and not stream:
        chain.first.script = Script(status=502)
    answer = await chain.stage.chat(model="first", stream=stream)
    assert answer.status_code == 200
    assert answer.headers["x-objecta-upstream"] == "two"
    assert (answer.headers["x-objecta-model"], answer.headers["x-objecta-attempts"]) == ("second", "2")
    assert '"model":"first"' in answer.text
    assert '"model":"second"' not in answer.text
    assert [body["model"] for _, _, body in chain.second.requests] == ["second"]
    (event,) = await chain.stage.events()
    assert (event.model, event.upstream, event.status) == ("second", "two", "ok")
    assert event.cost_micro == event.usage.prompt * 50 + event.usage.completion * 90


async def test_a_mistake_of_the_caller_s_is_nobody_else_s(chain: Chain) -> None:
    chain.first.script = Script(status=400)
    assert (await chain.stage.chat(model="first")).status_code == 400
    assert chain.second.requests == []


async def test_a_stream_that_has_begun_is_not_begun_again(chain: Chain) -> None:
    chain.first.script = Script(fail_after=2)
    answer = await chain.stage.chat(model="first", stream=True)
    assert '"error"' in answer.text
    assert "[DONE]" not in answer.text
    assert chain.second.requests == []
    (event,) = await chain.stage.events()
    assert (event.model, event.status, event.usage.completion) == ("first", "upstream_lost", 2)


async def test_the_last_failure_is_the_caller_s_to_know(chain: Chain) -> None:
    chain.first.script = Script(status=500)
    chain.second.script = Script(status=503)
    answer = await chain.stage.chat(model="first")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "'first'" in answer.json()["error"]["message"]
    (event,) = await chain.stage.events()
    assert (event.model, event.status, event.cost_micro) == ("second", "error", 0)


async def test_a_request_too_large_for_the_first_goes_straight_to_the_next(chain: Chain) -> None:
    answer = await chain.stage.chat(model="first", max_tokens=500)
    assert (answer.status_code, answer.headers["x-objecta-model"]) == (200, "second")
    assert chain.first.requests == []
    refused = await chain.stage.chat(model="first", max_tokens=5_000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_a_caller_may_refuse_fallbacks(chain: Chain) -> None:
    chain.first.script = Script(status=500)
    answer = await chain.stage.chat(model="first", headers={"x-objecta-fallbacks": "off"})
    assert answer.status_code == 502
    assert chain.second.requests == []


async def test_an_alias_is_a_model_of_its_own_name(chain: Chain) -> None:
    answer = await chain.stage.chat(model="default")
    assert (answer.json()["model"], answer.headers["x-objecta-model"]) == ("default", "first")
    assert [body["model"] for _, _, body in chain.first.requests] == ["first"]
    listed = await chain.stage.client().models.list()
    assert {model.id for model in listed.data} >= {"first", "second", "default"}
    (event,) = await chain.stage.events()
    assert event.model == "first"


async def test_a_key_may_be_allowed_an_alias_alone(chain: Chain) -> None:
    chain.stage.admit("narrow", allowed_models=("default",))
    assert (await chain.stage.chat("narrow", model="default")).status_code == 200
    assert (await chain.stage.chat("narrow", model="first")).status_code == 404
    chain.first.script = Script(status=500)
    assert (await chain.stage.chat("narrow", model="default")).headers["x-objecta-model"] == "second"
