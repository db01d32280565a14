"""A file's life, as told by the gateway that writes and removes its bytes.

``uploading`` → ``stored`` → ``deleted`` → gone. The row is there before the first byte and after the last one, so a
gateway that dies leaves nothing that no row names; whatever was left behind is claimed by the sweep of another one.
"""

from collections.abc import Sequence
from datetime import timedelta

from control_plane.database import Transaction, utc_now
from control_plane.files import repository
from control_plane.files.tables import DELETED, STORED, UPLOADING, File
from control_plane.identifiers import new_file_id
from control_plane.tenancy import ProjectScope
from models.errors import Conflict, NotFound
from models.files import UploadEnd, UploadStart

NOUN = "file"
# The gateway that deletes a file removes its bytes at once; a sweep leaves it so much time.
REMOVAL_SECONDS = 60.0
# As OpenAI has it: what was uploaded for a batch is kept for 30 days, everything else until it is deleted.
BATCH_SECONDS = 2_592_000


async def start(scope: ProjectScope, order: UploadStart) -> File:
    """A row for bytes to come."""
    until = utc_now() + timedelta(seconds=order.lease_seconds)
    row = File(id=new_file_id(), state=UPLOADING, lease_until=until)
    scope.add(row)
    await scope.session.flush()
    return row


async def finish(scope: ProjectScope, file_id: str, end: UploadEnd) -> File:
    """Make the file visible. Raises NotFound, Conflict where a sweep may have taken its bytes by now."""
    row = await _own(scope, file_id)
    now = utc_now()
    if row.state != UPLOADING or row.lease_until is None or row.lease_until <= now:
        raise Conflict("The upload took too long and was given up; send the file again.")
    seconds = end.expires_after_seconds or (BATCH_SECONDS if end.purpose == "batch" else None)
    row.state, row.lease_until, row.created_at = STORED, None, now
    row.filename, row.purpose, row.bytes, row.sha256 = end.filename, end.purpose, end.bytes, end.sha256
    row.expires_at = now + timedelta(seconds=seconds) if seconds else None
    await scope.session.flush()
    return row


async def find(scope: ProjectScope, file_id: str) -> File:
    """A file that clients may see. Raises NotFound."""
    row = await scope.session.scalar(repository.visible(scope).where(File.id == file_id))
    if row is None:
        raise absent()
    return row


async def delete(scope: ProjectScope, file_id: str) -> None:
    """Hide a visible file for ever. Raises NotFound."""
    await _own(scope, file_id)
    _hide(await find(scope, file_id))


async def abandon(scope: ProjectScope, file_id: str) -> None:
    """Give an upload up, however far it came: its client was never told the id. Raises NotFound."""
    _hide(await _own(scope, file_id))


async def claim(transaction: Transaction, limit: int, lease_seconds: float) -> Sequence[File]:
    """Files whose bytes the caller is to remove, hidden from now on, and left to it for the lease."""
    now = utc_now()
    rows = await repository.take_due(transaction.session, now, limit)
    for row in rows:
        row.state, row.lease_until = DELETED, now + timedelta(seconds=lease_seconds)
    return rows


def absent() -> NotFound:
    """The same for a file that does not exist, is another one's, is not whole, or is gone."""
    return NotFound("There is no file with this id.")


def _hide(row: File) -> None:
    row.state, row.lease_until = DELETED, utc_now() + timedelta(seconds=REMOVAL_SECONDS)


async def _own(scope: ProjectScope, file_id: str) -> File:
    return await scope.get(File, file_id, NOUN, lock=True)
