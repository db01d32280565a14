"""What holds the manifests together: names that exist, numbers that agree, pods that are confined."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import yaml

from control_plane.config import ControlPlaneConfig
from deployments.config import PlatformConfig
from deployments.control_plane import INGEST_ENTRYPOINT
from deployments.platform import SERVICE_CPUS, placement

ROOT = Path(__file__).resolve().parents[2]
PLATFORM_SECRETS = {"database-url", "operator-key", "key-pepper", "credential-key"}
HAPROXY = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}

Manifest = dict[str, Any]
Find = Callable[[str, str], Manifest]


def named(pods: list[Any], *kinds: str) -> list[Any]:
    return [pod for pod in pods if pod.owner.split("/")[0] in kinds]


def secret_keys(pod: Any) -> set[str]:
    variables = pod.container.get("env", [])
    return {v["valueFrom"]["secretKeyRef"]["key"] for v in variables if "valueFrom" in v}


def test_the_kustomization_names_every_manifest_but_the_job_and_the_secrets() -> None:
    written = yaml.safe_load((ROOT / "kuberay/kustomization.yaml").read_text())["resources"]
    present = {path.name for path in (ROOT / "kuberay").glob("*.yaml")}
    assert set(written) == present - {"kustomization.yaml", "rayjob-ingest.yaml", "secrets.example.yaml"}


def test_every_pod_loads_the_configuration_from_its_own_environment(
    pods: list[Any],
    environment_of: Callable[[Any], dict[str, str]],
    load: Callable[[Mapping[str, str]], PlatformConfig],
) -> None:
    assert {pod.owner for pod in pods} == {
        *("Deployment/pod", "Job/pod", "RayService/head", "RayService/cpu", "RayService/gpu")
    }
    for pod in pods:
        environment = environment_of(pod)
        assert environment["OBJECTA_CONFIG"] == "/etc/objecta/platform.yaml"
        mounts = {mount["mountPath"]: mount["name"] for mount in pod.container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        assert volumes[mounts["/etc/objecta"]]["configMap"]["name"] == "objecta-config"
        assert load(environment).control_plane_url == "http://objecta-control-plane:8080"


def test_ray_pods_never_hold_the_secrets_of_the_control_plane(pods: list[Any]) -> None:
    for pod in named(pods, "RayService"):
        assert secret_keys(pod) == {"redis-url", "cluster-secret"}
    (job,) = named(pods, "Job")
    assert secret_keys(job) == set()
    (control,) = named(pods, "Deployment")
    assert secret_keys(control) > PLATFORM_SECRETS


def test_the_example_holds_no_secret(secrets: dict[str, dict[str, str]]) -> None:
    assert {value for keys in secrets.values() for value in keys.values()} == {"REPLACE_ME"}


def test_ray_finds_its_token_and_its_redis_password(find: Find, secrets: dict[str, dict[str, str]]) -> None:
    cluster = find("RayService", "objecta")["spec"]["rayClusterConfig"]
    assert cluster["authOptions"]["mode"] == "token"
    assert "auth_token" in secrets[cluster["authOptions"]["secretName"]]
    assert cluster["rayVersion"] == ray.__version__
    reference = cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert reference["key"] in secrets[reference["name"]]


def test_the_job_is_the_one_that_the_control_plane_would_submit(find: Find) -> None:
    job = find("RayJob", "objecta-ingest-")["spec"]
    assert job["entrypoint"] == f"{INGEST_ENTRYPOINT} {job['jobId']}"
    assert job["entrypointNumCpus"] == ControlPlaneConfig.model_fields["ingest_cpus"].default
    # What KubeRay refuses together with a selector.
    assert job["backoffLimit"] == 0
    assert job["shutdownAfterJobFinishes"] is False


def test_head_and_workers_run_serve_behind_haproxy(
    pods: list[Any], environment_of: Callable[[Any], dict[str, str]]
) -> None:
    ray_pods = named(pods, "RayService")
    assert len(ray_pods) == 3
    for pod in ray_pods:
        assert environment_of(pod).items() >= HAPROXY.items()


def test_an_old_cluster_outlives_the_streams_it_carries(find: Find) -> None:
    environment = find("ConfigMap", "objecta-ray-environment")["data"]
    service = find("RayService", "objecta")["spec"]
    assert service["rayClusterDeletionDelaySeconds"] >= int(environment["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"])


def test_volumes_claims_and_ports_exist(pods: list[Any], manifests: list[Manifest]) -> None:
    claims = {m["metadata"]["name"] for m in manifests if m["kind"] == "PersistentVolumeClaim"}
    for pod in pods:
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        assert {mount["name"] for mount in pod.container["volumeMounts"]} == set(volumes), pod.owner
        used = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
        assert used <= claims
        ports = {port["name"] for port in pod.container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in pod.container:
                assert pod.container[probe]["httpGet"]["port"] in ports, pod.owner


def test_every_path_of_the_configuration_is_mounted_where_it_is_used(pods: list[Any], config: PlatformConfig) -> None:
    wanted = {str(config.model_store), config.knowledge_store, config.object_store, *map(str, config.ingestion_roots)}
    for pod in named(pods, "RayService"):
        mounts = {mount["mountPath"]: mount for mount in pod.container["volumeMounts"]}
        assert wanted <= set(mounts)
        assert mounts[str(config.model_store)]["readOnly"]
        assert all(mounts[str(root)]["readOnly"] for root in config.ingestion_roots)
        assert str(config.home).startswith("/home/objecta")


def test_urls_of_the_configuration_name_services_that_will_exist(find: Find, load: Any) -> None:
    cluster = find("RayService", "objecta")["metadata"]["name"]
    values = {"DATABASE_URL", "REDIS_URL", "CLUSTER_SECRET", "OPERATOR_KEY", "KEY_PEPPER", "RAY_TOKEN"}
    config = load({f"OBJECTA_{name}": "x" for name in values})
    service = find("Service", "objecta-control-plane")
    assert config.control_plane_url == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    # KubeRay derives both names from the RayService's.
    assert config.gateway_url == f"http://{cluster}-serve-svc:{config.gateway_port}"
    assert config.dashboard_url == f"http://{cluster}-head-svc:8265"


def test_pods_are_confined(pods: list[Any], find: Find) -> None:
    contexts = [pod.container["securityContext"] for pod in pods]
    contexts.append(find("RayService", "objecta")["spec"]["rayClusterConfig"]["autoscalerOptions"]["securityContext"])
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
    for pod in pods:
        identity = pod.spec["securityContext"]
        assert (identity["runAsNonRoot"], identity["runAsUser"], identity["fsGroup"]) == (True, 10001, 10001)
        assert identity["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in pod.spec["volumes"])
        assert {"/tmp", "/home/objecta"} <= {mount["mountPath"] for mount in pod.container["volumeMounts"]}
        assert set(pod.container["resources"]) == {"requests", "limits"}
    # The autoscaler of the serving head alone speaks with the Kubernetes API.
    assert [pod.owner for pod in pods if pod.spec["automountServiceAccountToken"]] == ["RayService/head"]


def test_whatever_serves_has_all_three_probes(pods: list[Any]) -> None:
    for pod in named(pods, "Deployment", "RayService"):
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(pod.container), pod.owner


def test_images_carry_the_version_and_the_hardware(pods: list[Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for pod in pods:
        hardware = "gpu" if "nvidia.com/gpu" in pod.container["resources"]["limits"] else "cpu"
        assert pod.container["image"] == f"objectalabs/platform:{version}-{hardware}"


def test_selectors_select(manifests: list[Manifest], pods: list[Any]) -> None:
    selectors = [m["spec"]["selector"].get("matchLabels") for m in manifests if m["kind"] == "PodDisruptionBudget"]
    selectors += [m["spec"]["selector"] for m in manifests if m["kind"] == "Service"]
    selectors += [m["spec"]["selector"]["matchLabels"] for m in manifests if m["kind"] == "Deployment"]
    assert len(selectors) == 5
    for selector in selectors:
        assert len([pod for pod in pods if selector.items() <= pod.labels.items()]) == 1


def test_budgets_leave_room_for_a_drain(manifests: list[Manifest], find: Find) -> None:
    groups = find("RayService", "objecta")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    fewest = min(find("Deployment", "objecta-control-plane")["spec"]["replicas"], *(g["minReplicas"] for g in groups))
    for budget in (m for m in manifests if m["kind"] == "PodDisruptionBudget"):
        assert 1 <= budget["spec"]["minAvailable"] < fewest


def test_the_smallest_cluster_holds_the_smallest_platform(find: Find, config: PlatformConfig) -> None:
    groups = find("RayService", "objecta")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups)
    limits = [
        (group["minReplicas"], group["template"]["spec"]["containers"][0]["resources"]["limits"]) for group in groups
    ]
    gpus = sum(nodes * int(limit.get("nvidia.com/gpu", 0)) for nodes, limit in limits)
    cpus = sum(nodes * int(limit["cpu"]) for nodes, limit in limits)
    assert {limit["nvidia.com/gpu"] for _, limit in limits if "nvidia.com/gpu" in limit} == {config.gpus_per_node}

    needs = [
        (entry.scaling.min_replicas, {"num_cpus": SERVICE_CPUS, "num_gpus": 1})
        if entry.kind == "embedding"
        else (entry.scaling.min_replicas, placement(config, entry))
        for entry in config.served()
    ]
    assert sum(replicas * need["num_gpus"] for replicas, need in needs) <= gpus
    services = (config.gateway_replicas + 2) * SERVICE_CPUS
    assert services + sum(replicas * need["num_cpus"] for replicas, need in needs) <= cpus


def test_nothing_is_scheduled_on_the_head(find: Find) -> None:
    head = find("RayService", "objecta")["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
