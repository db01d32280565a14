"""Manifests against KubeRay's own definitions, strictly: a key that the definition does not name is an error."""

import copy
import functools
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


@functools.cache
def parsed(path: Path) -> Any:
    # The plain loader takes seconds for 20,000 lines.
    versions = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    return schema


def definition(kind: str, *below: str) -> jsonschema.Draft202012Validator:
    """The validator of a custom resource, or of the part of it that ``below`` leads to."""
    path = DEFINITIONS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's definitions are not at {DEFINITIONS}")
    schema = parsed(path)
    for step in below:
        schema = schema["items"] if step == "items" else schema["properties"][step]
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


@pytest.mark.parametrize(
    ("kind", "part", "below"),
    [
        ("Deployment", "template", ("rayClusterConfig", "headGroupSpec", "template")),
        ("Job", "template", ("rayClusterConfig", "headGroupSpec", "template")),
        ("Service", None, ("serveService", "spec")),
    ],
)
def test_built_in_kinds_meet_the_definitions_that_kuberay_repeats(
    manifests: list[Manifest], kind: str, part: str | None, below: tuple[str, ...]
) -> None:
    validator = definition("RayService", "spec", *below)
    (manifest,) = [m for m in manifests if m["kind"] == kind]
    assert errors(validator, manifest["spec"][part] if part else manifest["spec"]) == []


def test_network_policies_meet_the_definition_that_kuberay_repeats(manifests: list[Manifest]) -> None:
    path = ("spec", "rayClusterConfig", "networkPolicy", "head")
    rules = {way: definition("RayService", *path, f"{way}Rules", "items") for way in ("ingress", "egress")}
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    assert len(policies) == 7
    for policy in policies:
        assert set(policy) <= {"podSelector", "policyTypes", "ingress", "egress"}
        for way, validator in rules.items():
            assert [error for rule in policy.get(way, []) for error in errors(validator, rule)] == []


def test_serve_configuration_is_the_one_the_code_makes(find: Find, config: PlatformConfig) -> None:
    wanted = serve_schema(config)
    written = yaml.safe_load(find("RayService", "objecta")["spec"]["serveConfigV2"])
    assert written == wanted, f"put this into rayservice.yaml:\n{yaml.safe_dump(wanted, sort_keys=False)}"


def test_serve_accepts_the_configuration(find: Find) -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(find("RayService", "objecta")["spec"]["serveConfigV2"]))
    prefixes = {application.route_prefix for application in schema.applications}
    assert len(prefixes) == len(schema.applications) >= 5
