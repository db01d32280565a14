"""Anthropic's official client against the gateway, with an engine behind it: what is answered when all is well."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import pytest

from models.doubles.scripted_engine import Script, ScriptedEngine
from serve.config import ModelRoute, Upstream

Platform = Callable[..., Awaitable[Any]]
Asking = Callable[..., anthropic.AsyncAnthropic]
HI: Any = [{"role": "user", "content": "hi there"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
LOOK_UPS = Script(
    chunks=1, calls=(("weather", '{"city": "Paris"}'), ("weather", '{"city": "Rome"}')), finish="tool_calls"
)


def blocks(message: Any) -> list[dict[str, Any]]:
    return [block.to_dict() for block in message.content]


async def test_a_message_is_answered_and_metered_once(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    message = await asking(stage).messages.create(model="scripted", max_tokens=16, messages=HI)
    assert (message.type, message.role, message.model) == ("message", "assistant", "scripted")
    assert blocks(message) == [{"type": "text", "text": "w0 w1 w2 w3 "}]
    assert (message.stop_reason, message.stop_sequence, message.usage.output_tokens) == ("end_turn", None, 4)
    assert message.id.startswith("msg_")
    (event,) = await stage.events()
    assert (event.kind, event.status, event.source, event.usage.completion) == ("chat", "ok", "provider", 4)
    assert event.usage.prompt == message.usage.input_tokens
    assert message._request_id == event.request_id


async def test_a_stream_s_events_come_in_anthropic_s_order_with_the_engine_s_usage(
    platform: Platform, asking: Asking
) -> None:
    stage = await platform()
    stream = await asking(stage).messages.create(model="scripted", max_tokens=16, messages=HI, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, end = events[0].message, events[-2]
    assert (start.content, start.stop_reason, start.usage.input_tokens) == ([], None, end.usage.input_tokens)
    assert (end.usage.output_tokens, end.delta.stop_reason) == (4, "end_turn")
    (event,) = await stage.events()
    assert (event.status, event.streamed, event.usage.completion) == ("ok", True, 4)
    assert event.usage.prompt == end.usage.input_tokens


async def test_the_first_token_is_not_held(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    stage.engine.gate = gate = asyncio.Event()
    stream = await asking(stage).messages.create(model="scripted", max_tokens=2, messages=HI, stream=True)
    first = [await anext(stream) for _ in range(3)]
    assert (first[-1].delta.text, stage.engine.running) == ("w0 ", 1)
    gate.set()
    assert [event.type async for event in stream][-1] == "message_stop"


@pytest.mark.parametrize("model", ["scripted", "hosted/model", "agent/handbook"])
async def test_the_client_s_stream_helper_adds_the_message_up(platform: Platform, asking: Asking, model: str) -> None:
    stage = await platform()
    async with asking(stage).messages.stream(model=model, max_tokens=2, messages=HI) as stream:
        pieces = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert pieces == ["w0 ", "w1 "]
    assert (message.content[0].text, message.stop_reason, message.model) == ("w0 w1 ", "end_turn", model)
    (event,) = await stage.events()
    assert (message.usage.input_tokens, message.usage.output_tokens) == (event.usage.prompt, 2)
    asked = (stage.agents if model.startswith("agent/") else stage.engine).requests[0][2]
    assert ("continuous_usage_stats" in asked["stream_options"]) == (model == "scripted")


async def test_tool_calls_are_tool_use_blocks(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    stage.engine.script = LOOK_UPS
    message = await asking(stage).messages.create(model="scripted", max_tokens=16, messages=HI, tools=[WEATHER])
    assert blocks(message) == [
        {"type": "text", "text": "w0 "},
        {"type": "tool_use", "id": "call_0", "name": "weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Rome"}},
    ]
    assert message.stop_reason == "tool_use"
    function = {**WEATHER, "parameters": WEATHER["input_schema"]}
    del function["input_schema"]
    assert stage.engine.requests[0][2]["tools"] == [{"type": "function", "function": function}]


async def test_streamed_tool_calls_come_piece_by_piece_in_blocks_of_their_own(
    platform: Platform, asking: Asking
) -> None:
    stage = await platform()
    stage.engine.script = LOOK_UPS
    async with asking(stage).messages.stream(
        model="scripted", max_tokens=16, messages=HI, tools=[WEATHER], tool_choice={"type": "any"}
    ) as stream:
        events = [event async for event in stream]
        message = await stream.get_final_message()
    pieces = [event.partial_json for event in events if event.type == "input_json"]
    assert pieces == ['{"city":', ' "Paris"}', '{"city":', ' "Rome"}']
    assert [(block.type, getattr(block, "input", None)) for block in message.content] == [
        ("text", None),
        ("tool_use", {"city": "Paris"}),
        ("tool_use", {"city": "Rome"}),
    ]
    assert message.stop_reason == "tool_use"
    assert stage.engine.requests[0][2]["tool_choice"] == "required"


async def test_a_conversation_with_tool_results_reaches_the_model_in_openai_s_words(
    platform: Platform, asking: Asking
) -> None:
    stage = await platform()
    stage.engine.script = LOOK_UPS
    client = asking(stage)
    first = await client.messages.create(model="scripted", max_tokens=16, messages=HI, tools=[WEATHER])
    results: Any = [
        {"type": "tool_result", "tool_use_id": "call_0", "content": "sunny"},
        {
            "type": "tool_result",
            "tool_use_id": "call_1",
            "content": [{"type": "text", "text": "no such city"}],
            "is_error": True,
        },
        {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}},
    ]
    history: Any = [*HI, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    stage.engine.script = Script()
    await client.messages.create(model="scripted", max_tokens=16, system="Be brief.", messages=history, tools=[WEATHER])
    sent = stage.engine.requests[1][2]
    assert [message["role"] for message in sent["messages"]] == ["system", "user", "assistant", "tool", "tool", "user"]
    system, _, said, paris, rome, more = sent["messages"]
    assert (system["content"], said["content"], more["content"]) == ("Be brief.", "w0 ", "And?")
    assert [call["function"]["arguments"] for call in said["tool_calls"]] == ['{"city":"Paris"}', '{"city":"Rome"}']
    assert paris == {"role": "tool", "tool_call_id": "call_0", "content": "sunny"}
    assert rome == {"role": "tool", "tool_call_id": "call_1", "content": "Error:\nno such city"}


@pytest.mark.parametrize(
    ("script", "reason", "sequence"),
    [
        (Script(finish="length"), "max_tokens", None),
        (Script(finish="content_filter"), "refusal", None),
        (Script(matched="w4"), "stop_sequence", "w4"),
        # OpenAI ends a call that was asked for by name with "stop".
        (Script(calls=(("weather", "{}"),)), "tool_use", None),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_why_it_stopped(
    platform: Platform, asking: Asking, script: Script, reason: str, sequence: str | None, *, streamed: bool
) -> None:
    stage = await platform()
    stage.engine.script = script
    messages = asking(stage).messages
    if streamed:
        async with messages.stream(model="scripted", max_tokens=16, messages=HI, stop_sequences=["w4"]) as stream:
            message = await stream.get_final_message()
    else:
        message = await messages.create(model="scripted", max_tokens=16, messages=HI, stop_sequences=["w4"])
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
    assert stage.engine.requests[0][2]["stop"] == ["w4"]


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
async def test_thinking_is_shown_to_those_who_ask_for_it(
    platform: Platform, asking: Asking, *, asked: bool, streamed: bool
) -> None:
    stage = await platform()
    stage.engine.script = Script(chunks=1, reasoning="Well, well.")
    options: dict[str, Any] = {"model": "scripted", "max_tokens": 2_000, "messages": HI}
    if asked:
        options["thinking"] = {"type": "enabled", "budget_tokens": 1_024}
    if streamed:
        async with asking(stage).messages.stream(**options) as stream:
            message = await stream.get_final_message()
    else:
        message = await asking(stage).messages.create(**options)
    thought = {"type": "thinking", "thinking": "Well, well.", "signature": ""}
    kept = [{key: block.to_dict()[key] for key in ("type", block.type)} for block in message.content]
    assert kept == [{"type": "thinking", "thinking": thought["thinking"]}] * asked + [{"type": "text", "text": "w0 "}]
    assert stage.engine.requests[0][2].get("thinking_token_budget") == (1_024 if asked else None)


async def test_an_engine_continues_an_assistant_s_message(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    prefill: Any = [*HI, {"role": "assistant", "content": "The answer is ("}]
    await asking(stage).messages.create(model="scripted", max_tokens=1, messages=prefill)
    sent = stage.engine.requests[0][2]
    assert sent["messages"][-1] == {"role": "assistant", "content": "The answer is ("}
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    with pytest.raises(anthropic.BadRequestError, match="message cannot be continued by this model"):
        await asking(stage).messages.create(model="hosted/model", max_tokens=1, messages=prefill)


async def test_a_key_counts_in_either_header(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    body: Any = {"model": "scripted", "max_tokens": 1, "messages": HI}
    assert await asking(stage).messages.create(**body)
    bearer = asking(stage, None, auth_token="good")
    assert await bearer.messages.create(**body)
    # Where both are sent, authorization is the one.
    both = {"authorization": "Bearer wrong", "x-api-key": "good"}
    assert (await stage.http.post("/v1/messages", json=body, headers=both)).status_code == 401
    listed = await stage.http.get("/v1/models", headers={"x-api-key": "good"})
    assert listed.status_code == 200
    empty = await stage.http.get("/v1/models", headers={"x-api-key": ""})
    assert empty.json()["error"]["code"] == "invalid_api_key"


async def test_answers_bear_anthropic_s_headers(platform: Platform) -> None:
    stage = await platform()
    stage.admit("limited", key_limits={"requests_per_minute": 60})
    headers = {"x-api-key": "limited", "anthropic-version": "2023-06-01", "x-request-id": "mine"}
    body = {"model": "scripted", "max_tokens": 1, "messages": HI}
    for streamed in (False, True):
        answer = await stage.http.post("/v1/messages?beta=true", json={**body, "stream": streamed}, headers=headers)
        named = answer.headers
        assert (named["request-id"], named["x-request-id"]) == ("mine", "mine")
        assert (named["anthropic-organization-id"], named["x-objecta-upstream"]) == ("org_a", "engine")
        assert named["anthropic-ratelimit-requests-limit"] == "60"
        assert named["anthropic-ratelimit-requests-reset"].endswith("Z")
        assert not [name for name in named if name.startswith(("openai-", "x-ratelimit-"))]
        assert named.get_list("content-type") == [
            "text/event-stream; charset=utf-8" if streamed else "application/json"
        ]
    await stage.events(2)


async def test_an_agent_answers(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    message = await asking(stage).messages.create(
        model="agent/handbook",
        max_tokens=16,
        system="x",
        messages=HI,
        metadata={"user_id": "u1"},
        extra_body={"temperature": 0.5},
    )
    assert message.content[0].text == "w0 w1 w2 w3 "
    sent = stage.agents.requests[0][2]
    assert sent == {
        "model": "agent/handbook",
        "messages": [{"role": "system", "content": "x"}, *HI],
        "max_completion_tokens": 16,
        "temperature": 0.5,
        "user": "u1",
    }
    (event,) = await stage.events()
    assert (event.kind, event.cost_micro) == ("agent", 0)


async def test_a_model_s_further_name_and_who_answers_in_its_place(platform: Platform, asking: Asking) -> None:
    stage = await platform(aliases={"default": "scripted"})
    client = asking(stage)
    message = await client.messages.create(model="default", max_tokens=1, messages=HI)
    counted = await client.messages.count_tokens(model="default", messages=HI)
    assert (message.model, message.usage.input_tokens) == ("default", counted.input_tokens)
    assert [body["model"] for _, _, body in stage.engine.requests] == ["scripted"] * 2
    (event,) = await stage.events()
    assert event.model == "scripted"


async def test_a_chain_with_a_hosted_model_is_asked_for_nothing_that_engines_alone_know(
    platform: Platform, asking: Asking, serve_app: Callable[..., Awaitable[str]], catalogue_entry: Callable[..., Any]
) -> None:
    provider = ScriptedEngine()
    away = Upstream(name="away", base_url="http://127.0.0.1:9", internal=True)
    hosted = Upstream(name="hosted", base_url=await serve_app(provider))
    stage = await platform(
        routes=(
            ModelRoute(entry=catalogue_entry("mine"), upstream=away, fallbacks=("theirs",)),
            ModelRoute(entry=catalogue_entry("theirs", source="hosted:hosted"), upstream=hosted),
        )
    )
    async with asking(stage).messages.stream(model="mine", max_tokens=2, messages=HI) as stream:
        message = await stream.get_final_message()
    assert (message.model, message.content[0].text) == ("mine", "w0 w1 ")
    ((_, _, sent),) = provider.requests
    assert sent["stream_options"] == {"include_usage": True}
    (event,) = await stage.events()
    assert (event.model, event.upstream, event.usage.completion) == ("theirs", "hosted", 2)
