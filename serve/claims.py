"""What a call asks of its caller's limits and budgets, worked out before anything is written.

A budget must never be exceeded, so its hold is what the call can cost at most:

1. Its prompt has at most a token for each byte of the request, plus what a chat template adds (byte-level tokenisers
   make no token out of less than a byte), and never more than the context window, which alone bounds images and audio.
2. Its completion has at most the tokens asked for. Without a maximum it is given one where the window is larger than
   the default (``with_a_maximum``), else the window bounds it.
3. Each choice of each prompt costs a completion.

A token rate is no bill: it reserves the estimated prompt and the completion, and settles to the true figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from models.budgets import Budget, day_of
from models.channels import LIMIT_PREFIX
from models.identity import Limits, Principal
from models.usage import CallKind, Price
from serve.config import Bounds
from serve.usage import estimated_prompt
from serve.validation import Body

MAXIMA = ("max_completion_tokens", "max_tokens")
GENERATING = frozenset({"chat", "completion", "agent"})
TEXT_PARTS = frozenset({"text", "refusal", "input_text", "output_text"})


@dataclass(frozen=True, slots=True)
class Demand:
    """At most ``prompt`` and ``completion`` tokens; ``tokens`` is what it will probably be."""

    prompt: int
    completion: int
    tokens: int

    def again(self, times: int) -> "Demand":
        """What it and as many further attempts can use, each of which may read what was made before it."""
        prompt = self.prompt * (times + 1) + self.completion * times
        return Demand(prompt, self.completion * (times + 1), self.tokens)

    def cost_micro(self, price: Price | None) -> int:
        """The most it can cost: nobody knows yet which of their buckets its tokens will fall into."""
        return 0 if price is None else price.most_micro(self.prompt, self.completion)


def demand(kind: CallKind, body: Body, body_bytes: int, window: int | None, bounds: Bounds) -> Demand:
    """What a validated request can use."""
    prompts = _prompts(body)
    prompt = body_bytes + bounds.template_tokens * prompts
    if kind == "rerank":
        # The query is read once with each document.
        prompt += len(str(body.get("query", "")).encode()) * len(body.get("documents") or ())
    estimate = estimated_prompt(body_bytes, window)
    if window is not None and (prompt > window * prompts or not _only_text(body)):
        prompt = window * prompts
    if kind not in GENERATING:
        return Demand(prompt, 0, estimate)
    choices = prompts * max(body.get("n") or 1, body.get("best_of") or 1)
    asked = _asked(body)
    completion = asked or window or bounds.completion_tokens
    likely = min(asked or bounds.completion_tokens, window or completion)
    return Demand(prompt, min(completion, window or completion) * choices, estimate + likely * choices)


def with_a_maximum(kind: CallKind, body: Body, body_bytes: int, window: int | None, bounds: Bounds) -> Body | None:
    """The body with a maximum of completion tokens; None where it needs none, or its prompt may not leave room."""
    if kind not in {"chat", "completion"} or window is None or _asked(body):
        return None
    if body_bytes + bounds.template_tokens + bounds.completion_tokens > window:
        return None
    return {**body, MAXIMA[0] if kind == "chat" else MAXIMA[1]: bounds.completion_tokens}


def _asked(body: Body) -> int:
    return max((body.get(name) or 0 for name in MAXIMA), default=0)


def _prompts(body: Body) -> int:
    prompt: Any = body.get("prompt")
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return len(cast("list[Any]", prompt))
    return 1


def _only_text(body: Body) -> bool:
    for message in body.get("messages") or ():
        content = message.get("content")
        if isinstance(content, list):
            for part in cast("list[Any]", content):
                kind = cast("Body", part).get("type") if isinstance(part, dict) else None
                if kind not in TEXT_PARTS:
                    return False
    return True


@dataclass(frozen=True, slots=True)
class Claim:
    """One call's claim: on which scopes and budgets, what it holds where, and ``hold`` as settlement needs it.

    ``held``: the concurrency keys in which it takes a place. ``hold``: JSON (``models.budgets``), empty without one.
    """

    scopes: Sequence[tuple[str, str, Limits]] = ()
    budgets: Sequence[Budget] = ()
    windows: Sequence[str] = ()
    held: tuple[str, ...] = ()
    hold: str = ""
    tokens: int = 0
    micro: int = 0

    @property
    def hard(self) -> bool:
        """Whether a hard budget must hold for it."""
        return self.micro > 0 and any(budget.hard for budget in self.budgets)


NOTHING = Claim()


def claim(principal: Principal, asked: Demand, price: Price | None, started_at_ms: int, *, inner: bool) -> Claim:
    """The claim of a call. ``inner``: made on an admitted call's behalf; it counts against budgets alone."""
    scopes = () if inner else limited_scopes(principal)
    budgets = principal.budgets
    if not scopes and not budgets:
        return NOTHING
    day = day_of(started_at_ms)
    windows = [budget.key(day) for budget in budgets]
    micro = asked.cost_micro(price) if budgets else 0
    rates = [(f"{key}:tokens", limits.tokens_per_minute) for _, key, limits in scopes if limits.tokens_per_minute]
    hold = ""
    if budgets or rates:
        hold = orjson.dumps({"micro": micro, "tokens": asked.tokens, "budgets": windows, "rates": rates}).decode()
    held = tuple(f"{key}:concurrent" for _, key, limits in scopes if limits.concurrent_requests)
    return Claim(scopes, budgets, windows, held, hold, asked.tokens, micro)


def limited_scopes(principal: Principal) -> list[tuple[str, str, Limits]]:
    """The scopes that limit anything: name, key prefix, limits."""
    scopes = (
        ("organisation", principal.organisation_id, principal.organisation_limits),
        ("project", principal.project_id, principal.project_limits),
        ("user", principal.user_id, principal.user_limits),
        ("key", principal.api_key_id, principal.key_limits),
    )
    return [
        (name, f"{LIMIT_PREFIX}{name}:{owner}", limits) for name, owner, limits in scopes if owner and limits.limiting
    ]
