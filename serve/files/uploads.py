"""Taking a file in: from the client's form to an object in the store, in memory that its length does not change.

1. A row in the control plane, seen by nobody, before the first byte is written.
2. The bytes, block by block, each written before the next one is asked for.
3. The object is closed, and durable; then the row becomes visible, with size and digest. Only then is the answer sent.
4. Whatever fails, or is cut off, before that: the row is hidden, the object removed, the row forgotten. A process that
   dies, or cannot reach store or control plane, leaves a row whose lease runs out, and so work for a sweep.
"""

import asyncio
import contextlib
import logging

from models.errors import BodyTooLarge, InvalidRequest, NotFound, PlatformError, RateLimited, Unavailable
from models.files import FilePlace, UploadEnd
from models.identity import Principal
from serve.asgi import ClientDisconnected, Receive, Scope, header
from serve.config import FileLimits
from serve.files.fields import FILE, UploadFields
from serve.files.form import OVERHEAD_BYTES_MAX, FieldGiven, FileStart, FormReader
from serve.files.ledger import FileLedger
from serve.files.store import ObjectStore, Writer, key

BLOCK_BYTES = 256 * 1024
# An upload that its own gateway has given up on by now is surely over.
LEASES = 2.0
RETRY_SECONDS = 2.0

logger = logging.getLogger(__name__)


def store_away() -> Unavailable:
    """The 503 while the object store fails."""
    return Unavailable("The file store does not answer; try again.", retry_after_seconds=RETRY_SECONDS)


class Uploads:
    """All uploads of one replica. ``close`` once none runs any more."""

    def __init__(self, store: ObjectStore, ledger: FileLedger, limits: FileLimits) -> None:
        self._store = store
        self._ledger = ledger
        self._limits = limits
        self._running = 0
        self._undoing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Returns when what failed uploads left is removed, or left to a sweep."""
        if self._undoing:
            await asyncio.wait(self._undoing)

    async def take(self, who: Principal, scope: Scope, receive: Receive) -> bytes:
        """The file object as JSON, of the file that the request holds.

        Raises InvalidRequest that names the field, BodyTooLarge, UnsupportedMedia, RateLimited, Unavailable,
        ClientDisconnected.
        """
        reader = FormReader(header(scope, b"content-type"))
        declared = header(scope, b"content-length") or b""
        if declared.isdigit() and int(declared) > self._limits.bytes_max + OVERHEAD_BYTES_MAX:
            raise too_large(self._limits.bytes_max)
        if self._running >= self._limits.uploads_max:
            raise RateLimited("Too many files are being uploaded at once; try again.", retry_after_seconds=1.0)
        upload = Upload(who, self._store, self._ledger, self._limits)
        self._running += 1
        deadline = asyncio.timeout(self._limits.upload_seconds_max)
        try:
            async with deadline:
                return await upload.run(reader, receive)
        except OSError as error:
            await self._undo(upload)
            # A store may time out as well.
            if deadline.expired() and isinstance(error, TimeoutError):
                raise too_slow(f"The upload took longer than {self._limits.upload_seconds_max:.0f} s.") from None
            logger.warning("an upload could not be stored: %r", error)
            raise store_away() from None
        except BaseException:
            await self._undo(upload)
            raise
        finally:
            self._running -= 1

    async def _undo(self, upload: "Upload") -> None:
        """Also done where the caller is cancelled meanwhile; ``close`` waits for it."""
        task = asyncio.ensure_future(upload.undo())
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)
        await asyncio.shield(task)


def too_slow(message: str) -> InvalidRequest:
    """The client sends too slowly."""
    return InvalidRequest(message, code="upload_timeout")


def too_large(bytes_max: int) -> BodyTooLarge:
    """The 413 of a file above ``bytes_max``."""
    return BodyTooLarge(f"The file is larger than the limit of {bytes_max} bytes.", param=FILE)


class Upload:
    """One upload: ``run``, then ``undo`` unless that returned."""

    def __init__(self, who: Principal, store: ObjectStore, ledger: FileLedger, limits: FileLimits) -> None:
        self._who = who
        self._store = store
        self._ledger = ledger
        self._limits = limits
        self._fields = UploadFields()
        self._place: FilePlace | None = None
        self._writer: Writer | None = None

    async def run(self, reader: FormReader, receive: Receive) -> bytes:
        """The file object as JSON."""
        more = True
        while more:
            block, more = await self._next_block(receive)
            for event in reader.feed(block):
                if isinstance(event, FieldGiven):
                    self._fields.take_field(event)
                elif isinstance(event, FileStart):
                    self._fields.take_file(event)
                    await self._begin()
                else:
                    await self._append(event.data)
        reader.finish()
        self._fields.check()
        return await self._finish()

    async def _next_block(self, receive: Receive) -> tuple[bytes, bool]:
        """The next block of the body, and whether there is more. Raises InvalidRequest, ClientDisconnected."""
        parts: list[bytes] = []
        gathered, more = 0, True
        while more and gathered < BLOCK_BYTES:
            try:
                async with asyncio.timeout(self._limits.idle_seconds):
                    message = await receive()
            except TimeoutError:
                raise too_slow(f"Nothing of the upload came for {self._limits.idle_seconds:.0f} s.") from None
            if message["type"] != "http.request":
                raise ClientDisconnected
            parts.append(message.get("body", b""))
            gathered += len(parts[-1])
            more = message.get("more_body", False)
        return b"".join(parts), more

    async def _begin(self) -> None:
        self._place = await self._ledger.start(self._who, self._limits.upload_seconds_max * LEASES)
        self._writer = self._store.writer(key(self._place.organisation_id, self._place.id))
        await self._writer.open()

    async def _append(self, data: bytes) -> None:
        if self._writer is None:
            raise RuntimeError("a file's data comes after its start")
        if self._writer.size + len(data) > self._limits.bytes_max:
            raise too_large(self._limits.bytes_max)
        await self._writer.write(data)

    async def _finish(self) -> bytes:
        writer, place, filename = self._writer, self._place, self._fields.filename
        if writer is None or place is None or filename is None:
            raise RuntimeError("a checked form has a file")
        if not writer.size:
            raise InvalidRequest("The file is empty.", param=FILE)
        await writer.finish()
        end = UploadEnd(
            filename=filename,
            purpose=self._fields.purpose,
            bytes=writer.size,
            sha256=writer.sha256,
            expires_after_seconds=self._fields.expires_after_seconds,
        )
        return await self._ledger.finish(self._who, place.id, end)

    async def undo(self) -> None:
        """Hide the row, then remove the bytes, then forget the row. What does not succeed is left to a sweep."""
        place = self._place
        try:
            if self._writer is not None:
                await self._writer.close()
        except OSError as error:
            logger.warning("a broken upload could not be closed: %s", error)
        if place is None:
            return
        try:
            # Where a sweep has been here before us, what we wrote since then is still there.
            with contextlib.suppress(NotFound):
                await self._ledger.abandon(self._who, place.id)
            await self._store.remove(key(place.organisation_id, place.id))
            await self._ledger.purge([place])
        except (PlatformError, OSError) as error:
            logger.warning("file %s is left to a sweep: %s", place.id, error)
