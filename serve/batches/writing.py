"""The output file and the error file of a batch, written where clients' files lie."""

from models.batches import BatchOrder, WrittenFile
from models.files import UploadEnd
from serve.files.ledger import FileLedger
from serve.files.store import ObjectStore, Writer, key

BLOCK_BYTES = 256 * 1024


class OutcomeFile:
    """A file of one line an outcome. Without a line there is no file. What is not finished is left to the sweeps."""

    def __init__(
        self, store: ObjectStore, ledger: FileLedger, order: BatchOrder, kind: str, lease_seconds: float
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._order = order
        self._filename = f"{order.id}_{kind}.jsonl"
        self._lease_seconds = lease_seconds
        self._waiting: list[bytes] = []
        self._bytes_waiting = 0
        self._writer: Writer | None = None
        self._id = ""
        self.lines = 0

    async def add(self, text: str) -> None:
        """Append a line. Raises OSError, Unavailable."""
        raw = text.encode() + b"\n"
        self._waiting.append(raw)
        self._bytes_waiting += len(raw)
        self.lines += 1
        if self._bytes_waiting >= BLOCK_BYTES:
            await self._flush()

    async def finish(self) -> WrittenFile | None:
        """All lines are in the store; the file becomes visible with the batch's end. Raises OSError, Unavailable."""
        if not self.lines:
            return None
        writer = await self._flush()
        await writer.finish()
        end = UploadEnd(filename=self._filename, purpose="batch_output", bytes=writer.size, sha256=writer.sha256)
        return WrittenFile(id=self._id, end=end)

    async def close(self) -> None:
        """Let go of the file, finished or not. Raises OSError."""
        if self._writer is not None:
            await self._writer.close()

    async def _flush(self) -> Writer:
        if self._writer is None:
            place = await self._ledger.start(self._order, self._lease_seconds)
            self._id = place.id
            self._writer = self._store.writer(key(place.organisation_id, place.id))
            await self._writer.open()
        block, self._waiting, self._bytes_waiting = b"".join(self._waiting), [], 0
        await self._writer.write(block)
        return self._writer
