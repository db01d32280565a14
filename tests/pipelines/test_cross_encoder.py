"""A cross-encoder with real layers and no meaning: a tiny BERT with random weights, saved as any would be."""

import string
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import yaml

from deployments.config import PlatformConfig
from deployments.platform import serve_schema
from deployments.reranker import RerankerReplica, application
from deployments.sections import gateway_config
from models.catalogue import CatalogueEntry, Source
from models.channels import CLUSTER_SECRET_HEADER
from models.usage import Price
from pipelines.cross_encoder import CrossEncoder
from pipelines.encoder import cpu_has_bf16
from serve.reranker import RerankerApp

SECRETS = ("database_url", "redis_url", "cluster_secret", "operator_key", "key_pepper", "ray_token")
PAIRS = [("what is paid", "salaries are paid monthly"), ("what", "x"), ("a b c " * 10, "d e f " * 20)]


def saved(folder: Path, labels: int = 1) -> Path:
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    vocabulary += [f"##{letter}" for letter in string.ascii_lowercase]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    made = BertWordPieceTokenizer(str(folder / "vocab.txt"))
    BertTokenizerFast(tokenizer_object=made._tokenizer, model_max_length=128).save_pretrained(folder)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        num_labels=labels,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("cross") / "model")


def test_scores_are_what_the_network_says_of_each_pair_alone(folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    scorer = CrossEncoder(folder, threads=1)
    scores = scorer.score(PAIRS)
    assert (scores.dtype, scores.shape) == (np.float32, (3,))
    dtype = torch.bfloat16 if cpu_has_bf16() else torch.float32
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        alone = [torch.sigmoid(network(**tokenizer(*pair, return_tensors="pt")).logits).item() for pair in PAIRS]
    np.testing.assert_allclose(scores, alone, atol=0.02)
    assert len({round(float(score), 3) for score in scores}) == 3
    # A document is not a query: the order in a pair is read.
    assert abs(scorer.score([PAIRS[0][::-1]])[0] - scores[0]) > 1e-4


def test_tokens_are_counted_untruncated_with_their_marks(folder: Path) -> None:
    scorer = CrossEncoder(folder, threads=1)
    assert scorer.count_tokens([("a b", "c"), ("a " * 200, "b")]) == [6, 204]
    assert scorer.max_tokens == 128


def test_nothing_in_nothing_out(folder: Path) -> None:
    assert CrossEncoder(folder, threads=1).score([]).shape == (0,)


def test_a_folder_that_is_no_cross_encoder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no cross-encoder"):
        CrossEncoder(tmp_path)
    with pytest.raises(ValueError, match="3 labels"):
        CrossEncoder(saved(tmp_path / "three", labels=3), threads=1)


async def test_it_answers_rerank_calls(folder: Path) -> None:
    price = Price(since="2026-01-01", prompt_micro=1, cached_micro=1, completion_micro=1)
    entry = CatalogueEntry(
        id="cross", kind="rerank", sources=(Source.parse("path:/m"),), context_window=512, prices=(price,)
    )
    scorer = CrossEncoder(folder, threads=1)
    app = RerankerApp(entry, scorer)
    documents = ["salaries", "rain falls in autumn", "x", "paid monthly"]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        answer = await client.post("/v1/rerank", json={"model": "cross", "query": "pay", "documents": documents})
        long = await client.post("/v1/rerank", json={"model": "cross", "query": "pay", "documents": ["x " * 126]})
    await app.close()
    results = answer.json()["results"]
    pairs = [("pay", document) for document in documents]
    scores = scorer.score(pairs)
    assert [result["index"] for result in results] == np.argsort(-scores).tolist()
    np.testing.assert_allclose(
        [result["relevance_score"] for result in results], sorted(scores, reverse=True), atol=0.02
    )
    assert answer.json()["usage"]["total_tokens"] == sum(scorer.count_tokens(pairs))
    # The model reads less than the catalogue says.
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "128 tokens" in long.json()["error"]["message"]


@pytest.fixture
def written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlatformConfig:
    """A configuration that serves the model, in the file that every process reads."""
    price = {"since": "2026-01-01", "prompt_micro": 1, "cached_micro": 1, "completion_micro": 1}
    entry = {"id": "model", "kind": "rerank", "sources": ["path:/m"], "context_window": 128, "prices": [price]}
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump({"models": [entry]}))
    values = {name: name[0] * 32 for name in SECRETS} | {"database_url": "postgresql://x", "redis_url": "redis://x"}
    folders = {"home": tmp_path, "model_store": folder.parent, "catalogue_path": tmp_path / "catalogue.yaml"}
    folders |= {"knowledge_store": tmp_path, "object_store": tmp_path}
    values |= {name: str(path) for name, path in folders.items()}
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump({**values, "models": ["model"]}))
    monkeypatch.setenv("OBJECTA_CONFIG", str(tmp_path / "platform.yaml"))
    return PlatformConfig.load()


def test_a_rerank_model_is_an_application_of_its_own(written: PlatformConfig) -> None:
    found = {item["name"]: item for item in serve_schema(written)["applications"]}
    assert found["reranker-model"] == {
        "name": "reranker-model",
        "route_prefix": "/internal/rerankers/model",
        "import_path": "deployments.reranker:application",
        "args": {"model": "model"},
    }
    (route,) = gateway_config(written).routes
    assert (route.upstream.base_url, route.upstream.internal) == (
        f"{written.gateway_url}/internal/rerankers/model",
        True,
    )
    assert application({"model": "model"})._bound_deployment.init_args == ("model",)


@pytest.mark.usefixtures("written")
async def test_its_replica_answers_behind_the_guard() -> None:
    app = RerankerReplica("model").__serve_build_asgi_app__()
    body = {"model": "model", "query": "pay", "documents": ["a", "b"]}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.post("/v1/rerank", json=body)).status_code == 404
        answer = await client.post("/v1/rerank", json=body, headers={CLUSTER_SECRET_HEADER: "c" * 32})
    assert len(answer.json()["results"]) == 2
