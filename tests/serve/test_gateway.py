"""The gateway through the official client and on the bare wire: what it answers when all is well."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest
from pydantic import SecretStr

from models.doubles.scripted_engine import Script, ScriptedEngine
from models.identity import AgentRoute, Principal
from serve.asgi import Message
from serve.config import Upstream

Platform = Callable[..., Awaitable[Any]]
HI: Any = [{"role": "user", "content": "hi there"}]
HANDBOOK = AgentRoute(agent_id="agt_1", slug="handbook", version=3, published_at=1_767_225_600)
SECRET = {"x-objecta-cluster-secret": "cluster-secret"}


async def test_a_chat_completion_is_answered_and_metered_once(platform: Platform) -> None:
    stage = await platform()
    answer = await stage.client().chat.completions.create(model="scripted", messages=HI)
    assert answer.choices[0].message.content == "w0 w1 w2 w3 "
    (event,) = await stage.events()
    assert (event.status, event.source, event.usage.completion, event.http_status) == ("ok", "provider", 4, 200)
    assert event.cost_micro == event.usage.prompt + 2 * 4
    assert (event.organisation_id, event.project_id, event.api_key_id) == ("org_a", "prj_a", "key_a")
    assert (event.kind, event.model, event.upstream, event.price_since) == ("chat", "scripted", "engine", "2026-01-01")


async def test_a_stream_shows_no_usage_unless_asked_and_is_metered_by_the_engine_s_figures(
    platform: Platform,
) -> None:
    stage = await platform()
    stream = await stage.client().chat.completions.create(model="scripted", messages=HI, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "w0 w1 w2 w3 "
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    (event,) = await stage.events()
    assert (event.status, event.source, event.usage.completion, event.streamed) == ("ok", "provider", 4, True)
    assert event.first_token_ms is not None


@pytest.mark.parametrize("model", ["scripted", "hosted/model"])
async def test_asked_for_usage_comes_null_in_every_chunk_and_whole_in_one_more(platform: Platform, model: str) -> None:
    stage = await platform()
    stream = await stage.client().chat.completions.create(
        model=model, messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 4
    assert all("usage" in chunk.model_fields_set for chunk in chunks)
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 4)
    await stage.events()


async def test_vllm_s_continuous_usage_passes_where_it_was_asked_for(platform: Platform) -> None:
    stage = await platform()
    stream = await stage.client().chat.completions.create(
        model="scripted",
        messages=HI,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},  # type: ignore
    )
    counts = [chunk.usage.completion_tokens async for chunk in stream]
    assert counts == [1, 2, 3, 4, 4]


async def test_the_stream_on_the_wire_ends_with_done(platform: Platform) -> None:
    stage = await platform()
    answer = await stage.chat(stream=True)
    frames = answer.text.split("\n\n")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (frames[-2:], len(frames)) == (["data: [DONE]", ""], 6)


async def test_completions_whole_and_streamed(platform: Platform) -> None:
    stage = await platform()
    client = stage.client()
    whole = await client.completions.create(model="scripted", prompt="Say", max_tokens=2)
    assert whole.choices[0].text == "w0 w1 "
    stream = await client.completions.create(model="scripted", prompt=["Say"], max_tokens=2, stream=True)
    assert [chunk.choices[0].text async for chunk in stream] == ["w0 ", "w1 "]
    events = await stage.events(2)
    assert [(event.kind, event.usage.completion) for event in events] == [("completion", 2)] * 2


async def test_embeddings_in_the_client_s_default_base64(platform: Platform) -> None:
    stage = await platform()
    answer = await stage.client().embeddings.create(model="embedder", input=["one", "two words"])
    assert [item.embedding[0] for item in answer.data] == [1.0, 2.0]
    (event,) = await stage.events()
    assert (event.kind, event.usage.prompt, event.cost_micro) == ("embedding", 3, 3)


async def test_models_are_those_the_principal_may_use(platform: Platform) -> None:
    stage = await platform()
    stage.admit("narrow", allowed_models=("hosted/model",))
    everything = [model async for model in stage.client().models.list()]
    assert [model.id for model in everything] == ["scripted", "hosted/model", "embedder", "agent/handbook"]
    assert {(model.object, model.created, model.owned_by) for model in everything} == {
        ("model", 1_767_225_600, "objecta")
    }
    narrow = stage.client("narrow")
    assert [model.id async for model in narrow.models.list()] == ["hosted/model"]
    # The client escapes the slash; the wire takes both.
    assert (await narrow.models.retrieve("hosted/model")).id == "hosted/model"
    with pytest.raises(openai.NotFoundError) as error:
        await narrow.models.retrieve("scripted")
    assert error.value.code == "model_not_found"
    stage.admit("nothing", allowed_models=())
    assert [model async for model in stage.client("nothing").models.list()] == []


async def test_answers_bear_the_contract_s_headers(platform: Platform) -> None:
    stage = await platform()
    stage.admit("limited", key_limits={"requests_per_minute": 60})
    answer = await stage.chat("limited", headers={"x-request-id": "my-id"})
    assert answer.headers["x-request-id"] == "my-id"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert answer.headers["openai-organization"] == "org_a"
    assert answer.headers["openai-version"] == "2020-10-01"
    assert (answer.headers["x-objecta-model"], answer.headers["x-objecta-upstream"]) == ("scripted", "engine")
    assert answer.headers["x-ratelimit-limit-requests"] == "60"
    assert answer.headers["x-ratelimit-remaining-requests"] == "59"
    assert answer.headers["x-ratelimit-reset-requests"] in {"1s", "999ms", "1000ms"}
    (event,) = await stage.events()
    assert event.request_id == "my-id"
    assert stage.engine.requests[0][1]["x-request-id"] == "my-id"


@pytest.mark.parametrize("given", ["", "with space", "x" * 129])
async def test_an_insane_request_id_is_replaced(platform: Platform, given: str) -> None:
    stage = await platform()
    answer = await stage.chat("none", headers={"x-request-id": given})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_no_header_of_the_client_reaches_an_upstream(platform: Platform) -> None:
    stage = await platform()
    forged = {"x-objecta-principal": Principal.model_validate(PRINCIPAL).to_header(), "x-custom": "1", "cookie": "a=b"}
    await stage.chat(headers=forged, model="hosted/model")
    sent = stage.engine.requests[0][1]
    assert sorted(sent) == [
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "x-request-id",
    ]
    assert sent["authorization"] == "Bearer sk-hosted"
    (event,) = await stage.events()
    assert event.organisation_id == "org_a"


PRINCIPAL = {"organisation_id": "org_b", "project_id": "prj_b", "api_key_id": "key_b"}


async def test_our_own_processes_call_as_the_principal_they_name(platform: Platform) -> None:
    stage = await platform()
    # The key may use the agent alone, one call at a time, and the agent's own call is neither refused nor limited.
    caller = Principal(**PRINCIPAL, allowed_models=("agent/x",), key_limits={"concurrent_requests": 1})
    headers = {**SECRET, "x-objecta-principal": caller.to_header(), "x-objecta-parent-request": "req_outer"}
    answer = await stage.chat(headers=headers, key="ignored")
    assert answer.status_code == 200
    (event,) = await stage.events()
    assert (event.organisation_id, event.parent_request_id) == ("org_b", "req_outer")
    assert stage.control_plane.asked == []


async def test_a_principal_header_that_is_none_is_refused(platform: Platform) -> None:
    stage = await platform()
    answer = await stage.chat(headers={**SECRET, "x-objecta-principal": "AAAA"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_an_agent_answers_as_a_model_at_no_price_of_its_own(platform: Platform) -> None:
    stage = await platform()
    stage.admit("good", agents=(HANDBOOK, HANDBOOK.model_copy(update={"slug": "other"})))
    answer = await stage.client().chat.completions.create(model="agent/handbook", messages=HI)
    assert answer.model == "agent/handbook"
    stream = await stage.client().chat.completions.create(model="agent/handbook", messages=HI, stream=True)
    assert len([chunk async for chunk in stream]) == 4
    events = await stage.events(2)
    assert {(e.kind, e.model, e.upstream, e.cost_micro, e.price_since) for e in events} == {
        ("agent", "agent/handbook", "agents", 0, None)
    }
    _, headers, body = stage.agents.requests[1]
    seen = Principal.from_header(headers["x-objecta-principal"])
    assert (seen.organisation_id, seen.agents) == ("org_a", (HANDBOOK,))
    assert headers["x-objecta-cluster-secret"] == "cluster-secret"
    assert body["stream_options"] == {"include_usage": True}
    assert headers["x-request-id"] == events[1].request_id


async def test_another_organisation_s_agent_does_not_exist(platform: Platform) -> None:
    stage = await platform()
    theirs = AgentRoute(agent_id="agt_2", slug="secret", version=1, published_at=1)
    stage.admit("b", organisation_id="org_b", agents=(theirs,))
    for key, model in (("b", "agent/handbook"), ("good", "agent/secret")):
        refused = await stage.chat(key, model=model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert stage.agents.requests == []


async def test_a_hosted_model_s_own_name_is_replaced_by_the_one_asked_for(platform: Platform) -> None:
    class Renaming(ScriptedEngine):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def renamed(message: Message) -> None:
                headers = [pair for pair in message.get("headers", ()) if pair[0] != b"content-length"]
                body = message.get("body", b"").replace(b'"hosted/model"', b'"model-2026-01-01"')
                await send({**message, "body": body, **({"headers": headers} if headers else {})})

            await super().__call__(scope, receive, renamed)

    stage = await platform(engine=Renaming())
    answer = await stage.chat(model="hosted/model")
    assert answer.json()["model"] == "hosted/model"
    stream = await stage.chat(model="hosted/model", stream=True)
    assert stream.text.count('"model":"hosted/model"') == 4


async def test_metrics_count_calls_tokens_and_refusals(platform: Platform) -> None:
    stage = await platform()
    await stage.chat(stream=True)
    await stage.chat("wrong")
    await stage.events()
    text = (await stage.http.get("/metrics")).text
    labels = '{http_status="200",kind="chat",model="scripted",status="ok"}'
    assert f"objecta_gateway_calls_total{labels} 1.0" in text
    assert 'objecta_gateway_tokens_total{bucket="completion",model="scripted"} 4.0' in text
    assert 'objecta_gateway_refused_total{http_status="401"} 1.0' in text
    assert 'objecta_gateway_first_token_seconds_count{model="scripted"} 1.0' in text
    assert "objecta_gateway_in_flight 0.0" in text
    assert "objecta_gateway_spool_bytes 0.0" in text


async def test_readiness_names_each_dependency(platform: Platform) -> None:
    stage = await platform()
    assert (await stage.http.get("/health/live")).json() == {"status": "live"}
    up = await stage.http.get("/health/ready")
    assert (up.status_code, up.json()) == (
        200,
        {
            "status": "ready",
            "dependencies": {
                "redis": "up",
                "control_plane": "up",
                "upstreams": {"engine": "up", "hosted": "up", "agents": "up"},
            },
        },
    )


async def test_without_the_control_plane_only_known_keys_are_served(platform: Platform) -> None:
    stage = await platform(keys={"age_seconds_max": 0.001, "unheard_seconds_max": 0.001})
    stage.control_plane.status = 500
    down = await stage.http.get("/health/ready")
    assert (down.status_code, down.json()["status"]) == (503, "unavailable")
    stage.control_plane.status = 200
    assert (await stage.chat()).status_code == 200
    stage.control_plane.status = 500

    async def degraded() -> bool:
        answer = await stage.http.get("/health/ready")
        return (answer.status_code, answer.json()["status"]) == (200, "degraded")

    await stage.until(degraded)
    assert (await stage.chat()).status_code == 200
    refused = await stage.chat("unknown")
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "upstream_error")


async def test_without_any_upstream_and_redis_nothing_is_ready(platform: Platform) -> None:
    away = Upstream(name="agents", base_url="http://127.0.0.1:9", internal=True)
    stage = await platform(redis="unix:///nowhere.sock", routes=(), agents=away, control_plane_url="http://127.0.0.1:9")
    answer = await stage.http.get("/health/ready")
    assert (answer.status_code, answer.json()["dependencies"]) == (
        503,
        {"redis": "down", "control_plane": "down", "upstreams": {"agents": "down"}},
    )
    assert (await stage.chat()).status_code == 503


async def test_lifespan_starts_and_ends_the_gateway(platform: Platform) -> None:
    stage = await platform()
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        sent.append(message)

    await stage.gateway.check_health()
    await stage.gateway({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    await stage.gateway.close()
    await stage.gateway({"type": "websocket"}, receive, send)
    assert sent[-1] == {"type": "websocket.close", "code": 1008}


async def test_a_gateway_that_lost_its_writer_asks_to_be_replaced(platform: Platform) -> None:
    stage = await platform()
    await stage.gateway._meter.close()
    with pytest.raises(RuntimeError, match="background task"):
        await stage.gateway.check_health()


async def test_secrets_stay_out_of_the_configuration_s_repr(platform: Platform) -> None:
    stage = await platform()
    text = repr(stage.gateway._config) + repr(Upstream(name="a", base_url="b", api_key=SecretStr("sk-hosted")))
    assert "cluster-secret" not in text
    assert "sk-hosted" not in text


async def test_a_long_answer_is_read_to_the_end(platform: Platform) -> None:
    stage = await platform()
    stage.engine.script = Script(chunks=20_000)
    answer: httpx.Response = await stage.chat()
    assert answer.json()["usage"]["completion_tokens"] == 20_000


async def test_a_key_that_may_call_once_at_a_time_may_call_again_as_soon_as_it_has_its_answer(
    platform: Platform,
) -> None:
    stage = await platform()
    stage.control_plane.principals["good"] = Principal(**PRINCIPAL, key_limits={"concurrent_requests": 1})
    for number in range(30):
        answer = await stage.chat(stream=bool(number % 2))
        assert (number, answer.status_code, answer.text) == (number, 200, answer.text)
