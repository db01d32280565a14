"""A stream that breaks goes on where it broke: its client sees one answer."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

Start = Callable[..., Awaitable[Any]]
TEXT = " ".join(f"word{number}" for number in range(8))
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("usage", [True, False])
async def test_one_seamless_stream_with_one_id(authors: Start, alone: bool, usage: bool) -> None:
    them = await authors(alone=alone, mid_stream="continue")
    them.first.breaks = [3]
    frames = await them.frames(**({"stream_options": {"include_usage": True}} if usage else {}))
    assert them.said(frames) == TEXT
    assert {name for name, _ in frames} == {"message"}
    chunks = [data for _, data in frames[:-1]]
    assert {(chunk["id"], chunk["model"]) for chunk in chunks} == {("chatcmpl-first-1", "first")}
    assert frames[-1] == ("message", "[DONE]")
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert [reason for reason in finishes if reason] == ["stop"]
    roles = [choice["delta"].get("role") for chunk in chunks for choice in chunk["choices"]]
    assert [role for role in roles if role] == ["assistant"]
    asked = (them.first if alone else them.second).asked[-1]
    assert asked["messages"] == [*HI, {"role": "assistant", "content": "word0 word1 word2"}]
    (event,) = await them.stage.events()
    assert (event.status, event.source, event.usage.completion) == ("ok", "provider", 8)
    if usage:
        assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1]["usage"]["completion_tokens"] == 8
        assert chunks[-1]["usage"]["prompt_tokens"] == event.usage.prompt
        assert chunks[-1]["objecta"] == {"cost_micro": event.cost_micro}


async def test_each_part_has_the_price_of_who_made_it(authors: Start) -> None:
    them = await authors(mid_stream="continue")
    them.first.breaks = [3]
    await them.frames()
    (event,) = await them.stage.events()
    prompts = [4, event.usage.prompt - 4]
    assert prompts[1] > prompts[0]
    assert event.cost_micro == prompts[0] * 1 + 3 * 2 + prompts[1] * 50 + 5 * 90


async def test_the_maximum_is_what_is_left_of_it(authors: Start) -> None:
    them = await authors(alone=True, mid_stream="continue")
    them.first.breaks = [3]
    frames = await them.frames(max_tokens=5)
    assert them.said(frames) == "word0 word1 word2 word3 word4"
    assert [body["max_tokens"] for body in them.first.asked] == [5, 2]
    finishes = [choice["finish_reason"] for _, data in frames[:-1] for choice in data["choices"]]
    assert [reason for reason in finishes if reason] == ["length"]


async def test_continuous_usage_goes_on_growing(authors: Start) -> None:
    them = await authors(alone=True, mid_stream="continue")
    them.first.breaks = [3]
    frames = await them.frames(stream_options={"include_usage": True, "continuous_usage_stats": True})
    made = [data["usage"]["completion_tokens"] for _, data in frames[:-1]]
    assert made == sorted(made)
    assert made[-1] == 8


@pytest.mark.parametrize("usage", [True, False])
async def test_an_answer_that_was_whole_is_ended_without_asking_anybody(authors: Start, usage: bool) -> None:
    them = await authors(alone=True, mid_stream="continue")
    them.first.breaks = [9]
    options = {"stream_options": {"include_usage": True}} if usage else {}
    frames = await them.frames(**options)
    assert them.said(frames) == TEXT
    assert frames[-1] == ("message", "[DONE]")
    assert len(them.first.asked) == 1
    them.first.breaks = [3]
    short = await them.frames(max_tokens=3, **options)
    assert them.said(short) == "word0 word1 word2"
    assert [choice["finish_reason"] for choice in short[-3 if usage else -2][1]["choices"]] == ["length"]
    assert len(them.first.asked) == 2
    first, second = await them.stage.events(2)
    assert [(event.status, event.usage.completion, event.usage.prompt) for event in (first, second)] == [
        ("ok", 8, 4),
        ("ok", 3, 4),
    ]
    if usage:
        assert (frames[-2][1]["usage"]["completion_tokens"], short[-2][1]["usage"]["completion_tokens"]) == (8, 3)
        assert short[-2][1]["objecta"] == {"cost_micro": second.cost_micro}


async def test_nothing_read_yet_is_begun_without_a_word(authors: Start) -> None:
    them = await authors(alone=True, mid_stream="continue")
    them.first.breaks = [0]
    frames = await them.frames()
    assert them.said(frames) == TEXT
    assert them.first.asked[1]["messages"] == HI


@pytest.mark.parametrize(
    "body",
    [
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
        {"presence_penalty": 0.5},
        {"messages": [*HI, {"role": "assistant", "content": "word0"}]},
        {"structured_outputs": {"regex": "a+"}},
    ],
)
@pytest.mark.parametrize("otherwise", ["error", "restart"])
async def test_what_cannot_be_continued_soundly_is_not(authors: Start, body: dict[str, Any], otherwise: str) -> None:
    them = await authors(alone=True, mid_stream="continue", mid_stream_else=otherwise)
    them.first.breaks = [3]
    frames = await them.frames(**body)
    assert all("continue_final_message" not in asked for asked in them.first.asked)
    if otherwise == "error":
        assert "error" in frames[-1][1]
        assert len(them.first.asked) == 1
    else:
        assert "objecta.replace" in {name for name, _ in frames}
        assert frames[-1] == ("message", "[DONE]")


@pytest.mark.parametrize("extra", [{"reasoning": "hm"}, {"tool_calls": [{"index": 0}]}, {"refusal": "no"}])
async def test_an_answer_that_is_more_than_text_is_not_continued(authors: Start, extra: dict[str, Any]) -> None:
    them = await authors(alone=True, mid_stream="continue")
    them.first.breaks, them.first.extra = [3], extra
    frames = await them.frames()
    assert "error" in frames[-1][1]
    assert len(them.first.asked) == 1


async def test_only_engines_of_ours_continue(authors: Start) -> None:
    them = await authors(hosted=True, mid_stream="continue")
    them.first.breaks = [3]
    frames = await them.frames()
    assert them.said(frames) == TEXT
    assert (len(them.first.asked), them.second.asked) == (2, [])


async def test_what_nobody_can_continue_is_begun_anew(authors: Start) -> None:
    them = await authors(hosted=True, mid_stream="continue", mid_stream_else="restart", resumes_max=2)
    them.first.breaks, them.first.prologue = [3, 0], False
    frames = await them.frames()
    place = [name for name, _ in frames].index("objecta.replace")
    assert them.said(frames[:place]) == "word0 word1 word2"
    assert them.said(frames[place:]) == TEXT


async def test_a_second_break_is_continued_from_all_that_was_read(authors: Start) -> None:
    them = await authors(alone=True, mid_stream="continue", resumes_max=2)
    them.first.breaks = [2, 3]
    frames = await them.frames(max_tokens=7)
    assert them.said(frames) == "word0 word1 word2 word3 word4 word5 word6"
    assert [body["max_tokens"] for body in them.first.asked] == [7, 5, 2]
    (event,) = await them.stage.events()
    assert event.usage.completion == 7


async def test_an_anthropic_client_sees_one_answer_too(authors: Start) -> None:
    them = await authors(alone=True, mid_stream="continue")
    them.first.breaks = [3]
    body = {"model": "first", "max_tokens": 50, "messages": HI, "stream": True}
    answer = await them.stage.http.post("/v1/messages", json=body, headers={"x-api-key": "good"})
    assert [answer.text.count(f"word{number}") for number in range(8)] == [1] * 8
    assert "event: error" not in answer.text


async def test_a_caller_may_wish_it(authors: Start) -> None:
    them = await authors(alone=True)
    them.first.breaks = [3]
    assert them.said(await them.frames(headers={"x-objecta-mid-stream": "continue"})) == TEXT
    page = (await them.stage.http.get("/metrics")).text
    assert 'objecta_gateway_resumed_streams_total{how="continued",model="first"} 1.0' in page
