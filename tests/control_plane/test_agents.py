"""Agents: immutable versions and a pointer."""

import asyncio

import pytest
import redis.asyncio

from control_plane.agents.service import AGENTS_MAX
from models.agents import PublishedAgent
from models.channels import INVALIDATIONS
from models.identity import Principal

CHAT = "smollm2-135m-instruct"
EMBEDDING = "all-minilm-l6-v2"
SPEC = {"instructions": "Answer briefly.", "model": CHAT}


async def agents_of(internal, key: str):
    answer = await internal.post("/internal/authenticate", json={"api_key": key})
    return Principal.model_validate(answer.json()).agents


async def test_an_agent_appears_to_its_callers_once_published(acme, internal) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    assert (agent["model"], agent["latest_version"], agent["published_version"]) == ("agent/handbook", 0, None)
    version = await acme.make(f"/agents/{agent['id']}/versions", SPEC)
    assert (version["version"], version["spec"]["instructions"]) == (1, "Answer briefly.")
    assert await agents_of(internal, acme.key) == ()
    published = await acme.make(f"/agents/{agent['id']}/publish", {"version": 1}, status=200)
    assert published["published_version"] == 1
    (route,) = await agents_of(internal, acme.key)
    assert (route.agent_id, route.model_id, route.version) == (agent["id"], "agent/handbook", 1)
    assert route.published_at == published["published_at"]
    await acme.make(f"/agents/{agent['id']}/withdraw", {}, status=200)
    assert await agents_of(internal, acme.key) == ()


async def test_rolling_back_is_publishing_an_earlier_version(acme, internal) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    for _ in range(3):
        await acme.make(f"/agents/{agent['id']}/versions", SPEC)
    for number in (3, 1):
        await acme.make(f"/agents/{agent['id']}/publish", {"version": number}, status=200)
        assert [route.version for route in await agents_of(internal, acme.key)] == [number]


async def test_publishing_again_changes_nothing(acme) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    await acme.make(f"/agents/{agent['id']}/versions", SPEC)
    first = await acme.make(f"/agents/{agent['id']}/publish", {"version": 1}, status=200)
    assert await acme.make(f"/agents/{agent['id']}/publish", {"version": 1}, status=200) == first


async def test_publishing_is_announced(acme, redis_url: str) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    await acme.make(f"/agents/{agent['id']}/versions", SPEC)
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client, client.pubsub() as listener:
        await listener.subscribe(INVALIDATIONS)
        await acme.make(f"/agents/{agent['id']}/publish", {"version": 1}, status=200)
        message = None
        while message is None or message["type"] != "message":
            message = await listener.get_message(timeout=5)
            assert message is not None
    assert message["data"] == f"organisation:{acme.id}".encode()


async def test_the_runtime_fetches_a_version_with_the_model_of_its_knowledge_base(acme, internal) -> None:
    base = await acme.make("/knowledge-bases", {"name": "docs", "embedding_model": EMBEDDING})
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    await acme.make(f"/agents/{agent['id']}/versions", {**SPEC, "knowledge_base_id": base["id"]})
    await acme.make(f"/agents/{agent['id']}/versions", SPEC)
    models = []
    for number in (1, 2):
        place = f"/internal/agents/{agent['id']}/versions/{number}"
        answer = await internal.get(place, params={"organisation_id": acme.id})
        found = PublishedAgent.model_validate(answer.json())
        assert (found.slug, found.version, found.organisation_id) == ("handbook", number, acme.id)
        models.append(found.embedding_model)
    assert models == [EMBEDDING, None]


async def test_the_runtime_finds_no_agent_of_another_organisation(acme, rival, internal) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    await acme.make(f"/agents/{agent['id']}/versions", SPEC)
    for organisation, number in ((rival.id, 1), (acme.id, 2)):
        place = f"/internal/agents/{agent['id']}/versions/{number}"
        assert (await internal.get(place, params={"organisation_id": organisation})).status_code == 404


async def test_versions_made_at_once_are_numbered_without_a_gap(acme) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    made = await asyncio.gather(*(acme.make(f"/agents/{agent['id']}/versions", SPEC) for _ in range(8)))
    assert sorted(version["version"] for version in made) == list(range(1, 9))


async def test_versions_are_listed_and_read(acme) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    for _ in range(3):
        await acme.make(f"/agents/{agent['id']}/versions", SPEC)
    place = acme.path(f"/agents/{agent['id']}/versions")
    first = (await acme.client.get(place, params={"limit": 2})).json()
    assert [row["version"] for row in first["data"]] == [3, 2]
    rest = (await acme.client.get(place, params={"after": first["last_id"]})).json()
    assert [row["version"] for row in rest["data"]] == [1]
    assert (await acme.client.get(f"{place}/1")).json() == rest["data"][0]
    for bad in ("x", "-1", "9" * 30, "\u0662"):
        assert (await acme.client.get(place, params={"after": bad})).json()["error"]["param"] == "after"


async def test_agents_are_listed_and_found_by_slug(acme) -> None:
    made = [await acme.make("/agents", {"slug": slug, "name": slug}) for slug in ("one", "two")]
    every = (await acme.client.get(acme.path("/agents"))).json()["data"]
    assert every == [made[1], made[0]]
    assert (await acme.client.get(acme.path("/agents?slug=one"))).json()["data"] == [made[0]]
    assert (await acme.client.get(acme.path(f"/agents/{made[0]['id']}"))).json() == made[0]


async def test_a_slug_is_taken_once_an_organisation(acme, rival) -> None:
    await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    again = await acme.client.post(acme.path("/agents"), json={"slug": "handbook", "name": "Other"})
    assert (again.status_code, again.json()["error"]["param"]) == (409, "slug")
    await rival.make("/agents", {"slug": "handbook", "name": "Handbook"})


async def test_an_organisation_has_a_bounded_number_of_agents(acme) -> None:
    for number in range(AGENTS_MAX):
        await acme.make("/agents", {"slug": f"a{number}", "name": "A"})
    assert (await acme.client.post(acme.path("/agents"), json={"slug": "more", "name": "A"})).status_code == 409


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": "gpt-nothing"}, "model"),
        ({"model": EMBEDDING}, "model"),
        ({"knowledge_base_id": "kb_none"}, "knowledge_base_id"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_completion_tokens": 10**12}, "max_completion_tokens"),
        ({"instructions": ""}, "instructions"),
        ({"tools": []}, "tools"),
    ],
)
async def test_a_bad_specification_is_refused_by_field(acme, change: dict, param: str) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    answer = await acme.client.post(acme.path(f"/agents/{agent['id']}/versions"), json=SPEC | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("slug", ["", "Upper", "-x", "x-", "a b", "x" * 65, "ü"])
async def test_a_bad_slug_is_refused(acme, slug: str) -> None:
    answer = await acme.client.post(acme.path("/agents"), json={"slug": slug, "name": "A"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "slug")


@pytest.mark.parametrize("version", [0, 2, 10**30, "x", None])
async def test_a_version_that_is_not_there_cannot_be_published(acme, version: object) -> None:
    agent = await acme.make("/agents", {"slug": "handbook", "name": "Handbook"})
    await acme.make(f"/agents/{agent['id']}/versions", SPEC)
    answer = await acme.client.post(acme.path(f"/agents/{agent['id']}/publish"), json={"version": version})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "version")
