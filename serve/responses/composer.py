"""A chat completion's stream as a response: its items, and the typed events of each step.

Invariants
1. A chunk's events are ready with the chunk; nothing is held.
2. One item is open at a time; a piece of another kind, or of the next call, closes it and puts it into ``output``.
3. Events are numbered without a gap. The last one is taken by ``finale``, for it is sent once the end is recorded.

Source: OpenAI's OpenAPI description 2.3.0, ``ResponseStreamEvent``.
"""

import time
from typing import Any, cast

import orjson

from models.errors import PlatformError
from serve.responses.items import Item, new_id, text_part

Object = dict[str, Any]

# By kind of part: the name of its events, and the key of its text.
PARTS = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text"),
}
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
RATE_LIMITS = frozenset({"rate_limit_exceeded", "insufficient_quota"})


class Composer:
    """One response. ``feed`` it parsed chunks; ``take`` the events so far, as SSE, if it is ``listening``.

    ``feed`` raises ValueError, KeyError, TypeError, AttributeError for what is no chat completion's chunk.
    """

    def __init__(self, response: Object, *, listening: bool) -> None:
        self.response = response
        self.output: list[Item] = []
        self._listening = listening
        self._events: list[bytes] = []
        self._number = 0
        self._item: Item | None = None
        self._part = ""
        self._pieces: list[str] = []
        self._logprobs: list[Object] = []
        self._annotations: list[Object] = []
        self._call: tuple[int, str] | None = None
        self._finish: str | None = None
        self._usage: Object | None = None

    @property
    def running(self) -> bool:
        """Whether it has not come to an end."""
        return self.response["status"] == "in_progress"

    def begin(self) -> None:
        """The events before the first token."""
        for name in ("created", "in_progress"):
            self._emit(f"response.{name}", response=self.snapshot())

    def snapshot(self) -> Object:
        """The response as it is."""
        return {**self.response, "output": self.output}

    def take(self) -> bytes:
        """The events that were not taken yet."""
        taken, self._events = b"".join(self._events), []
        return taken

    def feed(self, chunk: Object) -> None:
        """One chunk."""
        self._usage = chunk.get("usage") or self._usage
        if chunk.get("service_tier"):
            self.response["service_tier"] = chunk["service_tier"]
        choices: list[Object] = chunk.get("choices") or []
        if not choices:
            return
        choice = choices[0]
        delta: Object = choice.get("delta") or {}
        logprobs: list[Object] = _object(choice.get("logprobs")).get("content") or []
        self._piece("reasoning_text", delta.get("reasoning") or delta.get("reasoning_content"), [])
        self._piece("output_text", delta.get("content"), logprobs)
        self._piece("refusal", delta.get("refusal"), [])
        for annotation in delta.get("annotations") or ():
            self._annotate(annotation)
        for call in delta.get("tool_calls") or ():
            self._called(call)
        self._finish = choice.get("finish_reason") or self._finish

    def close(self) -> None:
        """The stream has come to its end: ``completed``, or ``incomplete`` where the answer was cut."""
        if self._item is None and not self.output:
            # A turn without a word is a turn: some chat templates want them to alternate.
            self._open_part("output_text")
        reason = INCOMPLETE.get(self._finish or "")
        self._end("incomplete" if reason else "completed")
        if reason:
            self.response["incomplete_details"] = {"reason": reason}

    def fail(self, error: PlatformError) -> None:
        """It has not."""
        self._end("failed")
        code = "rate_limit_exceeded" if error.code in RATE_LIMITS else "server_error"
        self.response["error"] = {"code": code, "message": error.message}

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._end("cancelled")

    def finale(self) -> bytes:
        """The last event, which holds the whole response."""
        self._emit(f"response.{self.response['status']}", response=self.snapshot())
        return self.take()

    def _end(self, status: str) -> None:
        self._close_item("completed" if status == "completed" else "incomplete")
        now = int(time.time())
        self.response |= {"status": status, "completed_at": now if status == "completed" else None}
        self.response["usage"] = usage_of(self._usage)

    def _emit(self, name: str, **fields: Any) -> None:
        if self._listening:
            event = {"type": name, "sequence_number": self._number, **fields}
            self._events.append(b"event: " + name.encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n")
            self._number += 1

    def _place(self) -> Object:
        return {"output_index": len(self.output), "item_id": (self._item or {})["id"]}

    def _part_place(self) -> Object:
        return {**self._place(), "content_index": len((self._item or {})["content"])}

    def _piece(self, kind: str, text: object, logprobs: list[Object]) -> None:
        """A piece of text. A first, empty piece opens nothing."""
        if not text:
            return
        piece = without_nul(text)
        self._open_part(kind)
        self._pieces.append(piece)
        self._logprobs += logprobs
        more: Object = {"logprobs": logprobs} if kind == "output_text" else {}
        self._emit(f"{PARTS[kind][0]}.delta", **self._part_place(), delta=piece, **more)

    def _open_part(self, kind: str) -> None:
        holder = "reasoning" if kind == "reasoning_text" else "message"
        if self._item is None or self._item["type"] != holder:
            self._open_item(_new_reasoning() if holder == "reasoning" else _new_message())
        if self._part != kind:
            self._close_part()
            self._part = kind
            self._emit("response.content_part.added", **self._part_place(), part=self._made_part())

    def _open_item(self, item: Item) -> None:
        self._close_item("completed")
        self._item = item
        self._emit("response.output_item.added", output_index=len(self.output), item=item)

    def _made_part(self) -> Item:
        text = "".join(self._pieces)
        if self._part == "output_text":
            part = text_part("output_text", text)
            return {**part, "annotations": self._annotations, "logprobs": self._logprobs}
        return {"type": self._part, PARTS[self._part][1]: text}

    def _close_part(self) -> None:
        if not self._part:
            return
        part, (name, key) = self._made_part(), PARTS[self._part]
        more: Object = {"logprobs": self._logprobs} if self._part == "output_text" else {}
        self._emit(f"{name}.done", **self._part_place(), **{key: part[key]}, **more)
        self._emit("response.content_part.done", **self._part_place(), part=part)
        cast("Item", self._item)["content"].append(part)
        self._part, self._pieces, self._logprobs, self._annotations = "", [], [], []

    def _close_item(self, status: str) -> None:
        item = self._item
        if item is None:
            return
        self._close_part()
        if item["type"] == "function_call":
            item["arguments"] = "".join(self._pieces)
            self._pieces = []
            self._emit("response.function_call_arguments.done", **self._place(), arguments=item["arguments"])
        item["status"] = status
        self._emit("response.output_item.done", output_index=len(self.output), item=item)
        self.output.append(item)
        self._item = None

    def _annotate(self, given: Object) -> None:
        """A citation, in chat's form: its fields lie below the name of its type."""
        kind: str = given["type"]
        annotation = {"type": kind, **cast("Object", given.get(kind) or {})}
        self._open_part("output_text")
        self._annotations.append(annotation)
        number = {"annotation_index": len(self._annotations) - 1}
        self._emit("response.output_text.annotation.added", **self._part_place(), **number, annotation=annotation)

    def _called(self, call: Object) -> None:
        """A piece of a call. Raises ValueError for one of a call that is closed: it could not be placed."""
        function: Object = call.get("function") or {}
        index, identity, name = call.get("index") or 0, call.get("id"), function.get("name")
        if self._call is None or index != self._call[0] or (name and identity and identity != self._call[1]):
            if not name:
                raise ValueError("a call without a name")
            identity = identity or new_id("call")
            self._call = (index, identity)
            self._open_item(_new_call(identity, name))
        elif self._item is None or self._item["type"] != "function_call":
            raise ValueError("a piece of a call that has ended")
        if piece := function.get("arguments"):
            self._pieces.append(without_nul(piece))
            self._emit("response.function_call_arguments.delta", **self._place(), delta=self._pieces[-1])


def _new_message() -> Item:
    return {"id": new_id("msg"), "type": "message", "status": "in_progress", "role": "assistant", "content": []}


def _new_reasoning() -> Item:
    return {"id": new_id("rs"), "type": "reasoning", "status": "in_progress", "summary": [], "content": []}


def _new_call(call_id: str, name: str) -> Item:
    head = {"id": new_id("fc"), "type": "function_call", "status": "in_progress"}
    return {**head, "call_id": call_id, "name": name, "arguments": ""}


def without_nul(text: object) -> str:
    """A model's text without what PostgreSQL cannot store. Raises TypeError for what is no text."""
    if not isinstance(text, str):
        raise TypeError("a piece that is no text")
    return text.replace("\x00", "\ufffd")


def usage_of(usage: Object | None) -> Object | None:
    """A response's usage object out of a chat completion's; None where nothing was reported."""
    if usage is None:
        return None
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    details = _object(usage.get("prompt_tokens_details"))
    cached, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    reasoning = _object(usage.get("completion_tokens_details")).get("reasoning_tokens") or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }


def _object(value: object) -> Object:
    return cast("Object", value) if isinstance(value, dict) else {}
