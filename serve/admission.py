"""Admission: one Redis round trip says whether a call may run, and records that it does.

Invariants
1. Organisation, project and key limits hold at once: all of them take the call, or none of them counts it.
2. An admitted call is in ``OPEN_CALLS`` until it is settled, under a replica whose heartbeat is renewed while it lives:
   the calls of a dead replica can be told, and no longer count against any limit.
3. Redis away: calls pass unlimited. To refuse everybody would turn a lost counter into a lost platform.
4. A call made on a caller's behalf is part of the one that was admitted: it is recorded, not limited again. Otherwise
   an agent under a limit of one call would wait for itself.
"""

import asyncio
import contextlib
import math

from models.channels import LIMIT_PREFIX, OPEN_CALLS, REPLICA_LEASE_SECONDS, REPLICA_PREFIX, SETTLED_PREFIX
from models.errors import LimitReached, RateHeaders
from models.identity import Principal
from serve.scripts import Argument, RedisAway, Script, ScriptRunner

HEARTBEAT_SECONDS = REPLICA_LEASE_SECONDS / 4
RATE = 1


class Admission:
    """Admits calls for one replica and keeps its heartbeat."""

    def __init__(self, runner: ScriptRunner, replica: str) -> None:
        self.replica = replica
        self._runner = runner
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

    async def admit(self, principal: Principal, event_id: str, event: bytes, *, inner: bool) -> RateHeaders:
        """The headers of the tightest rate limit. Raises RateLimited.

        ``inner`` calls are made on the caller's behalf by an admitted one. Whoever is not refused must settle the
        event, also if this was cancelled: the script may have run.
        """
        scopes = () if inner else limited_scopes(principal)
        keys: list[Argument] = [OPEN_CALLS, self._heartbeat_key, SETTLED_PREFIX + event_id]
        arguments: list[Argument] = [
            event_id,
            self.replica.encode() + b"|" + event,
            self.replica,
            REPLICA_LEASE_SECONDS,
            REPLICA_PREFIX,
        ]
        for _, prefix, rate, concurrent in scopes:
            keys += (f"{prefix}:rate", f"{prefix}:concurrent")
            arguments += (rate, concurrent)
        try:
            reply: list[int] = await self._runner.run(self._script, keys, arguments)
        except RedisAway:
            return ()
        if not reply[0]:
            raise _refusal(scopes[reply[1] - 1][0], *reply[2:])
        _, limit, remaining, reset = reply
        return rate_headers(limit, remaining, reset) if limit else ()

    async def _beat_on(self) -> None:
        while True:
            await self.alive()
            await asyncio.sleep(HEARTBEAT_SECONDS)


def limited_scopes(principal: Principal) -> list[tuple[str, str, int, int]]:
    """The scopes that limit anything: name, key prefix, requests a minute, concurrent requests (0: unlimited)."""
    scopes = (
        ("organisation", principal.organisation_id, principal.organisation_limits),
        ("project", principal.project_id, principal.project_limits),
        ("key", principal.api_key_id, principal.key_limits),
    )
    return [
        (name, f"{LIMIT_PREFIX}{name}:{owner}", limits.requests_per_minute or 0, limits.concurrent_requests or 0)
        for name, owner, limits in scopes
        if limits.requests_per_minute or limits.concurrent_requests
    ]


def held_places(principal: Principal, *, inner: bool) -> tuple[str, ...]:
    """The concurrency keys in which an admitted call holds a place."""
    if inner:
        return ()
    return tuple(f"{prefix}:concurrent" for _, prefix, _, concurrent in limited_scopes(principal) if concurrent)


def _refusal(scope: str, what: int, wait_ms: int, limit: int, remaining: int, reset_ms: int) -> LimitReached:
    if what == RATE:
        message = f"Rate limit reached for this {scope}: too many requests a minute. Try again in {duration(wait_ms)}."
    else:
        message = f"Rate limit reached for this {scope}: too many requests at once. Try again when one has ended."
    headers = rate_headers(limit, remaining, reset_ms) if limit else ()
    return LimitReached(message, retry_after_seconds=wait_ms / 1_000, headers=headers)


def rate_headers(limit: int, remaining: int, reset_ms: int) -> RateHeaders:
    """``x-ratelimit-*-requests`` of the tightest limit."""
    return (
        (b"x-ratelimit-limit-requests", b"%d" % limit),
        (b"x-ratelimit-remaining-requests", b"%d" % remaining),
        (b"x-ratelimit-reset-requests", duration(reset_ms).encode()),
    )


def duration(milliseconds: int) -> str:
    """OpenAI's way to write one: ``12ms``, ``1s``, ``6m0s``; seconds are rounded up."""
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    minutes, seconds = divmod(math.ceil(milliseconds / 1_000), 60)
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
