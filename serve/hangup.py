"""Noticing that the client hung up while its call runs, at the price of one task."""

import asyncio
from types import TracebackType

from serve.asgi import ClientDisconnected, Receive


class HangUp:
    """Interrupts the block with ClientDisconnected when the client leaves. The request's body must have been read.

    ``answered`` ends the watch before the last message: a server reports the end of the answer as a disconnect, too.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

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
        if self._gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientDisconnected from error

    def answered(self) -> None:
        """Stop watching."""
        self._watch.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
