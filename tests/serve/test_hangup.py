"""Noticing that the client left."""

import asyncio

import pytest

from serve.asgi import ClientDisconnected, Message
from serve.hangup import HangUp


class Client:
    """Sends a stray message, then leaves when told."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self._messages = [{"type": "http.request"}]

    async def receive(self) -> Message:
        if self._messages:
            return self._messages.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}


async def test_the_block_is_interrupted_when_the_client_leaves() -> None:
    client = Client()

    async def call() -> None:
        async with HangUp(client.receive):
            client.left.set()
            await asyncio.Event().wait()

    with pytest.raises(ClientDisconnected):
        await call()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_client_that_stays_or_was_answered_interrupts_nothing() -> None:
    client = Client()
    async with HangUp(client.receive) as watch:
        watch.answered()
        client.left.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_someone_else_s_cancellation_stands() -> None:
    client = Client()
    inside = asyncio.Event()

    async def call() -> None:
        async with HangUp(client.receive):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(call())
    await inside.wait()
    client.left.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_of_the_block_pass() -> None:
    with pytest.raises(KeyError):
        async with HangUp(Client().receive):
            raise KeyError
