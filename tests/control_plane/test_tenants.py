"""Organisations, projects and users."""

import pytest


async def test_only_the_operator_makes_and_lists_organisations(acme, operator) -> None:
    assert (await acme.client.get("/api/v1/organisations")).status_code == 403
    assert (await acme.client.post("/api/v1/organisations", json={"name": "Mine"})).status_code == 403
    page = (await operator.get("/api/v1/organisations")).json()
    assert [row["id"] for row in page["data"]] == [acme.id]


async def test_organisations_are_listed_page_by_page(acme, rival, operator) -> None:
    first = (await operator.get("/api/v1/organisations", params={"limit": 1})).json()
    assert (first["data"][0]["id"], first["has_more"]) == (rival.id, True)
    second = (await operator.get("/api/v1/organisations", params={"limit": 1, "after": first["last_id"]})).json()
    assert (second["data"][0]["id"], second["has_more"]) == (acme.id, False)


async def test_an_admin_renames_its_organisation_but_sets_no_limits(acme) -> None:
    assert (await acme.client.patch(acme.path(), json={"name": "Acme Corp"})).json()["name"] == "Acme Corp"
    assert (await acme.client.get(acme.path())).json()["name"] == "Acme Corp"
    for change in ({"limits": {}}, {"archived": True}):
        assert (await acme.client.patch(acme.path(), json=change)).status_code == 403


async def test_the_operator_sets_limits_and_archives(acme, operator) -> None:
    limits = {"requests_per_minute": 10, "tokens_per_minute": None, "concurrent_requests": None, "weight": 3}
    changed = (await operator.patch(acme.path(), json={"limits": limits})).json()
    assert changed["limits"] == limits
    archived = (await operator.patch(acme.path(), json={"archived": True})).json()
    again = (await operator.patch(acme.path(), json={"archived": True})).json()
    assert again["archived_at"] == archived["archived_at"]
    assert (await operator.get(acme.path())).json()["archived_at"] == archived["archived_at"]
    assert (await acme.client.get(acme.path())).status_code == 401


async def test_an_organisation_that_does_not_exist_is_not_found(operator) -> None:
    answer = await operator.get("/api/v1/organisations/org_none")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_a_projects_life(acme) -> None:
    made = await acme.make("/projects", {"name": " Support "})
    assert made["name"] == "Support"
    place = acme.path(f"/projects/{made['id']}")
    changed = (await acme.client.patch(place, json={"name": "Care", "limits": {"concurrent_requests": 2}})).json()
    assert (changed["name"], changed["limits"]["concurrent_requests"]) == ("Care", 2)
    assert (await acme.client.get(place)).json() == changed
    page = (await acme.client.get(acme.path("/projects"))).json()
    assert [row["id"] for row in page["data"]] == [made["id"], acme.project_id]


async def test_two_projects_of_an_organisation_cannot_share_a_name(acme, rival) -> None:
    made = await acme.make("/projects", {"name": "Support"})
    answer = await acme.client.post(acme.path("/projects"), json={"name": "Support"})
    assert answer.status_code == 409
    assert answer.json()["error"]["param"] == "name"
    rename = await acme.client.patch(acme.path(f"/projects/{made['id']}"), json={"name": "Default"})
    assert rename.status_code == 409
    await rival.make("/projects", {"name": "Support"})


async def test_a_users_life(acme) -> None:
    made = await acme.make("/users", {"email": "Ada@Acme.Example", "name": "Ada"})
    assert made["email"] == "ada@acme.example"
    place = acme.path(f"/users/{made['id']}")
    assert (await acme.client.patch(place, json={"name": "Ada L."})).json()["name"] == "Ada L."
    assert (await acme.client.get(place)).json()["name"] == "Ada L."
    assert [row["id"] for row in (await acme.client.get(acme.path("/users"))).json()["data"]] == [made["id"]]
    again = await acme.client.post(acme.path("/users"), json={"email": "ada@acme.example", "name": "Other"})
    assert again.status_code == 409


@pytest.mark.parametrize("email", ["", "ada", "ada@", "a b@c.d", "a@b.c" + "d" * 300, None, 7])
async def test_what_is_no_address_is_refused(acme, email: object) -> None:
    answer = await acme.client.post(acme.path("/users"), json={"email": email, "name": "Ada"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "email"


async def test_a_failed_request_leaves_nothing_behind(acme) -> None:
    await acme.make("/projects", {"name": "Support"})
    await acme.client.post(acme.path("/projects"), json={"name": "Support"})
    page = (await acme.client.get(acme.path("/projects"))).json()
    assert [row["name"] for row in page["data"]] == ["Support", "Default"]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=99999999999999999999", "after="])
async def test_a_bad_page_is_refused(acme, query: str) -> None:
    answer = await acme.client.get(acme.path(f"/projects?{query}"))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.split("=")[0]
