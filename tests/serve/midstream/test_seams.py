"""What is kept of a stream that may be continued, and the place where the rest is joined to it."""

from typing import Any

import orjson
import pytest

from models.usage import TokenUsage
from serve.partial import CHARACTERS_MAX, FOLD_BYTES, Partial
from serve.records import Earlier
from serve.seams import Seam, head_of
from serve.streams import StreamShape


def frame(content: str, **more: Any) -> bytes:
    delta = {"content": content, **more.pop("delta", {})}
    chunk = {"id": "b", "created": 2, "model": "m", "choices": [{"index": 0, "delta": delta, **more}]}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def test_much_is_folded_and_nothing_lost() -> None:
    partial = Partial()
    pieces = [f"piece {number} " for number in range(FOLD_BYTES // 20)]
    for piece in pieces:
        partial.add(frame(piece))
    assert sum(map(len, partial._blocks)) < FOLD_BYTES
    assert partial.text == "".join(pieces)
    assert not partial.finished


def test_more_than_can_be_given_to_a_model_is_not_kept() -> None:
    partial = Partial()
    partial.add(frame("x" * (CHARACTERS_MAX + 1)))
    assert partial.text is None


@pytest.mark.parametrize("data", [b"data: [1]\n\n", b"data: {\n\n", b'data: {"choices":[{"text":"a"}]}\n\n'])
def test_what_is_no_chat_s_chunk_cannot_be_continued(data: bytes) -> None:
    partial = Partial()
    partial.add(frame("a"))
    partial.add(data)
    assert partial.text is None


def test_comments_events_and_ends_are_no_text() -> None:
    partial = Partial()
    partial.add(b": ping\n\nevent: objecta.replace\ndata: {}\n\n" + frame("a") + frame("", finish_reason="stop"))
    partial.add(b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\ndata: [DONE]\n\n')
    assert (partial.text, partial.finished, partial.accounted) == ("a", True, True)


@pytest.mark.parametrize(
    ("shown", "made", "told"),
    [
        ("", ["\n", "b"], "\nb"),
        ("\n", ["\n\n", "b"], "\nb"),
        (" \n", [" ", "\nb"], "b"),
        ("\n", ["b\n"], "b\n"),
        ("\n", ["", "\n", "\nb"], "\nb"),
    ],
)
def test_blanks_that_were_read_are_not_told_again(shown: str, made: list[str], told: str) -> None:
    seam = Seam(StreamShape(model="m"), None, {"id": "a", "created": 1}, Earlier(), shown=shown)
    out = b"".join(seam.feed(frame(piece)) for piece in made)
    chunks = [orjson.loads(part[5:]) for part in out.split(b"\n\n") if part]
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == told
    assert {(chunk["id"], chunk["created"]) for chunk in chunks} == {("a", 1)}


def test_every_bucket_of_the_usage_is_added() -> None:
    earlier = Earlier(TokenUsage(prompt=1, cached=2, completion=3, reasoning=4), "provider", 5)
    seam = Seam(StreamShape(model="m", usage=True), None, {}, earlier)
    details = {"prompt_tokens_details": {"cached_tokens": 20}, "completion_tokens_details": {"reasoning_tokens": 30}}
    usage = {"prompt_tokens": 30, "completion_tokens": 70, "total_tokens": 100, **details}
    out = seam.feed(b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n")
    told = orjson.loads(out[5:])["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"], told["total_tokens"]) == (33, 77, 110)
    assert told["prompt_tokens_details"]["cached_tokens"] == 22
    assert told["completion_tokens_details"]["reasoning_tokens"] == 34
    seam.feed(b"data: {broken\n\n")
    assert seam.failed


def test_a_head_that_cannot_be_read_is_empty() -> None:
    assert head_of(b": ping\n\n" + frame("a")) == {"id": "b", "created": 2, "model": "m"}
    assert head_of(b"data: {\n\n") == {}
    assert head_of(b"") == {}
