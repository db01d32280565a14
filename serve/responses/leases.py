"""The responses that this replica runs, and its word that it still does.

A response whose gateway does not renew its lease is failed by the control plane. The same question tells which ones
were cancelled or deleted elsewhere in the meantime.
"""

import asyncio
from collections.abc import Callable

from models.errors import PlatformError
from serve.config import ResponsesConfig
from serve.responses.store import ResponseStore


class Leases:
    """Beats for all responses at once; not at all while there are none."""

    def __init__(self, store: ResponseStore, config: ResponsesConfig) -> None:
        self._store = store
        self._beat_seconds = config.beat_seconds
        self._held: dict[str, Callable[[], object]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it beats."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin to beat."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def hold(self, response_id: str, lost: Callable[[], object]) -> None:
        """Renew this one's lease from now on; ``lost`` is called where it is not to run any more."""
        self._held[response_id] = lost

    def release(self, response_id: str) -> None:
        """It has ended."""
        self._held.pop(response_id, None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._beat_seconds)
            if self._held:
                await self._beat()

    async def _beat(self) -> None:
        try:
            lost = await self._store.beat(list(self._held))
        except PlatformError:
            return
        for response_id in lost:
            stop = self._held.pop(response_id, None)
            if stop is not None:
                stop()
