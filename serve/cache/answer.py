"""A stored answer: what is kept of it, and how it is given again, whole or as a stream.

Each time it is another completion with an id of its own: clients take two with one id for the same message. The model
has the name that this caller used.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any, cast

import orjson
from uuid_utils import uuid7

from models.usage import TokenUsage
from serve.cache.assembly import COMPLETION
from serve.chunks import DONE
from serve.streams import StreamShape
from serve.usage import usage_object

Object = dict[str, Any]
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Origin:
    """Who answered, when (Unix ms), and what it took by the provider's own figures."""

    at_ms: int
    model: str
    upstream: str
    upstream_model: str | None
    usage: dict[str, int]

    def age_seconds(self) -> int:
        """Whole seconds since; never negative, whatever the clocks of two machines say."""
        return max(0, (time.time_ns() // 1_000_000 - self.at_ms) // 1_000)


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """``rest``: the answer's JSON object without ``id`` and ``model``; ``prefix``: how its id began, if it had one."""

    origin: Origin
    prefix: str | None
    rest: bytes

    @classmethod
    def of(cls, answer: Object, origin: Origin) -> "StoredAnswer":
        """A whole answer, with the usage that was metered where it bears none itself."""
        identity = answer.pop("id", None)
        answer.pop("model", None)
        # How it travelled and what it cost are the first caller's.
        for name in ("service_tier", "objecta"):
            answer.pop(name, None)
        if not answer.get("usage"):
            answer["usage"] = usage_object(TokenUsage.model_validate(origin.usage))
        prefix = identity[: identity.find("-") + 1] if isinstance(identity, str) else None
        return cls(origin, prefix, orjson.dumps(answer))

    @classmethod
    def load(cls, stored: bytes) -> "StoredAnswer | None":
        """The inverse of ``dump``; None for what another version wrote."""
        head, _, rest = stored.partition(b"\n")
        try:
            fields = cast("Object", orjson.loads(head))
            if fields["format"] != FORMAT:
                return None
            return cls(Origin(**fields["origin"]), fields["prefix"], rest)
        except (KeyError, TypeError, ValueError):
            return None

    def dump(self) -> bytes:
        """For Redis."""
        head = {"format": FORMAT, "origin": asdict(self.origin), "prefix": self.prefix}
        return orjson.dumps(head) + b"\n" + self.rest

    def usage(self) -> TokenUsage:
        """What the answer took when it was made."""
        return TokenUsage.model_validate(self.origin.usage)

    def whole(self, model: str) -> bytes:
        """The answer as one JSON object."""
        head = {**self._identity(), "model": model}
        return orjson.dumps(head)[:-1] + b"," + self.rest[1:]

    def stream(self, shape: StreamShape, priced: Object) -> bytes:
        """The answer as server-sent chunks, usage as the client asked for it, ``priced`` beside it."""
        answer = cast("Object", orjson.loads(self.rest))
        choices: list[Object] = answer.pop("choices")
        usage = answer.pop("usage", None)
        text = answer["object"] == COMPLETION
        head = {**self._identity(), **answer, "model": shape.model}
        if not text:
            head["object"] = "chat.completion.chunk"
        shown = {"usage": usage if shape.continuous else None} if shape.usage or shape.continuous else {}
        pieces = [piece for choice in choices for piece in (_texts(choice) if text else _deltas(choice))]
        chunks: list[Object] = [{**head, "choices": [piece], **shown} for piece in pieces]
        if shape.usage and usage:
            chunks.append({**head, "choices": [], "usage": usage, **priced})
        return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + DONE

    def _identity(self) -> Object:
        return {} if self.prefix is None else {"id": self.prefix + uuid7().hex}


def _texts(choice: Object) -> list[Object]:
    index, reason = choice["index"], choice["finish_reason"]
    said = {"index": index, "text": choice.get("text", ""), "logprobs": choice.get("logprobs"), "finish_reason": None}
    return [said, {**said, "text": "", "logprobs": None, "finish_reason": reason, **_further(choice)}]


def _deltas(choice: Object) -> list[Object]:
    """The role, all that was said, and how it ended."""
    message: Object = choice["message"]
    plain = {"index": choice["index"], "logprobs": None, "finish_reason": None}
    said = {name: value for name, value in message.items() if name not in {"role", "tool_calls"} and value is not None}
    if calls := message.get("tool_calls"):
        said["tool_calls"] = [{"index": index, **call} for index, call in enumerate(calls)]
    return [
        {**plain, "delta": {"role": message.get("role", "assistant"), "content": ""}},
        {**plain, "delta": said, "logprobs": choice.get("logprobs")},
        {**plain, "delta": {}, "finish_reason": choice["finish_reason"], **_further(choice)},
    ]


def _further(choice: Object) -> Object:
    """What an engine says of a choice beyond the contract, such as which stop string it met."""
    known = {"index", "message", "text", "logprobs", "finish_reason"}
    return {name: value for name, value in choice.items() if name not in known}
