"""An adapter under organisations' own keys: which one reaches the provider, and what becomes of refusals."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
from pydantic import SecretStr

from models.catalogue import CatalogueEntry
from models.channels import INVALIDATIONS, UPSTREAM_KEY_HEADER
from models.credentials import Credential, to_wire
from models.errors import PermissionDenied
from models.identity import Principal
from serve.asgi import ASGIApp, Receive, Scope, Send, send_bytes, send_json
from serve.config import ModelRoute, Upstream
from serve.hosted.classes import ModelClass
from serve.hosted.config import HostedConfig

PLATFORM_KEY = "sk-ant-secret"
ACME_KEY = "sk-ant-acme-0123456789-AAAA"
RIVAL_KEY = "sk-ant-rival-0123456789-BBBB"
PRICE = {"since": "2026-01-01", "prompt_micro": 3_000_000, "cached_micro": 300_000, "completion_micro": 15_000_000}


def under(key: str) -> dict[str, Any]:
    return {"extra_headers": {UPSTREAM_KEY_HEADER: key}}


async def test_each_call_bears_its_own_key_and_the_platforms_where_it_has_none(adapter: Any) -> None:
    stage = await adapter()
    for options in (under(ACME_KEY), {}, under(RIVAL_KEY), under(ACME_KEY)):
        await stage.chat(**options)
    sent = [{ACME_KEY, RIVAL_KEY, PLATFORM_KEY} & said(headers) for headers, _ in stage.provider.requests]
    assert sent == [{ACME_KEY}, {PLATFORM_KEY}, {RIVAL_KEY}, {ACME_KEY}]


def said(headers: dict[str, str]) -> set[str]:
    """Every header's value, without the word before a bearer."""
    return {value.removeprefix("Bearer ") for value in headers.values()}


async def test_without_any_key_nothing_is_asked_whatever_the_environment_says(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-environment")
    stage = await adapter(api_key=None)
    error = await stage.refused()
    assert (error.status_code, error.code) == (403, "upstream_credential_missing")
    assert stage.provider.requests == []
    await stage.chat(**under(ACME_KEY))
    ((headers, _),) = stage.provider.requests
    assert ACME_KEY in said(headers)
    assert "sk-of-the-environment" not in said(headers)


@pytest.mark.parametrize(
    ("refusal", "own", "platforms"),
    [
        ((401, "authentication_error", "invalid x-api-key"), (403, "upstream_credential_refused"), 502),
        ((403, "permission_error", "not yours"), (403, "upstream_credential_refused"), 502),
        ((400, "invalid_request_error", "Your API key is not valid."), (403, "upstream_credential_refused"), 503),
        ((402, "billing_error", "pay"), (429, "insufficient_quota"), 503),
        ((400, "invalid_request_error", "Your credit balance is too low"), (429, "insufficient_quota"), 503),
        ((429, "rate_limit_error", "Slow down."), (429, "rate_limit_exceeded"), 429),
        ((529, "overloaded_error", "Overloaded"), (503, "unavailable"), 503),
    ],
)
async def test_a_refusal_of_the_own_key_is_told_and_of_the_platforms_is_not(
    adapter: Any, refusal: Any, own: Any, platforms: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stage = await adapter()
    stage.provider.refusal = refusal
    error = await stage.refused(**under(ACME_KEY))
    assert (error.status_code, error.code) == own
    assert ("'anthropic'" in error.message) == (own[1] in {"upstream_credential_refused", "insufficient_quota"})
    assert (await stage.refused()).status_code == platforms
    assert "AAAA" not in caplog.text + error.response.text


def test_instances_are_kept_for_each_key_only_so_many_and_show_none() -> None:
    config = HostedConfig(
        name="x", model_class="langchain_anthropic:ChatAnthropic", base_url="http://127.0.0.1:9", models_max=2
    )
    kind = ModelClass(config)
    acme = kind.model("m", {}, SecretStr(ACME_KEY))
    assert kind.model("m", {}, SecretStr(ACME_KEY)) is acme
    assert kind.model("m", {}, SecretStr(RIVAL_KEY)) is not acme
    assert kind.model("m", {}, SecretStr(PLATFORM_KEY)) is not acme
    assert kind.model("m", {}, SecretStr(ACME_KEY)) is not acme
    assert "AAAA" not in repr(vars(kind))
    with pytest.raises(PermissionDenied):
        kind.model("m", {})


@dataclass
class ControlPlane:
    """Principals by API key, and each organisation's credential, as the control plane answers them."""

    credentials: dict[str, Credential] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/internal/authenticate":
            asked = httpx.Response(200, content=(await receive())["body"]).json()["api_key"]
            found = Principal(organisation_id=asked, project_id="prj", api_key_id=f"key_{asked}")
            await send_json(send, 200, found.model_dump(mode="json"))
            return
        organisation, upstream = scope["path"].split("/")[3], scope["path"].rpartition("/")[2]
        assert (scope["path"].split("/")[1:3], upstream) == (["internal", "organisations"], "anthropic")
        await send_bytes(send, 200, to_wire(self.credentials.get(organisation)), b"application/json")


@pytest.mark.parametrize("stream", [False, True])
async def test_the_whole_way_from_a_client_to_a_provider_under_its_organisations_key(
    platform: Callable[..., Awaitable[Any]],
    adapter: Any,
    serve_app: Callable[[ASGIApp], Awaitable[str]],
    stream: bool,
) -> None:
    made, control_plane = await adapter(), ControlPlane()
    control_plane.credentials["acme"] = Credential(id="cred_1", api_key=SecretStr(ACME_KEY))
    entry = CatalogueEntry.model_validate(
        {"id": "claude", "kind": "chat", "sources": ["hosted:anthropic"], "context_window": 200_000, "prices": [PRICE]}
    )
    upstream = Upstream(name="anthropic", base_url=made.url, internal=True, own=True, hosted=True)
    stage = await platform(
        routes=(ModelRoute(entry=entry, upstream=upstream),), control_plane_url=await serve_app(control_plane)
    )

    async def asked_with(organisation: str, **options: Any) -> set[str]:
        client = stage.client(organisation)
        messages = [{"role": "user", "content": "Hi"}]
        answer = await client.chat.completions.create(model="claude", messages=messages, stream=stream, **options)
        if stream:
            assert [chunk async for chunk in answer]
        return said(made.provider.requests[-1][0])

    assert ACME_KEY in await asked_with("acme")
    # No header of an outside caller reaches the adapter.
    assert PLATFORM_KEY in await asked_with("rival", extra_headers={UPSTREAM_KEY_HEADER: RIVAL_KEY})
    events = await stage.events(2)
    assert [(event.own_key, event.cost_micro > 0) for event in events] == [(True, False), (False, True)]
    control_plane.credentials["acme"] = Credential(id="cred_1", api_key=SecretStr(RIVAL_KEY))
    await stage.redis.publish(INVALIDATIONS, "organisation:acme")

    async def rotated() -> bool:
        return RIVAL_KEY in await asked_with("acme")

    await stage.until(rotated)
    made.provider.refusal = (401, "authentication_error", f"{RIVAL_KEY} is not valid")
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await asked_with("acme")
    assert caught.value.code == "upstream_credential_refused"
    assert "BBBB" not in caught.value.response.text
