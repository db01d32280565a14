"""The gateway: one raw ASGI application that answers for every model. See ``serve.calls`` for a call's life.

Invariants
1. Every answer that is not a success is OpenAI's error object (below ``/v1/messages`` Anthropic's) with our request
   id; what we did not foresee is logged and answers 500 without a word of its inside.
2. No header of an outside caller reaches an upstream; the names of our own headers count only beside the secret.
3. ``close`` returns when every admitted call is settled and every usage event is in Redis or on disk.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import orjson

from models.catalogue import CatalogueEntry
from models.errors import LimitReached, NotFound, PlatformError
from models.identity import AgentRoute
from serve.admission import Admission
from serve.allowlist import local_path
from serve.asgi import (
    ClientDisconnected,
    Message,
    Receive,
    Scope,
    Send,
    live,
    not_allowed,
    send_bytes,
    send_error,
    send_json,
)
from serve.auth import Authenticator
from serve.batches.app import ROOT as BATCHES
from serve.batches.app import Batches
from serve.cache.cache import response_cache
from serve.cache.config import CacheConfig
from serve.callers import REQUEST_ID, Callers, request_id
from serve.calls import Calls
from serve.config import GatewayConfig
from serve.credentials import Credentials
from serve.directory import KeyDirectory
from serve.files.app import ROOT as FILES
from serve.files.app import Files
from serve.headers import headers_for
from serve.health import Health
from serve.internal import session
from serve.listener import Listener
from serve.messages.app import ROOT as MESSAGES
from serve.messages.app import Messages
from serve.messages.errors import send_error as send_anthropic_error
from serve.metering import Meter
from serve.metrics import Metrics
from serve.openapi.document import document
from serve.openapi.parts import JSON
from serve.privacy.service import PrivacyService
from serve.responses.service import StatefulApi
from serve.routing import ENDPOINTS, Routes, model_not_found
from serve.scripts import ScriptRunner
from serve.spool import Spool
from serve.upstream_metrics import UpstreamMetrics

MODELS = "/v1/models"
MODEL_PREFIX = "/v1/models/"
OWNER = "objecta"
READS = ("GET", "HEAD")

logger = logging.getLogger(__name__)

Page = Callable[[str, Scope, Send], Awaitable[None]]
Family = Callable[[str, Scope, Receive, Send], Awaitable[None]]
"""Answers a path and all below it; the request id comes first. Raises what the edge renders, or renders it itself."""


class Gateway:
    """One replica. ``start`` before the first call, or through ASGI's lifespan."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._replica = uuid.uuid4().hex
        self._running: set[asyncio.Task[None]] = set()
        self._started = False
        self._pages: dict[str, Page] = {
            MODELS: self._list_models,
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._metrics_page,
            "/openapi.json": self._described,
            "/v1/openapi.json": self._described,
        }
        self._families: dict[str, Family] = {}
        self._files: Files | None = None
        self._description = orjson.dumps(document(with_files=config.object_store is not None))

    async def start(self) -> None:
        """Needs neither Redis nor the control plane to be there. A second time does nothing."""
        if self._started:
            return
        self._started = True
        config = self._config
        self._http = session(config.timeouts)
        keys = config.keys
        self._directory = KeyDirectory(
            self._http, config.control_plane_url, config.cluster_secret, keys.ask_seconds_max, keys.asks_max
        )
        self._authenticator = Authenticator(self._directory.authenticate, keys)
        self._runner = ScriptRunner(config.redis_url, config.redis_seconds_max, config.redis_rest_seconds)
        self._meter = Meter(self._runner, Spool(config.spool_folder), self._replica, config.drain_seconds)
        count, void = self._directory.count_budgets, self._meter.void
        self._admission = Admission(self._runner, self._replica, config.redis_away, count, void)
        self._metrics = Metrics(lambda: self._meter.spool_bytes, lambda: self._meter.waiting)
        self._privacy = PrivacyService(config, self._http, self._metrics)
        self._routes = Routes(config)
        credentials = Credentials(config, self._http) if self._routes.hosted else None
        self._listener = Listener(
            config.redis_url, (self._authenticator,) if credentials is None else (self._authenticator, credentials)
        )
        self._metrics.add(UpstreamMetrics(self._routes.upstreams()))
        self._cache = response_cache(config, self._metrics.cache)
        ttl_seconds_max = (config.cache or CacheConfig()).ttl_seconds_max
        callers = Callers(self._authenticator, config.cluster_secret, ttl_seconds_max)
        self._calls = Calls(
            config,
            callers.caller,
            self._routes,
            self._admission,
            self._meter,
            self._metrics,
            self._privacy.guard,
            self._cache,
            credentials,
        )
        self._families[MESSAGES] = Messages(self._calls, self._routes, self._privacy.guard, config)
        self._stateful = StatefulApi(config, self._http, self._calls, self._routes)
        self._families.update(self._stateful.families)
        if config.object_store is not None:
            self._files = Files(config, config.object_store, self._http, self._calls.caller)
            self._families[FILES] = self._files
            self._families[BATCHES] = Batches(config, self._http, self._calls.caller)
            self._files.start()
        self._privacy.start()
        self._health = Health(self._admission, self._directory, self._authenticator, self._routes.upstreams())
        self._listener.start()
        self._admission.start()
        self._meter.start()
        self._stateful.start()

    async def close(self) -> None:
        """End the calls that still run, settle them, and write every event down."""
        if not self._started:
            return
        self._started = False
        self._calls.closing = True
        running = self._running - {asyncio.current_task()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        await self._stateful.close()
        await self._privacy.close()
        if self._files is not None:
            await self._files.close()
        await self._listener.close()
        await self._meter.close()
        await self._admission.close()
        await self._cache.close()
        await self._runner.close()
        await self._routes.close()
        await self._http.close()

    async def check_health(self) -> None:
        """Raises RuntimeError where this process cannot do its work any more and must be replaced."""
        alive = self._meter.alive and self._admission.beating and self._listener.alive and self._stateful.alive
        alive = alive and self._privacy.alive
        if self._started and not (alive and (self._files is None or self._files.alive)):
            raise RuntimeError("a background task of the gateway has ended")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await live(receive, send, self.start, self.close)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = request_id(scope)
        task = asyncio.current_task()
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        if task is not None:
            self._running.add(task)
        try:
            await self._route(request, scope, receive, watched)
            return
        except ClientDisconnected:
            return
        except PlatformError as error:
            failure = error
        except Exception:
            logger.exception("unforeseen error at %s, request %s", local_path(scope), request)
            failure = PlatformError("The server had an error while processing your request.")
        finally:
            if task is not None:
                self._running.discard(task)
        if not started:
            self._metrics.refused(failure.status)
            limits = failure.headers if isinstance(failure, LimitReached) else ()
            write = send_anthropic_error if _below(MESSAGES, local_path(scope)) else send_error
            await write(send, failure, [(REQUEST_ID, request.encode()), *limits])

    async def _route(self, request: str, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = local_path(scope), scope["method"]
        endpoint = ENDPOINTS.get(path)
        if endpoint is not None:
            if method != "POST":
                raise not_allowed(method, "POST")
            await self._calls.answer(endpoint, request, scope, receive, send)
            return
        for root, family in self._families.items():
            if _below(root, path):
                await family(request, scope, receive, send)
                return
        page = self._one_model if path.startswith(MODEL_PREFIX) else self._pages.get(path)
        if page is None:
            raise NotFound("There is nothing at this address.")
        if method not in READS:
            raise not_allowed(method, *READS)
        await page(request, scope, send)

    async def _list_models(self, request: str, scope: Scope, send: Send) -> None:
        caller = await self._calls.caller(request, scope)
        data = [model_object(model) for model in self._routes.models(caller.principal)]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        await send_json(send, 200, {"object": "list", "data": data, **ends, "has_more": False}, headers_for(caller))

    async def _one_model(self, request: str, scope: Scope, send: Send) -> None:
        caller = await self._calls.caller(request, scope)
        name = local_path(scope).removeprefix(MODEL_PREFIX)
        for model in self._routes.models(caller.principal):
            found = model_object(model)
            if found["id"] == name:
                await send_json(send, 200, found, headers_for(caller))
                return
        raise model_not_found(name)

    async def _live(self, request: str, scope: Scope, send: Send) -> None:  # noqa: ARG002 - a page's signature
        await self._send(request, send, {"status": "live"})

    async def _ready(self, request: str, scope: Scope, send: Send) -> None:  # noqa: ARG002 - a page's signature
        status, body = await self._health.ready()
        await send_json(send, status, body, [(REQUEST_ID, request.encode())])

    async def _metrics_page(self, request: str, scope: Scope, send: Send) -> None:  # noqa: ARG002 - a page's signature
        headers = [(REQUEST_ID, request.encode())]
        await send_bytes(send, 200, self._metrics.render(), self._metrics.content_type, headers)

    async def _described(self, request: str, scope: Scope, send: Send) -> None:  # noqa: ARG002 - a page's signature
        await send_bytes(send, 200, self._description, JSON.encode(), [(REQUEST_ID, request.encode())])

    async def _send(self, request: str, send: Send, body: object) -> None:
        await send_json(send, 200, body, [(REQUEST_ID, request.encode())])


def _below(root: str, path: str) -> bool:
    return path.startswith(root) and path[len(root) : len(root) + 1] in {"", "/"}


def model_object(model: CatalogueEntry | AgentRoute) -> dict[str, str | int]:
    """OpenAI's model object."""
    if isinstance(model, AgentRoute):
        return {"id": model.model_id, "object": "model", "created": model.published_at, "owned_by": OWNER}
    since = datetime.fromisoformat(model.prices[0].since).replace(tzinfo=UTC)
    return {"id": model.id, "object": "model", "created": int(since.timestamp()), "owned_by": OWNER}
