"""What a call can cost at most, and what holds while Redis is away."""

from typing import Any

import pytest

from models.budgets import Budget, bounds, budget_key, window_of
from models.errors import LimitReached
from models.identity import Principal
from models.usage import CallKind, Price, TokenUsage
from serve.away import KEYS_MAX, LocalLimit
from serve.claims import NOTHING, Demand, claim, demand, with_a_maximum
from serve.config import Bounds

LIMITS = Bounds(completion_tokens=100, template_tokens=10)
PRICE = Price(since="2026-01-01", prompt_micro=1_000_000, cached_micro=500_000, completion_micro=2_000_000)
TEXT = [{"role": "user", "content": "hi"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/i.png"}}]}]


def at_most(kind: CallKind, body: dict[str, Any], window: int | None = 1_000, size: int = 40) -> tuple[int, int]:
    asked = demand(kind, body, size, window, LIMITS)
    return asked.prompt, asked.completion


@pytest.mark.parametrize(
    ("kind", "body", "window", "most"),
    [
        ("chat", {"messages": TEXT, "max_tokens": 7}, 1_000, (50, 7)),
        ("chat", {"messages": TEXT, "max_completion_tokens": 8, "max_tokens": 7}, 1_000, (50, 8)),
        ("chat", {"messages": PARTS, "max_tokens": 7, "n": 3}, 1_000, (50, 21)),
        ("chat", {"messages": TEXT}, 1_000, (50, 1_000)),
        ("chat", {"messages": TEXT, "max_tokens": 5_000}, 1_000, (50, 1_000)),
        ("chat", {"messages": TEXT}, 30, (30, 30)),
        ("chat", {"messages": IMAGE, "max_tokens": 7}, 1_000, (1_000, 7)),
        ("agent", {"messages": TEXT}, None, (50, 100)),
        ("completion", {"prompt": "a", "max_tokens": 7, "best_of": 4, "n": 2}, 1_000, (50, 28)),
        ("completion", {"prompt": ["a", "b"], "max_tokens": 7, "n": 2}, 1_000, (60, 28)),
        ("completion", {"prompt": [1, 2, 3], "max_tokens": 7}, 1_000, (50, 7)),
        ("completion", {"prompt": ["a", "b"], "max_tokens": 7}, 20, (40, 14)),
        ("embedding", {"input": ["a", "b"]}, None, (50, 0)),
        ("rerank", {"query": "quäl", "documents": ["a", "b", "c"]}, None, (65, 0)),
    ],
)
def test_a_call_is_bounded_from_above(kind: CallKind, body, window: int | None, most: tuple[int, int]) -> None:
    assert at_most(kind, body, window) == most


@pytest.mark.parametrize(
    ("kind", "body", "window", "given"),
    [
        ("chat", {}, 1_000, {"max_completion_tokens": 100}),
        ("completion", {}, 1_000, {"max_tokens": 100}),
        ("chat", {"max_tokens": 3}, 1_000, None),
        ("chat", {}, 149, None),
        ("chat", {}, None, None),
        ("embedding", {}, 1_000, None),
    ],
)
def test_a_call_without_a_maximum_is_given_one_that_leaves_room_for_its_prompt(kind, body, window, given) -> None:
    assert with_a_maximum(kind, body, 40, window, LIMITS) == given


@pytest.mark.parametrize("usage", [TokenUsage(prompt=50, completion=7), TokenUsage(cached=50, reasoning=7)])
@pytest.mark.parametrize("cached_micro", [500_000, 3_000_000])
def test_no_usage_within_the_bounds_costs_more_than_the_hold(usage: TokenUsage, cached_micro: int) -> None:
    price = PRICE.model_copy(update={"cached_micro": cached_micro})
    assert price.cost_micro(usage) <= Demand(50, 7, 0).cost_micro(price)
    assert Demand(50, 7, 0).cost_micro(None) == 0


def test_a_caller_without_limits_claims_nothing() -> None:
    who = Principal(organisation_id="o", project_id="p", api_key_id="k")
    assert claim(who, Demand(1, 1, 2), PRICE, 0, inner=False) is NOTHING


def test_a_window_is_named_by_the_day_the_call_started() -> None:
    assert [window_of(period, "2026-11-24") for period in ("day", "month", "total")] == [
        "2026-11-24",
        "2026-11",
        "total",
    ]
    budget = Budget(id="b", scope="project", period="month", limit_micro=1, hard=True)
    assert budget.key("2026-02-01") == budget_key("b", "2026-02")
    days = [[day and day.isoformat() for day in bounds(name)] for name in ("2026-02-03", "2028-02", "2026-12", "total")]
    assert days == [
        ["2026-02-03", "2026-02-03"],
        ["2028-02-01", "2028-02-29"],
        ["2026-12-01", "2026-12-31"],
        [None, None],
    ]


def test_the_local_limit_is_a_minutes_burst_for_each_key() -> None:
    now = 100.0
    limit = LocalLimit(3, clock=lambda: now)
    one, other = (Principal(organisation_id="o", project_id="p", api_key_id=key) for key in "ab")
    for _ in range(3):
        limit.take(one)
    with pytest.raises(LimitReached) as refused:
        limit.take(one)
    assert refused.value.retry_after_seconds == pytest.approx(20)
    limit.take(other)
    now += 20
    limit.take(one)
    with pytest.raises(LimitReached):
        limit.take(one)


def test_the_local_limit_remembers_so_many_keys_at_most() -> None:
    limit = LocalLimit(1, clock=lambda: 0.0)
    for number in range(KEYS_MAX + 5):
        limit.take(Principal(organisation_id="o", project_id="p", api_key_id=str(number)))
    assert len(limit._whole) == KEYS_MAX
    unlimited = LocalLimit(None)
    for _ in range(5):
        unlimited.take(Principal(organisation_id="o", project_id="p", api_key_id="k"))
    assert not unlimited._whole
