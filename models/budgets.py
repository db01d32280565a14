"""Budgets: what a scope may cost in a period, and what Redis holds of it.

Invariants
1. A hard budget: settled + held ≤ limit whenever a call is admitted, whatever replicas do. A soft one only tells.
2. A window is named by the day (UTC) in which the call started, as the ledger's roll-up is: a call that ends after
   midnight is booked where it was held.
3. ``spent`` is there only once the ledger's sum was put in; without it nobody knows, which is not zero.

Redis, for each budget and window, a hash ``budget_key(…)`` of integers in micro-units: ``spent``, ``held`` (promised to
running calls). While the control plane counts anew: ``count`` (its name), ``since`` (the usage stream's last entry at
its start), ``delta`` (booked since), and beside it a set ``<key>:ids`` of the events booked since.

A call's hold, as the gateway writes it at admission: JSON ``{"micro", "tokens", "budgets": [key…], "rates": [[key,
tokens a minute]…]}``.
"""

from datetime import date, timedelta
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.channels import BUDGET_PREFIX

Period = Literal["day", "month", "total"]
BudgetScope = Literal["organisation", "project", "user", "api_key"]
AMOUNT_MAX = 10**15
TOTAL = "total"
DAY_MS = 86_400_000
EPOCH = date(1970, 1, 1)


class Budget(BaseModel):
    """One budget that a principal's calls count against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    scope: BudgetScope
    period: Period
    limit_micro: int = Field(ge=0, le=AMOUNT_MAX)
    hard: bool

    def key(self, day: str) -> str:
        """The Redis key of the window in which ``day`` (``YYYY-MM-DD``, UTC) lies."""
        return budget_key(self.id, window_of(self.period, day))


def window_of(period: Period, day: str) -> str:
    """``2026-11-24``, ``2026-11`` or ``total``."""
    return day if period == "day" else day[:7] if period == "month" else TOTAL


def budget_key(budget_id: str, window: str) -> str:
    """The Redis key of one budget's window."""
    return f"{BUDGET_PREFIX}{budget_id}:{window}"


def day_of(started_at_ms: int) -> str:
    """The day (UTC) of a call that started then."""
    return _day(started_at_ms // DAY_MS)


@lru_cache(maxsize=8)
def _day(number: int) -> str:
    return (EPOCH + timedelta(days=number)).isoformat()


def bounds(window: str) -> tuple[date | None, date | None]:
    """A window's first and last day; None where it has none. Raises ValueError for what is no window."""
    if window == TOTAL:
        return None, None
    if len(window) == 7:
        first = date.fromisoformat(f"{window}-01")
        return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    day = date.fromisoformat(window)
    return day, day


SETTLE_HOLD = """
-- A call's hold ends and its true cost is booked. opened: whether this call was open, so that its hold is still held.
-- The caller sees to it that this runs once a call.
local function settle_hold(text, opened, cost, tokens, event, now)
  local hold = cjson.decode(text)
  local micro = tonumber(hold.micro)
  for _, key in ipairs(hold.budgets) do
    local kept = redis.call('HMGET', key, 'held', 'spent', 'since')
    if opened and micro > 0 and kept[1] then
      redis.call('HSET', key, 'held', string.format('%.0f', math.max(0, tonumber(kept[1]) - micro)))
    end
    local amount = string.format('%.0f', cost)
    if kept[3] then
      if redis.call('SADD', key .. ':ids', event) == 1 then redis.call('HINCRBY', key, 'delta', amount) end
    end
    if kept[2] and cost > 0 then
      redis.call('HINCRBY', key, 'spent', amount)
    end
  end
  for _, rate in ipairs(hold.rates) do
    local key, step = rate[1], 60000 / rate[2]
    local reserved = opened and math.min(tonumber(hold.tokens), rate[2]) or 0
    local whole = math.max(tonumber(redis.call('GET', key) or 0), now) + (tokens - reserved) * step
    if whole > now then
      redis.call('SET', key, string.format('%.3f', whole), 'PX', math.ceil(whole - now) + 1)
    else
      redis.call('DEL', key)
    end
  end
end
"""
"""Shared by whoever may end a call: the gateway that settles it, the reaper that finds it lost."""
