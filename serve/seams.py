"""Where one attempt's stream is joined to another's: to the client it is one stream, with one id and one account.

Invariants
1. Every chunk has the id and the time of the first stream; the role is told once.
2. The usage is the whole call's: what earlier attempts used is added to each figure, as it is billed.
3. Nothing is sent before the new attempt has sent its first frame; then the ``opening`` comes before it.
"""

from collections.abc import Mapping
from typing import Any, cast

import orjson

from models.usage import Price, TokenUsage
from serve.records import Earlier, added
from serve.streams import DONE, FRAME_END, StreamFilter, StreamShape
from serve.usage import buckets, usage_object

EVENT = b"objecta.replace"
HEAD = ("id", "object", "created", "model", "system_fingerprint")


def head_of(data: bytes) -> dict[str, Any]:
    """What all chunks of a stream share, out of its first frames; empty where they are none of ours to read."""
    for frame in data.split(FRAME_END):
        if frame.startswith(b"data:"):
            try:
                chunk = cast("dict[str, Any]", orjson.loads(frame[5:]))
                return {name: chunk[name] for name in HEAD if name in chunk}
            except (orjson.JSONDecodeError, TypeError):
                break
    return {}


def replacement(head: Mapping[str, Any], shape: StreamShape, facts: Mapping[str, object]) -> bytes:
    """The event that tells a client to forget what it has read: a chunk that says nothing, under a name of its own.

    Clients that dispatch by the event's name see an event they do not know; OpenAI's SDKs look at the data alone and
    see a chunk with an empty delta and one more field, ``objecta``.
    """
    said: dict[str, Any] = {"text": ""} if head.get("object") == "text_completion" else {"delta": {}}
    choice: dict[str, Any] = {"index": 0, **said, "logprobs": None, "finish_reason": None}
    chunk: dict[str, Any] = {**head, "choices": [choice], "objecta": {"replace": facts}}
    if shape.usage:
        chunk["usage"] = None
    return b"event: " + EVENT + b"\ndata: " + orjson.dumps(chunk) + FRAME_END


def ending(head: Mapping[str, Any], usage: TokenUsage | None, cost_micro: int | None, finish: str | None) -> bytes:
    """The end of a chat's stream whose answer was whole: its reason and its usage, where either is still to be told."""
    frames: list[dict[str, Any]] = []
    if finish is not None:
        choice: dict[str, Any] = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}
        frames.append({**head, "choices": [choice], **({} if usage is None else {"usage": None})})
    if usage is not None:
        frames.append({**head, "choices": [], "usage": usage_object(usage), **priced(cost_micro)})
    return b"".join(b"data: " + orjson.dumps(frame) + FRAME_END for frame in frames) + b"data: [DONE]" + FRAME_END


def priced(cost_micro: int | None) -> dict[str, Any]:
    """The field that tells a call's cost, beside its usage."""
    return {} if cost_micro is None else {"objecta": {"cost_micro": cost_micro}}


class Seam(StreamFilter):
    """A further attempt's stream. ``shown``: blanks that the client has read at the end of what is continued."""

    def __init__(
        self,
        shape: StreamShape,
        price: Price | None,
        head: Mapping[str, Any],
        earlier: Earlier,
        opening: bytes = b"",
        shown: str = "",
    ) -> None:
        super().__init__(shape, price)
        self._head = {name: head[name] for name in ("id", "created") if name in head}
        self._earlier = earlier
        self._opening = opening
        self._shown = shown

    def feed(self, data: bytes) -> bytes:
        """Whole frames for the client; may be empty."""
        return self._joined(super().feed(data))

    def finish(self) -> bytes:
        """The last frame where the upstream ended without a blank line."""
        return self._joined(super().finish())

    def _joined(self, data: bytes) -> bytes:
        out = b"".join(self._join(frame) for frame in data.split(FRAME_END) if frame)
        if out and self._opening:
            out, self._opening = self._opening + out, b""
        return out

    def _join(self, frame: bytes) -> bytes:
        if DONE.match(frame) or not frame.startswith(b"data:"):
            return frame + FRAME_END
        try:
            chunk = cast("dict[str, Any]", orjson.loads(frame[5:]))
            chunk |= self._head
            choices: list[dict[str, Any]] = chunk.get("choices") or []
            for choice in choices:
                self._say(choice.get("delta"))
            self._account(chunk, choices)
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            self.failed = True
            return b""
        return b"data: " + orjson.dumps(chunk) + FRAME_END

    def _say(self, delta: dict[str, Any] | None) -> None:
        if not delta:
            return
        # A client that adds pieces up would read the role twice.
        delta.pop("role", None)
        if self._shown and (piece := delta.get("content")):
            told = 0
            while told < min(len(piece), len(self._shown)) and piece[told] == self._shown[told]:
                told += 1
            delta["content"] = piece[told:]
            self._shown = self._shown[told:] if told == len(piece) else ""

    def _account(self, chunk: dict[str, Any], choices: list[dict[str, Any]]) -> None:
        usage = chunk.get("usage")
        figures = buckets(usage) if usage else None
        if figures is not None:
            chunk["usage"] = usage_object(added(self._earlier.usage, figures))
            if not choices and (told := chunk.get("objecta")):
                told["cost_micro"] += self._earlier.cost_micro
