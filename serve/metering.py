"""Metering: every admitted call becomes one usage event in the Redis stream, through local disk where Redis is away.

Invariants
1. ``settle`` does not wait and cannot fail or be cancelled: whoever calls it in ``finally`` has handed the event over.
2. An event is in memory only until Redis has it, or the spool where Redis does not take it (fsync).
3. Settling an event again changes nothing: a lost reply is answered by sending it again, here or from the spool.
4. ``close`` returns when nothing is in memory any more.
"""

import asyncio
import logging
import time
from typing import Any

import orjson

from models.budgets import SETTLE_HOLD
from models.channels import OPEN_CALLS, OPEN_HOLDS, SETTLED_PREFIX, USAGE_STREAM
from serve.claims import Claim
from serve.scripts import RedisAway, Script, ScriptRunner
from serve.spool import Spool

MARK_SECONDS = 600
GROUP_MAX = 256

Line = dict[str, Any]
"""What settles one call, as the spool keeps it."""

logger = logging.getLogger(__name__)


class Meter:
    """Settles calls in the background, for one replica."""

    def __init__(self, runner: ScriptRunner, spool: Spool, replica: str, drain_seconds: float) -> None:
        self._runner = runner
        self._spool = spool
        self._replica = replica
        self._drain_seconds = drain_seconds
        self._script = Script("settle", SETTLE_HOLD)
        self._sent: dict[asyncio.Future[Any], Line] = {}
        self._unsettled: list[bytes] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._drain_at = 0.0

    @property
    def alive(self) -> bool:
        """Whether events are being written."""
        return self._task is not None and not self._task.done()

    @property
    def waiting(self) -> int:
        """Events in memory."""
        return len(self._sent) + len(self._unsettled)

    @property
    def spool_bytes(self) -> int:
        """Size of the spool folder, as this replica last saw it."""
        return self._spool.bytes

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.ensure_future(self._write_on())

    async def close(self) -> None:
        """Write all there is, to Redis or to disk."""
        if self._task is not None:
            while self._sent:
                await asyncio.wait(self._sent)
            self._closing = True
            self._wake.set()
            await self._task
            self._spool.release()
            if self._unsettled:
                lost = len(self._unsettled)
                logger.critical("%d usage events are lost: neither Redis nor the spool took them", lost)

    def settle(self, event_id: str, event: bytes, claim: Claim, cost_micro: int, tokens: int) -> None:
        """Hand over one call's event (UsageEvent as JSON), what it claimed, and what it came to.

        What this replica admits from now on finds the call's place free.
        """
        line: Line = {"id": event_id, "replica": self._replica, "held": claim.held, "event": event.decode()}
        if claim.hold:
            line |= {"hold": claim.hold, "cost": cost_micro, "tokens": tokens}
        reply = self._submit(line)
        self._sent[reply] = line
        reply.add_done_callback(self._replied)

    def void(self, event_id: str, claim: Claim) -> None:
        """Hand over a call that may have been admitted and never ran: what it holds is freed, and no event is left."""
        self.settle(event_id, b"", claim, 0, 0)

    def _replied(self, reply: asyncio.Future[Any]) -> None:
        line = self._sent.pop(reply)
        if reply.cancelled() or reply.exception() is not None:
            self._unsettled.append(orjson.dumps(line))
            self._wake.set()

    async def _write_on(self) -> None:
        while True:
            await self._sleep()
            self._wake.clear()
            await self._store()
            await self._drain()
            if self._closing:
                return

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(self._drain_seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _store(self) -> None:
        """On disk what Redis did not take; in memory for a moment more what the disk does not take either."""
        known = len(self._unsettled)
        if not known:
            return
        # One more attempt: they may wait here since the disk refused them, and Redis may be back.
        lines = await self._settle_all(self._unsettled[:known])
        if lines:
            try:
                await asyncio.to_thread(self._spool.append, lines)
            except OSError as error:
                logger.error("%d usage events wait in memory: no Redis, and the spool says: %s", len(lines), error)
                self._unsettled[:known] = lines
                return
        del self._unsettled[:known]

    def _submit(self, line: Line) -> asyncio.Future[Any]:
        keys = (OPEN_CALLS, USAGE_STREAM, SETTLED_PREFIX + line["id"], OPEN_HOLDS, *line["held"])
        figures = (line.get("hold", ""), line.get("cost", 0), line.get("tokens", 0))
        arguments = (line["id"], line["event"], line["replica"], MARK_SECONDS, *figures)
        return self._runner.submit(self._script, keys, arguments, patient=True)

    async def _settle_all(self, lines: list[bytes]) -> list[bytes]:
        """The lines of the spool that Redis did not confirm."""
        sent = [(line, reply) for line in lines if (reply := self._submit_spooled(line)) is not None]
        outcomes = await asyncio.gather(*(reply for _, reply in sent), return_exceptions=True)
        return [line for (line, _), outcome in zip(sent, outcomes, strict=True) if isinstance(outcome, RedisAway)]

    def _submit_spooled(self, line: bytes) -> asyncio.Future[Any] | None:
        try:
            return self._submit(orjson.loads(line))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            logger.error("a line of the spool is not a usage event and is passed over: %.500r", line)
            return None

    async def _drain(self) -> None:
        if time.monotonic() < self._drain_at or self._runner.resting:
            return
        self._drain_at = time.monotonic() + self._drain_seconds
        try:
            if self._spool.measure():
                await self._spool.drain(self._take)
        except RedisAway:
            return
        except OSError as error:
            logger.error("the spool of usage events cannot be read: %s", error)

    async def _take(self, lines: list[bytes]) -> None:
        for start in range(0, len(lines), GROUP_MAX):
            if await self._settle_all(lines[start : start + GROUP_MAX]):
                raise RedisAway
