"""The whole graph in one function: which Serve applications make up the platform, where, and with what resources.

``serve_schema`` is what the dashboard's REST API, a RayService and the tests deploy. Each application has a module with
its builder, which reads its configuration where it runs, so no secret is in the schema; and which imports no other
application's libraries, for each is built, and each replica started, in a process of its own.

Why the numbers
- CPU shares are fractions, for a laptop's two cores hold everything; they place replicas, they do not limit them.
- An engine takes as many calls as its catalogue entry says, for vLLM batches and queues by itself.
- Health is asked every second where a death must be noticed at once (engine), every two seconds elsewhere.
"""

from collections.abc import Iterator
from typing import Any

from deployments.config import PlatformConfig
from deployments.places import own_places
from deployments.sections import APPLICATIONS, ENGINE, hosted_by
from models import channels
from models.catalogue import CatalogueEntry, plain_name

SERVICE_CPUS = 0.1
SERVICE_ONGOING_MAX = 256
ENGINE_CPUS_LOCAL = 0.5


def serve_schema(config: PlatformConfig) -> dict[str, Any]:
    """A ``ray.serve.schema.ServeDeploySchema`` as plain data.

    Source: https://docs.ray.io/en/latest/serve/production-guide/config.html
    """
    ours = [entry for entry in config.served() if hosted_by(entry) is None]
    return {
        "proxy_location": "HeadOnly" if config.gateway_host == "127.0.0.1" else "EveryNode",
        "http_options": {"host": config.gateway_host, "port": config.gateway_port},
        "applications": [
            _schema("gateway", "/", "deployments.gateway", {}),
            _schema("retrieval", channels.RETRIEVAL_PREFIX, "deployments.retrieval", {}),
            _schema("agents", channels.AGENTS_PREFIX, "deployments.agents", {}),
            *(application for entry in ours for application in _applications(entry)),
            *(_hosted(upstream.name) for upstream in config.upstreams if upstream.dialect != "openai"),
        ],
    }


def _applications(entry: CatalogueEntry) -> Iterator[dict[str, Any]]:
    """Of one model. Serve's proxy takes no ``@`` in a name, so those of further engines begin otherwise."""
    kind, prefix = APPLICATIONS.get(entry.kind, ENGINE)
    for number, place in enumerate(own_places(entry), 1):
        name = f"{kind}{number if number > 1 else ''}-{plain_name(entry.id)}"
        yield _schema(name, f"{prefix}/{place}", f"deployments.{kind}", {"model": entry.id})


def _hosted(name: str) -> dict[str, Any]:
    return _schema(f"hosted-{name}", f"{channels.HOSTED_PREFIX}/{name}", "deployments.hosted", {"upstream": name})


def _schema(name: str, route_prefix: str, module: str, arguments: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": f"{module}:application",
        "args": arguments,
    }


def scaling(entry: CatalogueEntry) -> dict[str, Any]:
    """Options of a deployment: a fixed number of replicas, or when to add one."""
    wanted = entry.scaling
    if wanted.min_replicas == wanted.max_replicas:
        return {"num_replicas": wanted.min_replicas, "max_ongoing_requests": wanted.max_ongoing_requests}
    return {
        "max_ongoing_requests": wanted.max_ongoing_requests,
        "autoscaling_config": {
            "min_replicas": wanted.min_replicas,
            "max_replicas": wanted.max_replicas,
            "target_ongoing_requests": wanted.target_ongoing_requests,
        },
    }


def placement(config: PlatformConfig, entry: CatalogueEntry) -> dict[str, Any]:
    """Resources of one engine replica: a GPU a tensor-parallel rank, packed on one node, or a CPU share without GPUs.

    vLLM places its own ranks on the GPUs of the replica's node, so the replica asks for all of them.
    """
    if not config.gpus_per_node:
        return {"num_cpus": ENGINE_CPUS_LOCAL}
    return {"num_cpus": 1, "num_gpus": entry.engine(config.gpus_per_node).tensor_parallel_size}


def embedder_placement(config: PlatformConfig) -> dict[str, Any]:
    """Resources of one embedder or reranker replica: a GPU where there are any."""
    return {"num_cpus": SERVICE_CPUS, "num_gpus": 1} if config.gpus_per_node else {"num_cpus": SERVICE_CPUS}
