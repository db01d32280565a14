"""The whole way: the official client, the gateway, the adapter, a provider on Anthropic's wire; one usage event."""

from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from pydantic import SecretStr

from models.catalogue import CatalogueEntry
from models.doubles.scripted_engine import ScriptedEngine
from models.usage import TokenUsage
from serve.config import ModelRoute, Upstream

PRICE = {
    "since": "2026-01-01",
    "prompt_micro": 3_000_000,
    "cached_micro": 300_000,
    "cache_write_micro": 3_750_000,
    "completion_micro": 15_000_000,
}
USAGE = {
    "input_tokens": 100,
    "cache_read_input_tokens": 40,
    "cache_creation_input_tokens": 20,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 2},
}
Start = Callable[[], Awaitable[tuple[Any, Any]]]


@pytest.fixture
def start(platform: Any, adapter: Any) -> Start:
    async def begin() -> tuple[Any, Any]:
        made = await adapter()
        made.provider.usage = USAGE
        entry = CatalogueEntry.model_validate(
            {
                "id": "claude",
                "kind": "chat",
                "sources": ["hosted:anthropic"],
                "upstream_model": "claude-provider-4",
                "context_window": 200_000,
                "prices": [PRICE],
            }
        )
        upstream = Upstream(name="anthropic", base_url=made.url, internal=True, own=True)
        stage = await platform(routes=(ModelRoute(entry=entry, upstream=upstream),))
        return stage, made.provider

    return begin


async def ask(stage: Any, **body: Any) -> Any:
    messages = [{"role": "user", "content": "Hi"}]
    return await stage.client().chat.completions.create(model="claude", messages=messages, **body)


async def test_a_call_is_answered_under_our_name_and_billed_once(start: Start) -> None:
    stage, provider = await start()
    answer = await ask(stage, max_completion_tokens=50)
    assert (answer.model, answer.choices[0].message.content) == ("claude", "Hello there, friend. ")
    assert provider.asked["model"] == "claude-provider-4"
    (event,) = await stage.events()
    assert (event.model, event.upstream, event.status, event.source) == ("claude", "anthropic", "ok", "provider")
    assert event.usage == TokenUsage(prompt=100, cached=40, cache_write=20, completion=5, reasoning=2)
    assert event.upstream_model == "claude-provider-4"
    assert event.cost_micro == 100 * 3 + 40 * 0.3 + 20 * 3.75 + 7 * 15


async def test_anthropic_s_figures_come_back_on_anthropic_s_wire(start: Start) -> None:
    stage, _ = await start()
    body = {"model": "claude", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    answer = await stage.http.post("/v1/messages", json=body, headers={"x-api-key": "good"})
    assert answer.json()["usage"] == {name: USAGE[name] for name in USAGE if name.endswith("_tokens")}


async def test_a_stream_is_billed_even_where_the_caller_asks_for_no_usage(start: Start) -> None:
    stage, _ = await start()
    stream = await ask(stage, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there, friend. "
    assert {chunk.model for chunk in chunks} == {"claude"}
    assert all(chunk.usage is None for chunk in chunks)
    (event,) = await stage.events()
    assert (event.streamed, event.source, event.usage.total) == (True, "provider", 167)
    assert event.first_token_ms is not None


async def test_the_first_token_is_not_held_and_a_hang_up_ends_the_providers_call(start: Start) -> None:
    stage, provider = await start()
    provider.gate.clear()
    stream = await ask(stage, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    await stage.until(provider.left.is_set)
    (event,) = await stage.events()
    assert (event.status, event.source) == ("client_gone", "counted")


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        ((401, "authentication_error", "invalid x-api-key"), 502, "upstream_error"),
        ((429, "rate_limit_error", "Slow down."), 429, "rate_limit_exceeded"),
        ((529, "overloaded_error", "Overloaded"), 503, "unavailable"),
        ((400, "invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), 400, "context_length_exceeded"),
        ((404, "not_found_error", "model: claude-provider-4"), 404, "model_not_found"),
    ],
)
async def test_a_providers_refusal_is_ours(start: Start, refusal: Any, status: int, code: str) -> None:
    stage, provider = await start()
    provider.refusal, provider.headers = refusal, {"retry-after": "7"}
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(stage)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert "x-api-key" not in caught.value.response.text
    assert caught.value.response.headers.get("retry-after") == ("7" if status in {429, 503} else None)
    (event,) = await stage.events()
    assert (event.status, event.http_status, event.cost_micro) == ("error", status, 0)


async def test_a_parameter_that_the_provider_lacks_is_named(start: Start) -> None:
    stage, _ = await start()
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(stage, seed=7)
    assert (caught.value.param, caught.value.code) == ("seed", "unsupported_parameter")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_has_its_own_name_at_a_provider_of_openais_dialect(
    platform: Any, serving: Any, stream: bool
) -> None:
    engine = ScriptedEngine()
    async with serving(engine) as url:
        entry = CatalogueEntry.model_validate(
            {
                "id": "claude",
                "kind": "chat",
                "sources": ["hosted:router"],
                "upstream_model": "org/model:chunks=3",
                "context_window": 8_192,
                "prices": [PRICE],
            }
        )
        upstream = Upstream(name="router", base_url=url, api_key=SecretStr("hf-key"))
        stage = await platform(routes=(ModelRoute(entry=entry, upstream=upstream),))
        answer = await ask(stage, stream=stream)
        models = {chunk.model async for chunk in answer} if stream else {answer.model}
        assert models == {"claude"}
        (_, headers, asked) = engine.requests[0]
        assert (asked["model"], headers["authorization"]) == ("org/model:chunks=3", "Bearer hf-key")
        (event,) = await stage.events()
        assert (event.model, event.status, event.usage.completion) == ("claude", "ok", 3)
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(stage, extra_body={"guided_json": {}})
        assert (caught.value.param, caught.value.code) == ("guided_json", "unsupported_parameter")
        assert len(engine.requests) == 1
