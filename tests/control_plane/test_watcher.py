"""Ingestions and their jobs, against a peer that speaks Ray's Jobs API on a socket."""

from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.knowledge.jobs import JobsAway, JobsClient
from control_plane.knowledge.watcher import Watcher
from control_plane.supervision import Bell

EMBEDDING = "all-minilm-l6-v2"


@pytest.fixture
async def watcher(app, config: ControlPlaneConfig, jobs_api) -> AsyncIterator[Watcher]:
    """A watcher that looks when told to."""
    jobs = JobsClient(jobs_api.url, config.jobs_token, 5.0)
    yield Watcher(config, app.state.context.sessions, jobs, Bell())
    await jobs.close()


class Ingestion:
    def __init__(self, tenant, base: str, row: dict) -> None:
        self.id = row["id"]
        self._tenant = tenant
        self._place = tenant.path(f"/knowledge-bases/{base}/ingestions/{self.id}")

    async def show(self) -> dict:
        return (await self._tenant.client.get(self._place)).json()

    async def cancel(self) -> dict:
        return (await self._tenant.client.post(f"{self._place}/cancel")).json()


@pytest.fixture
async def ingestion(acme, config: ControlPlaneConfig) -> Ingestion:
    base = await acme.make("/knowledge-bases", {"name": "docs", "embedding_model": EMBEDDING})
    order = {"path": str(config.ingestion_roots[0])}
    row = await acme.make(f"/knowledge-bases/{base['id']}/ingestions", order, status=202)
    return Ingestion(acme, base["id"], row)


async def test_a_queued_ingestion_is_submitted_once(acme, ingestion, watcher, jobs_api) -> None:
    await watcher.look()
    await watcher.look()
    (job,) = jobs_api.jobs.values()
    assert job["submission_id"] == ingestion.id
    assert job["entrypoint"] == f"python -m deployments.ingest {ingestion.id}"
    assert job["metadata"]["organisation_id"] == acme.id
    assert (await ingestion.show())["state"] == "queued"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        ("FAILED", 137, "exit code 137"),
        ("FAILED", None, "failed; its log"),
        ("STOPPED", None, "stopped from outside"),
        ("SUCCEEDED", 0, "without a report"),
    ],
)
async def test_a_job_that_ends_without_a_report_fails_its_ingestion(
    ingestion, watcher, jobs_api, status: str, code: int | None, words: str
) -> None:
    await watcher.look()
    jobs_api.jobs[ingestion.id] |= {"status": status, "driver_exit_code": code}
    await watcher.look()
    shown = await ingestion.show()
    assert shown["state"] == "failed"
    assert words in shown["error"]


async def test_a_job_that_vanished_fails_its_ingestion(ingestion, watcher, jobs_api) -> None:
    await watcher.look()
    jobs_api.jobs.clear()
    await watcher.look()
    shown = await ingestion.show()
    assert (shown["state"], "no longer knows" in shown["error"]) == ("failed", True)


async def test_a_jobs_own_report_wins_over_what_the_watcher_concludes(ingestion, watcher, jobs_api, internal) -> None:
    await watcher.look()
    await internal.post(f"/internal/ingestions/{ingestion.id}/progress", json={"state": "succeeded"})
    jobs_api.jobs[ingestion.id] |= {"status": "FAILED"}
    await watcher.look()
    assert (await ingestion.show())["state"] == "succeeded"


async def test_cancelling_stops_the_job_and_ends_with_it(ingestion, watcher, jobs_api) -> None:
    await watcher.look()
    assert (await ingestion.cancel())["state"] == "queued"
    await watcher.look()
    assert jobs_api.stopped == [ingestion.id]
    assert (await ingestion.show())["state"] == "queued"
    jobs_api.jobs[ingestion.id] |= {"status": "STOPPED"}
    await watcher.look()
    shown = await ingestion.show()
    assert (shown["state"], shown["error"]) == ("cancelled", None)


async def test_a_submission_whose_answer_was_lost_counts_once_the_job_is_there(ingestion, watcher, jobs_api) -> None:
    jobs_api.takes_but_fails = True
    await watcher.look()
    assert list(jobs_api.jobs) == [ingestion.id]
    jobs_api.jobs.clear()
    await watcher.look()
    assert (await ingestion.show())["state"] == "failed"


@pytest.mark.parametrize("fault", ["500", "403", "garbled", "token", "away"])
async def test_while_the_jobs_api_is_away_nothing_is_concluded(
    app, ingestion, watcher, jobs_api, config: ControlPlaneConfig, fault: str
) -> None:
    await watcher.look()
    url = "http://127.0.0.1:9" if fault == "away" else jobs_api.url
    token = SecretStr("wrong") if fault == "token" else config.jobs_token
    jobs_api.broken = int(fault) if fault.isdigit() else None
    jobs_api.garbled = fault == "garbled"
    jobs = JobsClient(url, token, 5.0)
    blind = Watcher(config, app.state.context.sessions, jobs, Bell())
    await blind.look()
    await ingestion.cancel()
    await blind.look()
    await jobs.close()
    shown = await ingestion.show()
    assert (shown["state"], shown["finished_at"]) == ("queued", None)


async def test_a_job_that_cannot_be_submitted_for_long_has_failed(app, ingestion, config: ControlPlaneConfig) -> None:
    jobs = JobsClient("http://127.0.0.1:9", None, 5.0)
    watcher = Watcher(config, app.state.context.sessions, jobs, Bell())
    await watcher.look()
    assert (await ingestion.show())["state"] == "queued"
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        connection.execute("UPDATE ingestions SET created_at = now() - interval '1 hour'")
    await watcher.look()
    await jobs.close()
    shown = await ingestion.show()
    assert (shown["state"], "in time" in shown["error"]) == ("failed", True)


async def test_a_job_that_the_cluster_refuses_fails_at_once(ingestion, watcher, jobs_api) -> None:
    jobs_api.broken = 400
    await watcher.look()
    shown = await ingestion.show()
    assert (shown["state"], "refused" in shown["error"]) == ("failed", True)


async def test_a_job_submitted_while_its_ingestion_was_cancelled_is_stopped(
    app, ingestion, config: ControlPlaneConfig, jobs_api
) -> None:
    class CancelledMeanwhile(JobsClient):
        async def submit(self, job_id: str, entrypoint: str, cpus: float, metadata: dict[str, str]) -> None:
            await super().submit(job_id, entrypoint, cpus, metadata)
            assert (await ingestion.cancel())["state"] == "cancelled"

    jobs = CancelledMeanwhile(jobs_api.url, config.jobs_token, 5.0)
    await Watcher(config, app.state.context.sessions, jobs, Bell()).look()
    await jobs.close()
    assert jobs_api.stopped == [ingestion.id]
    assert (await ingestion.show())["state"] == "cancelled"


async def test_stopping_a_job_that_is_gone_is_no_error(config: ControlPlaneConfig, jobs_api) -> None:
    jobs = JobsClient(jobs_api.url, config.jobs_token, 5.0)
    await jobs.stop("ing_none")
    jobs_api.broken = 500
    with pytest.raises(JobsAway):
        await jobs.stop("ing_none")
    await jobs.close()


async def test_the_running_platform_submits_at_once_and_cancels(
    acme, config: ControlPlaneConfig, jobs_api, running, eventually
) -> None:
    slow = config.model_copy(update={"jobs_url": jobs_api.url, "watch_seconds": 60.0})
    app = create_app(slow)
    async with running(app):
        headers = {"authorization": f"Bearer {acme.key}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as client:
            made = await client.post(acme.path("/knowledge-bases"), json={"name": "docs", "embedding_model": EMBEDDING})
            place = acme.path(f"/knowledge-bases/{made.json()['id']}/ingestions")
            row = (await client.post(place, json={"path": str(config.ingestion_roots[0])})).json()

            async def submitted() -> bool:
                return row["id"] in jobs_api.jobs

            async def stopped() -> bool:
                return row["id"] in jobs_api.stopped

            await eventually(submitted)
            await client.post(f"{place}/{row['id']}/cancel")
            await eventually(stopped)
