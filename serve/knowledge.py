"""Reading knowledge bases in LanceDB: vectors and full text, fused.

Invariants
1. The table is named by ``models.documents.table_name`` alone, from the request's organisation and knowledge base.
2. A committed write is seen within ``CONSISTENCY``; a knowledge base that was never ingested is empty, not an error.
3. What a user writes is a bag of words for the full text index, never query syntax.
4. ``score`` is computed from the stored vector for every hit, so it means the same however the passage was found.

Tables without a vector index are searched exactly; with one, ``REFINE_FACTOR`` re-ranks by the full vectors.
"""

from collections import OrderedDict
from datetime import timedelta
from typing import Any, cast

import lancedb
import numpy as np
from lancedb.query import MatchQuery
from numpy.typing import NDArray

from models.documents import EMBEDDING_COLUMN, TEXT_COLUMN, Passage, SearchRequest, table_name
from models.errors import InvalidRequest, Unavailable
from serve.fusion import fuse

CONSISTENCY = timedelta(milliseconds=500)
TABLES_MAX = 256
CANDIDATES_MIN = 20
CANDIDATES_PER_PASSAGE = 4
REFINE_FACTOR = 10
COLUMNS = ["chunk_id", "document", "heading", "page", "start", "end", TEXT_COLUMN, EMBEDDING_COLUMN]
FULL_TEXT_INDEX = "FTS"

Row = dict[str, Any]
# LanceDB's own types are partial: its connection and tables are untyped here, its rows become Passages.
Connection = Any
Table = Any
connect: Any = cast("Any", lancedb).connect_async


class KnowledgeStore:
    """The knowledge bases below one LanceDB root (a folder or an s3:// address)."""

    def __init__(self, store: str, tables_max: int = TABLES_MAX) -> None:
        self._store = store
        self._tables_max = tables_max
        self._connection: Connection = None
        self._tables: OrderedDict[str, Table] = OrderedDict()

    async def search(self, request: SearchRequest) -> list[Passage]:
        """At most ``request.limit`` passages, best first.

        Raises InvalidRequest for a bad id or vector, Unavailable where the store does not answer.
        """
        try:
            name = table_name(request.organisation_id, request.knowledge_base_id)
        except ValueError as error:
            raise InvalidRequest(f"Bad knowledge base: {error}.", param="knowledge_base_id") from error
        query = np.array(request.vector, dtype=np.float32)
        if not np.isfinite(query).all() or not query.any():
            raise InvalidRequest("The vector must be finite and not zero.", param="vector")
        rankings = await self._rankings(name, request, query)
        return _passages(rankings, request, query)

    def close(self) -> None:
        """Let go of every table."""
        while self._tables:
            self._tables.popitem()[1].close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _rankings(self, name: str, request: SearchRequest, query: NDArray[np.float32]) -> list[list[Row]]:
        """The hits of each kind of search. A cached handle may be of a table since dropped: then it is opened anew."""
        cached = name in self._tables
        try:
            table = await self._table(name)
            return [] if table is None else await _search(table, request, query)
        except (RuntimeError, OSError) as error:
            self._forget(name)
            if cached:
                return await self._rankings(name, request, query)
            raise Unavailable("The knowledge store does not answer.", retry_after_seconds=1.0) from error

    async def _table(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            if self._connection is None:
                self._connection = await connect(self._store, read_consistency_interval=CONSISTENCY)
            try:
                table = await self._connection.open_table(name)
            except ValueError as error:
                if "was not found" not in str(error):
                    raise
                return None
            self._forget(name)
            self._tables[name] = table
            while len(self._tables) > self._tables_max:
                # Not closed: a search may be using it. The last reference closes it.
                self._tables.popitem(last=False)
        self._tables.move_to_end(name)
        return table

    def _forget(self, name: str) -> None:
        self._tables.pop(name, None)


async def _search(table: Table, request: SearchRequest, query: NDArray[np.float32]) -> list[list[Row]]:
    dimensions = int((await table.schema()).field(EMBEDDING_COLUMN).type.list_size)
    if len(query) != dimensions:
        raise InvalidRequest(
            f"The knowledge base's vectors have {dimensions} dimensions; the query's has {len(query)}.", param="vector"
        )
    limit = max(CANDIDATES_MIN, request.limit * CANDIDATES_PER_PASSAGE)
    nearest = table.query().nearest_to(query).distance_type("cosine").refine_factor(REFINE_FACTOR)
    rankings = [await _rows(nearest.select([*COLUMNS, "_distance"]).limit(limit))]
    indices = await table.list_indices()
    if any(index.index_type == FULL_TEXT_INDEX and index.columns == [TEXT_COLUMN] for index in indices):
        matching = table.query().nearest_to_text(_words(request.text))
        rankings.append(await _rows(matching.select([*COLUMNS, "_score"]).limit(limit)))
    return rankings


def _words(text: str) -> MatchQuery:
    return MatchQuery(text, TEXT_COLUMN)  # pyright: ignore[reportCallIssue] - its defaults are not seen


async def _rows(query: Any) -> list[Row]:
    return cast("list[Row]", (await query.to_arrow()).to_pylist())


def _passages(rankings: list[list[Row]], request: SearchRequest, query: NDArray[np.float32]) -> list[Passage]:
    rows = {str(row["chunk_id"]): row for ranking in rankings for row in ranking}
    fused = fuse([str(row["chunk_id"]) for row in ranking] for ranking in rankings)
    passages = [
        Passage(
            chunk_id=chunk,
            document=row["document"],
            heading=tuple(row["heading"] or ()),
            page=row["page"],
            start=row["start"],
            end=row["end"],
            text=row[TEXT_COLUMN],
            score=_cosine(query, np.array(row[EMBEDDING_COLUMN], dtype=np.float32)),
            rank_score=fused[chunk],
        )
        for chunk, row in rows.items()
    ]
    relevant = [passage for passage in passages if passage.score >= request.score_threshold]
    relevant.sort(key=lambda passage: (-passage.rank_score, -passage.score, passage.chunk_id))
    return relevant[: request.limit]


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(np.clip(np.dot(left, right) / lengths, -1.0, 1.0)) if lengths else 0.0
