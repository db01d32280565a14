"""The engine's answer as the caller is to see it, whole or as a stream of events.

Invariants
1. Frames and fields that are not about calls pass as they came; usage stays on every chunk it was on.
2. A frame is passed on once it is whole; what the engine sent in one piece may become several chunks, or none yet.
3. A call that breaks its schema ends a stream with an error frame and without ``[DONE]``.
"""

from collections.abc import Callable
from typing import Any, cast

import orjson

from models.errors import UpstreamError
from serve.tools.assembler import Malformed
from serve.tools.choices import Choice, Delta

FRAME_END = b"\n\n"
DATA = b"data:"

Chunk = dict[str, Any]


def invalid_call() -> UpstreamError:
    """What the caller is told where the model broke out of the form."""
    return UpstreamError("The model's call of a function does not satisfy the function's schema.")


def whole(body: bytes, choice: Callable[[], Choice]) -> bytes:
    """A whole answer. Raises UpstreamError."""
    try:
        answer = cast("Chunk", orjson.loads(body))
        for each in cast("list[Chunk]", answer["choices"]):
            each["message"], each["finish_reason"] = choice().whole(each["message"], each.get("finish_reason"))
    except (orjson.JSONDecodeError, KeyError, TypeError, Malformed):
        raise invalid_call() from None
    return orjson.dumps(answer)


class Stream:
    """One stream of events. ``failed``: it ended with an error frame; nothing more comes of it."""

    def __init__(self, choice: Callable[[], Choice]) -> None:
        self._choice = choice
        self._choices: dict[int, Choice] = {}
        self._rest = b""
        self.failed = False

    def feed(self, data: bytes) -> bytes:
        """Whole frames for the caller; may be empty."""
        frames = (self._rest + data).split(FRAME_END)
        self._rest = frames.pop()
        return b"".join(self._frame(frame) for frame in frames)

    def finish(self) -> bytes:
        """What came without a blank line at its end."""
        rest, self._rest = self._rest, b""
        return self._frame(rest) if rest.strip() else b""

    def _frame(self, frame: bytes) -> bytes:
        if self.failed:
            return b""
        if not frame.startswith(DATA) or b'"choices"' not in frame:
            return frame + FRAME_END
        try:
            chunk = cast("Chunk", orjson.loads(frame[len(DATA) :]))
            choices = cast("list[Chunk]", chunk["choices"])
            if not choices:
                return frame + FRAME_END
            return b"".join(out for choice in choices for out in self._chunks(chunk, choice))
        except (orjson.JSONDecodeError, KeyError, TypeError, Malformed):
            self.failed = True
            return DATA + b" " + orjson.dumps(invalid_call().body()) + FRAME_END

    def _chunks(self, chunk: Chunk, choice: Chunk) -> list[bytes]:
        index = int(choice["index"])
        handler = self._choices.get(index)
        if handler is None:
            handler = self._choices[index] = self._choice()
        deltas, reason = handler.delta(cast("Delta", choice.get("delta") or {}), choice.get("finish_reason"))
        out = [_written(chunk, {"index": index, "delta": delta, "finish_reason": None}) for delta in deltas]
        if reason is not None:
            # The fields beside the delta, such as vLLM's stop_reason, belong to the last chunk.
            out.append(_written(chunk, {**choice, "delta": {}, "finish_reason": reason}))
        return out


def _written(chunk: Chunk, choice: Chunk) -> bytes:
    return DATA + b" " + orjson.dumps({**chunk, "choices": [{"logprobs": None, **choice}]}) + FRAME_END
