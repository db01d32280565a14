"""An agent's calls: what it is asked stays as it is, what it asks of models is guarded like any call."""

from typing import Any

import orjson
import pytest

from models.channels import CLUSTER_SECRET_HEADER, PARENT_REQUEST_HEADER, PRINCIPAL_HEADER
from models.identity import AgentRoute, Principal
from models.privacy import CustomPattern, Guards, PiiPolicy

SECRET = "cluster-secret"
MAIL = "ada.lovelace@acme.example"
HANDBOOK = AgentRoute(agent_id="agt_1", slug="handbook", version=3, published_at=1_767_225_600)


def guards(action: Any) -> Guards:
    patterns = tuple(CustomPattern(name=f"own_{number}", pattern="x" * 199) for number in range(10))
    return Guards(pii=PiiPolicy(action=action, entities=("email",), patterns=patterns), keep_prompts=True)


@pytest.mark.parametrize(("action", "model"), [("mask_hosted", "hosted/model"), ("mask_all", "scripted")])
async def test_the_policy_travels_with_the_agent_and_holds_for_the_calls_it_makes(
    platform: Any, action: str, model: str
) -> None:
    stage = await platform()
    stage.admit("good", agents=(HANDBOOK,), guards=guards(action))
    said = [{"role": "user", "content": f"I am {MAIL}"}]
    assert (await stage.chat(model="agent/handbook", messages=said)).status_code == 200
    _, headers, asked = stage.agents.requests[-1]
    assert asked["messages"] == said
    assert Principal.from_header(headers[PRINCIPAL_HEADER]).guards == guards(action)
    inner = {name: headers[name] for name in (PRINCIPAL_HEADER,)}
    inner |= {CLUSTER_SECRET_HEADER: SECRET, PARENT_REQUEST_HEADER: "req_outer"}
    body = {"model": model, "messages": said}
    answer = await stage.http.post("/v1/chat/completions", json=body, headers=inner)
    assert answer.status_code == 200, answer.text
    assert MAIL not in orjson.dumps(stage.engine.requests[-1][2]).decode()
    assert stage.engine.requests[-1][2]["messages"][0]["content"] == "I am <EMAIL_1>"


async def test_an_agent_is_not_asked_what_a_project_refuses(platform: Any) -> None:
    stage = await platform()
    stage.admit("good", agents=(HANDBOOK,), guards=guards("refuse"))
    answer = await stage.chat(model="agent/handbook", messages=[{"role": "user", "content": MAIL}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "pii_detected")
    assert stage.agents.requests == []
