"""The files' ledger, as gateways use it: what is visible when and to whom, and what sweeps are given."""

from typing import Any

import httpx
import psycopg
import pytest

from control_plane.config import ControlPlaneConfig

DIGEST = "0" * 64
PATH = "/internal/files"
END = {"filename": "a.jsonl", "purpose": "user_data", "bytes": 7, "sha256": DIGEST}


class Ledger:
    """A gateway that calls for one project."""

    def __init__(self, client: httpx.AsyncClient, organisation: str, project: str) -> None:
        self._client = client
        self._path = f"/internal/organisations/{organisation}/projects/{project}/files"

    async def __call__(self, method: str, rest: str = "", **options: Any) -> httpx.Response:
        return await self._client.request(method, self._path + rest, **options)

    async def start(self, lease_seconds: float = 60) -> str:
        answer = await self("POST", json={"lease_seconds": lease_seconds})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def finish(self, file_id: str, **changes: Any) -> httpx.Response:
        return await self("POST", f"/{file_id}/finish", json={**END, **changes})

    async def store(self, **changes: Any) -> str:
        file_id = await self.start()
        answer = await self.finish(file_id, **changes)
        assert answer.status_code == 200, answer.text
        return file_id

    async def ids(self, **params: Any) -> list[str]:
        answer = await self("GET", params=params)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["data"]]


@pytest.fixture
def ours(internal: httpx.AsyncClient, acme: Any) -> Ledger:
    return Ledger(internal, acme.id, acme.project_id)


@pytest.fixture
def late(config: ControlPlaneConfig) -> Any:
    """Moves the leases and expiries of every file into the past."""

    def move() -> None:
        with psycopg.connect(config.database_url.get_secret_value()) as connection:
            connection.execute(
                "UPDATE files SET lease_until = lease_until - interval '40 days', "
                "expires_at = expires_at - interval '40 days'"
            )

    return move


async def claim(internal: httpx.AsyncClient, limit: int = 100) -> list[str]:
    answer = await internal.post(f"{PATH}/claim", json={"limit": limit, "lease_seconds": 60})
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


def rows(config: ControlPlaneConfig) -> dict[str, str]:
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        return dict(connection.execute("SELECT id, state FROM files").fetchall())


async def test_a_file_is_seen_once_it_is_finished(ours: Ledger) -> None:
    file_id = await ours.start()
    assert await ours.ids() == []
    assert (await ours("GET", f"/{file_id}")).status_code == 404
    assert (await ours("DELETE", f"/{file_id}")).status_code == 404
    made = (await ours.finish(file_id)).json()
    assert (made["id"], made["bytes"], made["expires_at"], made["status"]) == (file_id, 7, None, "processed")
    assert (await ours("GET", f"/{file_id}")).json() == made
    assert await ours.ids() == [file_id]
    assert (await ours.finish(file_id)).status_code == 409


@pytest.mark.parametrize("field", ["filename", "purpose", "bytes", "sha256"])
async def test_the_database_keeps_no_file_that_lacks_a_part(ours: Ledger, config: ControlPlaneConfig, field) -> None:
    await ours.store()
    with (
        psycopg.connect(config.database_url.get_secret_value()) as connection,
        pytest.raises(psycopg.errors.CheckViolation),
    ):
        connection.execute(psycopg.sql.SQL("UPDATE files SET {} = NULL").format(psycopg.sql.Identifier(field)))


async def test_another_project_or_organisation_sees_nothing(ours: Ledger, internal, acme, rival) -> None:
    file_id, upload = await ours.store(), await ours.start()
    other = await acme.make("/projects", {"name": "Other"})
    for stranger in (Ledger(internal, acme.id, other["id"]), Ledger(internal, rival.id, rival.project_id)):
        absent = await stranger("GET", "/file-none")
        assert absent.status_code == 404
        for method, rest, body in (
            ("GET", f"/{file_id}", None),
            ("DELETE", f"/{file_id}", None),
            ("POST", f"/{file_id}/abandon", None),
            ("POST", f"/{upload}/finish", END),
        ):
            answer = await stranger(method, rest, json=body)
            assert (answer.status_code, answer.json()) == (404, absent.json()), (method, rest)
        assert await stranger.ids() == []
    assert await ours.ids() == [file_id]
    assert (await ours.finish(upload)).status_code == 200


async def test_a_project_of_another_organisation_cannot_own_a_file(internal, acme, rival, config) -> None:
    answer = await Ledger(internal, acme.id, rival.project_id)("POST", json={"lease_seconds": 60})
    assert answer.status_code == 500
    assert rows(config) == {}


async def test_lists_are_paged_in_both_orders_and_by_purpose(ours: Ledger) -> None:
    ids = [await ours.store(purpose=purpose) for purpose in ("batch", "vision", "batch", "assistants")]
    assert await ours.ids() == ids[::-1]
    assert await ours.ids(order="asc") == ids
    assert await ours.ids(purpose="batch") == [ids[2], ids[0]]
    first = (await ours("GET", params={"limit": 3})).json()
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[3], ids[1], True)
    assert await ours.ids(limit=3, after=first["last_id"]) == [ids[0]]
    assert await ours.ids(order="asc", after=ids[1], limit=1) == [ids[2]]
    empty = (await ours("GET", params={"purpose": "evals"})).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("params", "param"), [({"limit": 0}, "limit"), ({"limit": 10_001}, "limit"), ({"order": "x"}, "order")]
)
async def test_a_wrong_query_names_its_parameter(ours: Ledger, params: dict[str, Any], param: str) -> None:
    answer = await ours("GET", params=params)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_deleted_file_is_hidden_at_once_and_swept_unless_its_gateway_does_it(
    ours: Ledger, internal, config, late
) -> None:
    file_id = await ours.store()
    assert (await ours("DELETE", f"/{file_id}")).status_code == 204
    assert (await ours("DELETE", f"/{file_id}")).status_code == 404
    assert await ours.ids() == []
    assert await claim(internal) == []
    late()
    assert await claim(internal) == [file_id]
    assert await claim(internal) == []
    late()
    assert await claim(internal) == [file_id]
    places = {"data": [{"organisation_id": "whoever", "id": file_id}]}
    for _ in range(2):
        assert (await internal.post(f"{PATH}/purge", json=places)).status_code == 204
    assert rows(config) == {}


async def test_an_abandoned_upload_is_claimed_and_can_no_longer_be_finished(ours: Ledger, internal, late) -> None:
    file_id = await ours.start()
    assert await claim(internal) == []
    late()
    assert (await ours.finish(file_id)).status_code == 409
    assert await claim(internal) == [file_id]
    assert (await ours.finish(file_id)).status_code == 409
    assert await ours.ids() == []


async def test_what_a_client_may_have_is_never_purged(ours: Ledger, internal, config) -> None:
    stored, uploading = await ours.store(), await ours.start()
    places = {"data": [{"organisation_id": "whoever", "id": one} for one in (stored, uploading)]}
    assert (await internal.post(f"{PATH}/purge", json=places)).status_code == 204
    assert rows(config) == {stored: "stored", uploading: "uploading"}


async def test_an_upload_whose_end_was_not_heard_can_be_given_up(ours: Ledger, config) -> None:
    file_id = await ours.store()
    for _ in range(2):
        assert (await ours("POST", f"/{file_id}/abandon")).status_code == 204
    assert rows(config) == {file_id: "deleted"}


async def test_an_expired_file_is_gone_before_it_is_swept(ours: Ledger, internal, late) -> None:
    kept = await ours.store()
    batch = await ours.store(purpose="batch")
    short = (await ours.finish(await ours.start(), expires_after_seconds=3_600)).json()
    seen = (await ours("GET", f"/{batch}")).json()
    assert seen["expires_at"] - seen["created_at"] == 30 * 86_400
    assert short["expires_at"] - short["created_at"] == 3_600
    late()
    assert await ours.ids() == [kept]
    assert (await ours("GET", f"/{batch}")).status_code == 404
    assert (await ours("DELETE", f"/{batch}")).status_code == 404
    assert sorted(await claim(internal)) == sorted([batch, short["id"]])


async def test_sweeps_are_given_no_more_than_they_ask_for(ours: Ledger, internal, late) -> None:
    ids = [await ours.start() for _ in range(3)]
    late()
    assert await claim(internal, limit=2) == ids[:2]
    assert await claim(internal, limit=2) == ids[2:]


async def test_without_the_secret_there_is_nothing(anonymous: httpx.AsyncClient, acme) -> None:
    ours = Ledger(anonymous, acme.id, acme.project_id)
    for method, rest, body in (("GET", "", None), ("POST", "", {"lease_seconds": 60}), ("DELETE", "/file-1", None)):
        assert (await ours(method, rest, json=body)).status_code == 404
    for path in ("claim", "purge"):
        answer = await anonymous.post(f"{PATH}/{path}", json={"limit": 1, "lease_seconds": 60, "data": []})
        assert answer.status_code == 404
