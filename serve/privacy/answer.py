"""An answer on its way to the client, placeholders turned back into what they stand for.

Invariants
1. A stream keeps its frames: each leaves as it came, with its text restored as far as that can be said; what may be the
   beginning of a placeholder waits for the next frame of the same text, and is never lost.
2. A frame without a placeholder passes as bytes, while nothing waits.
3. What stands within the arguments of a tool call, or within an answer that is JSON by order, is escaped as JSON.
"""

from collections.abc import Collection
from typing import Any, cast

import orjson

from models.errors import UpstreamError
from serve.asgi import Message, Send
from serve.privacy.body import ARGUMENTS
from serve.privacy.vault import Pieces, Vault

FRAME_END = b"\n\n"
COMMENT = b":"
EVENTS = b"text/event-stream"
# In a stream's chunk: the texts of a choice's delta, in the order in which they are said.
TEXTS = ("reasoning", "reasoning_content", "content", "refusal", "text")
# How a placeholder's first letter may be written in JSON.
MARKS = (b"<", b"\\u003")

Object = dict[str, Any]
Channel = tuple[int, str, int]
"""A text of a stream: the choice, its name, and which tool call it belongs to (else 0)."""


class Restored:
    """A ``send`` in front of the client's: whole answers and streams. ``json``: the text of the answer is JSON."""

    def __init__(self, send: Send, vault: Vault, *, json: bool) -> None:
        self._send = send
        self._vault = vault
        self._json = json
        self._start: Message = {}
        self._parts: list[bytes] = []
        self._stream: StreamRestorer | None = None

    async def __call__(self, message: Message) -> None:
        """One ASGI message. Raises UpstreamError where a whole answer is too deep to be looked into."""
        if message["type"] == "http.response.start":
            kind = next((value for name, value in message["headers"] if name == b"content-type"), b"")
            if kind.startswith(EVENTS):
                self._stream = StreamRestorer(self._vault, json=self._json)
                await self._send(message)
            else:
                self._start = message
            return
        data, more = message.get("body", b""), message.get("more_body", False)
        if self._stream is not None:
            out = self._stream.feed(data) if more else self._stream.feed(data) + self._stream.finish()
            if out or not more:
                await self._send({"type": "http.response.body", "body": out, "more_body": more})
            return
        self._parts.append(data)
        if not more:
            await self._whole(b"".join(self._parts))

    async def _whole(self, body: bytes) -> None:
        if any(mark in body for mark in MARKS):
            try:
                body = orjson.dumps(restored(orjson.loads(body), self._vault, json=self._json))
            except RecursionError:
                raise UpstreamError("The model's answer cannot be read.") from None
        length = (b"content-length", b"%d" % len(body))
        kept = [pair for pair in self._start["headers"] if pair[0] != length[0]]
        await self._send({**self._start, "headers": [*kept, length]})
        await self._send({"type": "http.response.body", "body": body})


def restored(value: Any, vault: Vault, *, json: bool = False, key: str = "") -> Any:
    """A JSON value, every string in it restored."""
    if isinstance(value, str):
        return vault.unmask(value, escaped=key == ARGUMENTS or (json and key == "content"))
    if isinstance(value, list):
        return [restored(one, vault, json=json, key=key) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: restored(one, vault, json=json, key=name) for name, one in cast("dict[str, Any]", value).items()}
    return value


class StreamRestorer:
    """A stream of chunks. Feed it frames as they come, in any pieces."""

    def __init__(self, vault: Vault, *, json: bool) -> None:
        self._vault = vault
        self._json = json
        self._rest = b""
        self._pieces: dict[Channel, Pieces] = {}
        self._last: Object = {}

    def feed(self, data: bytes) -> bytes:
        """The frames that are whole, restored."""
        data = self._rest + data if self._rest else data
        end = data.rfind(FRAME_END)
        if end < 0:
            self._rest = data
            return b""
        data, self._rest = data[: end + 2], data[end + 2 :]
        if not self._waiting() and not any(mark in data for mark in MARKS):
            return data
        return b"".join(self._frame(frame) + FRAME_END for frame in data.split(FRAME_END) if frame)

    def finish(self) -> bytes:
        """What is left at the stream's end."""
        rest, self._rest = self._rest, b""
        return self._left() + rest

    def _waiting(self) -> bool:
        return any(pieces.holds for pieces in self._pieces.values())

    def _frame(self, frame: bytes) -> bytes:
        """One frame, and before it what waited for text that does not come any more."""
        if frame.startswith(COMMENT):
            return frame
        try:
            parsed: object = orjson.loads(frame[5:]) if frame.startswith(b"data:") else None
        except orjson.JSONDecodeError:
            parsed = None
        if not isinstance(parsed, dict) or "choices" not in parsed:
            # The end, or an error.
            return self._left() + frame
        try:
            return self._chunk(cast("Object", parsed))
        except (AttributeError, TypeError):
            # No chunk that anyone could read.
            return self._left() + frame

    def _chunk(self, chunk: Object) -> bytes:
        self._last = {name: value for name, value in chunk.items() if name not in {"choices", "usage"}}
        if "usage" in chunk:
            self._last["usage"] = None
        before = b""
        choices: list[Object] = chunk["choices"] or []
        for choice in choices:
            before += self._choice(choice)
        return before + b"data: " + orjson.dumps(chunk)

    def _choice(self, choice: Object) -> bytes:
        index: int = choice.get("index") or 0
        final = choice.get("finish_reason") is not None
        texts = self._texts(choice, index)
        here = {channel for channel, _, _ in texts}
        before = self._others(index, here) if texts or final else b""
        for number, (channel, holder, name) in enumerate(texts):
            pieces = self._of(channel)
            out = pieces.feed(holder[name])
            following = texts[number + 1][0] if number + 1 < len(texts) else None
            ends = final if following is None else following != channel
            holder[name] = out + pieces.flush() if ends else out
        return before

    def _texts(self, choice: Object, index: int) -> list[tuple[Channel, Object, str]]:
        """Every piece of text in a choice, in order: its channel, and where it stands."""
        found: list[tuple[Channel, Object, str]] = []
        delta: Object = choice.get("delta") or {}
        for holder in (delta, choice):
            found += [((index, name, 0), holder, name) for name in TEXTS if isinstance(holder.get(name), str)]
        called: Object = delta.get("function_call") or {}
        if isinstance(called.get(ARGUMENTS), str):
            found.append(((index, "function_call", 0), called, ARGUMENTS))
        for call in cast("list[Object]", delta.get("tool_calls") or []):
            function: Object = call.get("function") or {}
            if isinstance(function.get(ARGUMENTS), str):
                found.append(((index, ARGUMENTS, call.get("index") or 0), function, ARGUMENTS))
        return [one for one in found if one[1][one[2]]]

    def _of(self, channel: Channel) -> Pieces:
        pieces = self._pieces.get(channel)
        if pieces is None:
            _, name, _ = channel
            escaped = name in {ARGUMENTS, "function_call"} or (self._json and name == "content")
            pieces = self._pieces[channel] = Pieces(self._vault, escaped=escaped)
        return pieces

    def _others(self, index: int, here: Collection[Channel]) -> bytes:
        """What waits of a choice's texts that are not ``here``, for their next piece would come too late."""
        late = [one for one, pieces in self._pieces.items() if one[0] == index and pieces.holds and one not in here]
        return b"".join(self._said(one, self._pieces[one].flush()) + FRAME_END for one in late)

    def _left(self) -> bytes:
        """What waits of every choice."""
        return b"".join(self._others(index, ()) for index in sorted({channel[0] for channel in self._pieces}))

    def _said(self, channel: Channel, text: str) -> bytes:
        """A chunk of one text, without its blank line."""
        index, name, number = channel
        choice: Object = {"index": index, "finish_reason": None}
        if name == "text":
            choice["text"] = text
        elif name == ARGUMENTS:
            choice["delta"] = {"tool_calls": [{"index": number, "function": {ARGUMENTS: text}}]}
        else:
            choice["delta"] = {name: {ARGUMENTS: text} if name == "function_call" else text}
        return b"data: " + orjson.dumps({**self._last, "choices": [choice]})
