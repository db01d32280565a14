"""A real Ray head with HAProxy: where it listens, who may in, and what happens when it dies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr

from cluster.errors import DeployFailed
from cluster.home import Home
from cluster.ports import free_ports
from cluster.processes import HOME_MARK, marked
from cluster.ray_head import ray_part
from cluster.serve_api import ApplicationEvent, ServeApi
from cluster.supervisor import Supervisor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
DEPLOY_SECONDS_MAX = 120.0
RESTART_SECONDS_MAX = 150.0
LOOPBACK = ("127.0.0.1", "::ffff:127.0.0.1")
TOKEN = SecretStr("0123456789abcdef" * 4)


class RayHome:
    """A Ray head under supervision with one application, and what a test asks of it."""

    def __init__(self, home: Home) -> None:
        dashboard, self.gateway = free_ports(2)
        self.dashboard_url = f"http://127.0.0.1:{dashboard}"
        self.api = ServeApi(self.dashboard_url, TOKEN)
        self.events: list[ApplicationEvent] = []
        environment = {"PYTHONPATH": str(Path(__file__).parent)}
        part = ray_part(home, dashboard_port=dashboard, token=TOKEN, environment=environment, cpus=2)
        self.supervisor = Supervisor(home, [part], lambda _: None, {"ray": self.deploy})
        self.home = home

    async def deploy(self, name: str = "hello") -> None:
        schema = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self.gateway},
            "applications": [{"name": name, "route_prefix": "/", "import_path": f"hello_app:{name}"}],
        }
        await self.api.deploy(schema, self.events.append, DEPLOY_SECONDS_MAX)

    def processes(self, name: str) -> list[psutil.Process]:
        children = psutil.Process(self.supervisor.snapshot()[0].pid).children(recursive=True)
        return [process for process in children if name in process.name()]

    async def greeting(self) -> str:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://127.0.0.1:{self.gateway}/")).raise_for_status().text


@pytest.fixture
async def ray(home: Home) -> AsyncIterator[RayHome]:
    with home.held():
        found = RayHome(home)
        await found.supervisor.start()
        yield found
        await found.supervisor.stop()
        assert marked({HOME_MARK: str(home.folder)}) == []


async def test_the_head_serves_refuses_strangers_and_comes_back_with_its_applications(ray: RayHome) -> None:
    await ray.deploy()
    assert [event.state for event in ray.events][-1] == "RUNNING"
    assert await ray.greeting() == "hello"
    [application] = await ray.api.applications()
    assert (application.name, application.state, application.route_prefix) == ("hello", "RUNNING", "/")
    assert [replica.state for replica in application.replicas] == ["RUNNING"]
    assert psutil.pid_exists(application.replicas[0].pid or 0)

    open_to_all = listeners_beyond_loopback(ray)
    # Serve has no setting for the pages of HAProxy and the port for calls between replicas.
    assert {name[: len("ray::ServeRepli")] for name, _ in open_to_all} <= {"haproxy", "ray::ServeRepli"}
    assert ray.gateway not in {port for _, port in open_to_all}

    with pytest.raises(DeployFailed, match="403"):
        await ServeApi(ray.dashboard_url, SecretStr("f" * 64)).applications()
    async with httpx.AsyncClient(trust_env=False, base_url=ray.dashboard_url) as client:
        assert (await client.get("/api/jobs/")).status_code == 401

    with pytest.raises(DeployFailed, match=r"(?s)application broken did not come up.*no such model folder"):
        await ray.deploy("broken")
    await ray.deploy()

    [raylet] = ray.processes("raylet")
    raylet.kill()
    async with asyncio.timeout(RESTART_SECONDS_MAX):
        while True:
            status = ray.supervisor.snapshot()[0]
            if status.restarts == 1 and status.state == "ready":
                break
            await asyncio.sleep(0.2)
    assert await ray.greeting() == "hello"


def listeners_beyond_loopback(ray: RayHome) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    for process in ray.processes(""):
        # HAProxy replaces its process at each change of a replica.
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.ip not in LOOPBACK:
                    found.add((process.name(), connection.laddr.port))
    return found


async def test_a_dashboard_that_is_not_there_is_an_error_with_its_address() -> None:
    [port] = free_ports(1)
    with pytest.raises(DeployFailed, match=f"127.0.0.1:{port}/api/serve/applications/ does not answer"):
        await ServeApi(f"http://127.0.0.1:{port}", TOKEN).applications()
