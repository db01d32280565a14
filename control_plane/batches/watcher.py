"""Keeps batches and their jobs in step: submits what is queued, and has another job go on where one died.

Invariants
1. No transaction is open while the Jobs API is asked; what it said is applied under the row's lock, if the row still
   is what it was. So several replicas may watch at once.
2. While the Jobs API is away nothing is concluded.
3. A batch has one job at a time: the next attempt begins once the last one has ended, and its number shuts the last
   one out should it not have.
4. A batch that was begun keeps its place. A free one goes to the organisation with the fewest batches that run, of
   these to the one whose last turn is longest ago, and there to the oldest batch.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from control_plane.batches import repository, service
from control_plane.batches.tables import ACTIVE, Batch
from control_plane.config import ControlPlaneConfig
from control_plane.database import Sessions, begin, utc_now
from control_plane.knowledge.jobs import JobRefused, JobsAway, JobsClient
from control_plane.supervision import Bell
from models.batches import LineError

GIVEN_UP = LineError(code="server_error", message="The batch's jobs failed again and again.")
REFUSED = LineError(code="server_error", message="The cluster refused the batch's job.")

NEVER = datetime.min.replace(tzinfo=UTC)

log = logging.getLogger(__name__)


def job_id(row: Batch) -> str:
    """Of the present attempt; the Jobs API takes an id once."""
    return f"{row.id}-{row.attempt}"


def chosen(active: Sequence[Batch], last_turns: Mapping[str, datetime], places: int) -> list[Batch]:
    """The batches that run, and those whose turn it is."""
    begun = [row for row in active if row.submitted_at is not None or row.attempt > 1]
    waiting = [row for row in active if row.submitted_at is None and row.attempt == 1]
    running = Counter(row.organisation_id for row in begun)

    def turn(row: Batch) -> tuple[int, datetime, str]:
        return running[row.organisation_id], last_turns.get(row.organisation_id, NEVER), row.id

    while waiting and len(begun) < places:
        row = min(waiting, key=turn)
        waiting.remove(row)
        begun.append(row)
        running[row.organisation_id] += 1
    return begun


class BatchWatcher:
    """The loop behind all batches."""

    def __init__(self, config: ControlPlaneConfig, sessions: Sessions, jobs: JobsClient, bell: Bell) -> None:
        self._config = config
        self._sessions = sessions
        self._jobs = jobs
        self._bell = bell

    async def run(self) -> None:
        """Look at all active batches, again and again; the bell hastens the next look."""
        while True:
            await self.look()
            await self._bell.sleep(self._config.watch_seconds)

    async def look(self) -> None:
        """Look at each batch that runs, and take others in turn while there is room. Raises SQLAlchemyError."""
        last_turns: Mapping[str, datetime] = {}
        async with begin(self._sessions) as transaction:
            active = await repository.active(transaction.session)
            if any(row.submitted_at is None for row in active):
                last_turns = await repository.last_turns(transaction.session)
        for row in chosen(active, last_turns, self._config.batches_at_once):
            try:
                if row.submitted_at is None:
                    await self._submit(row)
                else:
                    await self._follow(row)
            except JobsAway as error:
                log.warning("batch %s: %s", row.id, error)

    async def _submit(self, row: Batch) -> None:
        entrypoint = f"{self._config.batch_entrypoint} {row.id} {row.attempt}"
        metadata = {"organisation_id": row.organisation_id, "batch_id": row.id}
        try:
            await self._jobs.submit(job_id(row), entrypoint, self._config.ingest_cpus, metadata)
        except JobRefused:
            log.exception("batch %s", row.id)
            await self._go_on(row, REFUSED)
            return
        async with begin(self._sessions) as transaction:
            now = await repository.batch(transaction.session, row.id, lock=True)
            if now.attempt == row.attempt:
                now.submitted_at = now.submitted_at or utc_now()

    async def _follow(self, row: Batch) -> None:
        job = await self._jobs.find(job_id(row))
        if job is None or job.ended:
            log.warning("the job of batch %s ended before the batch: attempt %d", row.id, row.attempt)
            await self._go_on(row, GIVEN_UP if row.attempt >= self._config.batch_attempts_max else None)

    async def _go_on(self, row: Batch, error: LineError | None) -> None:
        async with begin(self._sessions) as transaction:
            now = await repository.batch(transaction.session, row.id, lock=True)
            if now.status not in ACTIVE or now.attempt != row.attempt:
                return
            if error is not None:
                service.fail(now, [error])
                await repository.forget_lines(transaction.session, row.id)
            else:
                now.attempt, now.submitted_at = now.attempt + 1, None
