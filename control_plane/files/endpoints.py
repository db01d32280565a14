"""The internal side of ``/v1/files``: files as gateways write, read and remove them for a project, and their sweeps."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Path, Query, Response

from control_plane.context import Tx
from control_plane.files import repository, service
from control_plane.files.schemas import FileQuery, view
from control_plane.files.tables import File
from control_plane.tenancy import ProjectScope
from models.files import FileObject, FilePlace, FilePlaces, SweepOrder, UploadEnd, UploadStart

internal = APIRouter(tags=["internal"])
files = APIRouter(prefix="/organisations/{organisation_id}/projects/{project_id}/files")
sweeps = APIRouter(prefix="/files")

TenantId = Annotated[str, Path(max_length=64)]


async def project(transaction: Tx, organisation_id: TenantId, project_id: TenantId) -> ProjectScope:
    """The scope of the path's project."""
    return ProjectScope(transaction, organisation_id, project_id)


Project = Annotated[ProjectScope, Depends(project)]


@files.post("", status_code=201)
async def start_upload(scope: Project, body: UploadStart) -> FilePlace:
    """A file's id, and where its bytes go; nobody sees it yet."""
    row = await service.start(scope, body)
    return place(row)


@files.post("/{file_id}/finish")
async def finish_upload(scope: Project, file_id: str, body: UploadEnd) -> FileObject:
    """All bytes are there: the file is visible. 409 where the upload was taken for abandoned."""
    row = await service.finish(scope, file_id, body)
    return FileObject.model_validate(view(row))


@files.post("/{file_id}/abandon", status_code=204)
async def abandon_upload(scope: Project, file_id: str) -> None:
    """The upload failed; its bytes are about to be removed. Idempotent until the row is gone (404)."""
    await service.abandon(scope, file_id)


@files.get("")
async def list_files(scope: Project, query: Annotated[FileQuery, Query()]) -> Response:
    """The project's files as OpenAI's list."""
    rows, more = await repository.page(scope, query)
    first, last = (rows[0].id, rows[-1].id) if rows else (None, None)
    listed = {"object": "list", "data": [view(row) for row in rows]}
    content = orjson.dumps({**listed, "first_id": first, "last_id": last, "has_more": more})
    return Response(content, media_type="application/json")


@files.get("/{file_id}")
async def get_file(scope: Project, file_id: str) -> FileObject:
    """One file."""
    return FileObject.model_validate(view(await service.find(scope, file_id)))


@files.delete("/{file_id}", status_code=204)
async def delete_file(scope: Project, file_id: str) -> None:
    """Nobody sees the file any more; its bytes are about to be removed."""
    await service.delete(scope, file_id)


@sweeps.post("/claim")
async def claim_files(transaction: Tx, body: SweepOrder) -> FilePlaces:
    """Expired, deleted and abandoned files, whose bytes the caller is to remove."""
    rows = await service.claim(transaction, body.limit, body.lease_seconds)
    return FilePlaces(data=tuple(place(row) for row in rows))


@sweeps.post("/purge", status_code=204)
async def purge_files(transaction: Tx, body: FilePlaces) -> None:
    """The bytes of these files are gone: so are their rows."""
    await repository.purge(transaction.session, [one.id for one in body.data])


def place(row: File) -> FilePlace:
    """Where a file's bytes are."""
    return FilePlace(organisation_id=row.organisation_id, id=row.id)


internal.include_router(files)
internal.include_router(sweeps)
