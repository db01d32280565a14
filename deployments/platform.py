"""The whole graph in one function: which Serve applications make up the platform, where, and with what resources.

``serve_schema`` is what the dashboard's REST API, a RayService and the tests deploy. Each application's builder is
``deployments.platform:application``, which reads its configuration where it runs, so no secret is in the schema.

Why the numbers
- CPU shares are fractions, for a laptop's two cores hold everything; they place replicas, they do not limit them.
- ``max_ongoing_requests`` of the gateway is high: a waiting stream costs it a socket, not a core. An engine takes as
  many as its catalogue entry says, for vLLM queues by itself; the rest waits in the gateway, where a limit is seen.
- Health is asked every second where a death must be noticed at once (engine), every two seconds elsewhere.
"""

from typing import Any, Literal

from ray import serve
from ray.serve import Application

from deployments.config import PlatformConfig
from deployments.engine import Engine, engine_environment
from deployments.replicas import AgentsReplica, EmbedderReplica, GatewayReplica, RetrievalReplica
from deployments.sections import hosted_by
from models import channels
from models.catalogue import CatalogueEntry

Role = Literal["gateway", "engine", "embedder", "retrieval", "agents"]

BUILDER = "deployments.platform:application"
GATEWAY_CPUS = 0.1
SERVICE_CPUS = 0.1
ENGINE_CPUS_LOCAL = 0.5
GATEWAY_ONGOING = 1_000
SERVICE_ONGOING = 256


def application(arguments: dict[str, str]) -> Application:
    """Build one application. ``arguments``: ``role`` and, for engines and embedders, ``model``.

    Raises ModelNotFound, or pydantic.ValidationError where the configuration is wrong.
    """
    config = PlatformConfig.load()
    role = arguments["role"]
    if role == "engine":
        return _engine(config, config.catalogue().find(arguments["model"]))
    if role == "embedder":
        return _embedder(config, config.catalogue().find(arguments["model"]))
    plain = {"gateway": GatewayReplica, "retrieval": RetrievalReplica, "agents": AgentsReplica}[role]
    options: dict[str, Any] = {
        "name": role,
        "num_replicas": config.gateway_replicas if role == "gateway" else 1,
        "max_ongoing_requests": GATEWAY_ONGOING if role == "gateway" else SERVICE_ONGOING,
        "ray_actor_options": {"num_cpus": GATEWAY_CPUS if role == "gateway" else SERVICE_CPUS},
        "health_check_period_s": 2,
        "graceful_shutdown_timeout_s": 10,
    }
    return serve.deployment(serve.ingress()(plain), **options).bind()


def serve_schema(config: PlatformConfig) -> dict[str, Any]:
    """A ``ray.serve.schema.ServeDeploySchema`` as plain data.

    Source: https://docs.ray.io/en/latest/serve/production-guide/config.html
    """
    applications = [
        _schema("gateway", "/", {"role": "gateway"}),
        _schema("retrieval", channels.RETRIEVAL_PREFIX, {"role": "retrieval"}),
        _schema("agents", channels.AGENTS_PREFIX, {"role": "agents"}),
    ]
    for entry in config.served():
        role, prefix = _place(entry)
        if role:
            name = f"{role}-{entry.id.replace('/', '--')}"
            applications.append(_schema(name, f"{prefix}/{entry.id}", {"role": role, "model": entry.id}))
    return {
        "proxy_location": "HeadOnly" if config.gateway_host == "127.0.0.1" else "EveryNode",
        "http_options": {"host": config.gateway_host, "port": config.gateway_port},
        "applications": applications,
    }


def _place(entry: CatalogueEntry) -> tuple[Role | None, str]:
    if hosted_by(entry) is not None:
        return None, ""
    if entry.kind == "embedding":
        return "embedder", channels.EMBEDDER_PREFIX
    return "engine", channels.ENGINE_PREFIX


def _schema(name: str, route_prefix: str, arguments: dict[str, str]) -> dict[str, Any]:
    return {"name": name, "route_prefix": route_prefix, "import_path": BUILDER, "args": arguments}


def _scaling(entry: CatalogueEntry) -> dict[str, Any]:
    scaling = entry.scaling
    if scaling.min_replicas == scaling.max_replicas:
        return {"num_replicas": scaling.min_replicas, "max_ongoing_requests": scaling.max_ongoing_requests}
    return {
        "max_ongoing_requests": scaling.max_ongoing_requests,
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
        },
    }


def placement(config: PlatformConfig, entry: CatalogueEntry) -> dict[str, Any]:
    """Resources of one engine replica: a GPU a tensor-parallel rank, packed on one node, or a CPU share without GPUs.

    vLLM places its own ranks on the GPUs of the replica's node, so the replica asks for all of them.
    """
    if not config.gpus_per_node:
        return {"num_cpus": ENGINE_CPUS_LOCAL}
    return {"num_cpus": 1, "num_gpus": entry.engine(config.gpus_per_node).tensor_parallel_size}


def _engine(config: PlatformConfig, entry: CatalogueEntry) -> Application:
    environment = engine_environment(entry.engine(config.gpus_per_node), config.gpus_per_node)
    options = {
        **_scaling(entry),
        "ray_actor_options": {**placement(config, entry), "runtime_env": {"env_vars": environment}},
        "health_check_period_s": 1,
        "health_check_timeout_s": 15,
        "graceful_shutdown_timeout_s": 15,
    }
    return serve.deployment(serve.ingress()(Engine), name="engine", **options).bind(entry.id)


def _embedder(config: PlatformConfig, entry: CatalogueEntry) -> Application:
    resources = {"num_cpus": SERVICE_CPUS, "num_gpus": 1} if config.gpus_per_node else {"num_cpus": SERVICE_CPUS}
    options = {**_scaling(entry), "ray_actor_options": resources, "health_check_period_s": 2}
    return serve.deployment(serve.ingress()(EmbedderReplica), name="embedder", **options).bind(entry.id)
