"""From the configuration to how a served model's calls are treated."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.config import PlatformConfig
from deployments.sections import gateway_config

CHAT = "smollm2-135m-instruct"


def configured(folder: Path, **changes: Any) -> PlatformConfig:
    folders = dict.fromkeys(("home", "model_store", "knowledge_store", "object_store"), str(folder))
    names = ("cluster_secret", "operator_key", "key_pepper", "ray_token")
    places = {"database_url": "postgresql://nowhere/none", "redis_url": "redis://nowhere"}
    return PlatformConfig(**places, **dict.fromkeys(names, "s" * 32), **folders, **changes)


def test_a_policy_reaches_the_route_of_its_model_alone(tmp_path: Path) -> None:
    policy = {"mid_stream": "continue", "client_gone": "drain", "timeouts": {"idle_seconds": 7}}
    config = configured(tmp_path, policies={CHAT: policy}, timeouts={"total_seconds": 99})
    written = tmp_path / "platform.yaml"
    config.write(written)
    assert "idle_seconds: 7" in written.read_text()
    gateway = gateway_config(config)
    assert gateway.timeouts.total_seconds == 99
    policies = {route.entry.id: route.policy for route in gateway.routes}
    mine = policies.pop(CHAT)
    assert (mine.mid_stream, mine.client_gone, mine.timeouts.idle_seconds) == ("continue", "drain", 7)
    assert {(one.mid_stream, one.client_gone) for one in policies.values()} == {("error", "abort")}


@pytest.mark.parametrize(
    "policies", [{"nobody": {}}, {CHAT: {"mid_stream": "pray"}}, {CHAT: {"timeouts": {"idle_seconds": 0}}}]
)
def test_a_policy_that_cannot_be_is_refused_at_the_start(tmp_path: Path, policies: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        configured(tmp_path, policies=policies)
