"""What to do about a stream that broke after its client had read of it: who goes on with it, or begins it anew.

A partial answer is continued by an engine of ours, which gets it as the assistant's last message, unfinished. That is
sound only for the plain text of one choice, asked for with nothing that the join would break: a grammar or tools (they
begin again in the middle), penalties and log probabilities (they know only what was made since).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from models.errors import PlatformError
from serve.attempts import Attempt
from serve.partial import Partial
from serve.policies import Stance
from serve.records import Call, Earlier
from serve.routing import Target
from serve.seams import Seam, ending, head_of, replacement
from serve.streams import StreamShape
from serve.validation import Body

MAXIMA = ("max_completion_tokens", "max_tokens")
# What a request may hold and still be continued; all else but what is listed below stands in the way.
PLAIN = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "seed",
        "logit_bias",
        "user",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "cache_salt",
        "priority",
        "chat_template_kwargs",
        *MAXIMA,
    }
)
# These may stand in a request with a value that asks for nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none",),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One more attempt: who, with which request, and whether it ``continues`` what was read, or replaces it."""

    attempt: Attempt
    raw: bytes
    continues: bool


class Resumption:
    """Of one call. ``others``: who may answer in place of the attempt that ``broke``; the head is its stream's."""

    def __init__(
        self, call: Call, stance: Stance, broke: Attempt, others: Sequence[Attempt], shape: StreamShape, sent: bytes
    ) -> None:
        self._call = call
        self._stance = stance
        self._current = broke
        self._others = list(others)
        self._shape = shape
        self._head = head_of(sent)
        self._text = ""
        self._earlier = Earlier()
        # Completion tokens that the client has been told to forget.
        self._replaced = 0

    def lost(self) -> None:
        """An attempt has broken; what it came to is noted."""
        self._earlier = self._call.bank()

    def ending(self, partial: Partial | None) -> bytes:
        """What is left to send where the answer itself was whole, and nothing of it is to be made; else empty."""
        if partial is None or not self._stance.continues:
            return b""
        finish = None
        if not partial.finished:
            most = _maximum(orjson.loads(self._current.raw))
            if partial.text is None or most is None or most > self._made():
                return b""
            finish = "length"
        earlier = self._earlier
        cost_micro = earlier.cost_micro if self._call.price else None
        usage = None if partial.accounted or not self._shape.usage else earlier.usage
        return ending(self._head, usage, cost_micro, finish)

    def steps(self, partial: Partial | None) -> Iterator[Step]:
        """Who may be asked now, each until one answers: the others before the one that broke."""
        order = [*self._others, self._current]
        text = partial.text if partial is not None and self._stance.continues else None
        if text is not None:
            self._text = text
            for attempt in order:
                raw = continued(attempt, text.rstrip(), self._made()) if _continues(attempt.target) else None
                if raw is not None:
                    yield Step(attempt, raw, continues=True)
        if self._stance.restarts:
            for attempt in order:
                yield Step(attempt, attempt.raw, continues=False)

    def seam(self, step: Step, loss: PlatformError) -> Seam:
        """The stream of an attempt that is about to be made; the call is already its target's."""
        call, shape = self._call, step.attempt.shape or self._shape
        if step.continues:
            blanks = self._text[len(self._text.rstrip()) :]
            return Seam(shape, call.price, self._head, self._earlier, shown=blanks)
        facts = {"attempt": call.attempts, "model": call.model, "upstream": call.upstream, "reason": loss.code}
        return Seam(shape, call.price, self._head, self._earlier, opening=replacement(self._head, shape, facts))

    def took(self, step: Step) -> None:
        """The attempt has begun to answer."""
        if not step.continues:
            self._replaced = self._earlier.usage.made
        self._current = step.attempt
        self._others = [other for other in self._others if other is not step.attempt]

    def give_up(self) -> None:
        """Nobody goes on: the call is that of the attempt that was read last."""
        self._call.point(self._current.target)

    def _made(self) -> int:
        """Completion tokens of the answer as the client has it."""
        return self._earlier.usage.made - self._replaced


def continued(attempt: Attempt, text: str, made: int) -> bytes | None:
    """The request for the rest of an answer of ``made`` tokens; None where it cannot be continued soundly."""
    body: Body = orjson.loads(attempt.raw)
    if "messages" not in body or not _plain(body):
        return None
    if text:
        body["messages"] = [*body["messages"], {"role": "assistant", "content": text}]
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    for name in MAXIMA:
        if body.get(name):
            body[name] = max(1, body[name] - made)
    return orjson.dumps(body)


def _plain(body: Body) -> bool:
    for name, value in body.items():
        if name not in PLAIN and value is not None and value not in NEUTRAL.get(name, ()):
            return False
    return body["messages"][-1].get("role") != "assistant"


def _maximum(body: dict[str, Any]) -> int | None:
    asked = [body[name] for name in MAXIMA if body.get(name)]
    return min(asked) if asked else None


def _continues(target: Target) -> bool:
    """Whether it is an engine of ours, which knows how."""
    return target.entry is not None and target.upstream.internal and not target.upstream.own
