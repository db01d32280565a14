"""The Redis side of metering: the usage stream as a consumer sees it. Raises redis.exceptions.RedisError, OSError."""

import os
import socket
import uuid
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from models.channels import USAGE_GROUP, USAGE_STREAM

DEAD_LETTERS = f"{USAGE_STREAM}:dead"
"""Redis stream of what the ledger could not take: ``event`` as it came, ``reason``."""

EVENT_FIELD = b"event"
FRESH = ">"
OWN = "0"
CONSUMER_IDLE_MS_MAX = 3_600_000


@dataclass(frozen=True)
class Entry:
    """One entry of the stream; ``event`` is empty where it has none."""

    id: bytes
    event: bytes


class UsageStream:
    """One consumer of the group. Its name is new in every process: what a dead one held is claimed, not inherited."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py leaves the types of its stream commands open
        self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    async def open(self, consumer_idle_ms_max: int = CONSUMER_IDLE_MS_MAX) -> None:
        """Make the group if it is not there, from the stream's beginning, and forget consumers long gone."""
        try:
            await self._redis.xgroup_create(USAGE_STREAM, USAGE_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        for consumer in await self._redis.xinfo_consumers(USAGE_STREAM, USAGE_GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > consumer_idle_ms_max:
                await self._redis.xgroup_delconsumer(USAGE_STREAM, USAGE_GROUP, consumer["name"])

    async def read(self, start: str, count: int, block_ms: int | None = None) -> list[Entry]:
        """Entries that nobody has had (``FRESH``, waiting for them) or that we had and did not finish (``OWN``)."""
        streams = {USAGE_STREAM: start}
        answer = await self._redis.xreadgroup(USAGE_GROUP, self._consumer, streams, count=count, block=block_ms)
        return _entries(answer[0][1]) if answer else []

    async def claim(self, idle_ms: int, count: int) -> list[Entry]:
        """Entries that another consumer has held for longer than ``idle_ms``."""
        answer = await self._redis.xautoclaim(USAGE_STREAM, USAGE_GROUP, self._consumer, idle_ms, "0-0", count=count)
        return _entries(answer[1])

    async def finish(self, entries: list[Entry]) -> None:
        """Acknowledge and delete, so that the stream holds only what the ledger lacks."""
        ids = [entry.id for entry in entries]
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xack(USAGE_STREAM, USAGE_GROUP, *ids)
            pipeline.xdel(USAGE_STREAM, *ids)
            await pipeline.execute()

    async def bury(self, entry: Entry, reason: str) -> None:
        """Move an entry to the dead letters."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xadd(DEAD_LETTERS, {"event": entry.event, "reason": reason})
            pipeline.xack(USAGE_STREAM, USAGE_GROUP, entry.id)
            pipeline.xdel(USAGE_STREAM, entry.id)
            await pipeline.execute()


def _entries(answer: list[tuple[bytes | None, dict[bytes, bytes] | None]]) -> list[Entry]:
    # An entry that was deleted while it was pending comes without id (claimed) or without fields (own).
    return [Entry(name, (fields or {}).get(EVENT_FIELD, b"")) for name, fields in answer if name is not None]
