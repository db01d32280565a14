"""What a budget has come to, counted in the ledger and put into Redis, where calls are settled meanwhile.

1. ``BEGIN``: from now on settlements also add to ``delta`` and name their events; the stream's last entry is noted.
2. When the stream has no entry up to that one any more, all that was settled before is in the ledger.
3. In one snapshot of the ledger: the window's sum, less what it holds of the events named since ``BEGIN``.
4. ``END``: ``spent`` becomes that sum plus ``delta``. Nobody's booking was missed or counted twice.

The same puts in what a Redis that lost its memory lacks, opens a new period, and puts right what may have drifted.
"""

import asyncio
import logging
import uuid
from datetime import UTC, datetime, time, timedelta
from typing import Any

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.budgets import repository
from control_plane.budgets.tables import BudgetRow
from control_plane.database import Sessions, Transaction, begin, utc_now
from control_plane.tenancy import Scope
from models.budgets import bounds, budget_key, window_of
from models.channels import USAGE_STREAM

POLL_SECONDS = 0.01
COUNT_SECONDS_MAX = 1.5
STALE_MS = 10_000
KEPT_DAYS = 7
FOREVER = 0

BEGIN = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local begun = redis.call('HGET', KEYS[1], 'begun')
if begun and now - tonumber(begun) < tonumber(ARGV[2]) then return false end
local since = '0-0'
if redis.call('EXISTS', KEYS[2]) == 1 then
  local facts = redis.call('XINFO', 'STREAM', KEYS[2])
  for i = 1, #facts, 2 do
    if facts[i] == 'last-generated-id' then since = facts[i + 1] end
  end
end
redis.call('DEL', KEYS[1] .. ':ids')
redis.call('HSET', KEYS[1], 'count', ARGV[1], 'begun', string.format('%.0f', now), 'since', since, 'delta', 0)
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], 3456000) end
return since
"""

END = """
if redis.call('HGET', KEYS[1], 'count') ~= ARGV[1] then return false end
local delta = redis.call('HGET', KEYS[1], 'delta')
local spent = string.format('%.0f', math.max(0, tonumber(ARGV[2]) + tonumber(delta)))
redis.call('HDEL', KEYS[1], 'count', 'begun', 'since', 'delta')
redis.call('DEL', KEYS[1] .. ':ids')
redis.call('HSET', KEYS[1], 'spent', spent)
if ARGV[3] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('EXPIREAT', KEYS[1], ARGV[3]) end
return spent
"""

ABANDON = """
if redis.call('HGET', KEYS[1], 'count') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'count', 'begun', 'since', 'delta')
  redis.call('DEL', KEYS[1] .. ':ids')
end
"""

log = logging.getLogger(__name__)


class Counting:
    """Counts budgets' windows; any number may run."""

    def __init__(self, redis: Redis, sessions: Sessions, count_seconds: float) -> None:
        self._redis: Any = redis  # redis-py leaves the types of its commands open
        self._sessions = sessions
        self._count_seconds = count_seconds

    async def run(self) -> None:
        """Count every budget's present window again and again. Raises RedisError, OSError, SQLAlchemyError."""
        while True:
            await self.look()
            await asyncio.sleep(self._count_seconds)

    async def look(self) -> int:
        """Count every budget's present window once; returns how many were counted."""
        counted, last = 0, ""
        while True:
            async with self._sessions() as session:
                rows = await repository.after(session, last)
            for row in rows:
                counted += await self.count(row, present(row)) is not None
            if len(rows) < repository.PAGE:
                return counted
            last = rows[-1].id

    async def ensure(self, budget_id: str, window: str) -> bool:
        """Whether the window is counted, if need be now; False where that takes too long. Raises NotFound."""
        async with self._sessions() as session:
            row = await repository.budget(session, budget_id)
        key = budget_key(row.id, window)
        try:
            async with asyncio.timeout(COUNT_SECONDS_MAX):
                while True:
                    if await self._redis.hexists(key, "spent") or await self.count(row, window) is not None:
                        return True
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            return False

    async def count(self, row: BudgetRow, window: str) -> int | None:
        """Count one window; what it has come to. None where somebody else counts it, or the ledger lags behind."""
        key, name = budget_key(row.id, window), uuid.uuid4().hex
        since = await self._redis.eval(BEGIN, 2, key, USAGE_STREAM, name, STALE_MS)
        if since is None:
            return None
        spent = None
        try:
            if await self._drained(since):
                spent = await self._put(row, window, key, name)
        finally:
            if spent is None:
                await self._redis.eval(ABANDON, 1, key, name)
        if spent is not None and spent >= row.limit_micro:
            await self._tell(row, window, spent)
        return spent

    async def _drained(self, since: bytes) -> bool:
        try:
            async with asyncio.timeout(COUNT_SECONDS_MAX):
                while True:
                    if not await self._redis.xrange(USAGE_STREAM, "-", since, count=1):
                        return True
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            log.warning("the ledger lags behind the usage stream, budgets wait for it")
            return False

    async def _put(self, row: BudgetRow, window: str, key: str, name: str) -> int | None:
        async with self._sessions() as session:
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            scope = _scope(session, row)
            ledger = await repository.spent(scope, row, window)
            # Read after the snapshot was taken: whatever it holds of what was settled since is named here.
            named = {event.decode() for event in await self._redis.smembers(f"{key}:ids")}
            if named:
                ledger -= await repository.spent_by(scope, row, window, named)
        spent = await self._redis.eval(END, 1, key, name, ledger, _expiry(window))
        return None if spent is None else int(spent)

    async def _tell(self, row: BudgetRow, window: str, spent: int) -> None:
        async with begin(self._sessions) as transaction:
            if await repository.alert(Scope(transaction, row.organisation_id), row, window, spent):
                log.warning("budget %s (%s of %s) is used up in %s", row.id, row.scope, row.target_id, window)


def present(row: BudgetRow) -> str:
    """The window of today."""
    return window_of(repository.budget_of(row).period, utc_now().date().isoformat())


def _scope(session: AsyncSession, row: BudgetRow) -> Scope:
    return Scope(Transaction(session), row.organisation_id)


def _expiry(window: str) -> int:
    """Unix seconds when Redis may forget a window; 0: never."""
    _, last = bounds(window)
    if last is None:
        return FOREVER
    return round(datetime.combine(last + timedelta(days=KEPT_DAYS), time(), UTC).timestamp())
