"""A chat completion's stream as Anthropic's events, frame by frame.

Invariants
1. A frame's events leave with the frame: nothing is held, and the first chunk starts the message.
2. One content block is open at a time; a piece of another kind, or of the next tool call, closes it.
3. An answer ends with ``message_delta`` (stop reason, usage) and ``message_stop``, or with one ``error`` event.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from typing import Any, cast

import orjson
from uuid_utils import uuid7

from serve.messages.answer import Object, head, message_id, stopped, usage_of
from serve.messages.errors import error_event

FRAME_END = b"\n\n"
DONE = b"[DONE]"
# By kind of block: what a delta of it is called, and the key of its piece.
DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class EventStream:
    """One answer. Feed it the chat completion's stream; it returns the events. ``ended``: no more will come."""

    def __init__(self, model: str, request_id: str, *, thinking: bool) -> None:
        self._model = model
        self._request_id = request_id
        self._thinking = thinking
        self._rest = b""
        self._started = False
        self._usage: object = None
        self._pieces = 0
        self._blocks = 0
        self._open = ""
        self._prefix = b""
        self._call: tuple[int, str] | None = None
        self._tools = False
        self._refused = False
        self._finish: object = None
        self._matched: object = None
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Events of the whole frames so far; may be empty."""
        *frames, self._rest = (self._rest + data if self._rest else data).split(FRAME_END)
        return b"".join([self._frame(frame) for frame in frames])

    def _frame(self, frame: bytes) -> bytes:
        frame = frame.strip()
        if self.ended or not frame.startswith(b"data:"):
            return b""
        data = frame[5:].strip()
        if data == DONE:
            return self._end()
        try:
            chunk = cast("Object", orjson.loads(data))
            if "error" in chunk:
                return self._fail(chunk["error"])
            return self._chunk(chunk)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return self._fail(None)

    def _chunk(self, chunk: Object) -> bytes:
        self._usage = chunk.get("usage") or self._usage
        events = b"" if self._started else self._start()
        choices: list[Object] = chunk.get("choices") or []
        if not choices:
            return events
        choice = choices[0]
        if choice.get("finish_reason") is not None:
            self._finish, self._matched = choice["finish_reason"], choice.get("stop_reason")
        delta: Object = choice.get("delta") or {}
        thought = delta.get("reasoning") or delta.get("reasoning_content")
        if thought and self._thinking:
            events += self._piece("thinking", thought)
        text = delta.get("content")
        if not text and delta.get("refusal"):
            text, self._refused = delta["refusal"], True
        if text:
            events += self._piece("text", text)
        for call in delta.get("tool_calls") or ():
            events += self._tool(call)
        return events

    def _piece(self, kind: str, piece: str) -> bytes:
        events = b"" if self._open == kind else self._block(kind, {kind: ""})
        self._pieces += 1
        return events + self._prefix + orjson.dumps(piece) + b"}}\n\n"

    def _tool(self, call: Object) -> bytes:
        """A piece of a call. Raises ValueError for one of a call whose block is closed: it could not be placed."""
        function: Object = call.get("function") or {}
        index, identity, name = call.get("index") or 0, call.get("id"), function.get("name")
        events = b""
        if self._call is None or index != self._call[0] or (name and identity and identity != self._call[1]):
            identity = identity or f"toolu_{uuid7().hex}"
            if not name:
                raise ValueError("a call without a name")
            self._call, self._tools = (index, identity), True
            events = self._block("tool_use", {"id": identity, "name": name, "input": {}})
        elif self._open != "tool_use":
            raise ValueError("a piece of a call that has ended")
        arguments = function.get("arguments")
        return events + self._piece("tool_use", arguments) if arguments else events

    def _block(self, kind: str, fields: Object) -> bytes:
        """Close the block that is open and start one."""
        closed = self._close()
        self._open = kind
        delta, key = DELTAS[kind]
        signature = {"signature": ""} if kind == "thinking" else {}
        start = {
            "type": "content_block_start",
            "index": self._blocks,
            "content_block": {"type": kind, **fields, **signature},
        }
        self._prefix = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b' % (
            self._blocks,
            b'{"type":"%b","%b":' % (delta.encode(), key.encode()),
        )
        return closed + event(start)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        closed = event({"type": "content_block_stop", "index": self._blocks})
        self._blocks += 1
        self._open = ""
        return closed

    def _start(self) -> bytes:
        self._started = True
        return event({"type": "message_start", "message": head(message_id(), self._model, [], usage_of(self._usage))})

    def _end(self) -> bytes:
        self.ended = True
        reason, sequence = stopped(self._finish, self._matched, tools=self._tools, refused=self._refused)
        usage: dict[str, Any] = usage_of(self._usage)
        if not self._usage:
            # Counted as the meter counts them.
            usage["output_tokens"] = self._pieces
        delta = {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": sequence}, "usage": usage}
        start = b"" if self._started else self._start()
        return start + self._close() + event(delta) + event({"type": "message_stop"})

    def _fail(self, error: object) -> bytes:
        self.ended = True
        return error_event(error, self._request_id)


def event(payload: Object) -> bytes:
    """One event under its own name."""
    return b"event: " + payload["type"].encode() + b"\ndata: " + orjson.dumps(payload) + FRAME_END
