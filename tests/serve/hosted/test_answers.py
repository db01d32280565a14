"""Answers of a provider that speaks Anthropic's wire, read with the official OpenAI client and from the raw wire."""

import asyncio
from typing import Any

import pytest

HI = {"role": "user", "content": "Hi"}
THINKING = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
USAGE = {
    "input_tokens": 100,
    "cache_read_input_tokens": 40,
    "cache_creation_input_tokens": 20,
    "output_tokens": 30,
    "output_tokens_details": {"thinking_tokens": 12},
}


@pytest.mark.parametrize("options", [{}, {"streaming": False}], ids=["from a stream", "from JSON"])
async def test_whole_answer_is_openais_chat_completion(adapter: Any, options: Any) -> None:
    stage = await adapter(options=options)
    answer = await stage.chat("Hi", temperature=0.5, top_p=0.9, max_completion_tokens=64, stop=["END"])
    assert (answer.object, answer.model) == ("chat.completion", "claude-test")
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content.strip()) == ("assistant", "Hello there, friend.")
    assert choice.finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (12, 5, 17)
    headers, asked = stage.provider.requests[0]
    assert headers["authorization"] == "Bearer sk-ant-secret"
    assert asked["messages"] == [{"role": "user", "content": "Hi"}]
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"]) == (0.5, 0.9, 64)
    assert asked["stop_sequences"] == ["END"]
    assert asked.get("stream", False) is options.get("streaming", True)


async def test_whole_calls_come_from_a_class_that_does_not_stream(adapter: Any) -> None:
    stage = await adapter(options={"streaming": False})
    stage.provider.blocks = [{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bonn"}}]
    stage.provider.stop_reason = "tool_use"
    frames = await stage.frames(tools=[{"type": "function", "function": {"name": "weather"}}])
    (call,) = frames[1]["choices"][0]["delta"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Bonn"}'}
    assert frames[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_stream_names_the_role_first_and_the_usage_last(adapter: Any) -> None:
    stage = await adapter()
    frames = await stage.frames(stream_options={"include_usage": True})
    assert frames[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    texts = [frame["choices"][0]["delta"].get("content") for frame in frames[1:4]]
    assert texts == ["Hello ", "there, ", "friend. "]
    assert frames[4]["choices"][0]["finish_reason"] == "stop"
    assert frames[5]["choices"] == []
    assert frames[5]["usage"]["total_tokens"] == 17
    assert all(frame["usage"] is None for frame in frames[:5])
    assert len({frame["id"] for frame in frames[:6]}) == 1
    assert frames[6] == {"done": True}


async def test_a_stream_that_asks_for_no_usage_has_none(adapter: Any) -> None:
    frames = await (await adapter()).frames()
    assert not any("usage" in frame for frame in frames)


async def test_cached_written_and_reasoning_tokens_are_told_apart(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.usage = USAGE
    usage = (await stage.chat()).usage.model_dump()
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (160, 30)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 40
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == 20
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 12


async def test_a_provider_that_counts_no_prompt_gives_no_usage_at_all(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.usage = {"output_tokens": 5}
    stage.provider.usage["input_tokens"] = 0
    assert (await stage.chat()).usage is None


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
    ],
)
async def test_a_reason_to_stop_is_openais(adapter: Any, reason: str, told: str) -> None:
    stage = await adapter()
    stage.provider.stop_reason = reason
    assert (await stage.chat()).choices[0].finish_reason == told


async def test_thinking_is_told_apart_from_the_answer(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.blocks = [THINKING, {"type": "text", "text": "Yes."}]
    asked = {"model": "claude-opus-4-7", "reasoning_effort": "high"}
    message = (await stage.chat(**asked)).choices[0].message
    assert (message.content, message.model_dump()["reasoning"]) == ("Yes. ", "Hm.")
    frames = await stage.frames(**asked)
    assert [frame["choices"][0]["delta"] for frame in frames[1:3]] == [{"reasoning": "Hm."}, {"content": "Yes. "}]
    await stage.chat(messages=[{"role": "user", "content": "Hi"}, message.model_dump(), HI], **asked)
    assert stage.provider.asked["messages"][1] == {"role": "assistant", "content": "Yes. "}
    assert stage.provider.asked["output_config"] == {"effort": "high"}
    assert stage.provider.asked["thinking"] == {"type": "adaptive", "display": "summarized"}


async def test_the_first_token_is_not_held(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.gate.clear()
    stream = await stage.chat(stream=True)
    chunks = [await anext(stream), await anext(stream)]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "Hello "]
    stage.provider.gate.set()
    assert [chunk.choices[0].delta.content async for chunk in stream] == ["there, ", "friend. ", None]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_that_leaves_ends_the_providers_call(adapter: Any, stream: bool) -> None:
    stage = await adapter()
    stage.provider.door.clear()
    call = asyncio.create_task(stage.chat(stream=stream))
    async with asyncio.timeout(10):
        await stage.provider.called.wait()
        call.cancel()
        await stage.provider.left.wait()


async def test_a_caller_that_leaves_mid_stream_ends_the_providers_call(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.gate.clear()
    stream = await stage.chat(stream=True)
    await anext(stream)
    await stream.close()
    async with asyncio.timeout(10):
        await stage.provider.left.wait()
