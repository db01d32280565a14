"""The whole platform in a home of its own, driven as its users drive it: the ``objecta`` command and HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import yaml

from cluster.ports import free_ports
from cluster.processes import HOME_MARK
from models.catalogue import load_catalogue

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("objecta")
UP_SECONDS_MAX = 600
DOWN_SECONDS_MAX = 120
DOCUMENTS = {
    "leave.md": "# Leave\n\n## Parental leave\n\nEvery parent may take sixteen weeks of paid parental leave.\n",
    "office.html": "<h1>Office</h1><h2>Opening hours</h2><p>The office in Turin opens at seven in the morning.</p>",
    "empty.txt": "",
}


class Platform(NamedTuple):
    """A running platform, with an organisation, its keys and an agent over a small knowledge base."""

    home: Path
    environment: dict[str, str]
    gateway_url: str
    control_plane_url: str
    dashboard_url: str
    operator_key: str
    ray_token: str
    organisation: str
    project: str
    admin_key: str
    api_key: str
    knowledge_base: str

    def control_plane(self, key: str) -> httpx.Client:
        return httpx.Client(
            base_url=f"{self.control_plane_url}/api/v1",
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
            trust_env=False,
        )

    def objecta(self, *arguments: str, seconds_max: int) -> str:
        """What the command prints; it must succeed."""
        return run(self.environment, *arguments, seconds_max=seconds_max)

    def events(self, request_id: str) -> list[dict[str, Any]]:
        """The ledger's events of a call and of the calls made on its behalf."""
        with self.control_plane(self.admin_key) as client:
            answer = client.get(f"/organisations/{self.organisation}/usage/events", params={"request_id": request_id})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]


def run(environment: dict[str, str], *arguments: str, seconds_max: int) -> str:
    done = subprocess.run(
        [COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=seconds_max, check=False
    )
    assert done.returncode == 0, f"objecta {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def left_over(home: Path) -> list[str]:
    """Command lines of the processes that carry the home's mark."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(HOME_MARK) == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def created(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("platform") / "home"
    gateway, control_plane, dashboard = free_ports(3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OBJECTA_", "COV_"))} | {
        "OBJECTA_HOME": str(home),
        "OBJECTA_MODEL_STORE": str(ROOT / ".objecta" / "models"),
        "OBJECTA_GATEWAY_PORT": str(gateway),
        "OBJECTA_CONTROL_PLANE_PORT": str(control_plane),
        "OBJECTA_DASHBOARD_URL": f"http://127.0.0.1:{dashboard}",
    }
    try:
        run(environment, "up", "--detach", seconds_max=UP_SECONDS_MAX)
        yield furnished(home, environment)
    finally:
        run(environment, "down", seconds_max=DOWN_SECONDS_MAX)
    assert left_over(home) == []


def furnished(home: Path, environment: dict[str, str]) -> Platform:
    state = json.loads((home / "state.json").read_text())
    secrets = yaml.safe_load((home / "config.yaml").read_text())
    operator = {"authorization": f"Bearer {secrets['operator_key']}"}
    embedder = next(entry.id for entry in load_catalogue().models if entry.kind == "embedding")
    chat = next(entry.id for entry in load_catalogue().models if entry.kind == "chat")
    url = f"{state['control_plane_url']}/api/v1"
    with httpx.Client(base_url=url, headers=operator, timeout=30, trust_env=False) as client:
        made = created(client, "/organisations", {"name": "End to end"})
        base = f"/organisations/{made['organisation']['id']}"
        project = made["project"]["id"]
        key = created(client, f"{base}/api-keys", {"name": "e2e", "project_id": project})
        knowledge = created(client, f"{base}/knowledge-bases", {"name": "handbook", "embedding_model": embedder})
        agent = created(client, f"{base}/agents", {"slug": "handbook", "name": "Handbook"})
        spec = {
            "instructions": "Answer the question in one short sentence.",
            "model": chat,
            "knowledge_base_id": knowledge["id"],
            "retrieve_limit": 2,
            "max_completion_tokens": 48,
        }
        version = created(client, f"{base}/agents/{agent['id']}/versions", spec)
        created(client, f"{base}/agents/{agent['id']}/publish", {"version": version["version"]})
    documents = home.parent / "documents"
    documents.mkdir()
    for name, text in DOCUMENTS.items():
        (documents / name).write_text(text)
    return Platform(
        home=home,
        environment=environment,
        gateway_url=state["gateway_url"],
        control_plane_url=state["control_plane_url"],
        dashboard_url=state["dashboard_url"],
        operator_key=secrets["operator_key"],
        ray_token=secrets["ray_token"],
        organisation=made["organisation"]["id"],
        project=project,
        admin_key=made["admin_key"]["key"],
        api_key=key["key"],
        knowledge_base=knowledge["id"],
    )
