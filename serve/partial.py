"""What a client has read of a stream so far, kept for as long as it may have to be continued.

Kept as it was sent, and read only when there is much of it or when it is asked for: a stream that ends well pays for a
reference to each piece of it.
"""

from typing import Any, cast

import orjson

from serve.streams import FRAME_END

FOLD_BYTES = 64 * 1024
CHARACTERS_MAX = 4 * 1024 * 1024


class Partial:
    """One answer. It can be continued while it is the plain text of one choice."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._bytes = 0
        self._pieces: list[str] = []
        self._characters = 0
        self._sound = True
        self._finished = False
        self._accounted = False

    def add(self, data: bytes) -> None:
        """Whole frames that were sent."""
        self._blocks.append(data)
        self._bytes += len(data)
        if self._bytes > FOLD_BYTES:
            self._fold()

    @property
    def text(self) -> str | None:
        """What was said; None where it cannot be continued."""
        self._fold()
        return "".join(self._pieces) if self._sound else None

    @property
    def finished(self) -> bool:
        """Whether the answer came to its end, though its stream did not."""
        self._fold()
        return self._finished

    @property
    def accounted(self) -> bool:
        """Whether its usage was told, in a chunk of its own."""
        self._fold()
        return self._accounted

    def _fold(self) -> None:
        blocks, self._blocks, self._bytes = self._blocks, [], 0
        for frame in b"".join(blocks).split(FRAME_END):
            if self._sound and frame.startswith(b"data:") and not frame.startswith((b"data: [DONE]", b"data:[DONE]")):
                try:
                    self._read(cast("dict[str, Any]", orjson.loads(frame[5:])))
                except (orjson.JSONDecodeError, AttributeError, TypeError):
                    self._sound = False

    def _read(self, chunk: dict[str, Any]) -> None:
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        if not choices:
            self._accounted = self._accounted or bool(chunk.get("usage"))
            return
        choice = choices[0]
        delta: dict[str, Any] = choice.get("delta") or {}
        piece = delta.get("content") or ""
        self._characters += len(piece)
        others = any(value for name, value in delta.items() if name not in {"role", "content"})
        more = len(choices) > 1 or choice.get("index") or choice.get("logprobs") or choice.get("text")
        if others or more or self._characters > CHARACTERS_MAX:
            self._sound = False
        elif piece:
            self._pieces.append(piece)
        if choice.get("finish_reason") is not None:
            self._finished = True
