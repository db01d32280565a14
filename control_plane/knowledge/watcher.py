"""Keeps ingestions and their jobs in step: submits what is queued, stops what is cancelled, buries what died.

Invariants
1. No transaction is open while the Jobs API is asked; what it said is applied under the row's lock, if the row still
   is what it was. So several replicas may watch at once, and a job's own report always wins over what we concluded.
2. While the Jobs API is away nothing is concluded, but that a job which could not be submitted for long has failed.
3. A knowledge base is free for its next ingestion only once the job of the last one has ended.
"""

import asyncio
import logging
from datetime import timedelta

from control_plane.config import ControlPlaneConfig
from control_plane.database import Sessions, begin, utc_now
from control_plane.knowledge import repository, service
from control_plane.knowledge.jobs import Job, JobRefused, JobsAway, JobsClient
from control_plane.knowledge.tables import ACTIVE, Ingestion
from control_plane.supervision import Bell

ASKED_AT_ONCE_MAX = 8
VANISHED = "The cluster no longer knows the ingestion's job; it was lost with the cluster's state."
SILENT = "The ingestion's job ended without a report; its log is in the cluster."
STOPPED = "The ingestion's job was stopped from outside."
REFUSED = "The cluster refused the ingestion's job."
NOT_TAKEN = "The cluster did not take the ingestion's job in time."

log = logging.getLogger(__name__)


class Watcher:
    """The loop behind all ingestions."""

    def __init__(self, config: ControlPlaneConfig, sessions: Sessions, jobs: JobsClient, bell: Bell) -> None:
        self._config = config
        self._sessions = sessions
        self._jobs = jobs
        self._bell = bell
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE_MAX)

    async def run(self) -> None:
        """Look at all active ingestions, again and again; the bell hastens the next look."""
        while True:
            await self.look()
            await self._bell.sleep(self._config.watch_seconds)

    async def look(self) -> None:
        """Look at each active ingestion once. Raises SQLAlchemyError."""
        async with begin(self._sessions) as transaction:
            active = await repository.active_ingestions(transaction.session)
        async with asyncio.TaskGroup() as group:
            for row in active:
                group.create_task(self._look_at(row))

    async def _look_at(self, row: Ingestion) -> None:
        async with self._slots:
            try:
                if row.submitted_at is None:
                    await self._submit(row)
                else:
                    await self._follow(row)
            except JobsAway as error:
                log.warning("ingestion %s: %s", row.id, error)
                if row.submitted_at is None and self._too_late(row):
                    await self._fail(row.id, NOT_TAKEN)

    def _too_late(self, row: Ingestion) -> bool:
        return utc_now() - row.created_at > timedelta(seconds=self._config.submit_seconds_max)

    async def _submit(self, row: Ingestion) -> None:
        entrypoint = f"{self._config.ingest_entrypoint} {row.id}"
        metadata = {"organisation_id": row.organisation_id, "knowledge_base_id": row.knowledge_base_id}
        try:
            await self._jobs.submit(row.id, entrypoint, self._config.ingest_cpus, metadata)
        except JobRefused:
            log.exception("ingestion %s", row.id)
            await self._fail(row.id, REFUSED)
            return
        async with begin(self._sessions) as transaction:
            now = await repository.ingestion(transaction.session, row.id, lock=True)
            now.submitted_at = now.submitted_at or utc_now()
            ended = now.state not in ACTIVE
        if ended:
            await self._jobs.stop(row.id)

    async def _follow(self, row: Ingestion) -> None:
        job = await self._jobs.find(row.id)
        reason = why_over(job)
        if reason is not None:
            await self._fail(row.id, reason)
        elif row.cancel_requested_at is not None:
            await self._jobs.stop(row.id)

    async def _fail(self, ingestion_id: str, reason: str) -> None:
        async with begin(self._sessions) as transaction:
            row = await repository.ingestion(transaction.session, ingestion_id, lock=True)
            if row.state in ACTIVE:
                service.end(row, "failed", reason)


def why_over(job: Job | None) -> str | None:
    """Why an ingestion that has not reported its end is over, or None where its job lives."""
    if job is None:
        return VANISHED
    if not job.ended:
        return None
    if job.status == "FAILED":
        code = "" if job.driver_exit_code is None else f" (exit code {job.driver_exit_code})"
        return f"The ingestion's job failed{code}; its log is in the cluster."
    return STOPPED if job.status == "STOPPED" else SILENT
