"""Telling the gateways what to forget. Redis being away fails no change: gateways revalidate by age as well."""

import logging
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from control_plane.database import Transaction
from models.channels import INVALIDATIONS

log = logging.getLogger(__name__)


class Invalidations:
    """Publishes on ``channels.INVALIDATIONS`` once a change is committed."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def key(self, transaction: Transaction, api_key_id: str) -> None:
        """Forget one API key after the commit."""
        transaction.after_commit(self._publisher(f"key:{api_key_id}"))

    def organisation(self, transaction: Transaction, organisation_id: str) -> None:
        """Forget all of an organisation's keys after the commit."""
        transaction.after_commit(self._publisher(f"organisation:{organisation_id}"))

    def _publisher(self, message: str) -> Callable[[], Awaitable[None]]:
        async def publish() -> None:
            try:
                await self._redis.publish(INVALIDATIONS, message)  # pyright: ignore[reportUnknownMemberType] - redis-py leaves its **kwargs untyped
            except (RedisError, OSError) as error:
                log.warning("invalidation %s not published, gateways will notice by age: %s", message, error)

        return publish
