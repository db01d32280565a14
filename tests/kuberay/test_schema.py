"""Manifests against KubeRay's own definitions, strictly: a key that the definition does not name is an error."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.config import PlatformConfig
from deployments.platform import serve_schema

DEFINITIONS = Path(__file__).resolve().parents[3] / "shared" / "crds"
Manifest = dict[str, Any]
Find = Callable[[str, str], Manifest]


def strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    named = isinstance(closed.get("properties"), dict) and closed.get("type") == "object"
    if named and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def definition(kind: str) -> jsonschema.Draft202012Validator:
    path = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's definitions are not at {DEFINITIONS}")
    versions = yaml.safe_load(path.read_text())["spec"]["versions"]
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    return jsonschema.Draft202012Validator(strict(schema))


def errors(validator: jsonschema.Draft202012Validator, manifest: Manifest) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


@pytest.mark.parametrize(("kind", "name"), [("RayService", "objecta"), ("RayJob", "objecta-ingest-")])
def test_a_manifest_meets_its_definition(find: Find, kind: str, name: str) -> None:
    assert errors(definition(kind), find(kind, name)) == []


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        (("spec",), "serveConfig", ""),
        (("spec", "rayClusterConfig", "authOptions"), "secret", "x"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0), "minReplica", 1),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0), "liveness", {}),
        (("spec", "rayClusterConfig", "gcsFaultToleranceOptions"), "backend", "etcd"),
    ],
)
def test_a_mistake_in_a_manifest_is_seen(find: Find, path: tuple[str | int, ...], key: str, value: object) -> None:
    wrong: Any = copy.deepcopy(find("RayService", "objecta"))
    place = wrong
    for step in path:
        place = place[step]
    place[key] = value
    assert len(errors(definition("RayService"), wrong)) == 1


def test_serve_configuration_is_the_one_the_code_makes(find: Find, config: PlatformConfig) -> None:
    wanted = serve_schema(config)
    written = yaml.safe_load(find("RayService", "objecta")["spec"]["serveConfigV2"])
    assert written == wanted, f"put this into rayservice.yaml:\n{yaml.safe_dump(wanted, sort_keys=False)}"


def test_serve_accepts_the_configuration(find: Find) -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(find("RayService", "objecta")["spec"]["serveConfigV2"]))
    prefixes = {application.route_prefix for application in schema.applications}
    assert len(prefixes) == len(schema.applications) >= 5
