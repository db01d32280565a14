"""Batches and their jobs, against a peer that speaks Ray's Jobs API on a socket."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from control_plane.batches.watcher import BatchWatcher
from control_plane.config import ControlPlaneConfig
from control_plane.knowledge.jobs import JobsClient
from control_plane.supervision import Bell

DIGEST = "0" * 64
UPLOAD = {"filename": "in.jsonl", "purpose": "batch", "bytes": 7, "sha256": DIGEST}
ORDER = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


@pytest.fixture
async def watcher(app, config: ControlPlaneConfig, jobs_api) -> AsyncIterator[BatchWatcher]:
    """A watcher that looks when told to."""
    jobs = JobsClient(jobs_api.url, config.jobs_token, 5.0)
    yield BatchWatcher(config, app.state.context.sessions, jobs, Bell())
    await jobs.close()


class Batch:
    def __init__(self, internal: httpx.AsyncClient, tenant: Any, batch_id: str) -> None:
        self.id = batch_id
        self._internal = internal
        self._place = f"{place(tenant)}/batches/{batch_id}"

    async def show(self) -> dict[str, Any]:
        return (await self._internal.get(self._place)).json()

    async def cancel(self) -> httpx.Response:
        return await self._internal.post(f"{self._place}/cancel")

    async def job(self, method: str, what: str, body: Any = None, attempt: int = 1) -> httpx.Response:
        return await self._internal.request(method, f"/internal/batches/{self.id}/{attempt}{what}", json=body)


def place(tenant: Any) -> str:
    return f"/internal/organisations/{tenant.id}/projects/{tenant.project_id}"


async def queued(internal: httpx.AsyncClient, tenant: Any) -> Batch:
    file = (await internal.post(f"{place(tenant)}/files", json={"lease_seconds": 60})).json()["id"]
    assert (await internal.post(f"{place(tenant)}/files/{file}/finish", json=UPLOAD)).status_code == 200
    order = {"owner": {"api_key_id": tenant.key_id}, "batch": {"input_file_id": file, **ORDER}}
    answer = await internal.post(f"{place(tenant)}/batches", json=order)
    assert answer.status_code == 200, answer.text
    return Batch(internal, tenant, answer.json()["id"])


@pytest.fixture
async def batch(internal: httpx.AsyncClient, acme) -> Batch:
    return await queued(internal, acme)


async def test_a_queued_batch_is_submitted_once(acme, batch: Batch, watcher, jobs_api) -> None:
    await watcher.look()
    await watcher.look()
    (job,) = jobs_api.jobs.values()
    assert job["submission_id"] == f"{batch.id}-1"
    assert job["entrypoint"] == f"python -m deployments.batch {batch.id} 1"
    assert job["metadata"]["organisation_id"] == acme.id


@pytest.mark.parametrize("status", ["FAILED", "STOPPED", "SUCCEEDED", None])
async def test_a_job_that_ends_before_its_batch_is_followed_by_another(batch: Batch, watcher, jobs_api, status) -> None:
    await watcher.look()
    if status is None:
        jobs_api.jobs.clear()
    else:
        jobs_api.jobs[f"{batch.id}-1"]["status"] = status
    await watcher.look()
    assert (await batch.job("GET", "")).status_code == 409
    assert (await batch.job("POST", "/begin", {"lines": [1]})).status_code == 409
    await watcher.look()
    assert f"{batch.id}-2" in jobs_api.jobs
    assert (await batch.job("GET", "", attempt=2)).status_code == 200


async def test_a_batch_whose_jobs_die_again_and_again_fails(batch: Batch, watcher, jobs_api, config) -> None:
    for attempt in range(1, config.batch_attempts_max + 1):
        assert (await batch.show())["status"] == "validating"
        await watcher.look()
        jobs_api.jobs[f"{batch.id}-{attempt}"]["status"] = "FAILED"
        await watcher.look()
    shown = await batch.show()
    assert (shown["status"], shown["errors"]["data"][0]["code"]) == ("failed", "server_error")
    await watcher.look()
    assert len(jobs_api.jobs) == config.batch_attempts_max


async def test_so_many_batches_run_at_a_time_the_oldest_first(internal, acme, watcher, jobs_api, config) -> None:
    made = [await queued(internal, acme) for _ in range(config.batches_at_once + 1)]
    await watcher.look()
    assert set(jobs_api.jobs) == {f"{one.id}-1" for one in made[:-1]}
    assert (await made[0].job("POST", "/validated", {"errors": [{"code": "x", "message": "y"}]})).status_code == 200
    await watcher.look()
    assert f"{made[-1].id}-1" in jobs_api.jobs


async def test_organisations_take_turns(internal, acme, rival, watcher, jobs_api, config) -> None:
    assert config.batches_at_once == 2
    whose = [acme, acme, acme, acme, rival, rival]
    made = [await queued(internal, tenant) for tenant in whose]
    ended = 0

    async def taken() -> list[int]:
        await watcher.look()
        return [number for number, one in enumerate(made) if f"{one.id}-1" in jobs_api.jobs]

    order: list[int] = []
    while len(order) < len(made):
        order += sorted(set(await taken()) - set(order))
        done = made[order[ended]]
        assert (await done.job("POST", "/validated", {"errors": [{"code": "x", "message": "y"}]})).status_code == 200
        ended += 1
    assert order == [0, 4, 1, 5, 2, 3]


async def test_a_batch_whose_job_died_keeps_its_place(internal, acme, rival, watcher, jobs_api, config) -> None:
    mine = [await queued(internal, acme) for _ in range(config.batches_at_once)]
    await watcher.look()
    await queued(internal, rival)
    for one in mine:
        jobs_api.jobs[f"{one.id}-1"]["status"] = "FAILED"
    await watcher.look()
    await watcher.look()
    assert set(jobs_api.jobs) == {f"{one.id}-{attempt}" for one in mine for attempt in (1, 2)}


async def test_while_the_jobs_api_is_away_nothing_is_concluded(batch: Batch, watcher, jobs_api) -> None:
    jobs_api.broken = 502
    await watcher.look()
    jobs_api.broken = None
    await watcher.look()
    jobs_api.broken = 502
    await watcher.look()
    assert (await batch.show())["status"] == "validating"
    assert list(jobs_api.jobs) == [f"{batch.id}-1"]


async def test_an_outcome_counts_once(batch: Batch) -> None:
    await batch.job("POST", "/validated", {"model": "m", "total": 3})
    assert (await batch.job("POST", "/begin", {"lines": [1, 2, 3]})).json() == {"stop": None}
    outcomes = {"data": [{"line": 2, "ok": True, "text": "a\\u0000b"}, {"line": 1, "ok": False, "text": "c"}]}
    for _ in range(2):
        assert (await batch.job("PUT", "/outcomes", outcomes)).status_code == 200
    assert (await batch.show())["request_counts"] == {"total": 3, "completed": 1, "failed": 1}
    read = (await batch.job("GET", "/outcomes")).json()["data"]
    assert [(one["line"], one["text"]) for one in read] == [(1, "c"), (2, "a\\u0000b")]
    order = (await batch.job("GET", "")).json()
    assert (order["done"], order["lost"], order["stop"]) == ([1, 2], [], None)


async def test_the_end_and_its_files_come_in_one_step(batch: Batch, internal, acme, config) -> None:
    files = f"{place(acme)}/files"
    await batch.job("POST", "/validated", {"model": "m", "total": 1})
    output = (await internal.post(files, json={"lease_seconds": 60})).json()["id"]
    late = (await internal.post(files, json={"lease_seconds": 60})).json()["id"]
    end = {**UPLOAD, "purpose": "batch_output"}
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        connection.execute("UPDATE files SET lease_until = now() WHERE id = %s", [late])
    both = {"stop": None, "failed": 1, "output": {"id": output, "end": end}, "errors": {"id": late, "end": end}}
    assert (await batch.job("POST", "/finish", both)).status_code == 409
    assert (await internal.get(f"{files}/{output}")).status_code == 404
    assert (await batch.show())["status"] == "in_progress"
    assert (await batch.job("POST", "/finish", {**both, "errors": None})).status_code == 204
    assert (await internal.get(f"{files}/{output}")).status_code == 200
    assert (await batch.show())["status"] == "completed"
    assert (await batch.job("POST", "/finish", {**both, "errors": None})).status_code == 409


async def test_a_batch_that_has_ended_cannot_be_cancelled(batch: Batch) -> None:
    await batch.job("POST", "/finish", {"stop": None, "failed": 0, "output": None, "errors": None})
    assert (await batch.cancel()).status_code == 409


async def test_without_the_secret_there_is_nothing(anonymous, acme, batch: Batch) -> None:
    stranger = Batch(anonymous, acme, batch.id)
    assert (await stranger.cancel()).status_code == 404
    assert (await stranger.job("GET", "")).status_code == 404
