"""What an application developer does, with the official SDK: HAProxy, Serve, vLLM and LanceDB answer."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from models.catalogue import load_catalogue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHAT, EMBEDDER, AGENT = "smollm2-135m-instruct", "all-minilm-l6-v2", "agent/handbook"
LEDGER_SECONDS_MAX = 20.0
INGEST_SECONDS_MAX = 240
QUESTION = [{"role": "user", "content": "How many weeks of paid parental leave may a parent take?"}]


@pytest.fixture(scope="module")
def client(platform) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{platform.gateway_url}/v1", api_key=platform.api_key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def ingest(platform) -> Callable[[], str]:
    def ingest() -> str:
        documents = str(platform.home.parent / "documents")
        arguments = ("ingest", documents, "--knowledge-base", "handbook", "--organisation", platform.organisation)
        return platform.objecta(*arguments, seconds_max=INGEST_SECONDS_MAX)

    return ingest


@pytest.fixture(scope="module")
def ingested(ingest: Callable[[], str]) -> str:
    return ingest()


def settled(platform, request_id: str, count: int) -> list[dict[str, Any]]:
    """The ledger's events of a call, once there are ``count``."""
    deadline = time.monotonic() + LEDGER_SECONDS_MAX
    while True:
        events = platform.events(request_id)
        if len(events) >= count or time.monotonic() > deadline:
            assert len(events) == count, events
            return events
        time.sleep(0.1)


def test_the_models_are_those_this_key_may_use(client: OpenAI) -> None:
    assert {CHAT, EMBEDDER, AGENT} == {model.id for model in client.models.list()}
    assert client.models.retrieve(AGENT).id == AGENT


def test_a_chat_completion_is_answered_and_billed_once(platform, client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=CHAT, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
    )
    answer = raw.parse()
    assert answer.model == CHAT
    assert answer.choices[0].message.content
    assert answer.usage is not None
    (event,) = settled(platform, raw.headers["x-request-id"], 1)
    assert event["status"] == "ok"
    assert event["source"] == "provider"
    assert event["usage"]["completion"] == answer.usage.completion_tokens
    assert event["usage"]["prompt"] + event["usage"]["cached"] == answer.usage.prompt_tokens
    assert event["cost_micro"] > 0


def test_a_stream_ends_with_the_usage_that_was_asked_for(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=CHAT,
            messages=[{"role": "user", "content": "Count to three."}],
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert 1 <= chunks[-1].usage.completion_tokens <= 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_completions_and_embeddings_answer(client: OpenAI) -> None:
    assert client.completions.create(model=CHAT, prompt="Rome is", max_tokens=4).choices[0].text
    answer = client.embeddings.create(model=EMBEDDER, input=["one text", "another text"])
    assert [len(item.embedding) for item in answer.data] == [384, 384]


def test_documents_become_a_manifest_with_reasons_and_a_second_run_changes_nothing(
    platform, ingested: str, ingest: Callable[[], str]
) -> None:
    assert "3 documents (1 failed)" in ingested
    documents = f"/organisations/{platform.organisation}/knowledge-bases/{platform.knowledge_base}/documents"
    with platform.control_plane(platform.admin_key) as admin:
        before = admin.get(documents).json()["data"]
        assert {row["document"]: row["state"] for row in before} == {
            "leave.md": "indexed",
            "office.html": "indexed",
            "empty.txt": "failed",
        }
        assert next(row for row in before if row["document"] == "empty.txt")["code"] == "empty"
        ingest()
        keep = ("document", "state", "content_hash", "chunks")
        after = admin.get(documents).json()["data"]
        assert [[row[name] for name in keep] for row in after] == [[row[name] for name in keep] for row in before]


@pytest.mark.usefixtures("ingested")
def test_an_ingestion_that_fails_says_why(platform, tmp_path: Path) -> None:
    bases = f"/organisations/{platform.organisation}/knowledge-bases"
    with platform.control_plane(platform.operator_key) as operator:
        base = operator.post(bases, json={"name": "empty", "embedding_model": EMBEDDER}).json()
        path = f"{bases}/{base['id']}/ingestions"
        made = operator.post(path, json={"path": str(tmp_path)})
        assert made.is_success, made.text
        deadline = time.monotonic() + INGEST_SECONDS_MAX
        while (run := operator.get(f"{path}/{made.json()['id']}").json())["state"] in {"queued", "running"}:
            assert time.monotonic() < deadline, run
            time.sleep(0.2)
    assert run["state"] == "failed"
    assert "holds no documents" in run["error"]


def test_an_agent_answers_from_the_documents_with_annotations(platform, client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=AGENT, messages=QUESTION)
    message = raw.parse().choices[0].message
    assert message.content
    assert message.annotations
    cited = message.annotations[0].url_citation.model_extra or {}
    assert cited["document"] == "leave.md"
    assert cited["heading"] == ["Leave", "Parental leave"]
    assert cited["score"] > 0.3
    events = settled(platform, raw.headers["x-request-id"], 3)
    assert sorted(event["kind"] for event in events) == ["agent", "chat", "embedding"]
    assert {event["kind"]: event["cost_micro"] == 0 for event in events}["agent"]


@pytest.mark.usefixtures("ingested")
def test_an_agent_streams_and_says_when_it_has_no_answer(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=AGENT, messages=QUESTION, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    extras = [(chunk.choices[0].delta.model_extra or {}) for chunk in chunks if chunk.choices]
    assert any(extra.get("annotations") for extra in extras)
    answer = client.chat.completions.create(
        model=AGENT, messages=[{"role": "user", "content": "zebra quantum chromodynamics lagrangian?"}]
    )
    assert answer.choices[0].message.content == "The knowledge base has no answer to that."
    assert not answer.choices[0].message.annotations


def test_wrong_calls_get_the_sdk_s_own_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "word " * 9_000}])
    assert long.value.code == "context_length_exceeded"
    window = next(entry.context_window for entry in load_catalogue().models if entry.id == CHAT)
    counts = {int(number) for number in re.findall(r"\d+", long.value.message)}
    assert window in counts
    assert max(counts) > window, long.value.message
    stranger = client.with_options(api_key="sk-obj-wrong")
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_internal_applications_are_not_there_without_the_secret(platform) -> None:
    for path in (f"/internal/engines/{CHAT}/v1/models", "/internal/agents/v1/chat/completions", "/internal/retrieval"):
        answer = httpx.post(platform.gateway_url + path, json={}, trust_env=False)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["code"] == "not_found"


def test_an_answer_has_one_request_id_the_client_s_own(client: OpenAI) -> None:
    raw = client.models.with_raw_response.list(extra_headers={"x-request-id": "e2e-1"})
    assert raw.headers.get_list("x-request-id") == ["e2e-1"]


def test_who_hangs_up_stops_the_engine_and_is_billed_once_for_what_was_made(platform, client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=CHAT,
        messages=[{"role": "user", "content": "Tell a very long story."}],
        max_tokens=2_000,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers={"x-request-id": "e2e-hang-up"},
    )
    next(iter(stream))
    stream.close()
    (event,) = settled(platform, "e2e-hang-up", 1)
    assert event["status"] == "client_gone"
    assert 0 < event["usage"]["completion"] < 500


def test_a_revoked_key_is_refused_within_a_second(platform) -> None:
    with platform.control_plane(platform.admin_key) as admin:
        base = f"/organisations/{platform.organisation}/api-keys"
        key = admin.post(base, json={"name": "short", "project_id": platform.project}).json()
        with OpenAI(base_url=f"{platform.gateway_url}/v1", api_key=key["key"], max_retries=0) as client:
            client.models.list()
            assert admin.delete(f"{base}/{key['id']}").is_success
            deadline = time.monotonic() + 1.0
            refused = False
            while not refused and time.monotonic() < deadline:
                try:
                    client.models.list()
                except openai.AuthenticationError:
                    refused = True
    assert refused
