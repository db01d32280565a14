"""From the usage stream into the ledger, exactly once.

Invariants
1. An entry is acknowledged only after the commit that holds its event; one delivered twice is inserted once.
2. What can never be written goes to the dead letters, with a log line, and holds nothing else up.
3. Redis or PostgreSQL away: the task stops, is started again with a pause, and first finishes what it held.
"""

import asyncio
import logging

from pydantic import ValidationError
from sqlalchemy.exc import DataError, IntegrityError

from control_plane.database import Sessions, begin
from control_plane.usage import repository
from control_plane.usage.schemas import parse_event
from control_plane.usage.stream import FRESH, OWN, Entry, UsageStream
from models.usage import UsageEvent

BATCH = 500
BLOCK_MS = 1_000
# A transaction costs as much as a hundred rows in it: under load events are gathered, and the gateways get the time.
GATHER_SECONDS = 0.1
REASON_LENGTH_MAX = 500

log = logging.getLogger(__name__)

Parsed = list[tuple[Entry, UsageEvent]]


class Consumer:
    """One reader of the stream; any number may run."""

    def __init__(self, stream: UsageStream, sessions: Sessions, claim_idle_seconds: float) -> None:
        self._stream = stream
        self._sessions = sessions
        self._claim_seconds = claim_idle_seconds

    async def run(self) -> None:
        """Read for ever. Raises RedisError, OSError, SQLAlchemyError where a server is away."""
        await self._stream.open()
        while entries := await self._stream.read(OWN, BATCH):
            await self._settle(entries)
        loop = asyncio.get_running_loop()
        claim_at = loop.time()
        while True:
            if loop.time() >= claim_at:
                await self._take_over()
                claim_at = loop.time() + self._claim_seconds
            entries = await self._stream.read(FRESH, BATCH, BLOCK_MS)
            await self._settle(entries)
            if entries and len(entries) < BATCH:
                await asyncio.sleep(GATHER_SECONDS)

    async def _take_over(self) -> None:
        idle_ms = max(1, round(self._claim_seconds * 1_000))
        while entries := await self._stream.claim(idle_ms, BATCH):
            log.warning("taking over %d usage events of a consumer that is gone", len(entries))
            await self._settle(entries)

    async def _settle(self, entries: list[Entry]) -> None:
        parsed: Parsed = []
        for entry in entries:
            try:
                parsed.append((entry, parse_event(entry.event)))
            except ValueError as error:
                await self._bury(entry, _reason(error))
        if parsed:
            await self._write(parsed)

    async def _write(self, parsed: Parsed) -> None:
        try:
            async with begin(self._sessions) as transaction:
                await repository.record(transaction.session, [event for _, event in parsed])
        except (DataError, IntegrityError) as error:
            if len(parsed) == 1:
                await self._bury(parsed[0][0], type(error.orig).__name__)
                return
            half = len(parsed) // 2
            await self._write(parsed[:half])
            await self._write(parsed[half:])
            return
        await self._stream.finish([entry for entry, _ in parsed])

    async def _bury(self, entry: Entry, reason: str) -> None:
        log.error("usage entry %s cannot be written and went to the dead letters: %s", entry.id.decode(), reason)
        await self._stream.bury(entry, reason)


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:REASON_LENGTH_MAX]
    return str(error)[:REASON_LENGTH_MAX]
