"""The filter of streams: metering and usage as asked, whatever the network does to the frames."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.streams import FRAME_BYTES_MAX, StreamFilter, StreamShape

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


def frame(content: str | None = "x", *, spaced: bool = False, **more: Any) -> bytes:
    chunk: dict[str, Any] = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"content": content}}], **more}
    separators = (", ", ": ") if spaced else (",", ":")
    return b"data: " + json.dumps(chunk, separators=separators).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
ENGINE = b"".join(
    [
        frame("", usage={"prompt_tokens": 7, "completion_tokens": 0}),
        frame('say "usage":{} twice', usage={"prompt_tokens": 7, "completion_tokens": 2}),
        frame("data: [DONE]\n\n", usage={"prompt_tokens": 7, "completion_tokens": 3}),
        frame(choices=[], usage=USAGE),
        DONE,
    ]
)


def chunks(data: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in data.split(b"\n\n") if part and part != b"data: [DONE]"]


def pass_through(data: bytes, cuts: list[int], **shape: Any) -> tuple[bytes, StreamFilter]:
    stream = StreamFilter(StreamShape(model="m", **shape))
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    out = b"".join(stream.feed(data[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    return out + stream.finish(), stream


@given(st.lists(st.integers(1, len(ENGINE)), max_size=12), st.booleans(), st.booleans(), st.booleans())
def test_cuts_anywhere_change_nothing(cuts: list[int], usage: bool, continuous: bool, crlf: bool) -> None:
    data = ENGINE.replace(b"\n", b"\r\n") if crlf else ENGINE
    out, stream = pass_through(data, cuts, usage=usage, continuous=usage and continuous)
    found = chunks(out)
    assert out.endswith(DONE)
    assert [c["choices"][0]["delta"]["content"] for c in found if c["choices"]] == [
        "",
        'say "usage":{} twice',
        "data: [DONE]\n\n",
    ]
    shown = [chunk.get("usage", "none") for chunk in found]
    if not usage:
        assert shown == ["none"] * 3
    elif continuous:
        assert [each["completion_tokens"] for each in shown] == [0, 2, 3, 3]
    else:
        assert shown == [None, None, None, USAGE]
    reported = stream.usage()
    assert reported is not None
    assert (reported.prompt, reported.cached, reported.completion) == (5, 2, 3)
    assert (stream.done, stream.failed, stream.first_token_at is not None) == (True, False, True)


def test_a_stream_cut_off_has_the_last_figures_of_the_engine() -> None:
    _, stream = pass_through(ENGINE[: ENGINE.index(b"data: [DONE]\\n")], [])
    usage = stream.usage()
    assert usage is not None
    assert (usage.prompt, usage.completion, stream.done) == (7, 2, False)


@pytest.mark.parametrize("spaced", [False, True])
def test_a_provider_that_reports_with_its_last_text_gets_a_chunk_of_its_own_for_it(spaced: bool) -> None:
    data = frame("a", spaced=spaced) + frame("b", spaced=spaced, usage=USAGE) + DONE
    for cuts in ([], [len(data) - len(DONE)]):
        out, stream = pass_through(data, cuts, usage=True)
        found = chunks(out)
        assert [chunk["usage"] for chunk in found] == [None, None, USAGE]
        assert found[-1]["choices"] == []
        assert stream.texts == 2
        out, _ = pass_through(data, cuts)
        assert all("usage" not in chunk for chunk in chunks(out))


def test_usage_as_the_first_key_is_taken_out_too() -> None:
    out, _ = pass_through(
        b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1},"model":"m","choices":[{}]}\n\n', []
    )
    assert b"usage" not in out


def test_a_first_chunk_without_choices_that_is_no_usage_passes() -> None:
    data = frame(choices=[], prompt_filter_results=[]) + frame("a") + DONE
    out, stream = pass_through(data, [len(frame(choices=[], prompt_filter_results=[]))])
    assert chunks(out)[0]["choices"] == []
    assert stream.texts == 1


def test_comments_and_events_pass() -> None:
    data = b": ping\n\n" + frame("a") + b"event: done\n\n" + DONE
    out, stream = pass_through(data, [8])
    assert out == data
    assert stream.done


def test_the_model_is_renamed_in_every_chunk() -> None:
    data = frame("a", model="other-1") + frame('"model":"other"', model="other-1") + DONE
    out, _ = pass_through(data, [])
    assert [chunk["model"] for chunk in chunks(out)] == ["m", "m"]
    assert chunks(out)[1]["choices"][0]["delta"]["content"] == '"model":"other"'


@pytest.mark.parametrize(
    "error", [b'data: {"error": {"message": "EngineDeadError"}}', b'data:{"error":"boom"}', b"event: error\ndata: {}"]
)
def test_an_error_frame_never_passes_nor_what_follows(error: bytes) -> None:
    out, stream = pass_through(frame("a") + error + b"\n\n" + DONE, [])
    assert out == frame("a")
    assert (stream.failed, stream.done) == (True, False)


@pytest.mark.parametrize("body", [b'data: {"choices": [\n\n', b"data: [1]\n\n", b'data: {"choices": 5, "a": 1}\n\n'])
def test_a_frame_that_is_no_chunk_fails_the_stream(body: bytes) -> None:
    out, stream = pass_through(body.replace(b"[1]", b'["a": 1]'), [], several=True)
    assert out == b"" or b"choices" in out
    assert stream.failed or body.startswith(b'data: {"choices": 5')


def test_a_frame_without_an_end_is_given_up() -> None:
    stream = StreamFilter(StreamShape(model="m"))
    assert stream.feed(b"data: " + b"x" * FRAME_BYTES_MAX) == b""
    assert stream.failed


def test_choices_of_several_prompts_are_added_up_each_prompt_once() -> None:
    def part(index: int, prompt: int, completion: int) -> bytes:
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        return frame(choices=[{"index": index, "text": "x"}], usage=usage)

    data = part(0, 5, 1) + part(1, 5, 2) + part(2, 9, 1) + part(0, 5, 4)
    _, stream = pass_through(data, [], several=True, choices=2)
    usage = stream.usage()
    assert usage is not None
    assert (usage.prompt, usage.completion) == (14, 7)


def test_a_last_frame_without_a_blank_line_still_passes() -> None:
    out, stream = pass_through(frame("a") + b"data: [DONE]", [])
    assert out == frame("a") + DONE
    assert stream.done
