"""From a principal and a model's name to who answers for it, and the request in the words that upstream needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from models.catalogue import CatalogueEntry, ModelKind
from models.errors import ContextTooLong, InvalidRequest, ModelNotFound
from models.identity import AgentRoute, Principal
from models.usage import CallKind, Price
from serve.balance import Balance, Load
from serve.checks import CHAT_CHECKS, COMPLETION_CHECKS, EMBEDDING_CHECKS, RERANK_CHECKS
from serve.config import GatewayConfig, ModelRoute, Place, RoutePolicy, Upstream
from serve.ignored import refuse_ignored
from serve.ownkey import OwnKey
from serve.policies import DEFAULT, Policy, policy_of
from serve.streams import StreamShape
from serve.upstreams import UpstreamClient
from serve.validation import Body, check_chat, check_completion, check_embedding, check_rerank, refuse_unknown
from serve.wire import Wire

AGENT_PREFIX = "agent/"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An inference route: what it takes, which kind of model answers it."""

    path: str
    kind: CallKind
    model_kind: ModelKind
    check: Callable[[Body], None]
    known: frozenset[str]


ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint(
            "/v1/chat/completions",
            "chat",
            "chat",
            check_chat,
            frozenset({"model", "messages", "functions", "function_call", "web_search_options", *CHAT_CHECKS}),
        ),
        Endpoint(
            "/v1/completions",
            "completion",
            "chat",
            check_completion,
            frozenset({"model", "prompt", *COMPLETION_CHECKS}),
        ),
        Endpoint(
            "/v1/embeddings",
            "embedding",
            "embedding",
            check_embedding,
            frozenset({"model", "input", *EMBEDDING_CHECKS}),
        ),
        Endpoint(
            "/v1/rerank",
            "rerank",
            "rerank",
            check_rerank,
            frozenset({"model", "query", "documents", *RERANK_CHECKS}),
        ),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Who answers a call. ``entry`` is None where an agent does; its price then lies with its inner calls.

    ``balance`` chooses between it and the other places of its model, where there are any; ``load`` is then its own.
    ``own_key``: the organisation's, where the call goes under it.
    """

    upstream: UpstreamClient
    entry: CatalogueEntry | None
    upstream_model: str | None = None
    balance: Balance | None = None
    load: Load | None = None
    policy: Policy = DEFAULT
    own_key: OwnKey | None = None

    @property
    def name(self) -> str | None:
        """The model's id in the catalogue; None where an agent answers."""
        return self.entry.id if self.entry else None

    @property
    def context_window(self) -> int | None:
        """Of the model; None where many prompts or an unknown model share the request."""
        return self.entry.context_window if self.entry and self.entry.kind == "chat" else None

    def model_there(self, asked: str) -> str:
        """The upstream's own name for the model that was asked for."""
        return self.upstream_model or ((self.entry.upstream_model or self.entry.id) if self.entry else asked)

    def price(self) -> Price | None:
        """The price in force now."""
        price = self.entry.price_at() if self.entry else None
        return price if price is None or self.own_key is None else self.own_key.price(price)


class Routes:
    """All models served, and the agent runtime.

    A chain is flat: the places of the model itself, then those of its fallbacks.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._wire = Wire(config.timeouts.connect_seconds)
        self._clients: dict[tuple[str, str], UpstreamClient] = {}
        targets = {route.entry.id: self._targets(route) for route in config.routes}
        self._chains = {
            route.entry.id: tuple(target for name in (route.entry.id, *route.fallbacks) for target in targets[name])
            for route in config.routes
        }
        self._chains |= {alias: self._chains[name] for alias, name in config.aliases.items()}
        # By the time an agent speaks its tools may have acted: no stream of it is begun anew.
        policy = policy_of(RoutePolicy(), config.timeouts, resumable=False)
        self._agents = Target(self._client(config.agents, own=True), None, policy=policy)

    def _client(self, upstream: Upstream, *, own: bool) -> UpstreamClient:
        """One for each name and address, whatever models it answers for."""
        config = self._config
        known = (upstream.name, upstream.base_url)
        if known not in self._clients:
            self._clients[known] = UpstreamClient(
                self._wire,
                upstream,
                config.cluster_secret,
                config.timeouts,
                own=own,
                retries=config.retries,
                circuit=config.circuit,
            )
        return self._clients[known]

    def _targets(self, route: ModelRoute) -> tuple[Target, ...]:
        """The places of a model: its own upstream, then the others."""
        policy = policy_of(route.policy, self._config.timeouts)
        places = (Place(upstream=route.upstream), *route.others)
        clients = [
            self._client(place.upstream, own=place.upstream.own).connecting(policy.connect_seconds) for place in places
        ]
        if not route.others:
            return (Target(clients[0], route.entry, policy=policy),)
        loads = [Load(f"{place.upstream.name}/{place.upstream_model or ''}", place.weight) for place in places]
        balance = Balance(loads, by_prefix=route.choose == "prefix")
        return tuple(
            Target(client, route.entry, place.upstream_model, balance, load, policy)
            for client, load, place in zip(clients, loads, places, strict=True)
        )

    def upstreams(self) -> dict[str, UpstreamClient]:
        """Every upstream by name, the agent runtime last."""
        return {client.name: client for client in self._clients.values()}

    @property
    def hosted(self) -> bool:
        """Whether a provider answers for any of them."""
        return any(client.hosted for client in self._clients.values())

    async def close(self) -> None:
        """End what watches over the upstreams, and the connections to them."""
        for client in self._clients.values():
            await client.close()
        self._wire.close()

    def models(self, principal: Principal) -> list[CatalogueEntry | AgentRoute]:
        """What this principal may use."""
        named = ((name, chain[0].entry) for name, chain in self._chains.items())
        entries = [
            entry if name == entry.id else entry.model_copy(update={"id": name}) for name, entry in named if entry
        ]
        return [
            *(entry for entry in entries if principal.may_use(entry.id)),
            *(agent for agent in principal.agents if principal.may_use(agent.model_id)),
        ]

    def find(self, principal: Principal, model: str, endpoint: Endpoint, *, inner: bool) -> tuple[Target, ...]:
        """Who answers for the model, then who else may.

        Raises ModelNotFound; InvalidRequest where the model does not do what the endpoint is for.

        ``inner`` calls are an agent's: who may use the agent may use it with the model it was published with.
        """
        agent = principal.agent(model) if model.startswith(AGENT_PREFIX) else None
        chain = (self._agents,) if agent else self._chains.get(model)
        if chain is None or not (inner or principal.may_use(model)):
            raise model_not_found(model)
        kind = chain[0].entry.kind if chain[0].entry else "agent"
        if kind != endpoint.model_kind and not (kind == "agent" and endpoint.kind == "chat"):
            raise InvalidRequest(f"The model '{model}' does not answer {endpoint.path}.", param="model")
        return chain


def model_not_found(model: str) -> ModelNotFound:
    """The same answer for a model that does not exist and one that this principal may not use."""
    return ModelNotFound(f"The model '{model}' does not exist or you do not have access to it.", param="model")


def prepared(endpoint: Endpoint, target: Target, body: Body, raw: bytes) -> tuple[bytes, StreamShape | None]:
    """The upstream's request body, and how its stream is to be shaped (None: the answer is whole).

    Every stream is asked for usage, our engines for usage in each chunk: what was consumed is known at any time.
    Raises InvalidRequest, ContextTooLong.
    """
    upstream = target.upstream
    if not upstream.internal:
        refuse_unknown(body, endpoint.known)
    elif not upstream.own:
        refuse_ignored(endpoint.path, endpoint.known, body)
    window = target.context_window
    for name in ("max_completion_tokens", "max_tokens"):
        if window is not None and (body.get(name) or 0) > window:
            raise ContextTooLong(
                f"This model's maximum context length is {window} tokens. However, you asked for up to {body[name]} "
                f"tokens of completion in '{name}'.",
                param=name,
            )
    named = target.model_there(body["model"])
    if not body.get("stream"):
        return raw if named == body["model"] else orjson.dumps({**body, "model": named}), None
    asked = cast("dict[str, Any]", body.get("stream_options") or {})
    usage = bool(asked.get("include_usage"))
    choices: int = body.get("n") or 1
    engine = upstream.internal and not upstream.own
    shape = StreamShape(
        model=body["model"],
        usage=usage,
        continuous=engine and usage and bool(asked.get("continuous_usage_stats")),
        several=choices > 1 or isinstance(body.get("prompt"), list),
        choices=choices,
    )
    options = {**asked, "include_usage": True}
    if engine:
        options["continuous_usage_stats"] = True
    return orjson.dumps({**body, "model": named, "stream_options": options}), shape
