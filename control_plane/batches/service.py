"""A batch's life, as told by the gateway that takes it and the job that does it.

``validating`` → ``in_progress`` → ``finalizing`` → ``completed``, or ``failed``. ``expired`` and ``cancelled`` end like
``completed``, with the lines that were not done in the error file.

Which job runs it is the watcher's affair. A job may die at any point: the next one asks for the order again.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import cast

from control_plane.batches import repository
from control_plane.batches.tables import ACTIVE, Batch
from control_plane.database import Transaction, unix_seconds, utc_now
from control_plane.files import service as files
from control_plane.identifiers import new_id
from control_plane.keys import service as keys
from control_plane.tenancy import ProjectScope
from models.batches import (
    WINDOW_SECONDS,
    BatchEnd,
    BatchEndpoint,
    BatchOrder,
    BatchStart,
    LineError,
    Outcome,
    StopReason,
    Told,
    Validated,
)
from models.errors import Conflict, InvalidRequest, NotFound

NOUN = "batch"
ENDED = "This batch has ended, or another job does it; this one reports no more."


async def create(scope: ProjectScope, start: BatchStart) -> Batch:
    """Queue a batch. Raises InvalidRequest where its input is no file for batches."""
    asked = start.batch
    try:
        file = await files.find(scope, asked.input_file_id)
    except NotFound as error:
        raise InvalidRequest(error.message, param="input_file_id") from error
    if file.purpose != "batch":
        raise InvalidRequest("The input file's purpose must be 'batch'.", param="input_file_id")
    row = Batch(
        id=new_id("batch"),
        api_key_id=start.owner.api_key_id,
        endpoint=asked.endpoint,
        input_file_id=file.id,
        labels=asked.metadata,
        expires_at=utc_now() + timedelta(seconds=WINDOW_SECONDS),
    )
    scope.add(row)
    await scope.session.flush()
    return row


async def cancel(scope: ProjectScope, batch_id: str) -> Batch:
    """Ask for the end; one that is cancelled stays so. Raises NotFound, Conflict where it has ended otherwise."""
    row = await scope.get(Batch, batch_id, NOUN, lock=True)
    if row.status in {"cancelling", "cancelled"}:
        return row
    if row.status not in {"validating", "in_progress"}:
        raise Conflict(f"A batch that is {row.status} cannot be cancelled.")
    row.status, row.cancelling_at = "cancelling", utc_now()
    if row.submitted_at is None and row.attempt == 1:
        row.status, row.cancelled_at = "cancelled", row.cancelling_at
    await scope.session.flush()
    return row


async def order(transaction: Transaction, batch_id: str, attempt: int) -> BatchOrder:
    """What is left to do; asked by a job before anything else. An earlier job's reports are refused by now.

    A line that was begun by a job that died is done with where its call may have been charged: its answer is lost, and
    it is not sent again. Raises NotFound, Conflict where the batch has ended.
    """
    row = await _active(transaction, batch_id, attempt)
    scope = scope_of(transaction, row)
    left = await repository.begun(scope, batch_id)
    lost = sorted(await repository.called(scope, batch_id, left)) if left else []
    done = await repository.done(scope, batch_id)
    principal = await keys.principal_of(transaction, row.api_key_id)
    return BatchOrder(
        id=row.id,
        principal=principal,
        organisation_id=row.organisation_id,
        project_id=row.project_id,
        endpoint=cast("BatchEndpoint", row.endpoint),
        input_file_id=row.input_file_id,
        expires_at=unix_seconds(row.expires_at),
        stop=stop_of(row) or (None if principal else "revoked"),
        done=tuple(done),
        lost=tuple(lost),
    )


async def validated(transaction: Transaction, batch_id: str, attempt: int, found: Validated) -> Told:
    """The input is a batch, or the batch has failed. Raises NotFound, Conflict."""
    row = await _active(transaction, batch_id, attempt)
    if found.errors:
        fail(row, found.errors)
    elif row.status == "validating":
        row.status, row.in_progress_at = "in_progress", utc_now()
    row.model, row.total = found.model, found.total
    return Told(stop=stop_of(row))


async def begin(transaction: Transaction, batch_id: str, attempt: int, lines: Sequence[int]) -> Told:
    """Lines are about to be sent, unless the answer says to stop. Raises NotFound, Conflict."""
    row = await _active(transaction, batch_id, attempt)
    stop = stop_of(row)
    if stop is None and await keys.principal_of(transaction, row.api_key_id) is None:
        stop = "revoked"
    if stop is None:
        await repository.begin(scope_of(transaction, row), batch_id, lines)
    return Told(stop=stop)


async def record(transaction: Transaction, batch_id: str, attempt: int, outcomes: Sequence[Outcome]) -> Told:
    """Lines are done; one that is done already stays as it is. Raises NotFound, Conflict."""
    row = await _active(transaction, batch_id, attempt)
    fresh = await repository.record(scope_of(transaction, row), batch_id, outcomes)
    row.completed += sum(fresh)
    row.failed += len(fresh) - sum(fresh)
    return Told(stop=stop_of(row))


async def finalizing(transaction: Transaction, batch_id: str, attempt: int) -> Told:
    """No more lines will be sent. Raises NotFound, Conflict."""
    row = await _active(transaction, batch_id, attempt)
    stop = stop_of(row)
    row.finalizing_at = row.finalizing_at or utc_now()
    if stop is None:
        row.status = "finalizing"
    return Told(stop=stop)


async def outcomes(transaction: Transaction, batch_id: str, attempt: int, after: int, limit: int) -> list[Outcome]:
    """The next outcomes by line. Raises NotFound, Conflict."""
    row = await _active(transaction, batch_id, attempt)
    return await repository.outcomes(scope_of(transaction, row), batch_id, after, limit)


async def finish(transaction: Transaction, batch_id: str, attempt: int, end: BatchEnd) -> None:
    """The end, in one transaction with the files that hold it. Raises NotFound, Conflict."""
    row = await _active(transaction, batch_id, attempt)
    scope = scope_of(transaction, row)
    for file in (end.output, end.errors):
        if file is not None:
            await files.finish(scope, file.id, file.end)
    row.output_file_id = end.output.id if end.output else None
    row.error_file_id = end.errors.id if end.errors else None
    row.failed = end.failed
    now = utc_now()
    if end.stop in {"cancelled", "revoked"}:
        row.status, row.cancelled_at = "cancelled", now
    elif end.stop == "expired":
        row.status, row.expired_at = "expired", now
    else:
        row.status, row.completed_at = "completed", now
    await repository.forget_lines(transaction.session, batch_id)


def fail(row: Batch, errors: Sequence[LineError]) -> None:
    """Nothing of the batch will be done."""
    row.status, row.failed_at = "failed", utc_now()
    row.errors = [error.model_dump() for error in errors]


def stop_of(row: Batch) -> StopReason | None:
    """Why the job must send no more lines."""
    if row.status == "cancelling":
        return "cancelled"
    if row.status == "failed":
        return "failed"
    # Once all lines are done, the window's end takes nothing away.
    if row.status != "finalizing" and row.expires_at <= utc_now():
        return "expired"
    return None


def scope_of(transaction: Transaction, row: Batch) -> ProjectScope:
    """The scope of the project that a batch belongs to."""
    return ProjectScope(transaction, row.organisation_id, row.project_id)


async def _active(transaction: Transaction, batch_id: str, attempt: int) -> Batch:
    row = await repository.batch(transaction.session, batch_id, lock=True)
    if row.status not in ACTIVE or row.attempt != attempt:
        raise Conflict(ENDED)
    return row
