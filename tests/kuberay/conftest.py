"""The manifests as data, and the configuration that one of their pods would load."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from deployments.config import PlatformConfig

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "kuberay"
OURS = "OBJECTA_"
SECRETS = "secrets.example.yaml"

Manifest = dict[str, Any]


class Pod(NamedTuple):
    """A pod that some manifest describes."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        """Each of our pods has one."""
        (only,) = self.spec["containers"]
        return only


def read(name: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all((FOLDER / name).read_text()) if document]


def templates(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    spec = manifest.get("spec") or {}
    cluster = spec.get("rayClusterConfig")
    if cluster:
        yield "head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield group["groupName"], group["template"]
    elif "template" in spec:
        yield "pod", spec["template"]


@pytest.fixture(scope="session")
def manifests() -> list[Manifest]:
    """Every document of every manifest but the example secrets."""
    names = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name not in {SECRETS, "kustomization.yaml"})
    return [document for name in names for document in read(name)]


@pytest.fixture(scope="session")
def find(manifests: list[Manifest]) -> Callable[[str, str], Manifest]:
    """One manifest by kind and name."""

    def one(kind: str, name: str) -> Manifest:
        names = {"name", "generateName"}
        (only,) = [m for m in manifests if m["kind"] == kind and name in {m["metadata"].get(key) for key in names}]
        return only

    return one


@pytest.fixture(scope="session")
def secrets() -> dict[str, dict[str, str]]:
    """Keys of each secret the example names."""
    return {document["metadata"]["name"]: document["stringData"] for document in read(SECRETS)}


@pytest.fixture(scope="session")
def pods(manifests: list[Manifest]) -> list[Pod]:
    """Every pod the manifests describe."""
    return [
        Pod(f"{manifest['kind']}/{name}", template["metadata"]["labels"], template["spec"])
        for manifest in manifests
        for name, template in templates(manifest)
    ]


@pytest.fixture(scope="session")
def environment_of(
    find: Callable[[str, str], Manifest], secrets: dict[str, dict[str, str]]
) -> Callable[[Pod], dict[str, str]]:
    """The environment of a pod's container, secrets as the example gives them. KeyError where one does not exist."""

    def environment(pod: Pod) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in pod.container.get("envFrom", []):
            found |= find("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in pod.container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            found[variable["name"]] = secrets[reference["name"]][reference["key"]] if reference else variable["value"]
        return found

    return environment


@pytest.fixture
def load(
    find: Callable[[str, str], Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Mapping[str, str]], PlatformConfig]:
    """PlatformConfig as a process with that environment loads it; the config map is a file of ``tmp_path``."""

    def load_with(environment: Mapping[str, str]) -> PlatformConfig:
        file = tmp_path / "platform.yaml"
        file.write_text(find("ConfigMap", "objecta-config")["data"]["platform.yaml"])
        for name in [name for name in os.environ if name.startswith(OURS)]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            if name.startswith(OURS):
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("OBJECTA_CONFIG", str(file))
        return PlatformConfig.load()

    return load_with


@pytest.fixture
def config(
    load: Callable[[Mapping[str, str]], PlatformConfig],
    environment_of: Callable[[Pod], dict[str, str]],
    pods: list[Pod],
) -> PlatformConfig:
    """What the RayService's head loads."""
    (head,) = [pod for pod in pods if pod.owner == "RayService/head"]
    return load(environment_of(head))
