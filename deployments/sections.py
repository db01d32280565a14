"""Each constructor's own section, cut out of the one configuration; it says where an internal application lives."""

from deployments.config import PlatformConfig
from deployments.places import ModelPlaces, own_places
from models import channels
from models.catalogue import CatalogueEntry
from models.credentials import address
from serve.agents.config import AgentRuntimeConfig
from serve.batches.config import RunnerConfig
from serve.config import FileLimits, GatewayConfig, ModelRoute, Place, RoutePolicy, Upstream
from serve.hosted.config import HostedConfig

ENGINE = ("engine", channels.ENGINE_PREFIX)
# The application that serves a kind of model, and where; all else is an engine's.
APPLICATIONS = {
    "embedding": ("embedder", channels.EMBEDDER_PREFIX),
    "rerank": ("reranker", channels.RERANKER_PREFIX),
}


def gateway_config(config: PlatformConfig) -> GatewayConfig:
    """The gateway's section. Raises ValueError where a hosted model names an upstream that is not configured."""
    agents = Upstream(name="agents", base_url=config.gateway_url + channels.AGENTS_PREFIX, internal=True)
    return GatewayConfig(
        control_plane_url=config.control_plane_url,
        cluster_secret=config.cluster_secret,
        redis_url=config.redis_url,
        spool_folder=config.home / "spool",
        object_store=config.object_store,
        files=FileLimits(bytes_max=config.file_bytes_max),
        routes=tuple(_route(config, entry) for entry in config.served()),
        aliases=config.aliases,
        timeouts=config.timeouts,
        retries=config.retries,
        circuit=config.circuit,
        agents=agents,
        bounds=config.call_bounds,
        cache=config.response_cache,
        byok_price_percent=config.byok_price_percent,
        redis_away=config.redis_away,
        queueing=config.queueing,
    )


def _route(config: PlatformConfig, entry: CatalogueEntry) -> ModelRoute:
    own, *more = _upstreams(config, entry)
    told = config.places.get(entry.id, ModelPlaces())
    others = [Place(upstream=upstream) for upstream in more]
    for other in told.others:
        upstream = _hosted(config, entry, other.upstream)
        others.append(Place(upstream=upstream, upstream_model=other.model, weight=other.weight))
    engines = entry.kind == "chat" and all(one.internal and not one.own for one in (own, *(o.upstream for o in others)))
    return ModelRoute(
        entry=entry,
        upstream=own,
        fallbacks=config.fallbacks.get(entry.id, ()),
        others=tuple(others),
        cache=config.cached_models.get(entry.id),
        choose=told.choose or ("prefix" if engines else "latency"),
        policy=config.policies.get(entry.id, RoutePolicy()),
    )


def _upstreams(config: PlatformConfig, entry: CatalogueEntry) -> list[Upstream]:
    """Of the model itself: the provider's, or each of its own engines."""
    name = hosted_by(entry)
    if name is not None:
        return [_hosted(config, entry, name)]
    _, prefix = APPLICATIONS.get(entry.kind, ENGINE)
    root, many = config.gateway_url + prefix, places(config, entry)
    names = own_places(entry)
    return [Upstream(name=one, base_url=f"{root}/{one}", internal=True, concurrency=many) for one in names]


def _hosted(config: PlatformConfig, entry: CatalogueEntry, name: str) -> Upstream:
    hosted = next((hosted for hosted in config.upstreams if hosted.name == name), None)
    if hosted is None:
        raise ValueError(f"model {entry.id!r} is hosted by {name!r}, which upstreams does not name")
    shared = hosted.api_key is not None or not hosted.needs_credential
    if hosted.dialect == "openai":
        return Upstream(
            name=name,
            base_url=address(hosted.base_url or ""),
            api_key=hosted.api_key,
            headers=hosted.headers,
            hosted=True,
            shared=shared,
            concurrency=part(config, hosted.concurrency),
        )
    base_url = f"{config.gateway_url}{channels.HOSTED_PREFIX}/{name}"
    return Upstream(
        name=name,
        base_url=base_url,
        internal=True,
        own=True,
        hosted=True,
        shared=shared,
        concurrency=part(config, hosted.concurrency),
    )


def places(config: PlatformConfig, entry: CatalogueEntry) -> int | None:
    """Calls that one gateway has under way at once at an application of ours; None: any number.

    By default what all its replicas work on at once, and an eighth more: a place that becomes free in an engine is
    taken in its next step. The gateways share it, for they know nothing of one another.
    """
    whole = config.concurrency.get(entry.id)
    if whole is None:
        scaling = entry.scaling
        each = scaling.max_ongoing_requests
        if entry.kind not in APPLICATIONS:
            arguments = entry.hardware.gpu if config.gpus_per_node else entry.hardware.cpu
            if arguments is None:
                return None
            each = min(each, arguments.max_num_seqs + -(-arguments.max_num_seqs // 8))
        whole = each * scaling.max_replicas
    return part(config, whole)


def part(config: PlatformConfig, whole: int | None) -> int | None:
    """A gateway's part of what all of them may have under way; None and 0: any number."""
    return -(-whole // config.gateway_replicas) if whole else None


def hosted_by(entry: CatalogueEntry) -> str | None:
    """The hosted upstream that answers for the model, None where the platform runs it itself."""
    return next((source.location for source in entry.sources if source.scheme == "hosted"), None)


def hosted_config(config: PlatformConfig, name: str) -> HostedConfig:
    """The section of the adapter of the upstream ``name``. Raises ValueError where there is none."""
    for hosted in config.upstreams:
        if hosted.name == name and hosted.model_class is not None:
            return HostedConfig(
                name=name,
                model_class=hosted.model_class,
                base_url=hosted.base_url,
                api_key=hosted.api_key,
                options=hosted.options,
            )
    raise ValueError(f"no upstream {name!r} needs an adapter")


def agents_config(config: PlatformConfig) -> AgentRuntimeConfig:
    """The agent runtime's section."""
    return AgentRuntimeConfig(
        gateway_url=config.gateway_url,
        control_plane_url=config.control_plane_url,
        cluster_secret=config.cluster_secret,
    )


def batch_config(config: PlatformConfig) -> RunnerConfig:
    """The batch job's section."""
    return RunnerConfig(
        gateway_url=config.gateway_url,
        control_plane_url=config.control_plane_url,
        cluster_secret=config.cluster_secret,
        object_store=config.object_store,
    )
