"""Liveness and readiness; background tasks that outlive their failures."""

import asyncio
import socket

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.supervision import Bell, supervised


async def test_ready_says_what_it_asked(anonymous) -> None:
    assert (await anonymous.get("/health/live")).json() == {"status": "live"}
    answer = await anonymous.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"postgresql": "ok", "redis": "ok"}}


@pytest.mark.parametrize(
    ("field", "url", "name"),
    [
        ("database_url", "postgresql://nobody@/none?host=/nowhere", "postgresql"),
        ("redis_url", "unix:///nowhere/redis.sock", "redis"),
    ],
)
async def test_not_ready_names_what_is_away(config: ControlPlaneConfig, field: str, url: str, name: str) -> None:
    app = create_app(config.model_copy(update={field: SecretStr(url)}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.get("/health/live")).status_code == 200
        answer = await client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"][name] == "away"
    assert name in answer.json()["error"]["message"]
    await app.state.context.redis.aclose()
    await app.state.context.engine.dispose()


async def test_without_a_database_a_request_is_a_503(config: ControlPlaneConfig) -> None:
    app = create_app(config.model_copy(update={"database_url": SecretStr("postgresql://n@/none?host=/nowhere")}))
    headers = {"authorization": "Bearer test-operator-key-0"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x", headers=headers) as client:
        answer = await client.get("/api/v1/organisations")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert "nowhere" not in answer.text


async def test_a_task_that_crashes_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Event()
    runs = 0

    async def crashing() -> None:
        nonlocal runs
        runs += 1
        if runs == 4:
            done.set()
        raise LookupError("broken")

    async with supervised({"crashing": crashing}, restart_seconds_max=0.01), asyncio.timeout(10):
        await done.wait()
    assert "crashing stopped, again in" in caplog.text
    assert "LookupError: broken" in caplog.text


async def test_a_task_that_ran_long_enough_starts_with_a_short_pause(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Event()
    runs = 0

    async def lasting() -> None:
        nonlocal runs
        runs += 1
        if runs == 4:
            done.set()
        await asyncio.sleep(0.02)
        if runs != 2:
            raise LookupError

    async with supervised({"lasting": lasting}, restart_seconds_max=0.01), asyncio.timeout(10):
        await done.wait()
    assert caplog.text.count("again in 0.1 s") >= 2


async def test_leaving_the_block_cancels_what_runs() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def waiting() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with supervised({"waiting": waiting}, restart_seconds_max=1), asyncio.timeout(10):
        await started.wait()
    assert ended.is_set()


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    started = asyncio.Event()
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        started.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
                if lost == 2:
                    raise

    async with asyncio.timeout(10), supervised({"deaf": deaf}, restart_seconds_max=1):
        await started.wait()
    assert lost == 2


async def test_a_bell_ends_a_sleep_and_is_remembered_once() -> None:
    bell = Bell()
    async with asyncio.timeout(10):
        await bell.ring()
        await bell.sleep(60)
        await bell.sleep(0.01)


async def test_the_application_starts_and_stops_its_tasks(config: ControlPlaneConfig, running) -> None:
    app = create_app(config)
    async with running(app):
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert {"usage consumer", "usage reaper", "ingestion watcher"} <= names
    assert not {"usage consumer", "usage reaper", "ingestion watcher"} & {
        task.get_name() for task in asyncio.all_tasks()
    }


async def test_it_serves_on_a_socket_and_stops_when_told(config: ControlPlaneConfig) -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(create_app(config), log_level="error", server_header=False, ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        assert (await client.get("/health/ready")).json()["status"] == "ready"
        answer = await client.get("/api/v1/me")
        assert answer.json()["error"]["code"] == "invalid_api_key"
    server.should_exit = True
    async with asyncio.timeout(10):
        await serving
    listening.close()
