"""Calls whose gateway died before it settled them: each becomes one usage event with the status ``gateway_lost``.

Invariants
1. One script removes the open call and appends its event, and only while the replica has no heartbeat: it happens once,
   whoever else looks at the same time.
2. A replica is lost once it had no heartbeat for the grace period, seen without a break: a Redis that comes back with
   expired keys must not make the living look dead.
3. What is known stays: tokens and cost as the gateway last wrote them; the duration runs to the moment of reaping.
4. The call's hold ends in the same script, and that cost is booked: a hold is never older than the replica's lease, the
   grace and one look. Should the gateway come back, its settlement finds the call settled.
"""

import asyncio
import logging
import time
from typing import Any

from redis.asyncio import Redis

from control_plane.config import ControlPlaneConfig
from control_plane.usage.schemas import parse_event
from control_plane.usage.stream import DEAD_LETTERS
from models.budgets import SETTLE_HOLD
from models.channels import OPEN_CALLS, OPEN_HOLDS, REPLICA_PREFIX, SETTLED_PREFIX, USAGE_STREAM

CALLS_A_LOOK = 500

MARK_SECONDS = 600

MOVE_LOST_CALL = (
    SETTLE_HOLD
    + """
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('SET', KEYS[4], '1', 'EX', ARGV[3])
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 6))
local hold = redis.call('HGET', KEYS[5], ARGV[1])
if hold then
  redis.call('HDEL', KEYS[5], ARGV[1])
  local clock = redis.call('TIME')
  settle_hold(hold, true, tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[1], clock[1] * 1000 + clock[2] / 1000)
end
return 1
"""
)

log = logging.getLogger(__name__)


class Reaper:
    """Looks for lost calls; any number may run."""

    def __init__(self, redis: Redis, config: ControlPlaneConfig) -> None:
        self._redis: Any = redis  # redis-py leaves the types of scripts and scans open
        self._config = config
        self._missing_since: dict[bytes, float] = {}

    async def run(self) -> None:
        """Look again and again. Raises RedisError, OSError where Redis is away."""
        self._missing_since.clear()
        while True:
            await self.look()
            await asyncio.sleep(self._config.reap_seconds)

    async def look(self) -> int:
        """Look once; returns how many calls were moved."""
        moved = 0
        lost: dict[bytes, bool] = {}
        async for field, value in self._redis.hscan_iter(OPEN_CALLS, count=CALLS_A_LOOK):
            replica = value.partition(b"|")[0]
            if replica not in lost:
                lost[replica] = await self._is_lost(replica)
            if lost[replica]:
                moved += await self._move(field, value)
        self._missing_since = {name: when for name, when in self._missing_since.items() if name in lost}
        return moved

    async def _is_lost(self, replica: bytes) -> bool:
        if await self._redis.exists(REPLICA_PREFIX.encode() + replica):
            self._missing_since.pop(replica, None)
            return False
        now = time.monotonic()
        return now - self._missing_since.setdefault(replica, now) >= self._config.reap_grace_seconds

    async def _move(self, field: bytes, value: bytes) -> int:
        replica, _, text = value.partition(b"|")
        target, figures, fields = lost_event(text)
        mark = SETTLED_PREFIX.encode() + field
        keys = (OPEN_CALLS, target, REPLICA_PREFIX.encode() + replica, mark, OPEN_HOLDS)
        arguments = (field, value, MARK_SECONDS, *figures, *fields)
        moved = int(await self._redis.eval(MOVE_LOST_CALL, len(keys), *keys, *arguments))
        if moved:
            log.warning(
                "call %s was lost by gateway %s", field.decode("utf-8", "replace"), replica.decode("utf-8", "replace")
            )
        return moved


def lost_event(text: bytes) -> tuple[str, tuple[int, int], list[bytes | str]]:
    """The stream that takes a lost call in, its cost and tokens, and the entry's fields.

    The stream is that of the dead letters for what is no usage event.
    """
    try:
        event = parse_event(text)
    except ValueError:
        return DEAD_LETTERS, (0, 0), ["event", text, "reason", "an open call that is no usage event"]
    duration = max(event.duration_ms, round(time.time() * 1_000) - event.started_at_ms)
    lost = event.model_copy(update={"status": "gateway_lost", "duration_ms": duration})
    return USAGE_STREAM, (lost.cost_micro, lost.usage.total), ["event", lost.model_dump_json()]
