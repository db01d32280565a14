"""Ingestion: a folder becomes a knowledge base's table.

    discover → plan (against manifest and table) → parse → embed (pipelines/flow.py) → one writer per table → manifest

1. A document is ``indexed`` in the manifest only after its chunks are committed; killed at any moment, the next run
   makes up what is missing and repeats nothing that shows.
2. A run that finds nothing changed writes nothing.
3. One document's failure is its own: a row with a reason.
4. One ingestion writes a table at a time, in the whole cluster: its writer is an actor with the table's name.
"""

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray.exceptions import RayTaskError

from models.documents import DocumentRecord
from models.errors import Conflict, InvalidRequest, PlatformError
from models.protocols import Encoder, Manifest, Progress
from pipelines.arrow import Table, arrow
from pipelines.chunk import ChunkSettings
from pipelines.discover import discover
from pipelines.flow import Flow, FlowSettings
from pipelines.parser_child import ParserLimits
from pipelines.plan import Plan, Work, make_plan
from pipelines.stages import Write

NAMESPACE = "objecta"
BLOCKS_WAITING_MAX = 16
HEARTBEAT_SECONDS = 2.0
# A killed driver's writer lives until Ray notices.
WRITER_SECONDS_MAX = 30.0
WRITER_RETRY_SECONDS = 0.5


class IngestConfig(BaseModel):
    """One ingestion: from where, into which table, within which limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path
    store: str = Field(min_length=1, description="LanceDB's root: a folder or an s3:// address")
    table: str = Field(min_length=1)
    chunks: ChunkSettings = ChunkSettings()
    file_bytes_max: int = Field(default=100_000_000, ge=1, description="A file of so many bytes is refused")
    text_characters_max: int = Field(default=20_000_000, ge=1)
    parse_seconds_max: float = Field(default=60.0, gt=0)
    parser_memory_bytes_max: int = Field(default=2 * 1024**3, ge=256 * 1024**2)
    flow: FlowSettings = FlowSettings()

    @property
    def limits(self) -> ParserLimits:
        """What one document may cost."""
        return ParserLimits(
            file_bytes_max=self.file_bytes_max,
            text_characters_max=self.text_characters_max,
            parse_seconds_max=self.parse_seconds_max,
            memory_bytes_max=self.parser_memory_bytes_max,
        )


class IngestReport(BaseModel):
    """What a run did. ``documents`` = indexed + unchanged + failed; ``chunks`` and ``tokens`` are the newly indexed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int
    indexed: int
    unchanged: int
    failed: int
    deleted: int
    chunks: int
    tokens: int


class _Run:
    """The counts of one run, and the manifest that must agree with them."""

    def __init__(self, plan: Plan, manifest: Manifest, progress: Progress) -> None:
        self._plan = plan
        self._manifest = manifest
        self._progress = progress
        self.indexed = self.failed = self.chunks = self.tokens = 0

    def record(self, records: Sequence[DocumentRecord]) -> None:
        """Final states of documents, once the table agrees with them."""
        self._manifest.save(records)
        for record in records:
            self.indexed += record.state == "indexed"
            self.failed += record.state == "failed"
            if record.state == "indexed":
                self.chunks += record.chunks
                self.tokens += record.tokens

    def tell(self) -> None:
        """Report the counts; raises what the progress raises to cancel."""
        self._progress.update(
            documents_total=self._plan.documents,
            documents_done=len(self._plan.unchanged) + self.indexed + self.failed,
            documents_failed=self.failed,
            chunks_done=self.chunks,
            tokens_done=self.tokens,
        )

    def report(self) -> IngestReport:
        return IngestReport(
            documents=self._plan.documents,
            indexed=self.indexed,
            unchanged=len(self._plan.unchanged),
            failed=self.failed,
            deleted=len(self._plan.removed),
            chunks=self.chunks,
            tokens=self.tokens,
        )


def run_ingestion(
    config: IngestConfig, manifest: Manifest, progress: Progress, encoder_factory: Callable[[], Encoder]
) -> IngestReport:
    """Bring the table and the manifest to the state of the folder. Ray must be initialised.

    Raises InvalidRequest where the folder does not exist, or is empty and always was; Conflict where another ingestion
    writes the table or it was made with another model; whatever ``progress`` raises to cancel, promptly, with all that
    was committed recorded.
    """
    discovery = discover(config.root, config.file_bytes_max)
    known = manifest.load()
    live = {document: record for document, record in known.items() if record.state != "deleted"}
    if not discovery.files and not discovery.failures and not live:
        raise InvalidRequest(f"The folder to ingest, {config.root}, holds no documents.", param="path")
    with _table_writer(config) as writer:
        # A knowledge base that never indexed anything need not wait for the table to be read.
        indexed = any(record.state == "indexed" for record in live.values())
        present: dict[str, str] = _get(writer.present.remote()) if indexed else {}
        plan = make_plan(discovery, live, present, config.chunks.identity)
        run = _Run(plan, manifest, progress)
        run.tell()
        if plan.work:
            flow = Flow(config.flow, config.limits, config.chunks, encoder_factory)
            with closing(_heartbeats(flow, plan.work, run)) as blocks:
                for block in blocks:
                    run.record([DocumentRecord.model_validate_json(row) for row in _get(writer.write.remote(block))])
                    run.tell()
        found = discovery.files.keys() | discovery.failures.keys()
        orphans = [name for name in _get(writer.present.remote()) if name not in found and not discovery.hides(name)]
        _get(writer.delete.remote(sorted({*orphans, *plan.removed, *discovery.failures})))
        run.record(plan.failed)
        manifest.save([DocumentRecord(document=document, state="deleted") for document in plan.removed])
        _get(writer.finish.remote())
        run.tell()
        return run.report()


def _heartbeats(flow: Flow, work: Sequence[Work], run: _Run) -> Generator[Table]:
    """What the flow yields, gathered while the writer was busy; meanwhile the progress is told, so it can cancel.

    The flow is drawn from in a thread, since waiting for a block cannot be interrupted; a thread that the end of the
    process does not wait for.
    """
    blocks: queue.Queue[Table | None] = queue.Queue(BLOCKS_WAITING_MAX)
    drawn: Future[None] = Future()
    left = threading.Event()

    def draw() -> None:
        try:
            with closing(flow.run(work)) as tables:
                for table in tables:
                    blocks.put(table)
                    if left.is_set():
                        break
            drawn.set_result(None)
        # The thread's edge: whatever ends the flow is raised where its results are awaited.
        except BaseException as error:
            drawn.set_exception(error)
        blocks.put(None)

    threading.Thread(target=draw, name="ingest", daemon=True).start()
    try:
        more = True
        while more:
            gathered, more = _gather(blocks)
            if gathered:
                yield arrow.concat_tables(gathered)
            elif more:
                run.tell()
        drawn.result()
    finally:
        left.set()
        flow.stop()
        _emptied(blocks)


def _emptied(blocks: queue.Queue[Table | None]) -> None:
    """Room for a thread that waits to put its last blocks."""
    with suppress(queue.Empty):
        while True:
            blocks.get_nowait()


def _gather(blocks: queue.Queue[Table | None]) -> tuple[list[Table], bool]:
    """All blocks there are, after waiting a heartbeat for one; and whether there may be more."""
    gathered: list[Table] = []
    try:
        block = blocks.get(timeout=HEARTBEAT_SECONDS)
        while block is not None:
            gathered.append(block)
            block = blocks.get_nowait()
    except queue.Empty:
        return gathered, True
    return gathered, False


@contextmanager
def _table_writer(config: IngestConfig) -> Generator[Any]:
    """The actor that alone writes the table. Raises Conflict where another ingestion has it."""
    name = f"writer:{hashlib.sha256(f'{config.store}/{config.table}'.encode()).hexdigest()[:32]}"
    actor: Any = ray.remote(Write).options(name=name, namespace=NAMESPACE, num_cpus=0)
    deadline = time.monotonic() + WRITER_SECONDS_MAX
    while True:
        try:
            writer = actor.remote(config.store, config.table)
            break
        except ValueError:
            if time.monotonic() > deadline:
                raise Conflict("Another ingestion of this knowledge base is running.") from None
            time.sleep(WRITER_RETRY_SECONDS)
    try:
        yield writer
    finally:
        ray.kill(writer)  # pyright: ignore[reportUnknownMemberType] - Ray's own annotation is partial


def _get(reference: Any) -> Any:
    """An actor's answer; our own errors as they were raised, not wrapped in Ray's."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, PlatformError):
            raise error.cause from None
        raise
