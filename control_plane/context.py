"""What one process of the control plane holds, and the dependencies that hand it to endpoints."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from control_plane.config import ControlPlaneConfig
from control_plane.credentials.sealing import KeyEncryption
from control_plane.database import Sessions, Transaction, begin
from control_plane.invalidation import Invalidations
from control_plane.supervision import Bell


@dataclass(frozen=True)
class Context:
    """Built once by ``app.create_app``."""

    config: ControlPlaneConfig
    engine: AsyncEngine
    sessions: Sessions
    redis: Redis
    invalidations: Invalidations
    jobs_bell: Bell
    batches_bell: Bell
    key_encryption: KeyEncryption | None


def context_of(request: Request) -> Context:
    """The application's context."""
    return cast("Context", request.app.state.context)


Ctx = Annotated[Context, Depends(context_of)]


async def request_transaction(context: Ctx) -> AsyncGenerator[Transaction]:
    """The request's transaction; commits after the endpoint and before its answer is sent."""
    async with begin(context.sessions) as transaction:
        yield transaction


Tx = Annotated[Transaction, Depends(request_transaction, scope="function")]
