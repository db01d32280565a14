"""Token usage out of an upstream's bytes, and into the event that records a call.

A JSON string holds no bare quote, so the bytes ``"usage":`` are always a key, whatever the text around them says.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson

from models.usage import NO_PARTS, Parts, Price, TokenUsage, disjoint

USAGE_KEY = b'"usage"'
# The usage object: numbers, nulls and one level of details. Strings occur in no provider's.
USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}"]*(?:"[^"\\]*"[^{}"]*|\{[^{}]*\}[^{}"]*)*\})')
# In the order of ``models.usage.Parts``.
PROMPT_DETAILS = ("cached_tokens", "cache_write_tokens", "audio_tokens")
COMPLETION_DETAILS = ("reasoning_tokens", "audio_tokens")
ABSENT, NO_COUNT = -1, -2
# No call has that many: a larger figure is a lie, and would not fit the ledger.
FIGURE_MAX = 10**9
BYTES_PER_TOKEN = 4


def find_usage(body: bytes) -> TokenUsage | None:
    """The last usage object in ``body`` (JSON or SSE); None where there is none that makes sense."""
    start = body.rfind(USAGE_KEY)
    while start >= 0:
        found = USAGE.match(body, start)
        if found:
            return parse_usage(found.group(1))
        start = body.rfind(USAGE_KEY, 0, start)
    return None


def parse_usage(raw: bytes) -> TokenUsage | None:
    """OpenAI's usage object as disjoint buckets; None where it is not one."""
    try:
        usage: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return buckets(cast("dict[str, Any]", usage)) if isinstance(usage, dict) else None


def buckets(usage: Mapping[str, Any]) -> TokenUsage | None:
    """``prompt_tokens`` includes what its details name, and so does ``completion_tokens``; here each token is once.

    A figure that is no count makes the usage doubtful; None where neither sum is one.
    """
    prompt, completion = _figure(usage, "prompt_tokens"), _figure(usage, "completion_tokens")
    if max(prompt, completion) < 0:
        return None
    total = _figure(usage, "total_tokens")
    figures: tuple[int, ...] = (prompt, completion, total)
    sums = (max(prompt, 0), max(completion, 0))
    sent, made = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    parts = NO_PARTS
    if sent or made:
        figures += (*_details(sent, PROMPT_DETAILS), *_details(made, COMPLETION_DETAILS))
        parts = Parts(*(max(figure, 0) for figure in figures[3:]))
    found = disjoint(*sums, parts, total if total >= 0 else None)
    return found.model_copy(update={"doubtful": True}) if NO_COUNT in figures else found


def _details(group: object, names: Sequence[str]) -> list[int]:
    details: Mapping[str, Any] = cast("Mapping[str, Any]", group) if isinstance(group, dict) else {}
    return [_figure(details, name) for name in names]


def _figure(group: Mapping[str, Any], name: str) -> int:
    """A count of tokens; ``ABSENT``, or ``NO_COUNT`` for what cannot be one."""
    value = group.get(name)
    if value is None:
        return ABSENT
    return value if type(value) is int and 0 <= value <= FIGURE_MAX else NO_COUNT


def usage_object(usage: TokenUsage) -> dict[str, Any]:
    """OpenAI's usage: the details are parts of their sums. Those that few models have are named where there are any."""
    written = {"cache_write_tokens": usage.cache_write} if usage.cache_write else {}
    heard = {"audio_tokens": usage.audio_prompt} if usage.audio_prompt else {}
    spoken = {"audio_tokens": usage.audio_completion} if usage.audio_completion else {}
    return {
        "prompt_tokens": usage.sent,
        "completion_tokens": usage.made,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached, **written, **heard},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, **spoken},
    }


def estimated_prompt(body_bytes: int, context_window: int | None) -> int:
    """Tokens of a prompt nobody counted: four bytes of the request's JSON each, the context window at most."""
    estimate = -(-body_bytes // BYTES_PER_TOKEN)
    return estimate if context_window is None else min(estimate, context_window)


def cost(price: Price | None, usage: TokenUsage) -> int:
    """Micro-units; nothing where the call bears no price of its own."""
    return price.cost_micro(usage) if price is not None else 0
