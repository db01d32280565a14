"""Admission: one Redis round trip says whether a call may run, and records that it does.

Invariants
1. Organisation, project, user and key limits and every budget hold at once: all of them take the call, or none does.
2. An admitted call is in ``OPEN_CALLS`` until it is settled, under a replica whose heartbeat is renewed while it lives:
   the calls of a dead replica can be told. They no longer count against concurrency, and the control plane's reaper
   ends their holds.
3. Redis away: calls pass under a limit of this replica's own, those with a hard budget are refused; as configured.
4. A call made on a caller's behalf counts against budgets alone. Limited again, an agent under a limit of one call
   would wait for itself; free of budgets, agents would be the way around them.
5. A hard budget that Redis does not know is counted from the ledger by the control plane before a call passes.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence

from models.channels import OPEN_CALLS, OPEN_HOLDS, REPLICA_LEASE_SECONDS, REPLICA_PREFIX, SETTLED_PREFIX
from models.errors import LimitReached, PlatformError, QuotaExhausted, RateHeaders, Unavailable
from models.identity import Principal
from serve.away import LocalLimit
from serve.claims import Claim
from serve.config import RedisAwayPolicy
from serve.scripts import Argument, RedisAway, Script, ScriptRunner

HEARTBEAT_SECONDS = REPLICA_LEASE_SECONDS / 4
RETRY_SECONDS = 1.0
REQUESTS, CONCURRENCY, TOKENS, SPENT, HELD, UNCOUNTED = range(1, 7)
PERIODS = {"day": "today's ", "month": "this month's ", "total": ""}
REASONS = {REQUESTS: "too many requests a minute", TOKENS: "too many tokens a minute"}
UNKNOWN = "Budgets cannot be checked at the moment."


class Admission:
    """Admits calls for one replica and keeps its heartbeat.

    ``count`` has the control plane count the windows with these keys; whether it did. ``void`` takes a call that Redis
    may have admitted though it does not run.
    """

    def __init__(
        self,
        runner: ScriptRunner,
        replica: str,
        away: RedisAwayPolicy,
        count: Callable[[Sequence[str]], Awaitable[bool]],
        void: Callable[[str, Claim], None],
    ) -> None:
        self.replica = replica
        self._runner = runner
        self._away = away
        self._local = LocalLimit(away.requests_per_minute)
        self._count = count
        self._void = void
        self._script = Script("admit")
        self._beat = Script("beat")
        self._heartbeat_key = REPLICA_PREFIX + replica
        self._heart: asyncio.Task[None] | None = None

    @property
    def beating(self) -> bool:
        """Whether the heartbeat is being renewed."""
        return self._heart is not None and not self._heart.done()

    def start(self) -> None:
        """Begin the heartbeat."""
        self._heart = asyncio.ensure_future(self._beat_on())

    async def close(self) -> None:
        """End the heartbeat, and give the lease back at once where Redis is there."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait({self._heart})
            with contextlib.suppress(RedisAway):
                await self._runner.run(self._beat, (self._heartbeat_key,), (0,))

    async def alive(self) -> bool:
        """Whether Redis takes this replica's heartbeat."""
        try:
            await self._runner.run(self._beat, (self._heartbeat_key,), (REPLICA_LEASE_SECONDS,))
        except RedisAway:
            return False
        return True

    async def admit(
        self, principal: Principal, event_id: str, event: bytes, claim: Claim, *, inner: bool
    ) -> RateHeaders:
        """The headers of the tightest rate limits. Raises LimitReached, QuotaExhausted, Unavailable.

        ``inner`` calls are made on the caller's behalf by an admitted one. Whoever gets the headers must settle the
        event; a call that is cancelled or refused here is none.
        """
        try:
            reply = await self._run(event_id, event, claim, uncounted_passes=False)
            if not reply[0] and reply[2] == UNCOUNTED:
                uncounted = [key for key, budget in zip(claim.windows, claim.budgets, strict=True) if budget.hard]
                counted = await self._count(uncounted)
                passes = not counted and self._away.hard_budgets == "pass"
                reply = await self._run(event_id, event, claim, uncounted_passes=passes)
        except RedisAway as error:
            if claim.hard and self._away.hard_budgets == "refuse":
                if error.maybe_ran:
                    self._void(event_id, claim)
                raise Unavailable(UNKNOWN, retry_after_seconds=RETRY_SECONDS) from None
            if not inner:
                self._local.take(principal)
            return ()
        except asyncio.CancelledError:
            self._void(event_id, claim)
            raise
        if not reply[0]:
            raise _refusal(claim, *reply[1:])
        return rate_headers(*reply[4:])

    async def _run(self, event_id: str, event: bytes, claim: Claim, *, uncounted_passes: bool) -> list[int]:
        keys: list[Argument] = [OPEN_CALLS, self._heartbeat_key, SETTLED_PREFIX + event_id, OPEN_HOLDS]
        arguments: list[Argument] = [
            event_id,
            self.replica.encode() + b"|" + event,
            self.replica,
            REPLICA_LEASE_SECONDS,
            REPLICA_PREFIX,
            len(claim.scopes),
            claim.hold,
            claim.tokens,
            claim.micro,
            int(uncounted_passes),
        ]
        for _, prefix, limits in claim.scopes:
            keys += (f"{prefix}:rate", f"{prefix}:concurrent", f"{prefix}:tokens")
            arguments += (
                limits.requests_per_minute or 0,
                limits.concurrent_requests or 0,
                limits.tokens_per_minute or 0,
            )
        keys += claim.windows
        for budget in claim.budgets:
            arguments += (budget.limit_micro, int(budget.hard))
        return await self._runner.run(self._script, keys, arguments)

    async def _beat_on(self) -> None:
        while True:
            await self.alive()
            await asyncio.sleep(HEARTBEAT_SECONDS)


def _refusal(claim: Claim, place: int, what: int, wait_ms: int, *limits: int) -> PlatformError:
    if what == UNCOUNTED:
        return Unavailable(UNKNOWN, retry_after_seconds=RETRY_SECONDS)
    if what in {SPENT, HELD}:
        budget = claim.budgets[place - 1]
        whose = f"{PERIODS[budget.period]}budget of this {budget.scope.removeprefix('api_')}"
        if what == SPENT:
            return QuotaExhausted(f"This call could cost more than is left of {whose}.")
        message = f"Calls that still run may use up what is left of {whose}. Try again when they have ended."
        return QuotaExhausted(message, retry_after_seconds=wait_ms / 1_000)
    scope = claim.scopes[place - 1][0]
    if what == CONCURRENCY:
        message = f"Rate limit reached for this {scope}: too many requests at once. Try again when one has ended."
    else:
        message = f"Rate limit reached for this {scope}: {REASONS[what]}. Try again in {duration(wait_ms)}."
    return LimitReached(message, retry_after_seconds=wait_ms / 1_000, headers=rate_headers(*limits))


def rate_headers(*limits: int) -> RateHeaders:
    """``x-ratelimit-*`` of the tightest limits: requests, then tokens, each as limit (0: none), remaining, reset ms."""
    requests, tokens = limits[:3], limits[3:]
    return (
        *(_headers(b"requests", *requests) if requests[0] else ()),
        *(_headers(b"tokens", *tokens) if tokens[0] else ()),
    )


def _headers(what: bytes, limit: int, remaining: int, reset_ms: int) -> RateHeaders:
    return (
        (b"x-ratelimit-limit-" + what, b"%d" % limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % remaining),
        (b"x-ratelimit-reset-" + what, duration(reset_ms).encode()),
    )


def duration(milliseconds: int) -> str:
    """OpenAI's way to write one: ``12ms``, ``1s``, ``6m0s``; seconds are rounded up."""
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    minutes, seconds = divmod(math.ceil(milliseconds / 1_000), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
