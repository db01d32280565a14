"""A call's life, from its headers to its usage event.

1. Who calls: an API key, or one of our own processes for a principal it names.
2. What is asked: a body within bounds, a model this principal may use, parameters the upstream can honour.
3. Admission: one Redis round trip. What is refused up to here costs nothing and leaves no event.
4. The upstream answers, whole or as a stream; a client that hangs up cuts the upstream off.
5. In ``finally``: exactly one usage event, handed over without waiting.
"""

import asyncio
import re
import time
from dataclasses import dataclass, field

import orjson
from uuid_utils import uuid7

from models.channels import PARENT_REQUEST_HEADER, PRINCIPAL_HEADER, REQUEST_ID_HEADER
from models.errors import PlatformError, RateHeaders, Unauthenticated
from models.identity import Principal
from models.usage import CallKind
from serve.admission import Admission, Doubtful
from serve.asgi import ClientDisconnected, Receive, Scope, Send, header, read_body
from serve.auth import Authenticator
from serve.claims import claim, demand, with_a_maximum
from serve.config import GatewayConfig
from serve.guard import holds_secret
from serve.hangup import HangUp
from serve.metering import Meter
from serve.metrics import Metrics
from serve.records import CLIENT_GONE_STATUS, Call
from serve.relay import HeaderList, Patience, StreamRelay, relay_whole
from serve.routing import Endpoint, Routes, Target, prepared
from serve.streams import StreamShape
from serve.upstreams import too_slow
from serve.validation import Body, model_of, parse_body

AUTHORIZATION = b"authorization"
# Where Anthropic's clients put a key.
API_KEY = b"x-api-key"
PRINCIPAL = PRINCIPAL_HEADER.encode()
PARENT = PARENT_REQUEST_HEADER.encode()
REQUEST_ID = REQUEST_ID_HEADER.encode()
SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
API_VERSION = b"2020-10-01"


def request_id(scope: Scope) -> str:
    """The client's own where it is sane, else a new one."""
    given = header(scope, REQUEST_ID)
    return given.decode() if given and SANE_ID.fullmatch(given) else f"req_{uuid7().hex}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, under which request id; ``parent`` is the request on whose behalf one of our processes calls."""

    principal: Principal
    request_id: str
    parent: str | None = None
    started: float = field(default_factory=time.monotonic)


class Calls:
    """Runs inference calls for one replica."""

    def __init__(
        self,
        config: GatewayConfig,
        authenticator: Authenticator,
        routes: Routes,
        admission: Admission,
        meter: Meter,
        metrics: Metrics,
    ) -> None:
        self._config = config
        self._secret = config.cluster_secret.get_secret_value().encode()
        self._authenticator = authenticator
        self._routes = routes
        self._admission = admission
        self._meter = meter
        self._metrics = metrics
        self.closing = False

    async def caller(self, request: str, scope: Scope) -> Caller:
        """Who calls. Raises Unauthenticated, Unavailable."""
        started = time.monotonic()
        named = header(scope, PRINCIPAL)
        if named is None or not holds_secret(scope, self._secret):
            authorization = header(scope, AUTHORIZATION)
            if authorization is None and (key := header(scope, API_KEY)) is not None:
                authorization = b"Bearer " + key
            principal = await self._authenticator.authenticate(authorization)
            return Caller(principal, request, started=started)
        try:
            principal = Principal.from_header(named.decode())
        except ValueError:
            raise Unauthenticated("The principal's header is not one.") from None
        parent = header(scope, PARENT)
        return Caller(principal, request, parent.decode(errors="replace") if parent else None, started)

    async def answer(self, endpoint: Endpoint, request: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One call. Raises what the client is to be told where nothing was sent yet; ClientDisconnected."""
        caller = await self.caller(request, scope)
        raw = await read_body(receive, scope, self._config.body_bytes_max)
        await self.run(caller, endpoint, parse_body(scope, raw), raw, receive, send)

    async def run(
        self, caller: Caller, endpoint: Endpoint, body: Body, raw: bytes, receive: Receive, send: Send
    ) -> None:
        """One call of ``endpoint``, from here or from another wire's translation of its request.

        ``raw`` is ``body`` as JSON; ``receive`` is asked only whether the client has left; ``send`` gets the endpoint's
        own answer as ASGI messages. Raises like ``answer``.
        """
        model = model_of(body)
        endpoint.check(body)
        target = self._routes.find(caller.principal, model, endpoint, inner=caller.parent is not None)
        kind, inner = endpoint.kind if target.entry else "agent", caller.parent is not None
        if caller.principal.under_hard_budget:
            body, raw = self._bounded(kind, target, body, raw)
        raw, shape = prepared(endpoint, target, body, raw)
        call = Call(
            request_id=caller.request_id,
            parent_request_id=caller.parent,
            principal=caller.principal,
            kind=kind,
            model=model,
            upstream=target.upstream.name,
            streamed=shape is not None,
            price=target.price(),
            body_bytes=len(raw),
            context_window=target.context_window,
            started=caller.started,
        )
        if caller.principal.limited:
            asked = demand(kind, body, len(raw), target.context_window, self._config.bounds)
            call.claim = claim(caller.principal, asked, call.price, call.started_at_ms, inner=inner)
        await self._admitted(call, target, endpoint.path, raw, shape, receive, send)

    def _bounded(self, kind: CallKind, target: Target, body: Body, raw: bytes) -> tuple[Body, bytes]:
        """The request with a maximum where it names none: a hard budget holds what a call can cost at most."""
        given = with_a_maximum(kind, body, len(raw), target.context_window, self._config.bounds)
        return (body, raw) if given is None else (given, orjson.dumps(given))

    async def _admitted(
        self,
        call: Call,
        target: Target,
        path: str,
        raw: bytes,
        shape: StreamShape | None,
        receive: Receive,
        send: Send,
    ) -> None:
        inner = call.parent_request_id is not None
        admitted = False
        self._metrics.in_flight.inc()
        try:
            try:
                limits = await self._admission.admit(
                    call.principal, call.event_id, call.opening(), call.claim, inner=inner
                )
                admitted = True
            except (Doubtful, asyncio.CancelledError):
                self._meter.void(call.event_id, call.claim)
                raise
            await self._run(call, target, path, raw, shape, limits, receive, send)
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
                self._meter.settle(call.event_id, call.event(), call.claim, call.cost_micro(), call.usage.total)
                self._metrics.settled(call)

    async def _run(
        self,
        call: Call,
        target: Target,
        path: str,
        raw: bytes,
        shape: StreamShape | None,
        limits: RateHeaders,
        receive: Receive,
        send: Send,
    ) -> None:
        timeouts = self._config.timeouts
        upstream = target.upstream
        relay: StreamRelay | None = None
        body = b""
        headers: HeaderList = []
        try:
            async with HangUp(receive) as watch, asyncio.timeout(timeouts.first_byte_seconds) as timeout:
                relay = StreamRelay(call, shape, send, watch) if shape else None
                response = await upstream.post(path, raw, _headers_for(call, target), call.model, streamed=bool(shape))
                patience = Patience(timeout, timeouts.idle_seconds, timeouts.total_seconds)
                headers = answer_headers(call, limits)
                if relay:
                    await relay.run(response, [EVENTS, *headers], patience)
                else:
                    body = await relay_whole(response, call, self._config, patience)
        except TimeoutError:
            if relay is None:
                raise too_slow(call.model) from None
            await relay.fail(too_slow(call.model))
            return
        if relay is None:
            call.end("ok", 200)
            length = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": length + headers})
            await send({"type": "http.response.body", "body": body})


def _headers_for(call: Call, target: Target) -> dict[str, str]:
    if not target.upstream.own:
        return {REQUEST_ID_HEADER: call.request_id}
    # A header has little room: the runtime needs this agent alone.
    named = tuple(agent for agent in call.principal.agents if agent.model_id == call.model)
    principal = call.principal.model_copy(update={"agents": named})
    return {REQUEST_ID_HEADER: call.request_id, PRINCIPAL_HEADER: principal.to_header()}


def answer_headers(call: Call, limits: RateHeaders) -> HeaderList:
    """What every successful inference answer bears, beside its type."""
    return [
        (REQUEST_ID, call.request_id.encode()),
        (b"openai-version", API_VERSION),
        (b"openai-organization", call.principal.organisation_id.encode()),
        (b"openai-processing-ms", b"%d" % call.elapsed_ms()),
        (b"x-objecta-model", call.model.encode()),
        (b"x-objecta-upstream", call.upstream.encode()),
        *limits,
    ]
