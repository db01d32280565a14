"""From the configuration to the application: who is deployed, who gets the key, and what the gateway is told."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import SecretStr, ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.config import HostedUpstream, PlatformConfig
from deployments.control_plane import control_plane_config
from deployments.hosted import ENVIRONMENT, HostedReplica, application
from deployments.platform import serve_schema
from deployments.sections import gateway_config, hosted_config
from models.catalogue import SHIPPED_CATALOGUE, CatalogueEntry
from models.channels import CLUSTER_SECRET_HEADER
from models.credentials import address, allowed

KEY = "sk-ant-very-secret"
PRICE = {"since": "2026-01-01", "prompt_micro": 1, "cached_micro": 1, "completion_micro": 1}
ANTHROPIC = {
    "name": "anthropic",
    "dialect": "langchain",
    "model_class": "langchain_anthropic:ChatAnthropic",
    "base_url": "https://api.anthropic.com",
    "api_key": KEY,
    "options": {"default_headers": {"x-secret": "option-secret"}},
}
OPENAI = {"name": "openai", "base_url": "https://api.openai.com", "api_key": "sk-openai"}
SECRETS = {
    "database_url": "postgresql://nowhere/none",
    "redis_url": "redis://nowhere",
    "cluster_secret": "c" * 32,
    "operator_key": "o" * 32,
    "key_pepper": "p" * 32,
    "ray_token": "t" * 32,
}


def hosted(name: str, upstream: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "kind": "chat",
        "sources": [f"hosted:{upstream}"],
        "context_window": 1,
        "prices": [PRICE],
        **more,
    }


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlatformConfig:
    """A configuration with two providers, in the file that every process reads."""
    catalogue = yaml.safe_load(SHIPPED_CATALOGUE.read_text(encoding="utf-8"))
    catalogue["models"] += [
        hosted("claude", "anthropic", upstream_model="claude-opus-4-7"),
        hosted("gpt", "openai", upstream_model="gpt-5"),
    ]
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(catalogue))
    values = {
        **SECRETS,
        "home": str(tmp_path),
        "model_store": str(tmp_path),
        "knowledge_store": str(tmp_path),
        "object_store": str(tmp_path),
        "catalogue_path": str(tmp_path / "catalogue.yaml"),
        "models": ["claude", "gpt"],
        "upstreams": [ANTHROPIC, OPENAI],
    }
    (tmp_path / "platform.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("OBJECTA_CONFIG", str(tmp_path / "platform.yaml"))
    return PlatformConfig.load()


def test_a_provider_of_another_dialect_is_one_more_application(written: PlatformConfig) -> None:
    schema = serve_schema(written)
    found = {item["name"]: item for item in schema["applications"]}
    assert found["hosted-anthropic"] == {
        "name": "hosted-anthropic",
        "route_prefix": "/internal/hosted/anthropic",
        "import_path": "deployments.hosted:application",
        "args": {"upstream": "anthropic"},
    }
    assert "hosted-openai" not in found
    assert ServeDeploySchema.model_validate(schema)
    assert "secret" not in str(schema)


def test_the_key_reaches_the_adapter_and_not_the_gateway(written: PlatformConfig) -> None:
    routes = {route.entry.id: route for route in gateway_config(written).routes}
    claude, gpt = routes["claude"].upstream, routes["gpt"].upstream
    assert (claude.api_key, claude.internal, claude.own) == (None, True, True)
    assert claude.base_url == f"{written.gateway_url}/internal/hosted/anthropic"
    assert gpt.api_key is not None
    assert (gpt.api_key.get_secret_value(), gpt.internal, gpt.own) == ("sk-openai", False, False)
    section = hosted_config(written, "anthropic")
    assert section.api_key is not None
    assert section.api_key.get_secret_value() == KEY
    for shown in (repr(section), repr(written), str(written.upstreams)):
        assert KEY not in shown
        assert "option-secret" not in shown
    with pytest.raises(ValueError, match="no upstream 'openai' needs an adapter"):
        hosted_config(written, "openai")


@pytest.mark.usefixtures("written")
async def test_the_replica_is_the_adapter_behind_its_guard() -> None:
    app = HostedReplica("anthropic").__serve_build_asgi_app__()
    transport = httpx.ASGITransport(app)  # pyright: ignore[reportArgumentType]
    async with httpx.AsyncClient(transport=transport, base_url="http://adapter") as http:
        assert (await http.get("/health")).status_code == 404
        assert (await http.get("/health", headers={CLUSTER_SECRET_HEADER: "c" * 32})).status_code == 200


@pytest.mark.usefixtures("written")
def test_the_deployment_shuts_every_tracer_and_log_of_requests() -> None:
    deployment: Any = application({"upstream": "anthropic"})._bound_deployment
    options = deployment.ray_actor_options
    assert options["runtime_env"]["env_vars"] == ENVIRONMENT
    assert deployment.init_args == ("anthropic",)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model_class": None}, "needs a model_class"),
        ({"dialect": "openai"}, "belong to the dialect 'langchain'"),
        ({"dialect": "openai", "base_url": None}, "needs a base_url"),
        ({"dialect": "cohere"}, "dialect"),
        ({"modelclass": "x"}, "Extra inputs"),
        ({"headers": {"x-team": "a"}}, "belong to the dialect 'openai'"),
        ({"base_urls": ["https://eu.api.anthropic.com"]}, "belong to the dialect 'openai'"),
    ],
)
def test_an_upstream_that_does_not_say_what_its_dialect_needs_is_refused(changes: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        HostedUpstream.model_validate({**ANTHROPIC, **changes})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"headers": {"authorization": "Bearer option-secret"}}, "the gateway's own"),
        ({"headers": {"x-objecta-cluster-secret": "option-secret"}}, "the gateway's own"),
        ({"headers": {"OpenAI-Organization": "option-secret"}}, "no lower-case header"),
        ({"headers": {"x-team": "option-secret\r\nhost: evil"}}, "printable ASCII"),
        ({"base_urls": ["eu.api.openai.com"]}, "must be an http"),
        ({"base_url": "https://user:option-secret@api.openai.com"}, "must be an http"),
    ],
)
def test_what_cannot_be_sent_to_a_provider_is_refused_without_being_shown(changes: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why) as caught:
        HostedUpstream.model_validate({**OPENAI, **changes})
    assert "option-secret" not in str(caught.value)


def test_who_may_use_the_platforms_account_and_where_credentials_are_opened(written: PlatformConfig) -> None:
    router = {
        "name": "openai",
        "base_url": "https://Router.huggingface.co/v1/",
        "headers": {"x-hf-bill-to": "acme"},
        "base_urls": ["https://*.openai.azure.com"],
    }
    key = "ab" * 32
    for changes, shared in (({}, False), ({"api_key": "hf_key"}, True), ({"needs_credential": False}, True)):
        upstreams = (HostedUpstream.model_validate({**router, **changes}), *written.upstreams[:1])
        config = written.model_copy(update={"upstreams": upstreams, "credential_key": SecretStr(key)})
        routes = {route.entry.id: route.upstream for route in gateway_config(config).routes}
        gpt, claude = routes["gpt"], routes["claude"]
        assert (gpt.hosted, gpt.shared, gpt.base_url) == (True, shared, "https://router.huggingface.co")
        assert gpt.headers["x-hf-bill-to"].get_secret_value() == "acme"
        assert (claude.hosted, claude.shared) == (True, True)
        section = control_plane_config(config)
        offered = {one.name: one.base_urls for one in section.upstreams}
        assert offered == {"openai": ("https://*.openai.azure.com",), "anthropic": ()}
        assert section.credential_key is not None
        assert section.credential_key.get_secret_value() == key
        for shown in (repr(config), repr(section), repr(gateway_config(config))):
            assert key not in shown
        assert key not in gateway_config(config).model_dump_json()


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://acme.openai.azure.com", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://acme.evil.example", False),
        ("http://acme.openai.azure.com", False),
        ("https://acme.openai.azure.com:8443", False),
        ("https://acme.openai.azure.com/other", False),
        ("https://a.b.openai.azure.com", False),
        ("https://*.openai.azure.com", False),
        ("https://openai.azure.com", False),
        ("https://evil.example#.openai.azure.com", None),
    ],
)
def test_an_address_is_allowed_as_a_whole_or_with_one_label_for_a_star(url: str, is_allowed: bool | None) -> None:
    patterns = ("https://*.openai.azure.com", "https://eu.api.openai.com")
    if is_allowed is None:
        with pytest.raises(ValueError, match="must be an http"):
            address(url)
    else:
        assert allowed(address(url), patterns) is is_allowed


def test_a_name_at_a_provider_is_for_hosted_models_only() -> None:
    with pytest.raises(ValidationError, match="no source of this one is hosted"):
        CatalogueEntry.model_validate({**hosted("m", "x", upstream_model="y"), "sources": ["path:/m"]})
