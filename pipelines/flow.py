"""How documents stream through parse and embed: Ray Data for many, two workers without it for a few.

Starting Ray Data costs several CPU seconds (its import in every process, its own helpers), which is nothing beside
thousands of documents and most of the time for twenty. Both ways run the same stages over the same rows.
"""

import os
from collections.abc import Callable, Generator, Sequence
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field

from models.protocols import Encoder
from pipelines.arrow import Table, arrow
from pipelines.chunk import ChunkSettings
from pipelines.parser_child import ParserLimits
from pipelines.plan import Work
from pipelines.stages import Embed, Parse

DOCUMENTS_A_BLOCK = 8
# Parsed text a block: what the encoder takes in a few seconds, so it is fed early and progress shows.
BLOCK_BYTES_MAX = 128 * 1024


class FlowSettings(BaseModel):
    """CPU shares are Ray's logical CPUs: small, since an ingestion waits for a place beside running services."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    few_documents_max: int = Field(default=64, ge=0)
    few_bytes_max: int = Field(default=8_000_000, ge=0)
    parsers: int = Field(default=1, ge=1)
    parser_cpus: float = Field(default=0.1, gt=0)
    encoders: int = Field(default=1, ge=1)
    encoder_cpus: float = Field(default=0.2, gt=0)
    encoder_gpus: float = Field(default=0.0, ge=0)


class Flow:
    """Parses and embeds; yields tables of ``{record, chunks}`` (pipelines/stages.py)."""

    def __init__(
        self,
        settings: FlowSettings,
        limits: ParserLimits,
        chunks: ChunkSettings,
        encoder_factory: Callable[[], Encoder],
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._chunks = chunks
        self._encoder_factory = encoder_factory
        self._embed: Any = None

    def run(self, work: Sequence[Work]) -> Generator[Table]:
        """Every document's row, in no particular order. Left early, it ends what it started."""
        size = sum(item.found.bytes for item in work)
        is_little = len(work) <= self._settings.few_documents_max and size <= self._settings.few_bytes_max
        return self._few(work) if is_little else self._many(work)

    def stop(self) -> None:
        """End it from another thread than the one that draws: a few documents at once, many after the block at hand."""
        if self._embed is not None:
            ray.kill(self._embed)  # pyright: ignore[reportUnknownMemberType] - Ray's own annotation is partial

    def _few(self, work: Sequence[Work]) -> Generator[Table]:
        actor: Any = ray.remote(Embed)
        shares = {"num_cpus": self._settings.encoder_cpus, "num_gpus": self._settings.encoder_gpus}
        embed = self._embed = actor.options(**shares).remote(self._encoder_factory, self._chunks)
        parse = Parse(self._limits)
        try:
            rows = arrow.Table.from_pylist(_rows(work), _SCHEMA)
            # The encoder works on the first block while the next is parsed; blocks are small beside the store.
            streams = [
                embed.__call__.options(num_returns="streaming").remote(parse(rows.slice(start, DOCUMENTS_A_BLOCK)))
                for start in range(0, len(work), DOCUMENTS_A_BLOCK)
            ]
            for stream in streams:
                for reference in stream:
                    yield ray.get(reference)
        finally:
            parse.close()
            self.stop()

    def _many(self, work: Sequence[Work]) -> Generator[Table]:
        # Imported where it is used: a second that a few documents do without. Its annotations are partial, hence Any.
        import ray.data as ray_data

        data: Any = ray_data
        context = data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.issue_detectors_config.detectors = []
        context.target_max_block_size = BLOCK_BYTES_MAX
        settings = self._settings
        with data.DataContext.current(context):
            dataset = (
                data.from_items(_rows(work), override_num_blocks=-(-len(work) // DOCUMENTS_A_BLOCK))
                .map_batches(
                    Parse,
                    fn_constructor_args=(self._limits,),
                    batch_size=None,
                    batch_format="pyarrow",
                    compute=data.ActorPoolStrategy(size=settings.parsers),
                    num_cpus=settings.parser_cpus,
                )
                .map_batches(
                    Embed,
                    fn_constructor_args=(self._encoder_factory, self._chunks),
                    batch_size=DOCUMENTS_A_BLOCK if settings.encoder_gpus else None,
                    batch_format="pyarrow",
                    compute=data.ActorPoolStrategy(size=settings.encoders),
                    num_cpus=settings.encoder_cpus,
                    num_gpus=settings.encoder_gpus,
                )
            )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)


_SCHEMA = arrow.schema([("document", arrow.utf8()), ("path", arrow.binary()), ("content_hash", arrow.utf8())])


def _rows(work: Sequence[Work]) -> list[dict[str, Any]]:
    """Paths as bytes: not every file's name is UTF-8."""
    return [
        {"document": item.found.document, "path": os.fsencode(item.found.path), "content_hash": item.content_hash}
        for item in work
    ]
