"""Anthropic's official client against the gateway, with an engine behind it."""

from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import pytest

from models.doubles.scripted_engine import Script

Platform = Callable[..., Awaitable[Any]]
HI: Any = [{"role": "user", "content": "hi there"}]


def client(stage: Any, key: str = "good", **options: Any) -> anthropic.AsyncAnthropic:
    made = anthropic.AsyncAnthropic(base_url=stage.url, api_key=key, max_retries=0, **options)
    stage.stack.push_async_callback(made.close)
    return made


async def test_a_message_is_answered_and_metered_once(platform: Platform) -> None:
    stage = await platform()
    message = await client(stage).messages.create(model="scripted", max_tokens=16, messages=HI)
    assert (message.type, message.role, message.model) == ("message", "assistant", "scripted")
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "w0 w1 w2 w3 "}]
    assert (message.stop_reason, message.stop_sequence, message.usage.output_tokens) == ("end_turn", None, 4)
    assert message.id.startswith("msg_")
    (event,) = await stage.events()
    assert (event.kind, event.status, event.source, event.usage.completion) == ("chat", "ok", "provider", 4)
    assert event.usage.prompt == message.usage.input_tokens
    assert message._request_id == event.request_id


async def test_a_stream_s_events_come_in_anthropic_s_order_with_the_engine_s_usage(platform: Platform) -> None:
    stage = await platform()
    stream = await client(stage).messages.create(model="scripted", max_tokens=16, messages=HI, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.usage.input_tokens > 0
    assert events[-2].usage.output_tokens == 4
    (event,) = await stage.events()
    assert (event.status, event.streamed, event.usage.completion) == ("ok", True, 4)


async def test_the_client_s_stream_helper_adds_the_message_up(platform: Platform) -> None:
    stage = await platform()
    async with client(stage).messages.stream(model="scripted", max_tokens=2, messages=HI) as stream:
        pieces = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert pieces == ["w0 ", "w1 "]
    assert (message.content[0].text, message.stop_reason) == ("w0 w1 ", "end_turn")
    (event,) = await stage.events()
    assert (message.usage.input_tokens, message.usage.output_tokens) == (event.usage.prompt, 2)


async def test_without_a_key_the_answer_is_anthropic_s_401(platform: Platform) -> None:
    stage = await platform()
    with pytest.raises(anthropic.AuthenticationError) as error:
        await client(stage, "wrong").messages.create(model="scripted", max_tokens=1, messages=HI)
    assert error.value.body["error"]["type"] == "authentication_error"
    assert error.value.body["request_id"] == error.value.request_id
    assert await stage.stored() == []
    assert Script() == stage.engine.script
