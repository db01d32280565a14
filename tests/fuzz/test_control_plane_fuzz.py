"""Whatever is sent to the control plane, it answers as its description says, and never with an error of its own."""

from typing import Any


async def known_of(world: Any) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """What there is to ask for, and as much again to delete."""
    known: dict[str, list[Any]] = {}
    doomed: dict[str, list[Any]] = {}
    base = await world.make("/knowledge-bases", name="handbook", embedding_model="embedder")
    run = await world.make(f"/knowledge-bases/{base['id']}/ingestions", path=str(world.documents))
    agents = [await world.make("/agents", slug=f"agent-{number}", name="Agent") for number in range(3)]
    for agent in agents:
        await world.make(f"/agents/{agent['id']}/versions", instructions="Be brief.", model="talker")
    users = [await world.make("/users", email=f"u{number}@acme.example", name="U") for number in range(3)]
    projects = [await world.make("/projects", name=f"P{number}") for number in range(3)]
    for found in (known, doomed):
        keys = [await world.make("/api-keys", name="k", project_id=world.project) for _ in range(4)]
        found["api_key_id"] = [key["id"] for key in keys]
        budgets = [
            await world.make("/budgets", scope="api_key", target_id=key["id"], period="day", limit_micro=1)
            for key in keys
        ]
        found["budget_id"] = [budget["id"] for budget in budgets]
    known |= {
        "organisation_id": [world.organisation],
        "project_id": [project["id"] for project in projects],
        "user_id": [user["id"] for user in users],
        "agent_id": [agent["id"] for agent in agents],
        "version": [1, 2],
        "knowledge_base_id": [base["id"], None],
        "ingestion_id": [run["id"]],
        "model": ["talker", "hosted/model"],
        "embedding_model": ["embedder"],
        "path": [str(world.documents)],
    }
    known["target_id"] = [*known["project_id"], *known["user_id"], *known["api_key_id"], None]
    known["after"] = [*known["project_id"], *known["api_key_id"], "1", "2"]
    return known, {**doomed, "organisation_id": known["organisation_id"]}


MADE = ("agents", "agents/{agent_id}/versions", "api-keys", "knowledge-bases", "projects", "users")


async def test_the_control_plane_answers_anything_as_it_is_described(world: Any, fuzz: Any, aim: Any) -> None:
    described = (await world.operator.get("/openapi.json")).json()
    known = await known_of(world)
    made = [f"POST /api/v1/organisations/{{organisation_id}}/{noun}" for noun in MADE]
    operator = "test-operator-key-0"
    await fuzz("operator", aim(described, *known), world.control_plane, operator, share=0.3, few=6, accepted=made)
    await fuzz("admin", aim(described, *known), world.control_plane, world.key, share=0.1, few=2)
