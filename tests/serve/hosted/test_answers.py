"""Answers of a provider that speaks Anthropic's wire, read with the official OpenAI client."""

from typing import Any


async def test_whole_answer_is_openais_chat_completion(adapter: Any) -> None:
    stage = await adapter()
    answer = await stage.chat("Hi", temperature=0.5, max_completion_tokens=64, stop=["END"])
    assert answer.object == "chat.completion"
    assert answer.model == "claude-test"
    assert answer.choices[0].message.content == "Hello there, friend. "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == 12
    assert answer.usage.completion_tokens == 5
    headers, asked = stage.provider.requests[0]
    assert headers["authorization"] == "Bearer sk-ant-secret"
    assert asked["messages"] == [{"role": "user", "content": "Hi"}]
    assert (asked["temperature"], asked["max_tokens"], asked["stop_sequences"]) == (0.5, 64, ["END"])


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
    assert frames[6] == {"done": True}
