"""Noticing that the client hung up while its call runs, at the price of one task; what becomes of the call then."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

from serve.asgi import ClientDisconnected, Message, Receive, Send


class HangUp:
    """Interrupts the block with ClientDisconnected when the client leaves. The request's body must have been read.

    ``answered`` ends the watch before the last message: a server reports the end of the answer as a disconnect, too.
    ``gone``: it has left.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.gone = False

    async def __aenter__(self) -> "HangUp":
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call runs in a task")
        self._task = task
        self._watch = asyncio.ensure_future(self._wait())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        # Where someone else has cancelled as well (the replica stops), that stands.
        if self.gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientDisconnected from error

    def answered(self) -> None:
        """Stop watching."""
        self._watch.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        self._task.cancel()


class Leaving:
    """The other way: the work goes on when the client leaves, for ``seconds`` at most, and what it sends is dropped.

    ``closing`` tells that the process stops: then nothing goes on.
    """

    def __init__(self, send: Send, seconds: float, closing: Callable[[], bool]) -> None:
        self._send = send
        self._seconds = seconds
        self._closing = closing
        self._answered = False
        self.gone = False

    async def send(self, message: Message) -> None:
        """Pass it on while somebody is there."""
        if not self.gone:
            await self._send(message)

    def answered(self) -> None:
        """What is a disconnect from now on is none."""
        self._answered = True

    async def outlived_by(self, work: Coroutine[Any, Any, None], receive: Receive) -> None:
        """The work's outcome. Raises ClientDisconnected where the client did not wait for it.

        Some servers cancel the handler of a client that left: that ends the work only when the process stops.
        """
        task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self._wait(receive))
        try:
            await self._until_over(task, watch)
        finally:
            watch.cancel()
            task.cancel()
            await asyncio.wait({task, watch})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        if self.gone:
            raise ClientDisconnected

    async def _until_over(self, task: asyncio.Future[None], watch: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        end: float | None = None
        while not task.done():
            try:
                left = None if end is None else max(0.0, end - loop.time())
                waiting = {task} if watch.done() else {task, watch}
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                if self._closing() and not self.gone:
                    raise
                if self._closing():
                    return
                self.gone = True
            if self.gone and end is None:
                end = loop.time() + self._seconds
            if end is not None and loop.time() >= end:
                return

    async def _wait(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone = not self._answered
