"""Streams of calls: OpenAI's deltas, whatever the pieces in which the text and the network's data arrive."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.streams import StreamFilter, StreamShape
from serve.tools.answers import Stream
from serve.tools.assembler import Assembler, Opened, Text
from serve.tools.checker import Checker
from serve.tools.choices import Guided
from serve.tools.form import written_call
from serve.tools.request import Plan, plan_of

Tools = Callable[..., Any]
ANY = {"type": "function", "function": {"name": "any", "parameters": {"type": "object"}}}
FORCED = {"tools": [ANY], "tool_choice": "required"}

texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.sampled_from(['"', "\\", "}\n</tool_call>", "{[", "é😀", ""]), texts
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
arguments = st.builds(
    lambda value, indent, ascii_: json.dumps(value, indent=indent, ensure_ascii=ascii_),
    st.dictionaries(texts, values, max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
)
plain = st.lists(
    st.sampled_from(["It is ", "<tool", "<tool_call", " \n", "<", "_call>", "é", "{", "fine"]), max_size=5
).map("".join)


def pieces(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def plan(body: dict[str, Any]) -> Plan:
    made = plan_of(body)
    assert made is not None
    return made


@given(plain, st.lists(arguments, max_size=3), st.lists(st.integers(1, 300), max_size=40))
def test_no_cut_changes_what_is_assembled(said: str, calls: list[str], cuts: list[int]) -> None:
    if "<tool_call>" in said:
        said = ""
    text = said + "\n".join(written_call("any", each) for each in calls)
    assembler = Assembler("any")
    events = [event for piece in pieces(text, cuts) for event in assembler.feed(piece)] + assembler.finish()
    shown = "".join(event.text for event in events if isinstance(event, Text))
    assert shown == (said.rstrip(" \t\r\n") if calls else said)
    assert [(call.arguments, call.complete) for call in assembler.calls] == [(each, True) for each in calls]
    spelled = ["" for _ in calls]
    for event in events:
        if not isinstance(event, Text | Opened):
            spelled[event.index] += event.text
    assert spelled == calls


@given(st.lists(arguments, min_size=1, max_size=2), st.integers(0, 400))
def test_text_that_breaks_off_leaves_no_complete_call_behind(calls: list[str], end: int) -> None:
    text = "\n".join(written_call("any", each) for each in calls)
    assembler = Assembler("none")
    assembler.feed(text[:end])
    assert assembler.finish() == []
    for call, each in zip(assembler.calls, calls, strict=False):
        assert each.startswith(call.arguments)
        assert not call.complete or call.arguments == each


def frames(texts_: list[str]) -> bytes:
    out = b""
    for number, text in enumerate(["", *texts_, ""]):
        delta = {"content": text} if number else {"role": "assistant", "content": ""}
        reason = "stop" if number > len(texts_) else None
        chunk = {
            "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
            "usage": {"prompt_tokens": 5, "completion_tokens": number, "total_tokens": 5 + number},
        }
        out += b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"
    return out + b"data: [DONE]\n\n"


@given(arguments, st.lists(st.integers(1, 200), max_size=20), st.lists(st.integers(1, 4_000), max_size=12))
def test_no_cut_of_the_network_changes_the_stream(each: str, cuts: list[int], network: list[int]) -> None:
    made = plan(FORCED)
    sent = frames(pieces(written_call("any", each), cuts))
    stream = Stream(lambda: Guided(made, Checker(made.tools)))
    ends = sorted({min(cut, len(sent)) for cut in network} | {len(sent)})
    out = b"".join(stream.feed(sent[start:end]) for start, end in zip([0, *ends], ends, strict=False)) + stream.finish()
    assert out.endswith(b"data: [DONE]\n\n")
    chunks = [json.loads(frame[6:]) for frame in out.split(b"\n\n")[:-2]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": None}
    (opened,) = deltas[1]["tool_calls"]
    assert (opened["index"], opened["type"], opened["function"]) == (0, "function", {"name": "any", "arguments": ""})
    assert "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in deltas[2:-1]) == each
    assert (deltas[-1], chunks[-1]["choices"][0]["finish_reason"]) == ({}, "tool_calls")
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)


async def test_the_deltas_are_openai_s(tools: Tools) -> None:
    call = written_call("any", '{"a": 1}')
    stage = tools(f"Well.\n{call}\n{call}")
    chunks = await stage.chunks(tools=[ANY], stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] == 7
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    assert choices[-1]["delta"] == {}
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "Well."
    calls = [choice["delta"]["tool_calls"][0] for choice in choices if "tool_calls" in choice["delta"]]
    opened = [each for each in calls if "id" in each]
    assert [(each["index"], each["type"], each["function"]) for each in opened] == [
        (0, "function", {"name": "any", "arguments": ""}),
        (1, "function", {"name": "any", "arguments": ""}),
    ]
    assert len({each["id"] for each in opened}) == 2
    for index in (0, 1):
        spelled = "".join(each["function"]["arguments"] for each in calls if each["index"] == index)
        assert spelled == '{"a": 1}'


@pytest.mark.parametrize("text", ["", "Hello there ", "<tool"])
async def test_an_answer_in_text_streams_as_ever(tools: Tools, text: str) -> None:
    chunks = await tools(text).chunks(tools=[ANY])
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content") or "" for delta in deltas) == text
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_that_was_cut_off_ends_with_what_there_is(tools: Tools) -> None:
    cut = written_call("any", '{"a": "bc"}')[:-19]
    chunks = await tools(cut, reason="length").chunks(**FORCED)
    spelled = [
        call["function"]["arguments"] for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert '{"a": "bc"}'.startswith("".join(spelled))
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_reasoning_passes_beside_the_calls(tools: Tools) -> None:
    call = written_call("any", "{}")
    stage = tools("", deltas=[{"reasoning": "Hm."}, {"content": call}])
    deltas = [chunk["choices"][0]["delta"] for chunk in await stage.chunks(tools=[ANY])]
    assert deltas[1] == {"reasoning": "Hm."}
    assert deltas[2]["tool_calls"][0]["function"] == {"name": "any", "arguments": ""}


async def test_the_gateway_meters_a_stream_of_calls(tools: Tools) -> None:
    text = "\n".join([written_call("any", '{"a": "x"}')] * 2)
    stage = tools(text, text)
    options = {"include_usage": True, "continuous_usage_stats": True}
    for n in (1, 2):
        stage.engine.texts = [text] * n
        answer = await stage.chat(**FORCED, n=n, stream=True, stream_options=options)
        meter = StreamFilter(StreamShape(model="m", usage=True, several=n > 1, choices=n))
        out = meter.feed(answer.content) + meter.finish()
        usage = meter.usage()
        assert usage is not None
        assert meter.done
        assert not meter.failed
        assert (usage.prompt, usage.completion) == (7, len(text) * n)
        last = json.loads(out.split(b"\n\n")[-3][6:])
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == len(text) * n
