"""``/v1/rerank``: the application by itself, and behind the gateway."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest

from models.doubles.overlap_scorer import OverlapScorer
from serve.config import ModelRoute, Upstream
from serve.reranker import RerankerApp

Platform = Callable[..., Awaitable[Any]]
DOCUMENTS = ["rain falls in autumn", "the salaries are paid", {"text": "salaries are paid monthly"}]
BODY: dict[str, Any] = {"model": "ranker", "query": "salaries paid monthly", "documents": DOCUMENTS}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
TOKENS = 3 * (3 + 3) + 4 + 4 + 4


@pytest.fixture
async def stage(
    platform: Platform, serve_app: Callable[..., Awaitable[str]], catalogue_entry: Callable[..., Any]
) -> Any:
    entry = catalogue_entry("ranker", "rerank")
    url = await serve_app(RerankerApp(entry, OverlapScorer()))
    upstream = Upstream(name="ranker", base_url=url, internal=True)
    chat = ModelRoute(entry=catalogue_entry("talker"), upstream=upstream)
    return await platform(routes=(ModelRoute(entry=entry, upstream=upstream), chat))


async def rerank(stage: Any, **changes: Any) -> httpx.Response:
    headers = {"authorization": "Bearer good"}
    return await stage.http.post("/v1/rerank", json={**BODY, **changes}, headers=headers)


async def test_documents_come_back_best_first_and_are_metered(stage: Any) -> None:
    answer = await rerank(stage)
    body = answer.json()
    assert [(result["index"], round(result["relevance_score"], 3)) for result in body["results"]] == [
        (2, 1.0),
        (1, 0.667),
        (0, 0.0),
    ]
    assert all(result.keys() == {"index", "relevance_score"} for result in body["results"])
    assert (body["model"], body["usage"]) == ("ranker", {"prompt_tokens": TOKENS, "total_tokens": TOKENS})
    (event,) = await stage.events()
    assert (event.kind, event.status, event.source, event.usage.prompt) == ("rerank", "ok", "provider", TOKENS)
    assert event.cost_micro == TOKENS
    assert answer.headers["x-objecta-upstream"] == "ranker"


async def test_the_best_n_with_their_documents(stage: Any) -> None:
    results = (await rerank(stage, top_n=2, return_documents=True)).json()["results"]
    assert [result["document"] for result in results] == [
        {"text": "salaries are paid monthly"},
        {"text": "the salaries are paid"},
    ]
    assert len((await rerank(stage, top_n=9)).json()["results"]) == 3


async def test_equals_keep_their_order(stage: Any) -> None:
    results = (await rerank(stage, documents=["a", "b", "paid", "c"])).json()["results"]
    assert [result["index"] for result in results] == [2, 0, 1, 3]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": ["x"]}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "x"}, "documents"),
        ({"documents": ["x"] * 2_049}, "documents"),
        ({"documents": ["x", ""]}, "documents[1]"),
        ({"documents": [{"title": "x"}]}, "documents[0]"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"model": "talker"}, "model"),
    ],
)
async def test_what_is_wrong_is_named_and_costs_nothing(stage: Any, changes: dict[str, Any], param: str) -> None:
    answer = await rerank(stage, **changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert await stage.stored() == []


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"documents": ["fits", "w " * 600]}, "context_length_exceeded", "documents"),
        ({"documents": ["w " * 400] * 800}, None, "documents"),
        ({"max_chunks_per_doc": 3}, "unsupported_parameter", "max_chunks_per_doc"),
        ({"documents": [{"text": "x", "title": "y"}]}, "unsupported_parameter", "documents[0].title"),
    ],
)
async def test_what_the_model_cannot_take_is_said(stage: Any, changes: dict[str, Any], code: str, param: str) -> None:
    answer = await rerank(stage, **changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    (event,) = await stage.events()
    assert (event.status, event.cost_micro) == ("error", 0)


async def test_calls_at_once_share_batches_and_get_their_own_scores(catalogue_entry: Callable[..., Any]) -> None:
    app = RerankerApp(catalogue_entry("ranker", "rerank"), OverlapScorer())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        calls = [
            client.post("/v1/rerank", json={"model": "ranker", "query": f"q{number}", "documents": ["q3", "q5", "x"]})
            for number in range(8)
        ]
        answers = await asyncio.gather(*calls)
        other = await client.post("/v1/rerank", json={**BODY, "model": "other"})
        late = client.post("/v1/rerank", json=BODY)
        await app.close()
        closed = await late
    scores = [{result["index"]: result["relevance_score"] for result in answer.json()["results"]} for answer in answers]
    assert [(score[0], score[1], score[2]) for score in scores] == [
        (float(number == 3), float(number == 5), 0.0) for number in range(8)
    ]
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    assert closed.status_code == 503


async def test_the_guide_s_snippet_runs(stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## How do I rerank documents?")[2].partition("\n## ")[0]
    (block,) = re.findall(r"\n\n((?:    .*\n|\n)*    from openai .*\n(?:    .*\n|\n)*)", section)
    code = dedent(block)
    for printed, here in (
        ("http://127.0.0.1:8000", stage.url),
        ("sk-obj-…", "good"),
        ("ms-marco-minilm", "ranker"),
    ):
        assert code.count(printed) == 1
        code = code.replace(printed, here)
    await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "1 0.5\n"
