"""What runs in Ray: parse (a child process does it) and embed (cut, encode) as stages of Ray Data, write as one actor.

A row is a document all the way, so a document is never split between blocks: ``{document, path, content_hash}`` →
``{document, answer}`` → ``{record, chunks}``. ``answer`` and ``record`` are JSON of ParserAnswer and DocumentRecord,
``chunks`` an Arrow IPC stream (empty for a failure). A document that fails is a row as well; no stage raises for one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from models.documents import EMBEDDING_COLUMN, DocumentRecord
from models.protocols import Encoder
from pipelines.arrow import Table, arrow
from pipelines.chunk import Chunker, ChunkSettings, Passage
from pipelines.parser_child import ParserAnswer, ParserLimits
from pipelines.parser_process import ParserProcess
from pipelines.writer import TableWriter, chunk_schema

# Enough texts to sort by length; few enough that progress shows every few seconds.
CHUNKS_A_FLUSH = 192


class Parse:
    """Files to parsed documents."""

    def __init__(self, limits: ParserLimits) -> None:
        self._parser = ParserProcess(limits)

    def __call__(self, batch: Table) -> Table:
        """One row a document, in order."""
        rows = batch.to_pylist()
        answers = [self._parse(row["path"], row["content_hash"]) for row in rows]
        return arrow.table({"document": batch["document"], "answer": arrow.array(answers, arrow.large_binary())})

    def close(self) -> None:
        """End the child process."""
        self._parser.close()

    def _parse(self, path: bytes, content_hash: str | None) -> bytes:
        answer = self._parser.parse(path)
        if answer.content_hash is None:
            answer = answer.model_copy(update={"content_hash": content_hash})
        return answer.model_dump_json().encode()


class Embed:
    """Parsed documents to chunks with vectors."""

    def __init__(self, encoder_factory: Callable[[], Encoder], settings: ChunkSettings) -> None:
        self._encoder = encoder_factory()
        self._chunker = Chunker(self._encoder, settings)
        self._schema = chunk_schema(self._encoder.dimensions)

    def __call__(self, batch: Table) -> Iterator[Table]:
        """One row a document; documents are gathered until the encoder has a good batch."""
        waiting: list[tuple[DocumentRecord, list[Passage]]] = []
        chunks = 0
        for row in batch.to_pylist():
            record, passages = self._cut(row["document"], ParserAnswer.model_validate_json(row["answer"]))
            waiting.append((record, passages))
            chunks += len(passages)
            if chunks >= CHUNKS_A_FLUSH:
                yield self._encoded(waiting)
                waiting, chunks = [], 0
        if waiting:
            yield self._encoded(waiting)

    def _cut(self, document: str, answer: ParserAnswer) -> tuple[DocumentRecord, list[Passage]]:
        record = DocumentRecord(
            document=document,
            state="failed",
            content_hash=answer.content_hash,
            bytes=answer.bytes,
            code=answer.code,
            reason=answer.reason,
        )
        if answer.document is None or answer.content_hash is None:
            return record, []
        passages = self._chunker.cut(document, answer.content_hash, answer.document)
        tokens = sum(passage.tokens for passage in passages)
        return record.model_copy(update={"state": "indexed", "chunks": len(passages), "tokens": tokens}), passages

    def _encoded(self, documents: Sequence[tuple[DocumentRecord, list[Passage]]]) -> Table:
        vectors = self._encoder.encode([passage.embedded for _, passages in documents for passage in passages])
        chunks: list[bytes] = []
        taken = 0
        for _, passages in documents:
            chunks.append(self._table(passages, vectors[taken : taken + len(passages)]))
            taken += len(passages)
        records = [record.model_dump_json() for record, _ in documents]
        return arrow.table({"record": records, "chunks": arrow.array(chunks, arrow.large_binary())})

    def _table(self, passages: Sequence[Passage], vectors: Any) -> bytes:
        if not passages:
            return b""
        rows = [passage.chunk.model_dump() for passage in passages]
        flat = arrow.array(vectors.reshape(-1), arrow.float32())
        columns = {
            field.name: arrow.array([row[field.name] for row in rows], field.type)
            for field in self._schema
            if field.name != EMBEDDING_COLUMN
        }
        columns[EMBEDDING_COLUMN] = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, self._schema) as stream:
            stream.write_table(arrow.table(columns, schema=self._schema))
        return sink.getvalue().to_pybytes()


class Write:
    """Chunks into the table: what the writer actor runs."""

    def __init__(self, store: str, table: str) -> None:
        self._writer = TableWriter(store, table)

    def present(self) -> dict[str, str]:
        """The id of the first chunk of every document in the table."""
        return self._writer.present()

    def write(self, block: Table) -> list[str]:
        """Commit what Embed made of some documents; returns their records, which are true from now on.

        Raises Conflict where the table was made with another model.
        """
        records: list[str] = block["record"].to_pylist()
        streams = [stream for stream in block["chunks"].to_pylist() if stream]
        tables = [arrow.ipc.open_stream(stream).read_all() for stream in streams]
        documents = [DocumentRecord.model_validate_json(record).document for record in records]
        self._writer.replace(documents, arrow.concat_tables(tables) if tables else None)
        return records

    def delete(self, documents: list[str]) -> None:
        """Remove all chunks of documents."""
        self._writer.delete(documents)

    def finish(self) -> int:
        """Index, compact and clean up. Returns the table's number of chunks."""
        return self._writer.finish()
