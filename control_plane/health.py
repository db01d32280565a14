"""Liveness, and readiness that tells the truth."""

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from control_plane.context import Context, Ctx
from models.errors import Unavailable

CHECK_SECONDS_MAX = 2.0

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get("/ready", responses={503: {"description": "A dependency does not answer; `checks` says which"}})
async def ready(context: Ctx) -> JSONResponse:
    """200 where PostgreSQL and Redis answer, else 503."""
    names = ("postgresql", "redis")
    states = await asyncio.gather(_state(_ask_postgresql(context)), _state(_ask_redis(context)))
    checks = dict(zip(names, states, strict=True))
    if all(state == "ok" for state in states):
        return JSONResponse({"status": "ready", "checks": checks})
    away = ", ".join(name for name, state in checks.items() if state != "ok")
    error = Unavailable(f"Not ready: {away} does not answer.")
    return JSONResponse({**error.body(), "status": "not ready", "checks": checks}, status_code=error.status)


async def _state(check: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            await check
    except (SQLAlchemyError, RedisError, OSError):
        return "away"
    return "ok"


async def _ask_postgresql(context: Context) -> None:
    async with context.engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


async def _ask_redis(context: Context) -> None:
    await context.redis.echo("ready")  # pyright: ignore[reportUnknownMemberType] - redis-py leaves its **kwargs untyped
