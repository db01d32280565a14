"""Token usage out of an upstream's bytes, and into the event that records a call.

A JSON string holds no bare quote, so the bytes ``"usage":`` are always a key, whatever the text around them says.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

import orjson

from models.usage import Price, TokenUsage

USAGE_KEY = b'"usage"'
# The usage object: numbers, nulls and one level of details. Strings occur in no provider's.
USAGE = re.compile(rb'"usage"\s*:\s*(\{[^{}"]*(?:"[^"\\]*"[^{}"]*|\{[^{}]*\}[^{}"]*)*\})')
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
    """``prompt_tokens`` includes the cached ones and ``completion_tokens`` the reasoning ones; here they do not."""
    prompt = _count(usage, "prompt_tokens")
    completion = _count(usage, "completion_tokens")
    if prompt is None and completion is None:
        return None
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens")
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    prompt, completion = prompt or 0, completion or 0
    cached, reasoning = min(cached, prompt), min(reasoning, completion)
    return TokenUsage(prompt=prompt - cached, cached=cached, completion=completion - reasoning, reasoning=reasoning)


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if type(value) is int and value >= 0 else None


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    return _count(cast("Mapping[str, Any]", details), name) or 0 if isinstance(details, dict) else 0


def estimated_prompt(body_bytes: int, context_window: int | None) -> int:
    """Tokens of a prompt nobody counted: four bytes of the request's JSON each, the context window at most."""
    estimate = -(-body_bytes // BYTES_PER_TOKEN)
    return estimate if context_window is None else min(estimate, context_window)


def cost(price: Price | None, usage: TokenUsage) -> int:
    """Micro-units; nothing where the call bears no price of its own."""
    return price.cost_micro(usage) if price is not None else 0
