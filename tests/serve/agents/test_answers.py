"""An agent's answers, through OpenAI's client."""

import asyncio
import logging
from typing import Any

import httpx
import pytest

from models.channels import CLUSTER_SECRET_HEADER, PARENT_REQUEST_HEADER, PRINCIPAL_HEADER
from models.identity import Principal

QUESTION = [{"role": "user", "content": "Within how many days are refunds paid?"}]
ANSWER = "Refunds are paid within fourteen days."
CITED = {
    "type": "url_citation",
    "url_citation": {
        "start_index": 0,
        "end_index": len(ANSWER),
        "url": "kb://kb/refunds.md#100-163",
        "title": "refunds.md, Handbook > Refunds",
        "document": "refunds.md",
        "heading": ["Handbook", "Refunds"],
        "page": 2,
        "chunk_id": "refunds.md",
        "start": 100,
        "end": 163,
    },
}
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 7,
    "total_tokens": 37,
    "prompt_tokens_details": {"cached_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def without_score(annotation: dict[str, Any]) -> dict[str, Any]:
    cited = dict(annotation["url_citation"])
    assert 0.3 <= cited.pop("score") <= 1.0
    return {"type": annotation["type"], "url_citation": cited}


async def test_an_answer_is_grounded_and_cited(runtime, peer) -> None:
    answer = await runtime.client.chat.completions.create(model="agent/handbook", messages=QUESTION)
    plain = answer.model_dump(exclude_unset=True)
    message = plain["choices"][0]["message"]
    assert plain["object"] == "chat.completion"
    assert plain["model"] == "agent/handbook"
    assert plain["usage"] == USAGE
    assert (message["role"], message["content"], message["refusal"]) == ("assistant", ANSWER, None)
    assert plain["choices"][0]["finish_reason"] == "stop"
    assert [without_score(item) for item in message["annotations"]] == [CITED]
    (sent,) = peer.bodies("/v1/chat/completions")
    assert sent["messages"][0] == {"role": "system", "content": "You are terse."}
    assert sent["messages"][1]["role"] == "user"
    lines = sent["messages"][1]["content"].split("\n")
    assert lines[2:4] == [
        "[1] refunds.md, Handbook > Refunds",
        "Refunds are paid within fourteen days after the parcel arrives.",
    ]
    assert lines[-1] == "Question: Within how many days are refunds paid?"


async def test_inner_calls_are_the_caller_s_with_no_more_rights_than_they_need(runtime, peer) -> None:
    await runtime.client.chat.completions.create(model="agent/handbook", messages=QUESTION)
    paths = [path for path, _, _ in peer.calls]
    assert paths == [
        "/internal/agents/a1/versions/3",
        "/v1/embeddings",
        "/internal/retrieval/search",
        "/v1/chat/completions",
    ]
    for path, headers, _ in peer.calls:
        assert headers[CLUSTER_SECRET_HEADER] == "cluster-s3cret"
        if path.startswith("/v1/"):
            assert headers[PARENT_REQUEST_HEADER] == "req-1"
            inner = Principal.from_header(headers[PRINCIPAL_HEADER])
            assert (inner.organisation_id, inner.api_key_id) == ("org", "key")
            assert inner.allowed_models == ("tiny-chat", "hash-64")
            assert inner.agents == ()


async def test_a_version_is_fetched_once(runtime, peer) -> None:
    for _ in range(3):
        await runtime.client.chat.completions.create(model="agent/handbook", messages=QUESTION)
    assert len(peer.bodies("/internal/agents/a1/versions/3")) == 1


async def test_a_stream_is_openai_s_to_the_letter(runtime) -> None:
    stream = await runtime.client.chat.completions.create(
        model="agent/handbook", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk.model_dump(exclude_unset=True) async for chunk in stream]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {"agent/handbook"}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0] == {"role": "assistant", "content": "", "refusal": None}
    assert [delta["content"] for delta in deltas[1:-1]] == ["Refunds are paid ", "within fourteen days."]
    assert [without_score(item) for item in deltas[-1]["annotations"]] == [CITED]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None, None, None, "stop"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 4
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], USAGE)


async def test_without_include_usage_a_stream_shows_none_and_ends_with_done(runtime) -> None:
    async with httpx.AsyncClient(headers=runtime.headers) as http:
        answer = await http.post(
            f"{runtime.url}/v1/chat/completions", json={"model": "agent/handbook", "messages": QUESTION, "stream": True}
        )
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "usage" not in answer.text
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")


async def test_the_first_word_is_not_held(runtime, peer) -> None:
    peer.gate.clear()
    async with asyncio.timeout(10):
        stream = await runtime.client.chat.completions.create(model="agent/handbook", messages=QUESTION, stream=True)
        words: list[str] = []
        async for chunk in stream:
            words.append(chunk.choices[0].delta.content or "")
            # The model says its second word only after its first one has arrived here.
            if words[-1] == "Refunds are paid ":
                peer.gate.set()
    assert "".join(words) == ANSWER


@pytest.mark.parametrize("stream", [False, True])
async def test_where_the_knowledge_base_has_nothing_the_model_is_not_asked(runtime, peer, stream: bool) -> None:
    question = [{"role": "user", "content": "Qwertz uiop asdf?"}]
    if stream:
        chunks = [
            chunk
            async for chunk in await runtime.client.chat.completions.create(
                model="agent/handbook", messages=question, stream=True, stream_options={"include_usage": True}
            )
        ]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        assert not any(getattr(chunk.choices[0].delta, "annotations", None) for chunk in chunks[:-1])
        assert (text, chunks[-2].choices[0].finish_reason, chunks[-1].usage.total_tokens) == ("No idea.", "stop", 0)
    else:
        answer = await runtime.client.chat.completions.create(model="agent/handbook", messages=question)
        message = answer.choices[0].message
        assert (message.content, message.annotations, answer.usage.total_tokens) == ("No idea.", [], 0)
    assert peer.bodies("/v1/chat/completions") == []


async def test_a_model_that_declines_cites_nothing(runtime, peer) -> None:
    peer.pieces = ("No ", "idea.")
    answer = await runtime.client.chat.completions.create(model="agent/handbook", messages=QUESTION)
    assert answer.choices[0].message.annotations == []


async def test_an_agent_without_a_knowledge_base_just_answers(runtime, peer) -> None:
    peer.finish_reason = "length"
    answer = await runtime.client.chat.completions.create(model="agent/plain", messages=QUESTION)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (ANSWER, "length")
    assert answer.choices[0].message.annotations == []
    assert peer.bodies("/v1/embeddings") == []
    assert peer.bodies("/v1/chat/completions")[0]["messages"][1:] == QUESTION


async def test_history_and_system_messages_reach_the_model(runtime, peer) -> None:
    first = await runtime.client.chat.completions.create(model="agent/handbook", messages=QUESTION)
    await runtime.client.chat.completions.create(
        model="agent/handbook",
        messages=[
            {"role": "developer", "content": "Answer in French."},
            *QUESTION,
            first.choices[0].message.model_dump(),
            {
                "role": "user",
                "content": [{"type": "text", "text": "When does the "}, {"type": "text", "text": "garden open?"}],
            },
            {"role": "assistant", "content": "Let me see."},
        ],
    )
    sent = peer.bodies("/v1/chat/completions")[1]["messages"]
    assert sent[0] == {"role": "system", "content": "You are terse.\n\nAnswer in French."}
    assert sent[1:3] == [*QUESTION, {"role": "assistant", "content": ANSWER}]
    assert sent[3]["content"].endswith("Question: When does the garden open?")
    assert sent[4] == {"role": "assistant", "content": "Let me see."}
    assert peer.bodies("/v1/embeddings")[1]["input"] == "When does the garden open?"


async def test_parameters_override_the_version_s(runtime, peer) -> None:
    await runtime.client.chat.completions.create(
        model="agent/handbook",
        messages=QUESTION,
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=5,
        stop="END",
        seed=7,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        n=1,
        user="u",
        metadata={"a": "b"},
        response_format={"type": "text"},
    )
    await runtime.client.chat.completions.create(
        model="agent/handbook", messages=QUESTION, max_tokens=9, stop=["A", "B"]
    )
    await runtime.client.chat.completions.create(model="agent/handbook", messages=QUESTION)
    names = ("temperature", "top_p", "max_completion_tokens", "stop", "seed", "frequency_penalty", "presence_penalty")
    sent = [[body.get(name) for name in names] for body in peer.bodies("/v1/chat/completions")]
    assert sent == [
        [0.5, 0.9, 5, ["END"], 7, 0.1, -0.1],
        [0.0, None, 9, ["A", "B"], None, None, None],
        [0.0, None, 256, None, None, None, None],
    ]
    assert all(body["stream_options"] == {"include_usage": True} for body in peer.bodies("/v1/chat/completions"))


async def test_a_question_above_the_embedder_s_window_is_searched_by_its_ends(runtime, peer) -> None:
    words = ["refunds"] * 15 + ["filler"] * 200 + ["fourteen days"] * 8
    question = [{"role": "user", "content": " ".join(words)}]
    answer = await runtime.client.chat.completions.create(model="agent/handbook", messages=question)
    assert answer.choices[0].message.annotations[0].url_citation.document == "refunds.md"
    assert len(peer.bodies("/v1/embeddings")) > 1


async def test_nothing_is_traced_whatever_the_environment_says(runtime, monkeypatch, caplog) -> None:
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "true")
    # A tracer would fail here, and say so in the log.
    monkeypatch.setenv("LANGSMITH_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LANGSMITH_API_KEY", "none")
    with caplog.at_level(logging.DEBUG, logger="langsmith"):
        await runtime.client.chat.completions.create(model="agent/handbook", messages=QUESTION)
    assert [record for record in caplog.records if record.name.startswith("langsmith")] == []


async def test_health_answers_behind_the_guard(runtime) -> None:
    async with httpx.AsyncClient() as http:
        stranger = await http.get(f"{runtime.url}/health")
        ours = await http.get(f"{runtime.url}/health", headers={CLUSTER_SECRET_HEADER: "cluster-s3cret"})
    assert (stranger.status_code, ours.status_code) == (404, 200)
