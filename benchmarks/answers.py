"""What a load client is told, what it must get back, and what came of it."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field

DONE = b"data: [DONE]"
EVENT = b"data: "
BODY_BYTES_SHOWN = 300


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Expectation(_Frozen):
    """What every answer must be. ``marker`` is text that only content holds, once a chunk."""

    stream: bool
    marker: str | None = None
    marker_count: int = Field(default=1, ge=1)
    completion_tokens: int | None = Field(default=None, description="The usage that the answer must report")


class LoadSpec(_Frozen):
    """One load. ``bodies`` are sent in turn, each client taking the next one."""

    host: str
    port: int
    path: str
    headers: dict[str, str] = {}
    bodies: tuple[str, ...] = Field(min_length=1)
    expect: Expectation
    clients: int = Field(ge=1)
    requests_max: int = Field(default=1_000_000, ge=1)
    seconds_max: float = Field(gt=0)
    warmup_requests: int = Field(default=1, ge=0, description="A client, uncounted")
    answer_seconds_max: float = Field(default=60.0, gt=0)


class Timing(NamedTuple):
    """One right answer."""

    seconds: float
    first_token_seconds: float
    tokens: int
    events: int


class LoadResult(_Frozen):
    """What a load came to; all answers were right. Of whole answers, the first token comes with the last."""

    requests: int
    seconds: float
    per_second: float
    tokens_per_second: float = Field(description="By the usage that the answers report; 0 where they report none")
    events_per_answer: float = Field(description="Server-sent events of an answer, on average, [DONE] included")
    p50_ms: float
    p95_ms: float
    p99_ms: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    ttft_p99_ms: float

    @classmethod
    def of(cls, timings: Sequence[Timing], seconds: float) -> "LoadResult":
        """Raises ValueError where there was no answer at all."""
        if not timings:
            raise ValueError("no answer was measured")
        whole = sorted(timing.seconds * 1_000 for timing in timings)
        first = sorted(timing.first_token_seconds * 1_000 for timing in timings)
        return cls(
            requests=len(timings),
            seconds=seconds,
            per_second=len(timings) / seconds,
            tokens_per_second=sum(timing.tokens for timing in timings) / seconds,
            events_per_answer=statistics.fmean(timing.events for timing in timings),
            p50_ms=statistics.median(whole),
            p95_ms=whole[int(0.95 * (len(whole) - 1))],
            p99_ms=whole[int(0.99 * (len(whole) - 1))],
            ttft_p50_ms=statistics.median(first),
            ttft_p95_ms=first[int(0.95 * (len(first) - 1))],
            ttft_p99_ms=first[int(0.99 * (len(first) - 1))],
        )


class Verdict(NamedTuple):
    """``error`` is None where the answer is right."""

    error: str | None
    tokens: int = 0
    events: int = 0


def address(base_url: str) -> tuple[str, int, str]:
    """Host, port and path of ``http://host:port[/path]``. Raises ValueError for anything else."""
    parts = urlsplit(base_url)
    if parts.scheme != "http" or parts.hostname is None or parts.port is None:
        raise ValueError(f"{base_url!r} is not http://host:port")
    return parts.hostname, parts.port, parts.path.rstrip("/")


def check_answer(expect: Expectation, status: int, body: bytes) -> Verdict:
    """Judge one whole answer: its status, its end, its chunks, its usage."""
    if status != 200:
        return Verdict(f"status {status}: {_shown(body)}")
    if expect.stream:
        events = [part for part in body.split(b"\n\n") if part.startswith(EVENT)]
        if not events or events[-1] != DONE or not body.endswith(DONE + b"\n\n"):
            return Verdict(f"the stream does not end with [DONE]: …{_shown(body[-BODY_BYTES_SHOWN:])}")
        if any(event.startswith(b'data: {"error"') for event in events):
            return Verdict(f"an error in the stream: {_shown(body)}")
        last = events[-2][len(EVENT) :] if len(events) > 1 else b"{}"
    else:
        events, last = [], body
    if expect.marker is not None and body.count(expect.marker.encode()) != expect.marker_count:
        found = body.count(expect.marker.encode())
        return Verdict(f"{found} chunks of content instead of {expect.marker_count}: {_shown(body)}")
    tokens = 0
    if expect.completion_tokens is not None:
        tokens = _completion_tokens(last)
        if tokens != expect.completion_tokens:
            return Verdict(f"{tokens} completion tokens instead of {expect.completion_tokens}: {_shown(last)}")
    return Verdict(None, tokens, len(events))


def has_token(received: bytes) -> bool:
    """Whether what came of a stream holds an event with content: a role or a comment is no token."""
    for event in received.split(b"\n\n")[:-1]:
        if not event.startswith(EVENT) or event == DONE:
            continue
        try:
            chunk = orjson.loads(event[len(EVENT) :])
        except orjson.JSONDecodeError:
            continue
        if any((choice.get("delta") or {}).get("content") or choice.get("text") for choice in chunk.get("choices", ())):
            return True
    return False


def _completion_tokens(document: bytes) -> int:
    try:
        return int((orjson.loads(document).get("usage") or {}).get("completion_tokens", 0))
    except orjson.JSONDecodeError:
        return 0


def _shown(body: bytes) -> str:
    return body[:BODY_BYTES_SHOWN].decode(errors="replace")
