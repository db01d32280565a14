"""Serve through the dashboard's REST API: deploy a schema, wait for it, read what runs.

Source: https://docs.ray.io/en/latest/serve/api/index.html#serve-rest-api. With token authentication every request
carries ``authorization: Bearer <token>``. Never through a proxy: the dashboard is on this machine or in this cluster.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr

from cluster.errors import DeployFailed

APPLICATIONS = "/api/serve/applications/"
RUNNING = "RUNNING"
FAILED = "DEPLOY_FAILED"
REQUEST_SECONDS_MAX = 60.0
POLL_SECONDS = 0.25
MESSAGE_CHARACTERS_MAX = 3_000


class ReplicaStatus(BaseModel):
    """One replica; ``state`` is Serve's (STARTING, RUNNING, STOPPING, …)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployment: str
    id: str
    state: str
    pid: int | None


class ApplicationStatus(BaseModel):
    """One application; ``state`` is Serve's (NOT_STARTED, DEPLOYING, RUNNING, UNHEALTHY, DEPLOY_FAILED, DELETING)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    route_prefix: str | None
    state: str
    message: str
    replicas: tuple[ReplicaStatus, ...]


class ApplicationEvent(BaseModel):
    """An application's change of state, ``seconds`` after the deployment was asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: str
    seconds: float


class ServeApi:
    """One cluster's Serve."""

    def __init__(self, dashboard_url: str, token: SecretStr) -> None:
        self._url = f"{dashboard_url.rstrip('/')}{APPLICATIONS}"
        self._headers = {"authorization": f"Bearer {token.get_secret_value()}"}

    async def deploy(
        self, schema: Mapping[str, Any], report: Callable[[ApplicationEvent], None], seconds_max: float
    ) -> None:
        """Deploy ``schema`` (a ServeDeploySchema) and return when each of its applications runs.

        Raises DeployFailed with Serve's own message where it refuses, an application fails, or time runs out.
        """
        began = time.monotonic()
        names = [application["name"] for application in schema["applications"]]
        answer = await self._request("PUT", schema)
        if answer.is_error:
            raise DeployFailed(f"Serve refused the deployment ({answer.status_code}): {_short(answer.text)}")
        seen: dict[str, str] = {}
        while True:
            present = {status.name: status for status in await self._try_applications()}
            for name in names:
                state = present[name].state if name in present else "NOT_STARTED"
                if seen.get(name) != state:
                    seen[name] = state
                    report(ApplicationEvent(name=name, state=state, seconds=time.monotonic() - began))
                if state == FAILED:
                    raise DeployFailed(f"the application {name} did not come up: {_short(present[name].message)}")
            if all(seen[name] == RUNNING for name in names):
                return
            if time.monotonic() - began > seconds_max:
                raise DeployFailed(_late(names, present, seconds_max))
            await asyncio.sleep(POLL_SECONDS)

    async def applications(self) -> list[ApplicationStatus]:
        """What runs now. Raises DeployFailed where the dashboard does not answer."""
        answer = await self._request("GET")
        if answer.is_error:
            raise DeployFailed(f"the dashboard answered {answer.status_code}: {_short(answer.text)}")
        found = cast("dict[str, dict[str, Any]]", answer.json()["applications"])
        return [_application(details) for details in found.values()]

    async def _try_applications(self) -> list[ApplicationStatus]:
        """The dashboard on a busy machine misses an answer now and then; the deployment goes on meanwhile."""
        try:
            return await self.applications()
        except DeployFailed:
            return []

    async def shutdown(self) -> None:
        """End all applications in order. Raises DeployFailed where the dashboard does not answer."""
        await self._request("DELETE")

    async def _request(self, method: str, content: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=REQUEST_SECONDS_MAX, headers=self._headers) as client:
                return await client.request(method, self._url, json=content)
        except httpx.HTTPError as error:
            raise DeployFailed(f"the Ray dashboard at {self._url} does not answer: {error!r}") from error


def _application(details: Mapping[str, Any]) -> ApplicationStatus:
    replicas = [
        ReplicaStatus(deployment=deployment, id=replica["replica_id"], state=replica["state"], pid=replica.get("pid"))
        for deployment, found in details["deployments"].items()
        for replica in found["replicas"]
    ]
    failing = [found["message"] for found in details["deployments"].values() if found["message"]]
    return ApplicationStatus(
        name=details["name"],
        route_prefix=details["route_prefix"],
        state=details["status"],
        message="\n".join([details["message"], *failing]).strip(),
        replicas=tuple(replicas),
    )


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= MESSAGE_CHARACTERS_MAX else f"…{text[-MESSAGE_CHARACTERS_MAX:]}"


def _late(names: list[str], present: Mapping[str, ApplicationStatus], seconds_max: float) -> str:
    late = [
        f"  {name}: {present[name].state} {_short(present[name].message)}" if name in present else f"  {name}: unknown"
        for name in names
        if name not in present or present[name].state != RUNNING
    ]
    return (
        f"not everything runs after {seconds_max:.0f} s:\n" + "\n".join(late) + "\n"
        "Look at the replicas' logs (logs/ray in the home), and whether the machine has memory and CPUs to spare."
    )
