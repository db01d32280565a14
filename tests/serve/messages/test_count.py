"""``/v1/messages/count_tokens``: the engine's own count, outside admission."""

from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import pytest

from models.doubles.scripted_engine import Script, ScriptedEngine
from serve.asgi import Receive, Scope, Send, send_json
from serve.tools.middleware import Tools

Platform = Callable[..., Awaitable[Any]]
Asking = Callable[..., anthropic.AsyncAnthropic]
HI: Any = [{"role": "user", "content": "one two three"}]
TOOL: Any = {"name": "t", "input_schema": {"type": "object"}}


async def test_the_engine_counts_what_it_would_read(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    stage.admit("limited", key_limits={"requests_per_minute": 1})
    client = asking(stage, "limited")
    for _ in range(2):
        counted = await client.messages.count_tokens(model="scripted", messages=HI, system="four", tools=[TOOL])
    message = await client.messages.create(model="scripted", max_tokens=1, messages=HI, system="four", tools=[TOOL])
    assert counted.input_tokens == message.usage.input_tokens
    (path, headers, asked), _, (_, _, sent) = stage.engine.requests
    assert (path, asked) == ("/tokenize", {name: sent[name] for name in ("model", "messages", "tools")})
    assert headers["x-request-id"] == counted._request_id or headers["x-request-id"].startswith("req_")
    assert len(await stage.events()) == 1


@pytest.mark.parametrize("parser", ["prompted", "hermes", "mistral"])
@pytest.mark.parametrize("choice", ["auto", "any", "none"])
async def test_tools_that_the_engine_explains_are_counted_as_explained(
    platform: Platform, asking: Asking, parser: str, choice: str
) -> None:
    engine = ScriptedEngine(script=Script(chunks=1))
    stage = await platform(Tools(engine, parser))
    use = {"type": "tool_use", "id": "1", "name": "t", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": "r"}
    history: Any = [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    asked: Any = {"model": "scripted", "messages": history, "tools": [TOOL], "tool_choice": {"type": choice}}
    counted = await asking(stage).messages.count_tokens(**asked)
    raw = await stage.http.post("/v1/messages", json={**asked, "max_tokens": 1}, headers={"x-api-key": "good"})
    (_, _, there), (_, _, sent) = engine.requests
    assert {name: there.get(name) for name in ("messages", "tools")} == {
        name: sent.get(name) for name in ("messages", "tools")
    }
    # Words are no call: whoever must call one has failed, and its usage is not told.
    assert raw.status_code == 200 or choice == "any"
    assert raw.status_code != 200 or raw.json()["usage"]["input_tokens"] == counted.input_tokens


@pytest.mark.parametrize("model", ["hosted/model", "agent/handbook"])
async def test_a_model_without_an_engine_is_not_guessed_at(platform: Platform, asking: Asking, model: str) -> None:
    stage = await platform()
    with pytest.raises(anthropic.BadRequestError, match=f"'{model}' is none of them"):
        await asking(stage).messages.count_tokens(model=model, messages=HI)
    assert (stage.engine.requests, stage.agents.requests) == ([], [])


async def test_a_count_needs_a_key_and_a_model_of_one_s_own(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    stage.admit("narrow", allowed_models=("hosted/model",))
    with pytest.raises(anthropic.AuthenticationError):
        await asking(stage, "wrong").messages.count_tokens(model="scripted", messages=HI)
    with pytest.raises(anthropic.NotFoundError):
        await asking(stage, "narrow").messages.count_tokens(model="scripted", messages=HI)


async def test_an_engine_that_cannot_count(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    stage.engine.script = Script(status=404)
    with pytest.raises(anthropic.APIStatusError) as error:
        await asking(stage).messages.count_tokens(model="scripted", messages=HI)
    assert (error.value.status_code, error.value.body["error"]["type"]) == (529, "overloaded_error")


@pytest.mark.parametrize("answer", [[], {}, {"count": "3"}])
async def test_a_count_that_is_none(platform: Platform, asking: Asking, answer: Any) -> None:
    async def engine(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
        await send_json(send, 200, answer)

    stage = await platform(engine)
    with pytest.raises(anthropic.APIStatusError) as error:
        await asking(stage).messages.count_tokens(model="scripted", messages=HI)
    assert error.value.status_code == 502


async def test_an_engine_that_takes_too_long(platform: Platform, asking: Asking) -> None:
    stage = await platform(timeouts={"first_byte_seconds": 0.1})
    stage.engine.script = Script(delay=30.0)
    with pytest.raises(anthropic.APIStatusError) as error:
        await asking(stage).messages.count_tokens(model="scripted", messages=HI)
    assert (error.value.status_code, error.value.body["error"]["type"]) == (504, "timeout_error")
