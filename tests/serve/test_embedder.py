"""The embedder, through OpenAI's client and the raw wire."""

import asyncio
import base64
import threading
from collections.abc import Sequence
from typing import Any

import httpx
import httpx2
import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from models.catalogue import CatalogueEntry
from models.doubles.hash_embedder import HashEmbedder
from models.errors import Unavailable
from serve.asgi import Message
from serve.batching import Batcher
from serve.embedder import EmbedderApp

ENTRY = CatalogueEntry.model_validate(
    {
        "id": "hash-64",
        "kind": "embedding",
        "sources": ["path:/nowhere"],
        "context_window": 12,
        "dimensions": 64,
        "prices": [{"since": "2026-01-01", "prompt_micro": 1, "cached_micro": 1, "completion_micro": 0}],
    }
)


class GatedEmbedder(HashEmbedder):
    """Notes each batch and holds it until ``gate`` is open; a text with ``poison`` breaks its batch."""

    def __init__(self) -> None:
        super().__init__(64)
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)

    async def working(self) -> None:
        """Returns once another batch has begun."""
        assert await asyncio.to_thread(self.started.acquire, timeout=10)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        self.started.release()
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(10)
        if any("poison" in text for text in texts):
            raise RuntimeError("secret inner detail")
        return super().encode(texts)


def http(app: EmbedderApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")


def sdk(app: EmbedderApp) -> openai.AsyncOpenAI:
    client = openai.DefaultAsyncHttpxClient(transport=httpx2.ASGITransport(app))
    return openai.AsyncOpenAI(base_url="http://x/v1", api_key="k", max_retries=0, http_client=client)


@pytest.mark.parametrize("value", ["the cat", ["the cat"], ["the cat", "a dog sat", "x"]])
async def test_vectors_come_back_in_order_with_exact_usage(value: str | list[str]) -> None:
    texts = [value] if isinstance(value, str) else value
    app = EmbedderApp(ENTRY, HashEmbedder(64))
    expected = HashEmbedder(64).encode(texts)
    async with http(app) as client:
        answer = await client.post("/v1/embeddings", json={"model": "hash-64", "input": value, "user": "u"})
        packed = await client.post(
            "/v1/embeddings", json={"model": "hash-64", "input": value, "encoding_format": "base64", "dimensions": 64}
        )
    body = answer.json()
    tokens = sum(len(text.split()) + 2 for text in texts)
    assert body["object"] == "list"
    assert body["model"] == "hash-64"
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", i) for i in range(len(texts))]
    np.testing.assert_array_equal(np.array([d["embedding"] for d in body["data"]], dtype=np.float32), expected)
    unpacked = [np.frombuffer(base64.b64decode(d["embedding"]), dtype="<f4") for d in packed.json()["data"]]
    np.testing.assert_array_equal(np.array(unpacked), expected)
    await app.close()


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"input": ""}, "input", "empty text"),
        ({"input": ["a", ""]}, "input", "(at 1)"),
        ({"input": []}, "input", "it has 0"),
        ({"input": ["a"] * 2049}, "input", "it has 2049"),
        ({"input": [1, 30_522]}, "input", "from 0 to 30521 (at 0"),
        ({"input": [[1], [-1]]}, "input", "from 0 to 30521 (at 1"),
        ({"input": [[1], [True]]}, "input", "(at 1"),
        ({"input": [[1], ["a"]]}, "input", "(at 1"),
        ({"input": [[1], []]}, "input", "empty text (at 1)"),
        ({"input": ["a", 1]}, "input", "string, an array of strings"),
        ({"input": None}, "input", "string, an array of strings"),
        ({"input": {"a": 1}}, "input", "string, an array of strings"),
        ({"dimensions": 32}, "dimensions", "64 dimensions"),
        ({"dimensions": 0}, "dimensions", "greater"),
        ({"encoding_format": "hex"}, "encoding_format", "float"),
        ({"mode": 1}, "mode", "Unsupported"),
        ({"model": 3}, "model", "string"),
    ],
)
async def test_a_bad_parameter_is_named(change: dict[str, object], param: str, says: str) -> None:
    async with http(EmbedderApp(ENTRY, HashEmbedder(64))) as client:
        answer = await client.post("/v1/embeddings", json={"model": "hash-64", "input": "a", **change})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert says in error["message"]


@pytest.mark.contract("embeddings.input")
async def test_tokens_of_the_model_are_taken_for_text() -> None:
    app = EmbedderApp(ENTRY, HashEmbedder(64))
    answers: list[dict[str, Any]] = []
    async with http(app) as client:
        for given in ("7 8", ["7 8", "9"], [7, 8], [[7, 8], [9]]):
            answer = await client.post("/v1/embeddings", json={"model": "hash-64", "input": given})
            assert answer.status_code == 200
            answers.append(answer.json())
    one, several, as_tokens, as_several = ((answer["data"], answer["usage"]) for answer in answers)
    assert (one, several) == (as_tokens, as_several)
    await app.close()


@pytest.mark.parametrize(
    ("body", "param"),
    [(b"", None), (b"{", None), (b"[" * 9_999, None), (b"[]", None), (b'{"model":"hash-64"}', "input")],
)
async def test_a_body_that_is_not_a_request_is_refused(body: bytes, param: str | None) -> None:
    async with http(EmbedderApp(ENTRY, HashEmbedder(64))) as client:
        answer = await client.post("/v1/embeddings", content=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_errors_of_model_length_size_path_and_method() -> None:
    async with http(EmbedderApp(ENTRY, HashEmbedder(64))) as client:
        wrong = await client.post("/v1/embeddings", json={"model": "other", "input": "a"})
        long = await client.post("/v1/embeddings", json={"model": "hash-64", "input": ["a", "w " * 11]})
        total = await client.post("/v1/embeddings", json={"model": "hash-64", "input": ["w " * 10] * 2048})
        huge = await client.post("/v1/embeddings", content=b"x" * (10 * 1024 * 1024 + 1))
        path = await client.get("/v1/nothing")
        method = await client.get("/v1/embeddings")
        health = await client.get("/health")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "12 tokens" in long.json()["error"]["message"]
    assert "input 1 has 13 tokens" in long.json()["error"]["message"]
    assert total.status_code == 200
    assert [answer.status_code for answer in (huge, path, method, health)] == [413, 404, 405, 200]


async def test_a_request_above_the_token_limit_is_refused() -> None:
    entry = ENTRY.model_copy(update={"context_window": 1_000})
    async with http(EmbedderApp(entry, HashEmbedder(64))) as client:
        answer = await client.post("/v1/embeddings", json={"model": "hash-64", "input": ["w " * 500] * 600})
    assert answer.status_code == 400
    assert "301200" in answer.json()["error"]["message"]


async def test_the_official_client_reads_it() -> None:
    app = EmbedderApp(ENTRY, HashEmbedder(64))
    answer = await sdk(app).embeddings.create(model="hash-64", input=["one", "two"])
    np.testing.assert_allclose(answer.data[1].embedding, HashEmbedder(64).encode(["two"])[0])
    with pytest.raises(openai.BadRequestError, match="maximum context length is 12 tokens"):
        await sdk(app).embeddings.create(model="hash-64", input="w " * 20)


async def test_what_waits_becomes_one_batch_sorted_by_length_on_one_thread() -> None:
    encoder = GatedEmbedder()
    batcher = Batcher(encoder)
    encoder.gate.clear()
    first = asyncio.create_task(batcher.encode(["first"], [3]))
    await encoder.working()
    rest = [asyncio.create_task(batcher.encode([text], [len(text)])) for text in ("a", "ccc", "bb")]
    await asyncio.sleep(0)
    encoder.gate.set()
    vectors = await asyncio.gather(first, *rest)
    assert encoder.batches == [["first"], ["ccc", "bb", "a"]]
    for text, rows in zip(("first", "a", "ccc", "bb"), vectors, strict=True):
        np.testing.assert_array_equal(rows, HashEmbedder(64).encode([text]))
    assert len(encoder.threads) == 1
    await batcher.close()


async def test_a_small_call_waits_for_one_batch_of_a_large_one_not_for_all() -> None:
    encoder = GatedEmbedder()
    batcher = Batcher(encoder, batch_tokens_max=10)
    encoder.gate.clear()
    large = asyncio.create_task(batcher.encode([f"t{n}" for n in range(20)], [5] * 20))
    await encoder.working()
    small = asyncio.create_task(batcher.encode(["small"], [5]))
    await asyncio.sleep(0)
    encoder.gate.set()
    await small
    assert encoder.batches[1] == ["t2", "small"]
    np.testing.assert_array_equal(await large, HashEmbedder(64).encode([f"t{n}" for n in range(20)]))
    assert all(len(batch) <= 2 for batch in encoder.batches)
    await batcher.close()


async def test_a_text_above_the_budget_is_a_batch_by_itself() -> None:
    encoder = GatedEmbedder()
    batcher = Batcher(encoder, batch_tokens_max=10)
    await batcher.encode(["long", "short"], [50, 1])
    assert encoder.batches == [["long"], ["short"]]
    await batcher.close()


async def test_the_error_of_one_call_does_not_hurt_another() -> None:
    encoder = GatedEmbedder()
    app = EmbedderApp(ENTRY, encoder)
    async with http(app) as client:

        async def ask(text: str) -> httpx.Response:
            return await client.post("/v1/embeddings", json={"model": "hash-64", "input": text})

        encoder.gate.clear()
        first = asyncio.create_task(ask("first"))
        await encoder.working()
        others = [asyncio.create_task(ask("poison")), asyncio.create_task(ask("good"))]
        # Counting shares the encoder's thread, so both calls form their batch only once the gate opens.
        encoder.gate.set()
        good, bad = await others[1], await others[0]
        assert (await first).status_code == good.status_code == 200
    assert (bad.status_code, bad.json()["error"]["type"]) == (502, "upstream_error")
    assert "secret" not in bad.text
    await app.close()


async def test_a_poisoned_batch_is_retried_call_by_call() -> None:
    encoder = GatedEmbedder()
    batcher = Batcher(encoder)
    encoder.gate.clear()
    first = asyncio.create_task(batcher.encode(["first"], [1]))
    await encoder.working()
    calls = [asyncio.create_task(batcher.encode([text], [1])) for text in ("poison", "good")]
    await asyncio.sleep(0)
    encoder.gate.set()
    bad, good = await asyncio.gather(*calls, return_exceptions=True)
    await first
    assert str(bad) == "The model failed on this input."
    np.testing.assert_array_equal(good, HashEmbedder(64).encode(["good"]))
    assert encoder.batches[1:] == [["poison", "good"], ["poison"], ["good"]]
    await batcher.close()


async def test_the_waiting_texts_of_a_caller_that_left_are_dropped() -> None:
    encoder = GatedEmbedder()
    batcher = Batcher(encoder, batch_tokens_max=1)
    encoder.gate.clear()
    gone = asyncio.create_task(batcher.encode(["g1", "g2"], [1, 1]))
    await encoder.working()
    stays = asyncio.create_task(batcher.encode(["stays"], [1]))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait({gone})
    encoder.gate.set()
    await stays
    assert encoder.batches == [["g1"], ["stays"]]
    await batcher.close()


async def test_a_hang_up_cancels_the_call() -> None:
    encoder = GatedEmbedder()
    app = EmbedderApp(ENTRY, encoder)
    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b'{"model":"hash-64","input":"x"}'})
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    encoder.gate.clear()
    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": []}
    call = asyncio.create_task(app(scope, messages.get, send))
    await encoder.working()
    messages.put_nowait({"type": "http.disconnect"})
    async with asyncio.timeout(5):
        await call
    assert sent == []
    encoder.gate.set()
    await app.close()


async def test_it_refuses_above_its_limit_and_after_closing() -> None:
    encoder = GatedEmbedder()
    batcher = Batcher(encoder, waiting_calls_max=1)
    encoder.gate.clear()
    first = asyncio.create_task(batcher.encode(["a", "b"], [9_000, 9_000]))
    await encoder.working()
    with pytest.raises(Unavailable, match="no more requests"):
        await batcher.encode(["b"], [1])
    closing = asyncio.create_task(batcher.close())
    with pytest.raises(Unavailable, match="shutting down"):
        await first
    encoder.gate.set()
    await closing
    assert encoder.batches == [["a"]]
    with pytest.raises(Unavailable):
        await batcher.count(["c"])
    await Batcher(HashEmbedder(64)).close()
