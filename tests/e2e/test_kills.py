"""A part is killed under load: it comes back by itself, and the ledger still holds each call exactly once."""

import asyncio
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import psutil
import pytest
from pydantic import SecretStr

from cluster.errors import DeployFailed
from cluster.home import Home
from cluster.serve_api import ServeApi
from cluster.status import read_status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHAT = "smollm2-135m-instruct"
CLIENTS = 20
TOKENS_MAX = 40
# Calls answered before the kill, and again after the recovery.
CALLS_AROUND = 40
RECOVERY_SECONDS_MAX = 60.0
# A dead gateway's open calls are closed by the control plane once its heartbeat has run out.
LEDGER_SECONDS_MAX = 90.0
LOAD_SECONDS_MAX = 120.0
REQUEST_SECONDS_MAX = 60.0
PROBE_SECONDS_MAX = 20.0
POLL_SECONDS = 0.1
BACK_OFF_SECONDS = 0.5
PAGE = 100


class Load:
    """Clients that stream one completion after the other.

    ``sent`` are all calls; ``taken`` those that the gateway answered, with tokens or with an error of its own. The
    others never came to it, for nobody listened, or ended with it.
    """

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.taken: list[str] = []
        self.ends: Counter[str] = Counter()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def client(self, http: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            request_id = f"kill-{uuid.uuid4().hex}"
            self.sent.append(request_id)
            end, wait_seconds = await self._call(http, request_id)
            self.ends[end] += 1
            if end != "done":
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), wait_seconds)

    async def _call(self, http: httpx.AsyncClient, request_id: str) -> tuple[str, float]:
        """How it ended, and how long to wait where it did not end well: as long as it is told, like the SDKs."""
        body = {
            "model": CHAT,
            "messages": [{"role": "user", "content": f"Tell a story about {request_id}."}],
            "max_tokens": TOKENS_MAX,
            "stream": True,
        }
        done = False
        try:
            async with http.stream(
                "POST", "/v1/chat/completions", json=body, headers={"x-request-id": request_id}
            ) as answer:
                # A proxy's own page does not know the call.
                if answer.headers.get("x-request-id") == request_id:
                    self.taken.append(request_id)
                if answer.status_code != httpx.codes.OK:
                    return str(answer.status_code), float(answer.headers.get("retry-after", BACK_OFF_SECONDS))
                async for line in answer.aiter_lines():
                    done = done or line == "data: [DONE]"
        except httpx.HTTPError as error:
            return type(error).__name__, BACK_OFF_SECONDS
        return "done" if done else "cut", BACK_OFF_SECONDS


@asynccontextmanager
async def load_on(platform) -> AsyncIterator[Load]:
    """The load, from its first calls on; at the end every call has ended by itself."""
    load = Load()
    async with httpx.AsyncClient(
        base_url=platform.gateway_url,
        headers={"authorization": f"Bearer {platform.api_key}"},
        timeout=REQUEST_SECONDS_MAX,
        limits=httpx.Limits(max_connections=CLIENTS),
        trust_env=False,
    ) as http:
        clients = [asyncio.create_task(load.client(http)) for _ in range(CLIENTS)]
        try:
            yield load
            load.stop()
            await asyncio.gather(*clients)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def until(true: Callable[[], Awaitable[Any]], seconds_max: float, what: str) -> float:
    """Seconds until it held."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < seconds_max, f"{what}: not within {seconds_max:.0f} s"
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic() - began


async def flowing(load: Load) -> None:
    """Returns once further calls were answered in full."""
    wanted = load.ends["done"] + CALLS_AROUND

    async def enough() -> bool:
        return load.ends["done"] >= wanted

    await until(enough, LOAD_SECONDS_MAX, f"{CALLS_AROUND} more calls in full, so far {load.ends}")


async def pid_of(platform, victim: str) -> int | None:
    """The pid of a supervised part or of an application's replica; None while it does not run."""
    if victim in {"redis", "postgres", "control-plane"}:
        status = read_status(Home(platform.home))
        assert status is not None
        return next((part.pid for part in status.parts if part.name == victim and part.state == "ready"), None)
    try:
        applications = await ServeApi(platform.dashboard_url, SecretStr(platform.ray_token)).applications()
    except DeployFailed:
        return None
    replicas = [replica for one in applications if one.name == victim for replica in one.replicas]
    return next((replica.pid for replica in replicas if replica.state == "RUNNING"), None)


async def a_new_customer_is_answered(platform, http: httpx.AsyncClient) -> bool:
    """A key made now and a completion with it: nothing of it can come from a cache."""
    base = f"{platform.control_plane_url}/api/v1/organisations/{platform.organisation}/api-keys"
    admin = {"authorization": f"Bearer {platform.admin_key}"}
    body = {"model": CHAT, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    try:
        made = await http.post(base, json={"name": "new", "project_id": platform.project}, headers=admin)
        if made.is_error:
            return False
        bearer = {"authorization": f"Bearer {made.json()['key']}"}
        answer = await http.post(f"{platform.gateway_url}/v1/chat/completions", json=body, headers=bearer)
    except httpx.HTTPError:
        return False
    return answer.is_success


async def ledger(platform) -> Counter[str]:
    """How many events the ledger holds for each of the load's calls."""
    found: Counter[str] = Counter()
    path = f"{platform.control_plane_url}/api/v1/organisations/{platform.organisation}/usage/events"
    parameters: dict[str, Any] = {"limit": PAGE}
    admin = {"authorization": f"Bearer {platform.admin_key}"}
    async with httpx.AsyncClient(headers=admin, trust_env=False, timeout=REQUEST_SECONDS_MAX) as http:
        while True:
            answer = await http.get(path, params=parameters)
            assert answer.is_success, answer.text
            page = answer.json()
            found.update(event["request_id"] for event in page["data"])
            if not page["has_more"]:
                return found
            parameters["after"] = page["last_id"]


async def recovered(platform, victim: str, pid: int) -> float:
    """Kill it; seconds until another process has its place and a new customer is answered."""
    children = psutil.Process(pid).children(recursive=True)
    os.kill(pid, signal.SIGKILL)
    async with httpx.AsyncClient(timeout=PROBE_SECONDS_MAX, trust_env=False) as http:

        async def back() -> bool:
            return await pid_of(platform, victim) not in {None, pid} and await a_new_customer_is_answered(
                platform, http
            )

        seconds = await until(back, RECOVERY_SECONDS_MAX, f"{victim} is back")
    left = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert left == [], f"what the dead {victim} had started still runs"
    return seconds


async def settled(platform, load: Load) -> float:
    """Seconds until the ledger holds each call that was taken; fails where one is missing, or any is there twice."""
    counts: Counter[str] = Counter()

    async def complete() -> bool:
        nonlocal counts
        counts = await ledger(platform)
        return all(counts[request_id] for request_id in load.taken)

    began = time.monotonic()
    with suppress(AssertionError):
        await until(complete, LEDGER_SECONDS_MAX, "the ledger is complete")
    missing = [request_id for request_id in load.taken if not counts[request_id]]
    assert missing == [], f"{len(missing)} of {len(load.taken)} calls taken are not in the ledger"
    assert [request_id for request_id in load.sent if counts[request_id] > 1] == []
    return time.monotonic() - began


@pytest.fixture(scope="module")
def sent() -> list[str]:
    """Every call that this module's load made."""
    return []


@pytest.mark.parametrize("victim", ["gateway", f"engine-{CHAT}", "redis", "postgres", "control-plane"])
async def test_what_is_killed_comes_back_and_no_call_is_lost_or_billed_twice(
    platform, sent: list[str], victim: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with load_on(platform) as load:
        await flowing(load)
        pid = await pid_of(platform, victim)
        assert pid is not None
        seconds = await recovered(platform, victim, pid)
        await flowing(load)
    sent += load.sent
    settle_seconds = await settled(platform, load)
    with capsys.disabled():
        print(f"\n{victim}: back after {seconds:.1f} s; ledger complete {settle_seconds:.1f} s after the load;", end="")
        print(f" {len(load.sent)} calls, {len(load.taken)} taken, ends {dict(load.ends)}")


async def test_afterwards_no_call_at_all_is_in_the_ledger_twice(platform, sent: list[str]) -> None:
    assert sent
    counts = await ledger(platform)
    assert [request_id for request_id in sent if counts[request_id] > 1] == []
