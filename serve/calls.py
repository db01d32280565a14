"""A call's life, from its headers to its usage event.

1. Who calls: an API key, or one of our own processes for a principal it names.
2. What is asked: a body within bounds, a model this principal may use, parameters the upstream can honour.
3. Admission: one Redis round trip. What is refused up to here costs nothing and leaves no event.
4. The upstream answers, whole or as a stream, or the next in the model's chain; a client that hangs up cuts it off.
5. In ``finally``: exactly one usage event, handed over without waiting.
"""

import asyncio
from collections.abc import Sequence

from models.errors import PlatformError, RateHeaders
from models.usage import CallKind
from serve.admission import Admission
from serve.asgi import ClientDisconnected, Receive, Scope, Send, read_body
from serve.attempts import Attempt, attempts, in_turn, own_places
from serve.bounding import bounded, dearest
from serve.cache.cache import ResponseCache
from serve.cache.hits import hit_of
from serve.callers import Caller, Identify
from serve.claims import claim
from serve.config import GatewayConfig
from serve.credentials import Credentials
from serve.exchange import Exchange, Exchanges, answer_headers
from serve.metering import Meter
from serve.metrics import Metrics
from serve.privacy.guard import Guarded, Privacy
from serve.queueing_tiers import naming, turn_of, weighed
from serve.queueing_upstreams import queues, yielding
from serve.records import CLIENT_GONE_STATUS, Call
from serve.routing import Endpoint, Routes, Target
from serve.validation import Body, model_of, parse_body


class Calls:
    """Runs inference calls for one replica."""

    def __init__(
        self,
        config: GatewayConfig,
        caller: Identify,
        routes: Routes,
        admission: Admission,
        meter: Meter,
        metrics: Metrics,
        privacy: Privacy,
        cache: ResponseCache,
        credentials: Credentials | None = None,
    ) -> None:
        self.caller = caller
        self._config = config
        self._routes = routes
        self._admission = admission
        self._meter = meter
        self._metrics = metrics
        self._privacy = privacy
        self._credentials = credentials
        self._exchanges = Exchanges(config, metrics)
        self._queues = queues(config, metrics)
        self._cache = cache

    @property
    def closing(self) -> bool:
        """Whether the replica stops."""
        return self._exchanges.closing

    @closing.setter
    def closing(self, value: bool) -> None:
        self._exchanges.closing = value

    async def answer(self, endpoint: Endpoint, request: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One call. Raises what the client is to be told where nothing was sent yet; ClientDisconnected."""
        caller = await self.caller(request, scope)
        raw = await read_body(receive, scope, self._config.body_bytes_max)
        await self.run(caller, endpoint, parse_body(scope, raw), raw, receive, send, scope)

    async def run(
        self,
        caller: Caller,
        endpoint: Endpoint,
        body: Body,
        raw: bytes,
        receive: Receive,
        send: Send,
        scope: Scope | None = None,
    ) -> None:
        """One call of ``endpoint``, from here or from another wire's translation of its request.

        ``raw`` is ``body`` as JSON; ``receive`` is asked only whether the client has left; ``send`` gets the endpoint's
        own answer as ASGI messages. ``scope``: the client reads that answer as it is, and may be told that what it has
        read of a stream is replaced. Raises like ``answer``.
        """
        model = model_of(body)
        endpoint.check(body)
        inner = caller.parent is not None
        chain = self._routes.find(caller.principal, model, endpoint, inner=inner)
        if not caller.fallbacks:
            chain = own_places(chain)
        if self._credentials is not None:
            chain = await self._credentials.bound(caller.principal, chain)
        if caller.principal.guards is None:
            await self._call(caller, endpoint, chain, body, raw, receive, send, scope)
            return
        asked = Guarded(caller.principal, caller.request_id, caller.parent, endpoint.path, chain, body, raw)

        async def make(body: Body, raw: bytes, send: Send) -> None:
            # What is restored in an answer cannot be taken back.
            await self._call(caller, endpoint, chain, body, raw, receive, send, None)

        await self._privacy.run(asked, make, send)

    async def _call(
        self,
        caller: Caller,
        endpoint: Endpoint,
        chain: Sequence[Target],
        body: Body,
        raw: bytes,
        receive: Receive,
        send: Send,
        scope: Scope | None,
    ) -> None:
        """One call whose request is right, and what may be sent: from the cache, or by an upstream."""
        kind = endpoint.kind if chain[0].entry else "agent"
        who = caller.principal
        if who.under_hard_budget:
            body, raw = bounded(kind, chain, body, raw, self._config.bounds)
        lookup = None
        if caller.cache is not None or self._cache.models:
            lookup = await self._cache.look(who.organisation_id, caller.cache, endpoint, chain[0], body, send)
        if lookup is None:
            await self._asked(caller, endpoint, kind, chain, body, raw, receive, send, scope)
        elif lookup.stored is None:
            call = await self._asked(caller, endpoint, kind, chain, body, raw, receive, lookup.send, scope)
            self._cache.keep(lookup, call, chain[0])
        else:
            life = (who, caller.request_id, caller.parent, caller.started)
            call = hit_of(lookup.stored, lookup.share, *life, kind, chain[0], body)
            await self._admitted(call, (), endpoint.path, receive, lookup.send)

    async def _asked(
        self,
        caller: Caller,
        endpoint: Endpoint,
        kind: CallKind,
        chain: Sequence[Target],
        body: Body,
        raw: bytes,
        receive: Receive,
        send: Send,
        scope: Scope | None,
    ) -> Call:
        """One call that an upstream answers; its record."""
        model, inner = model_of(body), caller.parent is not None
        turn = turn_of(body, batch=caller.batch)
        plan = attempts(endpoint, chain, body, raw, caller.principal.organisation_id)
        if turn.rank:
            plan = yielding(plan, kind, turn.rank)
        first = plan[0]
        if turn.tier is not None and first.target.upstream.internal:
            send = naming(send, turn.tier)
        call = Call(
            request_id=caller.request_id,
            parent_request_id=caller.parent,
            principal=caller.principal,
            kind=kind,
            asked=model,
            model=first.target.name or model,
            upstream=first.target.upstream.name,
            upstream_model=first.target.model_there(model),
            streamed=first.shape is not None,
            price=first.target.price(),
            body_bytes=len(first.raw),
            context_window=first.target.context_window,
            started=caller.started,
            own_key=first.target.own_key is not None,
        )
        if call.streamed:
            call.stance = chain[0].policy.stance(scope, inner=inner)
        if caller.principal.limited:
            asked, price = dearest(kind, body, plan, self._config.bounds)
            if call.stance is not None:
                asked = asked.again(call.stance.times)
            call.claim = claim(caller.principal, asked, price, call.started_at_ms, inner=inner)
        if self._queues:
            call.turn = weighed(turn, kind, body, call.body_bytes, call.context_window, self._config.bounds)
        await self._admitted(call, plan, endpoint.path, receive, send)
        return call

    async def _admitted(self, call: Call, plan: Sequence[Attempt], path: str, receive: Receive, send: Send) -> None:
        inner = call.parent_request_id is not None
        admitted = False
        self._metrics.in_flight.inc()
        try:
            limits = await self._admission.admit(call.principal, call.event_id, call.opening(), call.claim, inner=inner)
            admitted = True
            if call.replay is None:
                await self._attempt_all(call, plan, path, limits, receive, send)
            else:
                call.end("ok", 200)
                await call.replay.send(answer_headers(call, limits), send)
        except PlatformError as error:
            call.end("error", error.status)
            raise
        except ClientDisconnected:
            call.end("client_gone", CLIENT_GONE_STATUS)
            raise
        except asyncio.CancelledError:
            # Serve cancels the handler of a client that left; a replica that stops cancels all of them.
            call.end("gateway_lost" if self.closing else "client_gone", CLIENT_GONE_STATUS)
            raise
        finally:
            self._metrics.in_flight.dec()
            if admitted:
                call.count()
                self._meter.settle(call.event_id, call.event(), call.claim, call.cost_micro(), call.tokens())
                self._metrics.settled(call)

    async def _attempt_all(
        self, call: Call, plan: Sequence[Attempt], path: str, limits: RateHeaders, receive: Receive, send: Send
    ) -> None:
        """A call that one target alone can answer has nobody to choose."""
        if len(plan) == 1:
            plan[0].target.upstream.retries.calls += 1
            await self._let_through(call, plan[0], plan, path, limits, receive, send)
            return
        await in_turn(
            call, plan, lambda attempt, to: self._let_through(call, attempt, plan, path, limits, receive, to), send
        )

    async def _let_through(
        self,
        call: Call,
        attempt: Attempt,
        plan: Sequence[Attempt],
        path: str,
        limits: RateHeaders,
        receive: Receive,
        send: Send,
    ) -> None:
        """One attempt, as soon as its upstream has a place for it."""
        exchange = Exchange(self._exchanges, call, attempt, plan, path, limits)
        queue = self._queues.get(attempt.target.upstream.name)
        if queue is None or attempt.target.own_key is not None:
            await exchange.run(receive, send)
            return
        ticket = await queue.enter(call, receive)
        try:
            await exchange.run(receive, send)
        finally:
            queue.leave(ticket, call)
