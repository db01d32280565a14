"""``/internal/files``: files as gateways write, read and remove them, for the principal they name, and their sweeps."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Header, Query, Response

from control_plane.context import Tx
from control_plane.files import repository, service
from control_plane.files.schemas import FileQuery, view
from control_plane.files.tables import File
from control_plane.tenancy import Scope
from models.channels import PRINCIPAL_HEADER
from models.errors import Unauthenticated
from models.files import FileObject, FilePlace, FilePlaces, SweepOrder, UploadEnd, UploadStart
from models.identity import Principal

internal = APIRouter(prefix="/files", tags=["internal"])


def named(principal: Annotated[str, Header(alias=PRINCIPAL_HEADER)]) -> Principal:
    """Whom the gateway calls for; it counts, for the door of ``/internal`` lets our own processes through alone."""
    try:
        return Principal.from_header(principal)
    except ValueError as error:
        raise Unauthenticated("The call names no principal.") from error


Named = Annotated[Principal, Depends(named)]


@internal.post("", status_code=201)
async def start_upload(who: Named, transaction: Tx, body: UploadStart) -> FilePlace:
    """A file's id, and where its bytes go; nobody sees it yet."""
    row = await service.start(scope_of(transaction, who), who.project_id, body)
    return place(row)


@internal.post("/{file_id}/finish")
async def finish_upload(who: Named, transaction: Tx, file_id: str, body: UploadEnd) -> FileObject:
    """All bytes are there: the file is visible. 409 where the upload was taken for abandoned."""
    row = await service.finish(scope_of(transaction, who), who.project_id, file_id, body)
    return FileObject.model_validate(view(row))


@internal.post("/{file_id}/abandon", status_code=204)
async def abandon_upload(who: Named, transaction: Tx, file_id: str) -> None:
    """The upload failed; its bytes are about to be removed. Idempotent until the row is gone (404)."""
    await service.abandon(scope_of(transaction, who), who.project_id, file_id)


@internal.get("")
async def list_files(who: Named, transaction: Tx, query: Annotated[FileQuery, Query()]) -> Response:
    """The project's files as OpenAI's list."""
    rows, more = await repository.page(scope_of(transaction, who), who.project_id, query)
    first, last = (rows[0].id, rows[-1].id) if rows else (None, None)
    listed = {"object": "list", "data": [view(row) for row in rows]}
    content = orjson.dumps({**listed, "first_id": first, "last_id": last, "has_more": more})
    return Response(content, media_type="application/json")


@internal.get("/{file_id}")
async def get_file(who: Named, transaction: Tx, file_id: str) -> FileObject:
    """One file."""
    return FileObject.model_validate(view(await service.find(scope_of(transaction, who), who.project_id, file_id)))


@internal.delete("/{file_id}", status_code=204)
async def delete_file(who: Named, transaction: Tx, file_id: str) -> None:
    """Nobody sees the file any more; its bytes are about to be removed."""
    await service.delete(scope_of(transaction, who), who.project_id, file_id)


@internal.post("/claim")
async def claim_files(transaction: Tx, body: SweepOrder) -> FilePlaces:
    """Expired, deleted and abandoned files, whose bytes the caller is to remove."""
    rows = await service.claim(transaction, body.limit, body.lease_seconds)
    return FilePlaces(data=tuple(place(row) for row in rows))


@internal.post("/purge", status_code=204)
async def purge_files(transaction: Tx, body: FilePlaces) -> None:
    """The bytes of these files are gone: so are their rows."""
    await repository.purge(transaction.session, [one.id for one in body.data])


def place(row: File) -> FilePlace:
    """Where a file's bytes are."""
    return FilePlace(organisation_id=row.organisation_id, id=row.id)


def scope_of(transaction: Tx, who: Principal) -> Scope:
    """The rows of the principal's organisation."""
    return Scope(transaction, who.organisation_id)
