"""What is kept of a call, put together off its path: the request and the answer, masked and cut to their bounds."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import orjson
from uuid_utils import uuid7

from models.identity import Principal
from models.privacy import PiiPolicy, PromptRecord
from serve.asgi import Message, Send
from serve.privacy.answer import EVENTS, FRAME_END, Object
from serve.privacy.config import PrivacyConfig
from serve.privacy.masking import mask
from serve.validation import Body

MODEL_HEADER = b"x-objecta-model"
LEFT_OUT = "…"
DEPTH_MAX = 64
ID_LENGTH_MAX, MODEL_LENGTH_MAX = 128, 200
DATA = "data:"
CALLS_MAX = 128
VECTORS = "/v1/embeddings"
# Of a choice or a call: told, not said.
LABELS = frozenset({"finish_reason", "role", "id", "type"})
# What was said until then is taken back.
REPLACED = b"event: objecta.replace"
UNREADABLE = "The answer cannot be read."


@dataclass(slots=True)
class KeptCall:
    """One call as it happened, in the words of its client; ``send`` is in front of the client's and listens."""

    principal: Principal
    request_id: str
    parent_request_id: str | None
    endpoint: str
    body: Body
    body_bytes: int
    forward: Send
    answer_bytes_max: int
    began: bool = False
    model: str = ""
    status: Literal["ok", "error", "client_gone"] = "error"
    streamed: bool = False
    cut: bool = False
    parts: list[bytes] = field(default_factory=list[bytes])
    answer_bytes: int = 0
    started_at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    started: float = field(default_factory=time.monotonic)
    duration_ms: int = 0

    async def send(self, message: Message) -> None:
        """One ASGI message, noted and passed on."""
        if message["type"] == "http.response.start":
            self.began = True
            headers = dict(message["headers"])
            self.model = headers.get(MODEL_HEADER, b"").decode()
            self.streamed = headers.get(b"content-type", b"").startswith(EVENTS)
        elif data := message.get("body", b""):
            self.answer_bytes += len(data)
            if self.answer_bytes <= self.answer_bytes_max:
                self.parts.append(data)
            else:
                self.cut = True
        await self.forward(message)

    def end(self, status: Literal["ok", "error", "client_gone"]) -> None:
        """Note how it ended."""
        self.status = status
        self.duration_ms = int((time.monotonic() - self.started) * 1_000)

    @property
    def size(self) -> int:
        """What it takes in memory, about."""
        return self.body_bytes + min(self.answer_bytes, self.answer_bytes_max)


def record(call: KeptCall, bounds: PrivacyConfig) -> PromptRecord:
    """What is kept. Raises InvalidRequest where it cannot be masked."""
    guards = call.principal.guards
    policy: PiiPolicy | None = guards.pii if guards else None
    answer = _answer(call)
    said: Body = {"request": call.body, "answer": answer}
    if policy is not None:
        said, _ = mask(said, policy, bounds)
    request, answer_kept = Cut(bounds.record_characters_max), Cut(bounds.record_characters_max)
    kept = {"request": request.of(said["request"]), "answer": answer_kept.of(said["answer"])}
    parent = call.parent_request_id
    return PromptRecord(
        id=f"prm_{uuid7().hex}",
        organisation_id=call.principal.organisation_id,
        project_id=call.principal.project_id,
        api_key_id=call.principal.api_key_id,
        request_id=call.request_id,
        parent_request_id=parent and parent[:ID_LENGTH_MAX],
        endpoint=call.endpoint,
        model=call.model[:MODEL_LENGTH_MAX],
        started_at_ms=call.started_at_ms,
        duration_ms=call.duration_ms,
        status="error" if answer is not None and "error" in answer else call.status,
        cut=call.cut or request.cut or answer_kept.cut,
        **kept,
    )


class Cut:
    """Copies a JSON value within a number of characters: what lies beyond is left out, and what PostgreSQL refuses."""

    def __init__(self, characters_max: int) -> None:
        self._left = characters_max
        self.cut = False

    def of(self, value: Any, depth: int = 0) -> Any:
        """The copy."""
        if isinstance(value, str):
            return self._text(value)
        if depth >= DEPTH_MAX or (isinstance(value, dict | list) and self._left <= 0):
            return self._over(value)
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            return {self._text(name): self.of(one, depth + 1) for name, one in fields.items() if self._room()}
        if isinstance(value, list):
            self._left -= 1
            return [self.of(one, depth + 1) for one in cast("list[Any]", value) if self._room()]
        self._left -= 8
        return value

    def _room(self) -> bool:
        self.cut = self.cut or self._left <= 0
        return self._left > 0

    def _over(self, value: Any) -> Any:
        if not isinstance(value, dict | list):
            return value
        self.cut = True
        return LEFT_OUT

    def _text(self, text: str) -> str:
        room = max(0, self._left)
        self._left -= min(len(text), room) + 1
        if text.startswith(DATA):
            room = min(room, len(DATA))
        if len(text) > room:
            self.cut = True
            text = text[:room] + LEFT_OUT
        return text.replace("\x00", "\ufffd")


def _answer(call: KeptCall) -> Object | None:
    if not call.parts:
        return None
    data = b"".join(call.parts)
    if call.streamed:
        return assembled(data)
    try:
        answer: object = orjson.loads(data)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        return {"error": UNREADABLE}
    found = cast("Object", answer)
    # Vectors are nothing to read.
    return {name: value for name, value in found.items() if call.endpoint != VECTORS or name != "data"}


def assembled(stream: bytes) -> Object:
    """A stream's chunks as one answer, as far as they came."""
    answer: Object = {}
    choices: dict[int, Object] = {}
    for frame in stream.split(FRAME_END):
        if frame.startswith(REPLACED):
            choices.clear()
        if not frame.startswith(b"data:"):
            continue
        try:
            chunk = cast("Object", orjson.loads(frame[5:]))
            answer |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
            for piece in _objects(chunk.get("choices")):
                _add(choices.setdefault(_index(piece), {}), piece)
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            # The end of the stream, or no chunk that anyone could read.
            continue
    return {**answer, "choices": [choices[index] for index in sorted(choices)]} if choices else answer


def _add(whole: Object, piece: Object) -> None:
    """One piece of a choice, at the end of what there is: texts are joined, calls by their index."""
    for name, value in piece.items():
        present = whole.get(name)
        if name == "delta" and isinstance(value, dict):
            _add(whole.setdefault("message", {}), cast("Object", value))
        elif name == "tool_calls":
            calls: list[Object] = whole.setdefault(name, [])
            for call in _objects(value):
                place = min(_index(call), CALLS_MAX)
                calls += [{} for _ in range(len(calls), place + 1)]
                _add(calls[place], call)
        elif name not in LABELS and isinstance(value, str) and isinstance(present, str):
            whole[name] = present + value
        elif isinstance(value, dict) and isinstance(present, dict):
            _add(cast("Object", present), cast("Object", value))
        elif value is not None or name not in whole:
            whole[name] = value


def _objects(value: object) -> list[Object]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Object", item) for item in items if isinstance(item, dict)]


def _index(piece: Object) -> int:
    index = piece.get("index")
    return index if isinstance(index, int) and index >= 0 else 0
