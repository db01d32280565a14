"""What an agent refuses, what it relays, and how it ends when the caller or a peer goes away."""

import asyncio
import json
from typing import Any

import httpx
import openai
import orjson
import pytest

from models.channels import CLUSTER_SECRET_HEADER, PRINCIPAL_HEADER
from models.errors import (
    BodyTooLarge,
    ContextTooLong,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    PlatformError,
    QuotaExhausted,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UpstreamTimeout,
)
from models.identity import AgentRoute, Principal

QUESTION = [{"role": "user", "content": "Within how many days are refunds paid?"}]


async def post(runtime, body: bytes | dict[str, Any], **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(headers={**runtime.headers, **headers}) as http:
        return await http.post(f"{runtime.url}/v1/chat/completions", content=content)


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "agent/handbook", "messages": QUESTION, **more}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": []}, "tools"),
        ({"tool_choice": "none"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"store": True}, "store"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"best_of": 2}, "best_of"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 257}, "max_tokens"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"seed": 2**64}, "seed"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]}, "messages[0].tool_calls"),
    ],
)
async def test_what_an_agent_cannot_honour_is_a_400_that_names_it(runtime, peer, change, param) -> None:
    answer = await post(runtime, ask(**change))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert peer.bodies("/v1/chat/completions") == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"[" * 100_000, b'{"a":' * 5_000, b'"\\ud800"', b'{"model":"agent/handbook\x00"}']
)
async def test_a_body_that_is_no_request_is_a_400(runtime, body) -> None:
    answer = await post(runtime, body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_strange_callers_models_and_sizes_are_refused(runtime) -> None:
    other = Principal(organisation_id="org2", project_id="p", api_key_id="k")
    assert (await post(runtime, ask(), **{CLUSTER_SECRET_HEADER: "wrong"})).status_code == 404
    assert (await post(runtime, ask(), **{PRINCIPAL_HEADER: "nonsense"})).status_code == 401
    unknown = await post(runtime, ask(), **{PRINCIPAL_HEADER: other.to_header()})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (await post(runtime, ask(model="tiny-chat"))).status_code == 404
    gone = await post(runtime, ask(model="agent/gone"))
    assert (gone.status_code, gone.json()["error"]["param"]) == (404, "model")
    assert (await post(runtime, b" " * (10 * 1024 * 1024 + 1))).status_code == 413


async def test_a_version_kept_for_one_organisation_serves_no_other(runtime) -> None:
    assert (await post(runtime, ask())).status_code == 200
    route = AgentRoute(agent_id="a1", slug="handbook", version=3, published_at=1)
    thief = Principal(organisation_id="org2", project_id="p", api_key_id="k", agents=(route,))
    assert (await post(runtime, ask(), **{PRINCIPAL_HEADER: thief.to_header()})).status_code == 502


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RateLimited("Slow down.", retry_after_seconds=2.5), 429, "rate_limit_exceeded"),
        (QuotaExhausted("The budget is spent."), 429, "insufficient_quota"),
        (Unavailable("No engine.", retry_after_seconds=1), 503, "unavailable"),
        (UpstreamTimeout("Too slow."), 504, "upstream_timeout"),
        (PermissionDenied("Not for you."), 403, "permission_denied"),
        (BodyTooLarge("Too large."), 413, "body_too_large"),
        (InvalidRequest("Bad."), 400, None),
        (PlatformError("Oops."), 500, None),
    ],
)
async def test_an_inner_error_surfaces_as_itself(runtime, peer, path, stream, error, status, code) -> None:
    peer.refusals[path] = error
    answer = await post(runtime, ask(stream=stream))
    shown = answer.json()["error"]
    assert (answer.status_code, shown["code"], shown["message"], shown["type"]) == (
        status,
        code,
        error.message,
        error.type,
    )
    if error.retry_after_seconds:
        assert int(answer.headers["retry-after-ms"]) == error.retry_after_seconds * 1_000


async def test_our_own_credentials_failing_is_no_401_of_the_caller(runtime, peer) -> None:
    peer.refusals["/v1/chat/completions"] = Unauthenticated("Bad secret.")
    answer = await post(runtime, ask())
    assert (answer.status_code, "secret" in answer.text) == (502, False)


async def test_a_context_too_long_for_the_model_says_so(runtime, peer) -> None:
    peer.refusals["/v1/chat/completions"] = ContextTooLong("8192 tokens at most; 9000 given.")
    with pytest.raises(openai.BadRequestError, match="9000 given") as caught:
        await runtime.client.chat.completions.create(**ask())
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "raw", "status"),
    [
        ("/internal/retrieval/search", (500, b"{}"), 502),
        ("/internal/retrieval/search", (503, b"not json"), 502),
        ("/internal/retrieval/search", (200, b"{}"), 502),
        ("/internal/retrieval/search", (200, b"[]"), 502),
        ("/v1/embeddings", (502, b"<html>"), 502),
        ("/v1/embeddings", (200, b'{"data":[]}'), 502),
        ("/internal/agents/a1/versions/3", (500, b""), 503),
        ("/v1/chat/completions", (418, b'{"error":{"message":"teapot"}}'), 502),
        ("/v1/chat/completions", (200, b"{}"), 500),
    ],
)
async def test_a_peer_that_answers_nonsense_is_an_error_of_ours(runtime, peer, path, raw, status) -> None:
    peer.raw[path] = raw
    answer = await post(runtime, ask())
    assert (answer.status_code, set(answer.json()["error"])) == (status, {"message", "type", "param", "code"})


async def test_a_knowledge_store_that_is_away_is_503(runtime, peer) -> None:
    peer.refusals["/internal/retrieval/search"] = Unavailable("The knowledge store does not answer.")
    assert (await post(runtime, ask())).status_code == 503


async def test_a_knowledge_base_without_embedding_model_is_refused(runtime, peer) -> None:
    path = "/internal/agents/a1/versions/3"
    peer.agents[path] = peer.agents[path].model_copy(update={"embedding_model": None})
    assert (await post(runtime, ask())).status_code == 502


@pytest.mark.parametrize("pieces", [(), ("Refunds ", "are ")])
async def test_an_error_inside_the_model_s_stream(runtime, peer, pieces) -> None:
    peer.pieces = pieces
    peer.error_in_stream = Unavailable("The engine died.")
    whole = await post(runtime, ask())
    assert (whole.status_code, whole.json()["error"]["message"]) == (503, "The engine died.")
    streamed = await post(runtime, ask(stream=True))
    if not pieces:
        assert streamed.status_code == 503
        return
    events = [line for line in streamed.text.split("\n\n") if line]
    assert orjson.loads(events[-1].removeprefix("data: ")) == Unavailable("The engine died.").body()
    assert "[DONE]" not in streamed.text
    assert streamed.text.count("content") == 3


async def test_a_model_that_stops_without_a_reason_was_cut_off(runtime, peer) -> None:
    peer.finish_reason = None
    assert (await post(runtime, ask())).json()["error"]["code"] == "upstream_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_hang_up_ends_the_model_s_stream_within_a_second(runtime, peer, stream) -> None:
    peer.gate.clear()
    call = asyncio.create_task(post(runtime, ask(stream=stream)))
    async with asyncio.timeout(10):
        await peer.asked.wait()
    call.cancel()
    await asyncio.wait({call})
    async with asyncio.timeout(1):
        await peer.left.wait()


async def test_a_reader_that_hangs_up_mid_stream_ends_the_model_s_stream(runtime, peer) -> None:
    peer.gate.clear()
    stream = await runtime.client.chat.completions.create(**ask(stream=True))
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    async with asyncio.timeout(1):
        await peer.left.wait()


async def test_an_answer_is_bounded_in_time(peer, peer_url, running) -> None:
    peer.gate.clear()
    async with running(peer_url, seconds_max=0.5) as runtime:
        answer = await post(runtime, ask())
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
        await peer.left.wait()
        streamed = await post(runtime, ask(stream=True))
        assert '"code":"upstream_timeout"' in streamed.text


async def test_an_answer_is_bounded_in_steps(peer_url, running) -> None:
    async with running(peer_url, steps_max=1) as runtime:
        answer = await post(runtime, ask())
    assert (answer.status_code, "1 steps" in answer.text) == (502, True)


async def test_versions_kept_are_bounded(peer, peer_url, running) -> None:
    async with running(peer_url, versions_max=1) as runtime:
        for model in ("agent/handbook", "agent/plain", "agent/handbook"):
            assert (await post(runtime, ask(model=model))).status_code == 200
    assert len(peer.bodies("/internal/agents/a1/versions/3")) == 2


@pytest.mark.parametrize("peer_lives", [False, True])
async def test_peers_that_cannot_be_reached_are_503(peer, peer_url, running, serving, peer_lives) -> None:
    async with running(peer_url) as runtime:
        if peer_lives:
            assert (await post(runtime, ask())).status_code == 200
    async with serving(peer) as gone:
        pass
    async with running(gone) as runtime:
        assert (await post(runtime, ask())).status_code == 503
    async with running(peer_url, gateway_url=gone) as runtime:
        assert (await post(runtime, ask())).status_code == 503
        assert (await post(runtime, ask(model="agent/plain"))).status_code == 503


async def test_a_refused_question_names_nothing_found(runtime, peer) -> None:
    peer.refusals["/internal/agents/a1/versions/3"] = NotFound("No such version.")
    answer = await post(runtime, ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
