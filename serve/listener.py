"""Hears invalidations over Redis pub/sub, reconnects for ever, and says truthfully whether it hears."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol, cast

from pydantic import SecretStr
from redis.asyncio import Connection
from redis.exceptions import RedisError

from models.channels import INVALIDATIONS
from serve.scripts import connection

PING_SECONDS = 1.0
RETRY_SECONDS = 0.2

logger = logging.getLogger(__name__)


class Cache(Protocol):
    """Who has to forget."""

    def invalidate(self, message: str) -> None:
        """A message came."""
        ...

    def hears(self) -> None:
        """From now on messages are heard."""
        ...

    def deaf(self) -> None:
        """Messages may be missed from now on."""
        ...


class Listener:
    """Tells each of ``caches``.

    A silent connection is asked for a sign of life every second, so a Redis that hangs counts as lost.
    """

    def __init__(self, url: SecretStr, caches: Sequence[Cache]) -> None:
        self._url = url
        self._caches = caches
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it listens, or tries to."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.ensure_future(self._listen_on())

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _listen_on(self) -> None:
        while True:
            line = connection(self._url, PING_SECONDS)
            try:
                await self._listen(line)
            except (RedisError, OSError) as error:
                logger.warning("invalidations are not heard, keys are checked more often: %s", type(error).__name__)
            finally:
                for cache in self._caches:
                    cache.deaf()
                await line.disconnect(nowait=True)
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self, line: Connection) -> None:
        async with asyncio.timeout(PING_SECONDS):
            await line.connect()
            await line.send_command("SUBSCRIBE", INVALIDATIONS)
            await line.read_response()
        for cache in self._caches:
            cache.hears()
        asked = False
        while True:
            try:
                async with asyncio.timeout(PING_SECONDS):
                    # Kept on a timeout: the parser takes a half-read reply up again.
                    reply = cast("list[Any]", await line.read_response(disconnect_on_error=False))
            except TimeoutError:
                if asked:
                    raise
                await line.send_command("PING", check_health=False)
                asked = True
                continue
            asked = False
            if reply[0] == b"message":
                for cache in self._caches:
                    cache.invalidate(reply[2].decode(errors="replace"))
