"""The network policies, evaluated as Kubernetes would: who reaches which port of which pod."""

from typing import Any

import pytest

OPERATOR = {"kubernetes.io/metadata.name": "kuberay-system"}
INGRESS = {"objecta.io/ingress": "true"}
SCRAPER = {"objecta.io/scrape": "true"}
STRANGER = {"kubernetes.io/metadata.name": "default"}

HEAD = "RayService/head"
WORKERS = ("RayService/cpu", "RayService/gpu")
CONTROL = "Deployment/pod"
MODELS = "Job/pod"

Manifest = dict[str, Any]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def admitted(peer: dict[str, Any], source: str | dict[str, str], labels: dict[str, dict[str, str]]) -> bool:
    assert len(peer) == 1
    if isinstance(source, str):
        return "podSelector" in peer and matches(peer["podSelector"], labels[source])
    return "namespaceSelector" in peer and matches(peer["namespaceSelector"], source)


class Network:
    """Ingress as the policies allow it; a source is one of our pods by name, or a foreign namespace's labels."""

    def __init__(self, manifests: list[Manifest], pods: list[Any]) -> None:
        self._labels = {pod.owner: pod.labels for pod in pods}
        self._policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]

    def reaches(self, source: str | dict[str, str], target: str, port: int) -> bool:
        selected = [
            policy
            for policy in self._policies
            if "Ingress" in policy["policyTypes"] and matches(policy["podSelector"], self._labels[target])
        ]
        assert selected, f"nothing guards {target}"
        return any(
            port in [item["port"] for item in rule.get("ports", [{"port": port}])]
            and any(admitted(peer, source, self._labels) for peer in rule["from"])
            for policy in selected
            for rule in policy.get("ingress", [])
        )


@pytest.fixture(scope="module")
def network(manifests: list[Manifest], pods: list[Any]) -> Network:
    return Network(manifests, pods)


def test_the_jobs_api_is_the_operators_and_the_control_planes(network: Network) -> None:
    sources = {"operator": OPERATOR, "ingress": INGRESS, "scraper": SCRAPER, "stranger": STRANGER}
    sources |= {pod: pod for pod in (CONTROL, MODELS, *WORKERS)}
    # The workers of the same cluster reach it too; Ray's token stands between.
    assert {name for name, source in sources.items() if network.reaches(source, HEAD, 8265)} == {
        *("operator", CONTROL, *WORKERS)
    }
    assert not any(network.reaches(source, WORKERS[0], 8265) for source in (OPERATOR, INGRESS, CONTROL, MODELS))


@pytest.mark.parametrize("port", [6379, 8404, 10001, 30000, 31000, 52365])
@pytest.mark.parametrize("target", [HEAD, *WORKERS])
def test_ports_between_ray_nodes_are_theirs_alone(network: Network, target: str, port: int) -> None:
    for source in (OPERATOR, INGRESS, SCRAPER, STRANGER, CONTROL, MODELS):
        assert not network.reaches(source, target, port)
    for source in (HEAD, *WORKERS):
        assert network.reaches(source, target, port)


def test_clients_reach_gateway_and_control_plane_through_the_ingress_alone(network: Network) -> None:
    for target, port in ((WORKERS[0], 8000), (CONTROL, 8080)):
        assert network.reaches(INGRESS, target, port)
        assert not network.reaches(STRANGER, target, port)
        assert not network.reaches(SCRAPER, target, port)


def test_the_planes_reach_what_they_call(network: Network) -> None:
    for source in (*WORKERS, HEAD):
        assert network.reaches(source, CONTROL, 8080)
    assert not network.reaches(MODELS, CONTROL, 8080)
    assert network.reaches(OPERATOR, HEAD, 8000)


def test_metrics_are_for_the_scraper(network: Network) -> None:
    for port in (8080, 9101):
        assert network.reaches(SCRAPER, WORKERS[1], port)
        assert not network.reaches(STRANGER, WORKERS[1], port)


def test_nothing_of_the_platform_reaches_the_metadata_service(manifests: list[Manifest], pods: list[Any]) -> None:
    (policy,) = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy" and "Egress" in m["spec"]["policyTypes"]]
    assert all(matches(policy["podSelector"], pod.labels) for pod in pods)
    for rule in policy["egress"]:
        blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
        ports = {item["port"] for item in rule.get("ports", [])}
        for block in blocks:
            assert ports == {53} or "169.254.0.0/16" in block.get("except", [])
        assert rule["to"]
        assert blocks == [] or ports
