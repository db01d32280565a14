"""Retrieval over a real LanceDB."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.db import AsyncConnection
from lancedb.index import FTS

from models.documents import Chunk, SearchRequest, table_name
from models.doubles.hash_embedder import HashEmbedder
from serve.knowledge import KnowledgeStore
from serve.retrieval import RetrievalApp

EMBEDDER = HashEmbedder(64)
SCHEMA = pa.schema(
    [
        ("chunk_id", pa.string()),
        ("document", pa.string()),
        ("ordinal", pa.int32()),
        ("heading", pa.list_(pa.string())),
        ("page", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
        ("content_hash", pa.string()),
        ("vector", pa.list_(pa.float32(), 64)),
    ]
)
TEXTS = ["Refunds take fourteen days.", "The office has a garden.", "Cats AND dogs (all of them) may visit the office."]


def rows(texts: list[str], vectors: Any = None) -> list[dict[str, Any]]:
    vectors = EMBEDDER.encode(texts) if vectors is None else vectors
    made: list[dict[str, Any]] = []
    for number, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
        chunk = Chunk(
            chunk_id=f"{number}-{text[:8]}",
            document=f"doc-{number}.md",
            ordinal=number,
            heading=("Handbook", "Rules"),
            page=3 if number else None,
            start=10,
            end=10 + len(text),
            text=text,
            content_hash="0",
        )
        made.append({**chunk.model_dump(), "vector": vector})
    return made


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[AsyncConnection]:
    connection = await lancedb.connect_async(tmp_path)
    yield connection
    connection.close()


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = RetrievalApp(str(tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        yield client
    await app.close()


async def make(database: AsyncConnection, texts: list[str], organisation: str = "org", *, index: bool = True) -> None:
    table = await database.create_table(table_name(organisation, "kb"), rows(texts), schema=SCHEMA)
    if index:
        await table.create_index("text", config=FTS())


def body(text: str, **more: object) -> dict[str, object]:
    vector = EMBEDDER.encode([text])[0].tolist()
    return {"organisation_id": "org", "knowledge_base_id": "kb", "text": text, "vector": vector, **more}


async def found(http: httpx.AsyncClient, text: str, **more: object) -> list[dict[str, Any]]:
    answer = await http.post("/search", json=body(text, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()["passages"]


async def test_the_best_passage_comes_first_with_all_its_fields(
    database: AsyncConnection, http: httpx.AsyncClient
) -> None:
    await make(database, TEXTS)
    passages = await found(http, "refunds take how many days")
    cosine = float(EMBEDDER.encode([TEXTS[0]])[0] @ EMBEDDER.encode(["refunds take how many days"])[0])
    assert passages[0] == {
        "chunk_id": "0-Refunds ",
        "document": "doc-0.md",
        "heading": ["Handbook", "Rules"],
        "page": None,
        "start": 10,
        "end": 10 + len(TEXTS[0]),
        "text": TEXTS[0],
        "score": pytest.approx(cosine, abs=1e-6),
        "rank_score": pytest.approx(2 / 61),
    }
    assert [p["rank_score"] for p in passages] == sorted((p["rank_score"] for p in passages), reverse=True)


async def test_full_text_lifts_a_passage_that_its_vector_hides(
    database: AsyncConnection, http: httpx.AsyncClient
) -> None:
    texts = [f"filler number {n}" for n in range(40)] + ["the xylophone lives here"]
    vectors = EMBEDDER.encode(texts)
    vector = EMBEDDER.encode(["filler number"])[0]
    # Opposite to the query: the twenty candidates of the vector search do not hold it.
    vectors[-1] = -vector
    table = await database.create_table(table_name("org", "kb"), rows(texts, vectors), schema=SCHEMA)
    search = {"vector": vector.tolist(), "limit": 2, "score_threshold": -1}
    assert all("filler" in passage["text"] for passage in await found(http, "a xylophone", **search))
    await table.create_index("text", config=FTS())
    async with asyncio.timeout(1):
        hits: list[dict[str, Any]] = []
        while not hits:
            hits = [p for p in await found(http, "a xylophone", **search) if "xylophone" in p["text"]]
    assert hits[0]["score"] == pytest.approx(-1.0, abs=1e-5)
    assert hits[0]["rank_score"] == pytest.approx(1 / 61)
    above = await found(http, "a xylophone", **{**search, "score_threshold": 0})
    assert all("filler" in passage["text"] for passage in above)


@pytest.mark.parametrize("text", ['Cats AND (dogs"', "+cats -dogs", "text:cats*", "~", "the", "\x00cats", "{'a': 1}"])
async def test_what_a_user_writes_is_words_not_syntax(
    database: AsyncConnection, http: httpx.AsyncClient, text: str
) -> None:
    await make(database, TEXTS)
    assert len(await found(http, text, score_threshold=-1)) == 3


async def test_the_threshold_and_the_limit_hold(database: AsyncConnection, http: httpx.AsyncClient) -> None:
    await make(database, TEXTS)
    passages = await found(http, "refunds take fourteen days", score_threshold=0.9)
    assert [passage["document"] for passage in passages] == ["doc-0.md"]
    assert len(await found(http, "office", limit=2, score_threshold=-1)) == 2


async def test_without_a_full_text_index_vectors_alone_rank(database: AsyncConnection, http: httpx.AsyncClient) -> None:
    await make(database, TEXTS, index=False)
    passages = await found(http, "refunds take fourteen days")
    assert (passages[0]["document"], passages[0]["rank_score"]) == ("doc-0.md", pytest.approx(1 / 61))


async def test_another_organisation_s_table_is_not_read(database: AsyncConnection, http: httpx.AsyncClient) -> None:
    await make(database, ["Secret of the other tenant."], organisation="other")
    assert await found(http, "Secret of the other tenant.") == []
    stolen = await http.post("/search", json={**body("x"), "knowledge_base_id": "../other.kb"})
    assert (stolen.status_code, stolen.json()["error"]["param"]) == (400, "knowledge_base_id")


async def test_a_write_an_index_a_drop_and_a_new_table_are_seen_within_a_second(
    database: AsyncConnection, http: httpx.AsyncClient
) -> None:
    async def sees(count: int) -> None:
        async with asyncio.timeout(1):
            while len(await found(http, "office", score_threshold=-1)) != count:
                pass

    assert await found(http, "office") == []
    await make(database, TEXTS)
    await sees(3)
    await (await database.open_table(table_name("org", "kb"))).add(rows(["One more office."]))
    await sees(4)
    await database.drop_table(table_name("org", "kb"))
    await sees(0)
    await make(database, TEXTS[:2])
    await sees(2)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"vector": [1.0, 2.0]}, "vector"),
        ({"vector": [0.0] * 64}, "vector"),
        ({"vector": []}, "vector"),
        ({"text": ""}, "text"),
        ({"limit": 51}, "limit"),
        ({"more": 1}, "more"),
    ],
)
async def test_a_bad_search_names_its_field(
    database: AsyncConnection, http: httpx.AsyncClient, change: dict[str, object], param: str
) -> None:
    await make(database, TEXTS)
    answer = await http.post("/search", json={**body("x"), **change})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_broken_store_is_unavailable_and_tells_no_path(
    database: AsyncConnection, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    await make(database, TEXTS)
    assert await found(http, "office")
    shutil.rmtree(tmp_path / f"{table_name('org', 'kb')}.lance" / "data")
    answer = await http.post("/search", json=body("office"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert str(tmp_path) not in answer.text


async def test_handles_are_bounded(database: AsyncConnection, tmp_path: Path) -> None:
    store = KnowledgeStore(str(tmp_path), tables_max=1)
    for organisation in ("a", "b"):
        await make(database, TEXTS, organisation=organisation, index=False)
    for organisation in ("a", "b", "a"):
        request = SearchRequest(
            organisation_id=organisation, knowledge_base_id="kb", text="office", vector=tuple(np.ones(64).tolist())
        )
        assert len(await store.search(request)) == 3
    store.close()
    store.close()
