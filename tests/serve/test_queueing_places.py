"""How many calls a gateway lets through to whom, as the configuration and the catalogue say."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from deployments.config import PlatformConfig
from deployments.engine import engine_flags
from deployments.sections import gateway_config
from models.catalogue import SHIPPED_CATALOGUE, load_catalogue

ENGINE, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
REQUIRED: dict[str, Any] = {
    "database_url": "postgresql://nowhere/none",
    "redis_url": "redis://nowhere",
    "cluster_secret": "c" * 32,
    "operator_key": "o" * 32,
    "key_pepper": "p" * 32,
    "ray_token": "t" * 32,
    "home": "/nowhere",
    "model_store": "/nowhere",
    "knowledge_store": "/nowhere",
    "object_store": "/nowhere",
}


def places(**values: Any) -> dict[str, int | None]:
    config = PlatformConfig.model_validate({**REQUIRED, **values})
    return {route.entry.id: route.upstream.concurrency for route in gateway_config(config).routes}


def test_an_engine_is_let_what_it_works_on_at_once_and_an_eighth_more() -> None:
    assert places() == {ENGINE: 36, EMBEDDER: 256}


def test_the_gateways_share_an_engines_places() -> None:
    assert places(gateway_replicas=5) == {ENGINE: 8, EMBEDDER: 52}


def test_a_gpus_engine_is_let_what_its_server_takes() -> None:
    # 256 sequences at once by its flags, but Serve hands it no more than 128 calls.
    assert places(gpus_per_node=1)[ENGINE] == 128


def test_the_configuration_has_the_last_word() -> None:
    assert places(concurrency={ENGINE: 10, EMBEDDER: 0}, gateway_replicas=2) == {ENGINE: 5, EMBEDDER: None}


def test_a_hosted_upstream_is_bounded_where_it_says_so(tmp_path: Path) -> None:
    catalogue = yaml.safe_load(SHIPPED_CATALOGUE.read_text(encoding="utf-8"))
    for name in ("free", "bounded", "other"):
        hosted = {"id": name, "kind": "chat", "sources": [f"hosted:{name}"], "context_window": 1}
        catalogue["models"].append({**hosted, "prices": catalogue["models"][0]["prices"]})
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(catalogue))
    upstreams = [
        {"name": "free", "base_url": "https://free.example"},
        {"name": "bounded", "base_url": "https://bounded.example", "concurrency": 9},
        {"name": "other", "dialect": "langchain", "model_class": "package.module:Class", "concurrency": 3},
    ]
    served = {"catalogue_path": path, "models": ["free", "bounded", "other"], "upstreams": upstreams}
    assert places(**served, gateway_replicas=2) == {"free": None, "bounded": 5, "other": 2}
    with pytest.raises(ValidationError, match="not run here: bounded"):
        places(**served, concurrency={"bounded": 1})


def test_an_engine_puts_what_it_has_in_the_platforms_order() -> None:
    entry = load_catalogue().find(ENGINE)
    flags = engine_flags(entry, entry.engine(0), "/nowhere", 0)
    assert flags[flags.index("--scheduling-policy") + 1] == "priority"
