"""The platform for the length of a benchmark: ``objecta up`` in a home of its own, ``objecta down`` at the end."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, SecretStr

from benchmarks import bare
from benchmarks.processes import ROOT, BenchmarkError, free_port, say

UP_SECONDS_MAX = 400.0
DOWN_SECONDS_MAX = 120.0
DEPLOY_SECONDS_MAX = 120.0
REQUEST_SECONDS_MAX = 30.0
POLL_SECONDS = 0.25
OUTPUT_CHARACTERS_SHOWN = 4_000
# Far above what a run can reach, so that admission does all of its work and refuses nothing.
LIMITS = {"requests_per_minute": 1_000_000, "concurrent_requests": 10_000}


class Stack(BaseModel):
    """A running platform and a key of an organisation in it."""

    model_config = ConfigDict(frozen=True)

    gateway_url: str
    dashboard_url: str
    api_key: SecretStr
    ray_token: SecretStr


@contextlib.contextmanager
def platform(
    models: Sequence[str], catalogue: Mapping[str, Any] | None = None, upstreams: Sequence[Mapping[str, Any]] = ()
) -> Iterator[Stack]:
    """Everything up and serving ``models``. ``catalogue``: in place of the shipped one. Raises BenchmarkError."""
    with tempfile.TemporaryDirectory(prefix="objecta-bench-") as name:
        home = Path(name) / "home"
        gateway_port, control_plane_port = free_port(), free_port()
        environment = {
            **os.environ,
            "OBJECTA_HOME": str(home),
            "OBJECTA_MODEL_STORE": str(ROOT / ".objecta" / "models"),
            "OBJECTA_MODELS": json.dumps(list(models)),
            "OBJECTA_UPSTREAMS": json.dumps(list(upstreams)),
            "OBJECTA_GATEWAY_PORT": str(gateway_port),
            "OBJECTA_GATEWAY_URL": f"http://127.0.0.1:{gateway_port}",
            "OBJECTA_CONTROL_PLANE_PORT": str(control_plane_port),
            "OBJECTA_CONTROL_PLANE_URL": f"http://127.0.0.1:{control_plane_port}",
            "OBJECTA_DASHBOARD_URL": f"http://127.0.0.1:{free_port()}",
        }
        if catalogue is not None:
            path = Path(name) / "catalogue.yaml"
            path.write_text(yaml.safe_dump(dict(catalogue)))
            environment["OBJECTA_CATALOGUE_PATH"] = str(path)
        try:
            began = time.monotonic()
            _objecta(["up", "--detach"], environment, UP_SECONDS_MAX)
            say(f"the platform is up after {time.monotonic() - began:.0f} s")
            yield _stack(home)
        except BaseException:
            # The first failure is the one to tell.
            with contextlib.suppress(BenchmarkError):
                _objecta(["down"], environment, DOWN_SECONDS_MAX)
            raise
        _objecta(["down"], environment, DOWN_SECONDS_MAX)


def _objecta(arguments: list[str], environment: Mapping[str, str], seconds_max: float) -> None:
    command = [str(Path(sys.executable).with_name("objecta")), *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds_max,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"objecta {arguments[0]} took more than {seconds_max:.0f} s") from error
    if done.returncode != 0:
        shown = done.stdout[-OUTPUT_CHARACTERS_SHOWN:]
        raise BenchmarkError(f"objecta {' '.join(arguments)} ended with code {done.returncode}:\n{shown}")


def _stack(home: Path) -> Stack:
    state = json.loads((home / "state.json").read_text())
    config = yaml.safe_load((home / "config.yaml").read_text())
    return Stack(
        gateway_url=state["gateway_url"],
        dashboard_url=state["dashboard_url"],
        api_key=SecretStr(_create_key(state["control_plane_url"], config["operator_key"])),
        ray_token=SecretStr(config["ray_token"]),
    )


def _create_key(control_plane_url: str, operator_key: str) -> str:
    """A member's key with limits, in an organisation of its own."""
    operator = {"authorization": f"Bearer {operator_key}"}
    url = f"{control_plane_url}/api/v1/organisations"
    with httpx.Client(trust_env=False, timeout=REQUEST_SECONDS_MAX, headers=operator) as client:
        created = _ok(client.post(url, json={"name": "Benchmark"}))
        order = {"name": "load", "project_id": created["project"]["id"], "role": "member", "limits": LIMITS}
        return str(_ok(client.post(f"{url}/{created['organisation']['id']}/api-keys", json=order))["key"])


def _ok(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise BenchmarkError(f"{answer.request.method} {answer.request.url} → {answer.status_code}: {answer.text}")
    return answer.json()


def deploy_bare(stack: Stack, upstream_url: str) -> str:
    """Put the bare pass-through beside the platform's applications; its base URL (without /v1)."""
    headers = {"authorization": f"Bearer {stack.ray_token.get_secret_value()}"}
    url = f"{stack.dashboard_url.rstrip('/')}/api/serve/applications/"
    extra = {
        "name": bare.NAME,
        "route_prefix": bare.ROUTE_PREFIX,
        "import_path": bare.BUILDER,
        "args": {"upstream_url": upstream_url},
        "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}},
    }
    with httpx.Client(trust_env=False, timeout=REQUEST_SECONDS_MAX, headers=headers) as client:
        present = _ok(client.get(url))["applications"].values()
        applications = [details["deployed_app_config"] for details in present]
        answer = client.put(url, json={"applications": [*applications, extra]})
        if answer.is_error:
            raise BenchmarkError(f"Serve refused {bare.NAME}: {answer.text}")
        deadline = time.monotonic() + DEPLOY_SECONDS_MAX
        while True:
            found = _ok(client.get(url))["applications"]
            if bare.NAME in found and all(details["status"] == "RUNNING" for details in found.values()):
                return f"{stack.gateway_url}{bare.ROUTE_PREFIX}"
            if found.get(bare.NAME, {}).get("status") == "DEPLOY_FAILED" or time.monotonic() > deadline:
                raise BenchmarkError(f"{bare.NAME} did not come up: {found.get(bare.NAME)}")
            time.sleep(POLL_SECONDS)
