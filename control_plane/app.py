"""The application: routes, the edge around them, and the tasks behind them.

The life of a request
1. ``edge.Edge``: request id, the door of ``/internal``, body limit, security headers.
2. ``access``: the bearer becomes a caller, caller and path become a tenant's ``Scope``.
3. The noun's endpoint calls its service; the service works through the scope and only flushes.
4. ``context.request_transaction`` commits once, then invalidations go out; only then is the answer sent.
5. Whatever is raised becomes the error object, in ``errors`` or, for what nobody expected, in the edge.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from sqlalchemy.ext.asyncio import async_sessionmaker

from control_plane import errors, health
from control_plane.agents import endpoints as agents
from control_plane.batches import endpoints as batches
from control_plane.batches.watcher import BatchWatcher
from control_plane.budgets import endpoints as budgets
from control_plane.budgets.counting import Counting
from control_plane.config import ControlPlaneConfig
from control_plane.context import Context
from control_plane.credentials import endpoints as credentials
from control_plane.credentials.sealing import ConfiguredKeys
from control_plane.database import create_engine
from control_plane.description import Described
from control_plane.edge import DOCS_PATH, INTERNAL_PREFIX, Edge
from control_plane.files import endpoints as files
from control_plane.invalidation import Invalidations
from control_plane.keys import endpoints as keys
from control_plane.knowledge import endpoints as knowledge
from control_plane.knowledge.jobs import JobsClient
from control_plane.knowledge.watcher import Watcher
from control_plane.privacy import endpoints as privacy
from control_plane.privacy.reaper import PromptReaper
from control_plane.responses import endpoints as responses
from control_plane.responses.reaper import ResponseReaper
from control_plane.supervision import Bell, supervised
from control_plane.tenants import endpoints as tenants
from control_plane.usage import endpoints as usage
from control_plane.usage.consumer import Consumer
from control_plane.usage.reaper import Reaper
from control_plane.usage.stream import UsageStream

API_PREFIX = "/api/v1"
REDIS_SECONDS_MAX = 5.0
DESCRIPTION = """
Tenants, API keys, agents, knowledge bases and usage of an ObjectaLabs platform.

Send `authorization: Bearer <key>`: the operator key, or an API key with the role `admin` for its own organisation.
Lists answer the newest entries first, `limit` (at most 100) a page; a page's `last_id` as `after` gives the next one.
Errors are OpenAI's error object on every path. Times are Unix seconds, money integer micro-units.
"""


def create_context(config: ControlPlaneConfig) -> Context:
    """What the process holds; nothing connects yet."""
    engine = create_engine(config)
    # One retry at once: a connection that died while idle costs a caller nothing, a server that is away little.
    redis = Redis.from_url(  # pyright: ignore[reportUnknownMemberType] - redis-py leaves its **kwargs untyped
        config.redis_url.get_secret_value(),
        socket_timeout=REDIS_SECONDS_MAX,
        socket_connect_timeout=config.connect_seconds_max,
        retry=Retry(NoBackoff(), 1),
        protocol=2,
    )
    key = config.credential_key
    return Context(
        config=config,
        engine=engine,
        sessions=async_sessionmaker(engine, expire_on_commit=False),
        redis=redis,
        invalidations=Invalidations(redis),
        jobs_bell=Bell(),
        batches_bell=Bell(),
        key_encryption=None if key is None else ConfiguredKeys((key, *config.credential_keys_former)),
    )


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """The background tasks run while the application serves."""
    context: Context = app.state.context
    config = context.config
    jobs = JobsClient(config.jobs_url, config.jobs_token, config.jobs_seconds_max)
    tasks = {
        "usage consumer": Consumer(UsageStream(context.redis), context.sessions, config.claim_idle_seconds).run,
        "usage reaper": Reaper(context.redis, config).run,
        "budget counting": Counting(context.redis, context.sessions, config.count_seconds).run,
        "response reaper": ResponseReaper(context.sessions, config).run,
        "prompt reaper": PromptReaper(context.sessions, config).run,
        "ingestion watcher": Watcher(config, context.sessions, jobs, context.jobs_bell).run,
        "batch watcher": BatchWatcher(config, context.sessions, jobs, context.batches_bell).run,
    }
    async with supervised(tasks, config.restart_seconds_max):
        yield
    await jobs.close()
    await context.redis.aclose()
    await context.engine.dispose()


def create_app(config: ControlPlaneConfig) -> FastAPI:
    """The control plane as an ASGI application; its lifespan runs consumers, reapers and watchers."""
    app = Described(
        title="ObjectaLabs control plane",
        version="1",
        description=DESCRIPTION,
        docs_url=DOCS_PATH,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.context = create_context(config)
    public = APIRouter(prefix=API_PREFIX)
    for router in (
        keys.me,
        tenants.organisations,
        tenants.router,
        keys.router,
        agents.router,
        knowledge.router,
        usage.router,
        usage.platform,
        budgets.router,
        credentials.router,
        credentials.operators,
        privacy.router,
    ):
        public.include_router(router)
    internal = APIRouter(prefix=INTERNAL_PREFIX, include_in_schema=False)
    for router in (
        keys.internal,
        agents.internal,
        knowledge.internal,
        responses.internal,
        files.internal,
        batches.internal,
        budgets.internal,
        credentials.internal,
        privacy.internal,
    ):
        internal.include_router(router)
    for router in (public, internal, health.router):
        app.include_router(router)
    errors.install(app)
    app.add_middleware(Edge, secret=config.cluster_secret)
    return app
