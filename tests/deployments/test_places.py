"""From the configuration to the places of a model: which applications are deployed, and what the gateway is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.config import PlatformConfig
from deployments.platform import serve_schema
from deployments.sections import gateway_config
from models.catalogue import SHIPPED_CATALOGUE
from serve.config import CircuitPolicy, ModelRoute, RetryPolicy

CHAT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"
PRICE = {"since": "2026-01-01", "prompt_micro": 1, "cached_micro": 1, "completion_micro": 1}
GPT = {"id": "gpt", "kind": "chat", "sources": ["hosted:openai"], "upstream_model": "gpt-5", "context_window": 9}
UPSTREAMS = [
    {"name": "openai", "base_url": "https://api.openai.com", "api_key": "sk-openai"},
    {"name": "azure", "base_url": "https://azure.example/openai", "api_key": "sk-azure"},
    {"name": "vllm-east", "base_url": "http://vllm-east:8000"},
]
SECRETS = {
    "database_url": "postgresql://nowhere/none",
    "redis_url": "redis://nowhere",
    "cluster_secret": "c" * 32,
    "operator_key": "o" * 32,
    "key_pepper": "p" * 32,
    "ray_token": "t" * 32,
}

Configure = Callable[..., PlatformConfig]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """A configuration; ``apart`` engines of the chat model."""

    def configured(apart: int = 1, **changes: Any) -> PlatformConfig:
        catalogue = yaml.safe_load(SHIPPED_CATALOGUE.read_text(encoding="utf-8"))
        catalogue["models"].append({**GPT, "prices": [PRICE]})
        for entry in catalogue["models"]:
            if entry["id"] == CHAT:
                entry["scaling"] = {**entry.get("scaling", {}), "apart": apart}
        path = tmp_path / "catalogue.yaml"
        path.write_text(yaml.safe_dump(catalogue))
        folders = dict.fromkeys(("home", "model_store", "knowledge_store", "object_store"), str(tmp_path))
        values = {"catalogue_path": path, "models": [CHAT, EMBEDDING, "gpt"], "upstreams": UPSTREAMS, **changes}
        return PlatformConfig(**SECRETS, **folders, **values)

    return configured


def route(config: PlatformConfig, model: str) -> ModelRoute:
    (found,) = [one for one in gateway_config(config).routes if one.entry.id == model]
    return found


def test_a_model_has_one_place_unless_it_is_told_otherwise(configure: Configure) -> None:
    config = configure()
    assert all(one.others == () for one in gateway_config(config).routes)
    assert [item["name"] for item in serve_schema(config)["applications"] if "engine" in item["name"]] == [
        f"engine-{CHAT}"
    ]


def test_engines_apart_are_applications_with_addresses_of_their_own(configure: Configure) -> None:
    config = configure(apart=3)
    schema = serve_schema(config)
    engines = [item for item in schema["applications"] if item["import_path"] == "deployments.engine:application"]
    assert [(item["name"], item["route_prefix"]) for item in engines] == [
        (f"engine-{CHAT}", f"/internal/engines/{CHAT}"),
        (f"engine2-{CHAT}", f"/internal/engines/{CHAT}@2"),
        (f"engine3-{CHAT}", f"/internal/engines/{CHAT}@3"),
    ]
    assert [item["args"] for item in engines] == [{"model": CHAT}] * 3
    assert ServeDeploySchema.model_validate(schema)
    found = route(config, CHAT)
    upstreams = [found.upstream, *(place.upstream for place in found.others)]
    assert [(one.name, one.base_url.removeprefix(config.gateway_url), one.internal) for one in upstreams] == [
        (item["route_prefix"].rpartition("/")[2], item["route_prefix"], True) for item in engines
    ]
    assert found.choose == "prefix"


def test_another_provider_may_answer_for_a_model_under_its_own_name_and_key(configure: Configure) -> None:
    others = {"others": [{"upstream": "azure", "model": "gpt-5-eu", "weight": 0.5}]}
    found = route(configure(places={"gpt": others}), "gpt")
    (place,) = found.others
    assert (place.upstream.name, place.upstream.base_url) == ("azure", "https://azure.example/openai")
    assert place.upstream.api_key is not None
    assert place.upstream.api_key.get_secret_value() == "sk-azure"
    assert (place.upstream_model, place.weight, found.choose) == ("gpt-5-eu", 0.5, "latency")


def test_an_engine_elsewhere_stands_beside_our_own(configure: Configure) -> None:
    others = {"others": [{"upstream": "vllm-east", "weight": 4}], "choose": "prefix"}
    found = route(configure(apart=2, places={CHAT: others}), CHAT)
    assert [place.upstream.name for place in found.others] == [f"{CHAT}@2", "vllm-east"]
    assert found.choose == "prefix"


def test_policies_reach_the_gateway(configure: Configure) -> None:
    config = gateway_config(configure(retries={"share": 0.1}, circuit={"failures": 9}))
    assert (config.retries, config.circuit) == (RetryPolicy(share=0.1), CircuitPolicy(failures=9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"places": {"none": {}}}, "models does not name 'none'"),
        ({"places": {"gpt": {"others": [{"upstream": "none"}]}}}, "upstreams does not name none"),
        ({"places": {"gpt": {"others": [{"upstream": "azure", "weight": 0}]}}}, "weight"),
        ({"places": {"gpt": {"others": [{"upstream": "azure"}, {"upstream": "azure"}]}}}, "is named twice"),
        ({"places": {"gpt": {"others": [{"upstream": "openai"}]}}}, "is named twice"),
        ({"places": {"gpt": {"choose": "chance"}}}, "choose"),
    ],
)
def test_what_cannot_be_is_refused_by_name(configure: Configure, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=message):
        gateway_config(configure(**changes))


def test_only_engines_stand_apart(configure: Configure, tmp_path: Path) -> None:
    configure()
    path = tmp_path / "catalogue.yaml"
    catalogue = yaml.safe_load(path.read_text())
    for entry in catalogue["models"]:
        if entry["id"] in {"gpt", EMBEDDING}:
            entry["scaling"] = {"apart": 2}
    path.write_text(yaml.safe_dump(catalogue))
    with pytest.raises(ValidationError, match=r"scaling\.apart is for chat models"):
        PlatformConfig(
            **SECRETS,
            **dict.fromkeys(("home", "model_store", "knowledge_store", "object_store"), "/"),
            catalogue_path=path,
        )
