"""The writer against a real LanceDB."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from models.documents import table_name
from models.errors import Conflict
from pipelines.writer import TableWriter, chunk_schema

TABLE = table_name("org", "kb")


def chunks(*documents: str, version: str = "1", count: int = 3, dimensions: int = 4) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "chunk_id": f"{document}-{version}-{ordinal}",
            "document": document,
            "ordinal": ordinal,
            "heading": ["Top"],
            "page": None,
            "start": 0,
            "end": 4,
            "text": f"word {version} in {document}",
            "content_hash": version,
            "vector": [1.0] + [0.0] * (dimensions - 1),
        }
        for document in documents
        for ordinal in range(count)
    ]
    return pa.Table.from_pylist(rows, chunk_schema(dimensions))


def ids(writer: TableWriter) -> list[str]:
    return sorted(writer._table.to_arrow()["chunk_id"].to_pylist())


@pytest.fixture
def writer(tmp_path: Path) -> TableWriter:
    return TableWriter(str(tmp_path), TABLE)


def test_writing_twice_is_writing_once(writer: TableWriter, tmp_path: Path) -> None:
    for _ in range(2):
        writer.replace(["a", "b"], chunks("a", "b"))
    again = TableWriter(str(tmp_path), TABLE)
    again.replace(["a"], chunks("a"))
    assert len(ids(again)) == len(set(ids(again))) == 6
    assert again.present() == {"a": "a-1-0", "b": "b-1-0"}


def test_a_changed_document_replaces_its_chunks_in_one_commit(writer: TableWriter) -> None:
    writer.replace(["a", "b"], chunks("a", "b"))
    version = writer._table.version
    writer.replace(["a"], chunks("a", version="2", count=1))
    assert writer._table.version == version + 1
    assert ids(writer) == ["a-2-0", "b-1-0", "b-1-1", "b-1-2"]


def test_a_document_that_has_no_chunks_any_more_goes(writer: TableWriter) -> None:
    writer.replace(["a", "b"], chunks("a", "b"))
    writer.replace(["a"], None)
    assert set(writer.present()) == {"b"}
    assert all(identity.startswith("b") for identity in ids(writer))


@pytest.mark.parametrize("name", ["it's.md", "a') OR ('1'='1", "naïve/ünïcode.md", '"quoted".md', "back\\slash.md"])
def test_a_name_is_data_in_every_condition(writer: TableWriter, name: str) -> None:
    writer.replace([name, "other"], chunks(name, "other"))
    writer.replace([name], chunks(name, version="2", count=1))
    assert len(ids(writer)) == 4
    writer.delete([name])
    assert {identity.split("-")[0] for identity in ids(writer)} == {"other"}


def test_finish_indexes_once_and_again_changes_nothing(writer: TableWriter, tmp_path: Path) -> None:
    writer.replace(["a"], chunks("a"))
    assert writer.finish() == 3
    indices = {column: kind.index_type for kind in writer._table.list_indices() for column in kind.columns}
    assert indices == {"text": "FTS", "chunk_id": "BTree", "document": "BTree"}
    version = writer._table.version
    again = TableWriter(str(tmp_path), TABLE)
    again.finish()
    assert again._table.version == version


def test_full_text_finds_what_was_written_after_the_index(writer: TableWriter) -> None:
    writer.replace(["a"], chunks("a"))
    writer.finish()
    writer.replace(["late"], chunks("late", version="zebra", count=1))
    writer.finish()
    hits = writer._table.search("zebra", query_type="fts").limit(5).to_list()
    assert [hit["document"] for hit in hits] == ["late"]
    assert len(writer._table.list_indices()) == 3


def test_another_models_vectors_are_refused(writer: TableWriter) -> None:
    writer.replace(["a"], chunks("a"))
    with pytest.raises(Conflict, match=r"4 numbers.*8"):
        writer.replace(["b"], chunks("b", dimensions=8))


def test_an_empty_store_stays_empty(writer: TableWriter) -> None:
    writer.replace(["a"], None)
    writer.delete(["a"])
    assert writer.finish() == 0
    assert writer.present() == {}
