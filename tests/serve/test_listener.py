"""Hearing invalidations: through a lost, a hung and a silent Redis."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import redis
from pydantic import SecretStr

from models.channels import INVALIDATIONS
from serve.listener import Listener

SECONDS_MAX = 15.0


class Ears:
    """What the listener told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.changes: list[bool] = []

    def invalidate(self, message: str) -> None:
        self.messages.append(message)

    def hears(self) -> None:
        self.changes.append(True)

    def deaf(self) -> None:
        self.changes.append(False)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Ears]:
    ears = Ears()
    listener = Listener(SecretStr(url), (ears,))
    assert not listener.alive
    listener.start()
    yield ears
    assert listener.alive
    await listener.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def test_messages_are_heard_and_a_lost_redis_is_found_again(start_redis: Callable[[], Any]) -> None:
    server = start_redis()
    async with listening(server.url) as ears:
        await until(lambda: ears.changes == [True])
        with redis.Redis.from_url(server.url) as client:
            client.publish(INVALIDATIONS, "key:a")
            await until(lambda: ears.messages == ["key:a"])
        server.stop()
        await until(lambda: ears.changes[:2] == [True, False])
        server.start()
        await until(lambda: ears.changes[-1])
        with redis.Redis.from_url(server.url) as client:
            client.publish(INVALIDATIONS, b"\xff")
        await until(lambda: ears.messages == ["key:a", "\ufffd"])


async def test_a_redis_that_hangs_is_noticed_and_one_that_is_silent_is_not_lost(
    start_redis: Callable[[], Any],
) -> None:
    server = start_redis()
    async with listening(server.url) as ears:
        await until(lambda: ears.changes == [True])
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            # Asked twice for a sign of life, it gave one each time.
            await until(lambda: int(client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]) >= 2)
        assert ears.changes == [True]
        os.kill(server.pid, signal.SIGSTOP)
        try:
            await until(lambda: ears.changes[-1] is False)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await until(lambda: ears.changes[-1])
