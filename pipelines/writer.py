"""The one writer of a knowledge base's LanceDB table.

1. A document's chunks appear, change and go in one commit: a reader sees the old ones or the new ones.
2. Writing the same chunks again changes nothing: their ids are functions of content and settings.
3. Only the process that holds a table's writer calls it; concurrent writers and racing index builds corrupt nothing in
   LanceDB, but they fail and duplicate. See pipelines/ingest.py for what keeps it single.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from models.documents import EMBEDDING_COLUMN, TEXT_COLUMN
from models.errors import Conflict
from pipelines.arrow import Schema, Table, arrow

# Readers that opened the table before the last commits still read the files of then.
OLD_VERSIONS_KEPT = timedelta(hours=1)
DOCUMENTS_A_CONDITION = 200


def chunk_schema(dimensions: int) -> Schema:
    """Columns: the fields of ``models.documents.Chunk`` and the vector."""
    return arrow.schema(
        [
            arrow.field("chunk_id", arrow.utf8(), nullable=False),
            arrow.field("document", arrow.utf8(), nullable=False),
            arrow.field("ordinal", arrow.int32(), nullable=False),
            arrow.field("heading", arrow.list_(arrow.utf8()), nullable=False),
            arrow.field("page", arrow.int32()),
            arrow.field("start", arrow.int64(), nullable=False),
            arrow.field("end", arrow.int64(), nullable=False),
            arrow.field(TEXT_COLUMN, arrow.utf8(), nullable=False),
            arrow.field("content_hash", arrow.utf8(), nullable=False),
            arrow.field(EMBEDDING_COLUMN, arrow.list_(arrow.float32(), dimensions), nullable=False),
        ]
    )


def is_one_of(documents: Sequence[str]) -> str:
    """An SQL condition on the document column."""
    quoted = ", ".join("'" + document.replace("'", "''") + "'" for document in documents)
    return f"document IN ({quoted})"


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Lists short enough for one condition."""
    rest = iter(documents)
    while batch := list(islice(rest, DOCUMENTS_A_CONDITION)):
        yield batch


class TableWriter:
    """A table below ``store`` (a folder or an s3:// address). It comes into being with the first chunk."""

    def __init__(self, store: str, table: str) -> None:
        # Imported where the writer runs: every process of the pipeline reads this file, and only one needs the seconds.
        import lancedb

        self._name = table
        self._connection: Any = lancedb.connect(store)
        self._table: Any = None
        self._present: dict[str, str] = {}
        self._changed = False
        if table in self._tables():
            self._table = self._connection.open_table(table)
            self._present = self._first_chunks()

    def _tables(self) -> Iterator[str]:
        token = None
        while True:
            page = self._connection.list_tables(page_token=token)
            yield from page.tables
            token = page.page_token
            if not token:
                return

    def _first_chunks(self) -> dict[str, str]:
        count = self._table.count_rows("ordinal = 0")
        if not count:
            return {}
        query = self._table.search().where("ordinal = 0").select(["document", "chunk_id"])
        rows: list[dict[str, str]] = query.limit(count).to_arrow().to_pylist()
        return {row["document"]: row["chunk_id"] for row in rows}

    def present(self) -> dict[str, str]:
        """The id of the first chunk of every document in the table."""
        return dict(self._present)

    def replace(self, documents: Sequence[str], chunks: Table | None) -> None:
        """Make ``chunks`` (of ``documents`` only) all that the table holds of them, in one commit.

        Raises Conflict where the table's vectors have another length: it was made with another model.
        """
        stale = [document for document in documents if document in self._present]
        if chunks is None or not chunks.num_rows:
            self.delete(stale)
            return
        self._open(chunks.schema)
        merge = self._table.merge_insert("chunk_id").when_not_matched_insert_all()
        if stale:
            merge = merge.when_matched_update_all().when_not_matched_by_source_delete(is_one_of(stale))
        merge.execute(chunks)
        self._changed = True
        ids = zip(*(chunks[name].to_pylist() for name in ("document", "chunk_id", "ordinal")), strict=True)
        for document in stale:
            self._present.pop(document)
        self._present.update({document: identity for document, identity, ordinal in ids if ordinal == 0})

    def _open(self, schema: Schema) -> None:
        if self._table is None:
            self._table = self._connection.create_table(self._name, schema=schema)
        held = self._table.schema.field(EMBEDDING_COLUMN).type.list_size
        offered = schema.field(EMBEDDING_COLUMN).type.list_size
        if held != offered:
            raise Conflict(
                f"The knowledge base holds vectors of {held} numbers, the embedding model makes {offered}: "
                "a knowledge base keeps the model it began with."
            )

    def delete(self, documents: Iterable[str]) -> None:
        """Remove all chunks of documents."""
        for batch in batches(document for document in documents if document in self._present):
            self._table.delete(is_one_of(batch))
            self._changed = True
            for document in batch:
                self._present.pop(document)

    def finish(self) -> int:
        """Index what was written, merge small files, drop old versions. Returns the table's number of chunks."""
        # As in __init__.
        from lancedb.index import FTS, BTree

        if self._table is None:
            return 0
        rows = self._table.count_rows()
        indexed = {column for index in self._table.list_indices() for column in index.columns}
        if rows:
            for column, config in ((TEXT_COLUMN, FTS()), ("chunk_id", BTree()), ("document", BTree())):
                if column not in indexed:
                    self._table.create_index(column, config=config)
                    self._changed = True
        if self._changed:
            self._table.optimize(cleanup_older_than=OLD_VERSIONS_KEPT)
            self._changed = False
        return rows
