"""The translation of streams: any cut of the bytes, any order of pieces, and streams that are none."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.messages.stream import EventStream

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 7,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
}


def frame(payload: Any) -> bytes:
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return frame({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})


def ended(finish: str = "stop") -> bytes:
    return chunk({}, finish) + frame({"id": "c", "model": "m", "choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"


def call(index: int, arguments: str = "", identity: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": f"t{index}"} if identity else {})}
    return {"tool_calls": [{"index": index, "function": function, **({"id": identity} if identity else {})}]}


def events(*pieces: bytes, thinking: bool = True) -> list[dict[str, Any]]:
    stream = EventStream("m", "req_1", thinking=thinking)
    raw = b"".join(stream.feed(piece) for piece in pieces)
    found = []
    for one in raw.split(b"\n\n")[:-1]:
        name, data = one.split(b"\n", 1)
        parsed = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + parsed["type"].encode()
        found.append(parsed)
    return found


def blocks(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Kind and content of each block; raises where blocks overlap or are not numbered in turn."""
    made: list[tuple[str, str]] = []
    is_open = False
    for one in found:
        if one["type"] == "content_block_start":
            assert not is_open
            assert one["index"] == len(made)
            made.append((one["content_block"]["type"], ""))
            is_open = True
        elif one["type"] == "content_block_delta":
            assert is_open
            assert one["index"] == len(made) - 1
            kind, text = made[-1]
            delta = one["delta"]
            made[-1] = (kind, text + (delta.get("text") or delta.get("thinking") or delta.get("partial_json")))
        elif one["type"] == "content_block_stop":
            assert is_open
            is_open = False
    assert not is_open
    return made


words = st.text(min_size=1, max_size=8)
spoken = st.tuples(st.sampled_from(["content", "reasoning"]), words)
called = st.tuples(st.just("call"), st.lists(words, max_size=3))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(spoken, called), max_size=8), st.data())
def test_any_cut_of_any_answer_is_the_same_message(said: list[tuple[str, Any]], data: st.DataObject) -> None:
    raw, calls, expected = chunk({"role": "assistant", "content": ""}), 0, []
    for kind, piece in said:
        if kind == "call":
            raw += chunk(call(calls, identity=f"id{calls}")) + b"".join(chunk(call(calls, part)) for part in piece)
            expected.append(("tool_use", "".join(piece)))
            calls += 1
            continue
        raw += chunk({kind: piece})
        name = "text" if kind == "content" else "thinking"
        if expected and expected[-1][0] == name:
            expected[-1] = (name, expected[-1][1] + piece)
        else:
            expected.append((name, piece))
    raw += ended("tool_calls" if calls else "stop")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    found = events(*pieces)
    assert blocks(found) == expected
    assert [one["type"] for one in (found[0], *found[-2:])] == ["message_start", "message_delta", "message_stop"]
    assert found[-2]["delta"]["stop_reason"] == ("tool_use" if calls else "end_turn")
    assert found[-2]["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 1,
        "cache_read_input_tokens": 4,
        "output_tokens": 7,
    }


def test_every_chunk_leaves_as_it_comes() -> None:
    stream = EventStream("m", "req_1", thinking=False)
    assert b"message_start" in stream.feed(chunk({"role": "assistant", "content": ""}, usage=USAGE))
    for word in ("a", "b"):
        assert f'"text":"{word}"'.encode() in stream.feed(chunk({"content": word}))
    assert stream.feed(b": a comment\n\n") == b""
    assert not stream.ended


def test_what_openai_calls_a_refusal_is_text_and_the_reason() -> None:
    found = events(chunk({"refusal": "I will not."}), ended())
    assert blocks(found) == [("text", "I will not.")]
    assert found[-2]["delta"]["stop_reason"] == "refusal"


def test_without_usage_the_pieces_are_counted() -> None:
    found = events(chunk({"content": "a"}), chunk({"content": "b"}, "stop"), b"data: [DONE]\n\n")
    assert found[-2]["usage"]["output_tokens"] == 2


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    found = events(chunk(call(0, "{}", "a")), chunk(call(0, "[]", "b")), ended("tool_calls"))
    assert blocks(found) == [("tool_use", "{}"), ("tool_use", "[]")]


def test_an_empty_answer_has_no_block() -> None:
    assert [one["type"] for one in events(b"data: [DONE]\n\n")] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {broken\n\n",
        b"data: 3\n\n",
        b'data: {"choices":[3]}\n\n',
        chunk(call(1, "{")),
        chunk(call(0, "{}", "a")) + chunk({"content": "x"}) + chunk(call(0, "{")),
        frame({"error": None}),
    ],
)
def test_what_is_no_answer_ends_with_one_error_event(bad: bytes) -> None:
    found = events(chunk({"content": "a"}), bad, chunk({"content": "b"}), ended())
    assert found[-1]["type"] == "error"
    assert found[-1]["error"] == {"type": "api_error", "message": "The model failed to answer."}
    assert found[-1]["request_id"] == "req_1"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "upstream_error", "code": "upstream_timeout"}, "timeout_error"),
        ({"type": "upstream_error", "code": "unavailable"}, "overloaded_error"),
        ({"type": "upstream_error", "code": "upstream_error"}, "api_error"),
        ({"type": "rate_limit_exceeded", "code": "rate_limit_exceeded"}, "rate_limit_error"),
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, "invalid_request_error"),
    ],
)
def test_an_error_frame_is_an_error_event(error: dict[str, str], kind: str) -> None:
    (only,) = events(frame({"error": {**error, "message": "Too much in 'max_completion_tokens'."}}))
    assert only["error"] == {"type": kind, "message": "Too much in 'max_tokens'."}
