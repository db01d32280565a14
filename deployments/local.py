"""The whole platform on one machine: its configuration, its parts under one supervisor, Serve's applications on top.

A home's ``config.yaml`` holds the secrets made at the first start, and whatever its owner adds. What a start resolved
(that file, the one ``OBJECTA_CONFIG`` names, the environment) is written to ``platform.yaml``, which every part reads.
"""

import asyncio
import importlib.metadata
import os
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster.errors import ClusterError, DeployFailed
from cluster.home import Home, write_private
from cluster.parts import Part, PartEvent, process_part
from cluster.ports import require_free
from cluster.postgres import postgres_part
from cluster.preflight import GIB, check_machine
from cluster.ray_head import ray_part
from cluster.redis_server import redis_part
from cluster.serve_api import ApplicationEvent, ServeApi
from cluster.status import read_status
from cluster.supervisor import Supervisor
from deployments.config import CONFIG_VARIABLE, VARIABLE_PREFIX, PlatformConfig
from deployments.platform import serve_schema
from deployments.sections import hosted_by

STATE = "state.json"
DEMO = "demo.json"
RESOLVED = "platform.yaml"
SECRET_FIELDS = ("cluster_secret", "operator_key", "key_pepper", "ray_token", "credential_key")
DEPLOY_SECONDS_MAX = 400.0
READY_SECONDS_MAX = 60.0
READY_POLL_SECONDS = 0.2
# Resident without an engine, and what an engine of the default model adds.
BASE_BYTES = 3 * GIB
ENGINE_BYTES = 4 * GIB


def local_home() -> Home:
    """``OBJECTA_HOME``, else ``.objecta`` in the working directory."""
    return Home(Path(os.environ.get(f"{VARIABLE_PREFIX}HOME") or ".objecta"))


def local_config(home: Home) -> PlatformConfig:
    """The configuration of this home, resolved. It writes nothing that a running platform reads.

    Raises pydantic.ValidationError that names each bad field, ClusterError where a file is not a mapping.
    """
    home.prepare()
    values: dict[str, Any] = {
        "database_url": postgres_part(home)[1],
        "redis_url": redis_part(home)[1],
        "model_store": str(home.folder / "models"),
        "knowledge_store": str(home.folder / "knowledge"),
        "object_store": str(home.folder / "objects"),
        "ingestion_roots": [str(Path.cwd())],
        **_owned(home),
    }
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        values |= _mapping(Path(named))
    path = home.folder / "unresolved.yaml"
    write_private(path, yaml.safe_dump({**values, "home": str(home.folder)}))
    os.environ[f"{VARIABLE_PREFIX}HOME"] = str(home.folder)
    os.environ[CONFIG_VARIABLE] = str(path)
    config = PlatformConfig.load()
    absolute = {"model_store": config.model_store.resolve(), "catalogue_path": config.catalogue_path.resolve()}
    return config.model_copy(update=absolute)


def config_of(home: Home) -> PlatformConfig:
    """What the running platform of this home was started with. Raises ClusterError where it never was."""
    path = home.folder / RESOLVED
    if not path.exists():
        raise ClusterError(f"nothing was ever started in {home.folder}: objecta up")
    return PlatformConfig(**_mapping(path))


def forget_state(home: Home) -> None:
    """There is no running platform, or not yet."""
    (home.folder / STATE).unlink(missing_ok=True)


def state_of(home: Home) -> dict[str, Any]:
    """The content of ``state.json``. Raises ClusterError where the platform is not up."""
    state = home.read_json(STATE)
    status = read_status(home)
    if state is None or status is None or not status.alive:
        raise ClusterError(f"the platform of {home.folder} is not up: objecta up")
    return state


def _owned(home: Home) -> dict[str, Any]:
    path = home.folder / "config.yaml"
    values = _mapping(path) if path.exists() else {}
    missing = {field: secrets.token_hex(32) for field in SECRET_FIELDS if field not in values}
    if missing:
        write_private(path, yaml.safe_dump({**values, **missing}))
    return {**values, **missing}


def _mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ClusterError(f"the configuration {path} cannot be read: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise ClusterError(f"the configuration {path} must be a mapping of fields to values")
    return values or {}


class LocalPlatform:
    """One home's platform. The caller holds the home for as long. ``start``, then ``run``; ``stop`` at any time."""

    def __init__(
        self,
        home: Home,
        config: PlatformConfig,
        on_part: Callable[[PartEvent], None],
        on_application: Callable[[ApplicationEvent], None],
    ) -> None:
        """Raises PartFailed where an embedded part is not installed."""
        self._home = home
        self._config = config
        self._on_part = on_part
        self._on_application = on_application
        self._serve = ServeApi(config.dashboard_url, config.ray_token)
        self._up = False
        self.supervisor = Supervisor(home, self._parts(), self._part_changed, {"ray": self._deploy_again})

    def _parts(self) -> list[Part]:
        config, home = self._config, self._home
        stores = [
            part
            for (part, url), given in (
                (postgres_part(home), config.database_url),
                (redis_part(home), config.redis_url),
            )
            if given.get_secret_value() == url
        ]
        # Our variables are resolved into the file; a relative path among them would mean something else elsewhere.
        environment = {name: "" for name in os.environ if name.startswith(VARIABLE_PREFIX)}
        environment |= {
            CONFIG_VARIABLE: str(home.folder / RESOLVED),
            f"{VARIABLE_PREFIX}HOME": str(home.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        }
        control_plane = process_part(
            "control-plane",
            (sys.executable, "-m", "deployments.control_plane"),
            f"{config.control_plane_url}/health/ready",
            version=importlib.metadata.version("objectalabs"),
            folder=home.folder,
            environment=environment,
            port=config.control_plane_port,
            needs=tuple(part.name for part in stores),
        )
        # Replicas settle their last calls before Redis goes.
        redis = tuple(part.name for part in stores if part.name == "redis")
        ray = ray_part(
            home,
            dashboard_port=config.dashboard_port,
            token=config.ray_token,
            environment=environment,
            needs=redis,
        )
        return [*stores, control_plane, ray]

    def check(self) -> list[str]:
        """Whether it can start here. Raises NotEnough or PortTaken; returns warnings to show."""
        config = self._config
        engines = [entry for entry in config.served() if entry.kind == "chat" and hosted_by(entry) is None]
        warnings = check_machine(self._home.folder, BASE_BYTES + ENGINE_BYTES * len(engines))
        require_free("the gateway", config.gateway_port, "set OBJECTA_GATEWAY_PORT")
        require_free("the control plane", config.control_plane_port, "set OBJECTA_CONTROL_PLANE_PORT")
        require_free("Ray's dashboard", config.dashboard_port, "set OBJECTA_DASHBOARD_URL=http://127.0.0.1:PORT")
        return warnings

    async def start_parts(self) -> None:
        """Returns when every part is ready. Raises ClusterError, with everything stopped again."""
        forget_state(self._home)
        self._config.write(self._home.folder / RESOLVED)
        await self.supervisor.start()

    async def deploy(self) -> None:
        """Returns when a call would succeed. Raises DeployFailed."""
        await self._deploy_again()
        await self._wait_ready()
        self._up = True
        self._write_state()

    async def _deploy_again(self) -> None:
        await self._serve.deploy(serve_schema(self._config), self._on_application, DEPLOY_SECONDS_MAX)

    async def _wait_ready(self) -> None:
        """Until the gateway says that everything it depends on is up."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        said = "nothing"
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < deadline:
                try:
                    answer = await client.get(f"{self._config.gateway_url}/health/ready")
                    said = answer.text
                    if answer.is_success and answer.json()["status"] == "ready":
                        return
                except httpx.HTTPError as error:
                    said = repr(error)
                await asyncio.sleep(READY_POLL_SECONDS)
        raise DeployFailed(f"the gateway is not ready after {READY_SECONDS_MAX:.0f} s; it says: {said}")

    async def run(self) -> None:
        """Returns when it was told to stop and has stopped."""
        try:
            await self.supervisor.run_until_stopped()
        finally:
            forget_state(self._home)

    async def stop(self) -> None:
        """Stop everything; safe to call twice."""
        forget_state(self._home)
        await self.supervisor.stop()

    def _part_changed(self, event: PartEvent) -> None:
        self._on_part(event)
        if self._up and event.state == "ready":
            self._write_state()

    def _write_state(self) -> None:
        pids = {status.name: status.pid for status in self.supervisor.snapshot()}
        self._home.write_json(
            STATE,
            {
                "gateway_url": self._config.gateway_url,
                "control_plane_url": self._config.control_plane_url,
                "dashboard_url": self._config.dashboard_url,
                "pids": {"supervisor": os.getpid(), **pids},
            },
        )
