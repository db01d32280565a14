"""Admission, settlement and reaping in real Redis against a plain model, in any order that Hypothesis can think of.

Held after every step
1. A hard budget: settled + held ≤ limit (where the limit was lowered below them: not above what they were then).
2. What Redis holds and has booked is exactly what the model says: no call is booked twice or missed.
3. A hold belongs to an open call: none is left when the calls are settled and the dead are reaped.
4. A call is refused exactly when the model refuses it, and then nothing has changed.
"""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from pydantic import SecretStr

from control_plane.config import ControlPlaneConfig
from control_plane.usage.reaper import Reaper
from models.budgets import Budget, day_of
from models.channels import LIMIT_PREFIX, OPEN_CALLS, OPEN_HOLDS, REPLICA_PREFIX, USAGE_STREAM
from models.errors import LimitReached, QuotaExhausted
from models.identity import Limits, Principal
from models.usage import Price, TokenUsage, UsageEvent
from serve.admission import Admission
from serve.claims import Claim, Demand, claim
from serve.config import RedisAwayPolicy
from serve.metering import Meter
from serve.scripts import ScriptRunner
from serve.spool import Spool

PRICE = Price(since="2026-01-01", prompt_micro=1_000_000, cached_micro=0, completion_micro=0)
DAYS = (1_793_491_200_000, 1_793_491_200_000 + 86_400_000)
RATE = 600_000
STEP_MS = 60_000 / RATE
AT_ONCE = 4
KEYS = ("k1", "k2")
RATE_KEY = f"{LIMIT_PREFIX}project:p:tokens"
REAPER = ControlPlaneConfig.model_construct(reap_seconds=1.0, reap_grace_seconds=0.0)


def budgets_of(key: str) -> dict[str, Budget]:
    """Two keys share the organisation's hard and the project's soft budget; each has a hard one of its own a day."""
    mine = f"day-{key}"
    return {
        "org": Budget(id="org", scope="organisation", period="total", limit_micro=1_000, hard=True),
        "soft": Budget(id="soft", scope="project", period="month", limit_micro=100, hard=False),
        mine: Budget(id=mine, scope="api_key", period="day", limit_micro=400, hard=True),
    }


@dataclass
class Held:
    """An open call as the model sees it."""

    name: str
    replica: str
    who: Principal
    claim: Claim
    lost_cost: int
    inner: bool


@dataclass
class Span:
    """When a token rate is whole again, from below and above: Redis's clock is read before and after."""

    low: float = 0.0
    high: float = 0.0

    def move(self, before: float, after: float, milliseconds: float) -> None:
        self.low = max(self.low, before) + milliseconds
        self.high = max(self.high, after) + milliseconds


class Machine(RuleBasedStateMachine):
    """One Redis, two living replicas at any time."""

    url = ""
    folder = Path()
    open_calls: Any = Bundle("open_calls")
    ended: Any = Bundle("ended")

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.Runner()
        self.redis = redis.Redis.from_url(self.url, decode_responses=True)
        self.redis.flushall()
        self.runner = ScriptRunner(SecretStr(self.url), 5.0, 0.0)
        self.replicas: list[Admission] = []
        self.names = 0
        for _ in range(2):
            self.new_replica()
        self.budgets = {**budgets_of("k1"), **budgets_of("k2")}
        self.spent: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.ceiling: dict[str, int] = {}
        self.live: dict[str, Held] = {}
        self.rate = Span()
        self.events = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run(self.runner.close())
            self.redis.close()
            self.loop.close()

    def fresh(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names}"

    def new_replica(self) -> None:
        self.replicas.append(Admission(self.runner, self.fresh("r"), RedisAwayPolicy(), self.count, self.doubt))

    async def count(self, keys: Sequence[str]) -> bool:
        """The control plane's part: the ledger's sum, which is the model's."""
        for key in keys:
            if not self.redis.hexists(key, "spent"):
                self.redis.hset(key, "spent", self.spent.get(key, 0))
        return True

    def doubt(self, name: str, claim: Claim) -> None:
        raise AssertionError(name, claim)

    def now(self) -> float:
        seconds, micros = self.redis.time()
        return seconds * 1_000 + micros / 1_000

    def principal(self, key: str) -> Principal:
        mine = tuple(self.budgets[name] for name in ("org", "soft", f"day-{key}"))
        limits = Limits(tokens_per_minute=RATE, concurrent_requests=AT_ONCE)
        return Principal(organisation_id="o", project_id="p", api_key_id=key, project_limits=limits, budgets=mine)

    def limit(self, key: str) -> int | None:
        """The limit of a window where it is hard."""
        budget = self.budgets[key.split(":")[2]]
        return budget.limit_micro if budget.hard else None

    def expected(self, asked: Claim, before: float, after: float, *, inner: bool) -> set[str]:
        """What may come of a call: more than one only where the clock's reading leaves it open."""
        if not inner:
            running = [call for call in self.live.values() if not call.inner and self.lives(call.replica)]
            if len(running) >= AT_ONCE:
                return {"limit"}
            cost = min(asked.tokens, RATE) * STEP_MS
            least = max(self.rate.low, after) + cost - 60_000 - after
            most = max(self.rate.high, before) + cost - 60_000 - before
            if least > 0.01:
                return {"limit"}
            if most > 0:
                return {"limit", self.by_budget(asked)}
        return {self.by_budget(asked)}

    def by_budget(self, asked: Claim) -> str:
        for key in asked.windows if asked.micro else ():
            limit = self.limit(key)
            if limit is not None and self.spent.get(key, 0) + self.held.get(key, 0) + asked.micro > limit:
                return "quota"
        return "admitted"

    def lives(self, replica: str) -> bool:
        return any(one.replica == replica for one in self.replicas)

    @rule(
        target=open_calls,
        which=st.integers(0, 1),
        key=st.sampled_from(KEYS),
        day=st.sampled_from(DAYS),
        micro=st.integers(0, 250),
        tokens=st.integers(0, RATE // 2),
        share=st.floats(0, 1),
        inner=st.booleans(),
    )
    def admit(self, which: int, key: str, day: int, micro: int, tokens: int, share: float, inner: bool) -> Any:
        replica, who = self.replicas[which], self.principal(key)
        asked = claim(who, Demand(micro, 0, tokens), PRICE, day, inner=inner)
        call = Held(self.fresh("e"), replica.replica, who, asked, int(micro * share), inner)
        before = self.now()
        try:
            self.loop.run(replica.admit(who, call.name, self.event(call, call.lost_cost), asked, inner=inner))
            came = "admitted"
        except LimitReached:
            came = "limit"
        except QuotaExhausted:
            came = "quota"
        after = self.now()
        assert came in self.expected(asked, before, after, inner=inner)
        if came != "admitted":
            return multiple()
        self.live[call.name] = call
        for window in asked.windows:
            self.held[window] = self.held.get(window, 0) + asked.micro
        if not inner:
            self.rate.move(before, after, min(tokens, RATE) * STEP_MS)
        return call

    @rule(target=ended, call=consumes(open_calls), share=st.floats(0, 1), tokens=st.integers(0, RATE))
    def settle(self, call: Held, share: float, tokens: int) -> Held:
        self.hand_over(call, int(call.claim.micro * share), tokens)
        return call

    @rule(call=ended, cost=st.integers(0, 100))
    def settle_again(self, call: Held, cost: int) -> None:
        self.hand_over(call, cost, 5)

    @rule(target=ended, call=consumes(open_calls))
    def void(self, call: Held) -> Held:
        """A gateway that does not know whether Redis admitted the call."""
        self.hand_over(call, None, 0)
        return call

    @rule(call=ended)
    def admission_stuck_on_the_way(self, call: Held) -> None:
        """The script of a call that was settled long ago runs once more."""
        if self.lives(call.replica):
            replica = next(one for one in self.replicas if one.replica == call.replica)
            self.loop.run(replica.admit(call.who, call.name, b"{}", call.claim, inner=call.inner))

    @rule(which=st.integers(0, 1))
    def a_replica_dies(self, which: int) -> None:
        gone = self.replicas.pop(which)
        self.redis.delete(REPLICA_PREFIX + gone.replica)
        self.new_replica()

    @rule()
    def reap(self) -> None:
        before = self.now()
        moved = self.loop.run(self.look())
        after = self.now()
        lost = [call for call in self.live.values() if not self.lives(call.replica)]
        assert moved == len(lost)
        for call in lost:
            self.end(call, call.lost_cost, call.lost_cost, before, after)

    @rule(name=st.sampled_from(["org", "day-k1", "day-k2", "soft"]), micro=st.integers(0, 1_500))
    def the_limit_changes(self, name: str, micro: int) -> None:
        self.budgets[name] = self.budgets[name].model_copy(update={"limit_micro": micro})
        for key in {*self.spent, *self.held}:
            if key.split(":")[2] == name:
                self.ceiling[key] = max(micro, self.spent.get(key, 0) + self.held.get(key, 0))

    @rule(milliseconds=st.integers(1, 70_000))
    def time_passes(self, milliseconds: int) -> None:
        """For the token rate, by moving its clock."""
        whole = self.redis.get(RATE_KEY)
        if whole is not None:
            self.redis.set(RATE_KEY, str(float(whole) - milliseconds))
        self.rate.low -= milliseconds
        self.rate.high -= milliseconds

    @rule(which=st.sampled_from(["org", "day-k1", "day-k2"]), day=st.sampled_from(DAYS))
    def redis_forgets_a_sum(self, which: str, day: int) -> None:
        self.redis.hdel(self.budgets[which].key(day_of(day)), "spent")

    @invariant()
    def what_redis_holds_is_what_the_model_holds(self) -> None:
        if not hasattr(self, "loop"):
            return
        for key in {*self.spent, *self.held}:
            spent, held = self.redis.hmget(key, "spent", "held")
            assert int(held or 0) == self.held.get(key, 0)
            if spent is not None:
                assert int(spent) == self.spent.get(key, 0)
            limit = self.limit(key)
            if limit is not None:
                total = self.spent.get(key, 0) + self.held.get(key, 0)
                assert total <= max(limit, self.ceiling.get(key, 0))
        whole = max(float(self.redis.get(RATE_KEY) or 0), self.now())
        assert self.rate.low - 1 <= whole <= max(self.rate.high, self.now()) + 1
        assert set(self.redis.hkeys(OPEN_CALLS)) == set(self.redis.hkeys(OPEN_HOLDS)) == set(self.live)
        assert self.redis.xlen(USAGE_STREAM) == self.events
        if not self.live:
            assert not any(self.held.values())

    async def look(self) -> int:
        async with redis.asyncio.Redis.from_url(self.url, protocol=2) as client:
            return await Reaper(client, REAPER).look()

    def event(self, call: Held, cost: int) -> bytes:
        event = UsageEvent(
            event_id=call.name,
            request_id="q",
            organisation_id="o",
            project_id="p",
            api_key_id=call.who.api_key_id,
            kind="chat",
            model="m",
            upstream="u",
            status="ok",
            http_status=200,
            streamed=False,
            usage=TokenUsage(prompt=cost),
            source="provider",
            cost_micro=cost,
            started_at_ms=DAYS[0],
            duration_ms=1,
        )
        return event.model_dump_json().encode()

    def hand_over(self, call: Held, cost: int | None, tokens: int) -> None:
        """Through the gateway's own meter; ``cost`` None: the call is void."""
        meter = Meter(self.runner, Spool(self.folder), call.replica, 1.0)
        before = self.now()

        async def handed_over() -> int:
            if cost is None:
                meter.void(call.name, call.claim)
            else:
                meter.settle(call.name, self.event(call, cost), call.claim, cost, tokens)
            await asyncio.wait(meter._sent)
            return meter.waiting

        assert self.loop.run(handed_over()) == 0
        if call.name in self.live:
            self.end(call, cost or 0, tokens, before, self.now(), event=cost is not None)

    def end(self, call: Held, cost: int, tokens: int, before: float, after: float, *, event: bool = True) -> None:
        del self.live[call.name]
        self.events += event
        for window in call.claim.windows:
            self.held[window] -= call.claim.micro
            # A sum that Redis forgot is put in anew from the ledger, which has this call by then.
            self.spent[window] = self.spent.get(window, 0) + cost
        if not call.inner:
            self.rate.move(before, after, (tokens - min(call.claim.tokens, RATE)) * STEP_MS)


@pytest.fixture
def machine(redis_url: str, tmp_path: Path) -> type[Machine]:
    Machine.url, Machine.folder = redis_url, tmp_path
    return Machine


def test_no_order_of_events_overspends_leaks_or_refuses_wrongly(machine: type[Machine]) -> None:
    """``CHAOS_TIMES`` multiplies the number of runs."""
    case = machine.TestCase
    case.settings = settings(
        max_examples=40 * int(os.environ.get("CHAOS_TIMES", "1")),
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    case().runTest()
