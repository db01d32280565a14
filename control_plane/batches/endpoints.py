"""The internal side of ``/v1/batches``: gateways speak for a project, and jobs of the batch they do."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from control_plane.batches import repository, service
from control_plane.batches.schemas import BatchQuery, view
from control_plane.batches.tables import Batch
from control_plane.context import Ctx, Tx
from control_plane.tenancy import ProjectScope
from models.batches import (
    OUTCOMES_MAX,
    BatchEnd,
    BatchOrder,
    BatchStart,
    Begin,
    Outcomes,
    Told,
    Validated,
)

internal = APIRouter(tags=["internal"])
batches = APIRouter(prefix="/organisations/{organisation_id}/projects/{project_id}/batches")
jobs = APIRouter(prefix="/batches/{batch_id}/{attempt}")

TenantId = Annotated[str, Path(max_length=64)]


async def project(transaction: Tx, organisation_id: TenantId, project_id: TenantId) -> ProjectScope:
    """The scope of the path's project."""
    return ProjectScope(transaction, organisation_id, project_id)


Project = Annotated[ProjectScope, Depends(project)]


@batches.post("")
async def create_batch(scope: Project, context: Ctx, body: BatchStart) -> dict[str, Any]:
    """A new batch; its job validates the input file."""
    row = await service.create(scope, body)
    scope.transaction.after_commit(context.batches_bell.ring)
    return view(row)


@batches.get("")
async def list_batches(scope: Project, query: Annotated[BatchQuery, Query()]) -> dict[str, Any]:
    """The project's batches as OpenAI's list."""
    rows, more = await repository.page(scope, query)
    first, last = (rows[0].id, rows[-1].id) if rows else (None, None)
    data = [view(row) for row in rows]
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


@batches.get("/{batch_id}")
async def get_batch(scope: Project, batch_id: str) -> dict[str, Any]:
    """One batch."""
    return view(await scope.get(Batch, batch_id, service.NOUN))


@batches.post("/{batch_id}/cancel")
async def cancel_batch(scope: Project, context: Ctx, batch_id: str) -> dict[str, Any]:
    """Ask for the end; the lines that are done keep their outcomes."""
    row = await service.cancel(scope, batch_id)
    scope.transaction.after_commit(context.batches_bell.ring)
    return view(row)


@jobs.get("")
async def batch_order(transaction: Tx, batch_id: str, attempt: int) -> BatchOrder:
    """What the job is to do; 409 where there is nothing to do for it."""
    return await service.order(transaction, batch_id, attempt)


@jobs.post("/validated")
async def report_validated(transaction: Tx, batch_id: str, attempt: int, body: Validated) -> Told:
    """What the input file holds."""
    return await service.validated(transaction, batch_id, attempt, body)


@jobs.post("/begin")
async def begin_lines(transaction: Tx, batch_id: str, attempt: int, body: Begin) -> Told:
    """Lines about to be sent."""
    return await service.begin(transaction, batch_id, attempt, body.lines)


@jobs.put("/outcomes")
async def record_outcomes(transaction: Tx, batch_id: str, attempt: int, body: Outcomes) -> Told:
    """Lines that are done, durable once answered."""
    return await service.record(transaction, batch_id, attempt, body.data)


@jobs.post("/finalizing")
async def report_finalizing(transaction: Tx, batch_id: str, attempt: int) -> Told:
    """No more lines will be sent."""
    return await service.finalizing(transaction, batch_id, attempt)


@jobs.get("/outcomes")
async def read_outcomes(
    transaction: Tx,
    batch_id: str,
    attempt: int,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=OUTCOMES_MAX)] = OUTCOMES_MAX,
) -> Outcomes:
    """Outcomes by rising line."""
    return Outcomes(data=tuple(await service.outcomes(transaction, batch_id, attempt, after, limit)))


@jobs.post("/finish", status_code=204)
async def finish_batch(transaction: Tx, batch_id: str, attempt: int, body: BatchEnd) -> None:
    """The end, together with the files that hold it."""
    await service.finish(transaction, batch_id, attempt, body)


internal.include_router(batches)
internal.include_router(jobs)
