"""Background tasks that outlive their failures."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

RESTART_SECONDS_MIN = 0.1
CANCEL_AGAIN_SECONDS = 0.5

log = logging.getLogger(__name__)


class Bell:
    """Wakes one sleeping loop before its time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def ring(self) -> None:
        """Wake the loop, or spare it its next sleep."""
        self._event.set()

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``, or as soon as the bell rings."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()


async def supervise(name: str, run: Callable[[], Awaitable[None]], restart_seconds_max: float) -> None:
    """Run for ever: a crash is logged and ``run`` is called again, after a pause that doubles while it crashes.

    The pause begins anew once a run lasted longer than the longest pause.
    """
    loop = asyncio.get_running_loop()
    pause = RESTART_SECONDS_MIN
    while True:
        begun = loop.time()
        try:
            await run()
        except Exception as error:
            if loop.time() - begun > restart_seconds_max:
                pause = RESTART_SECONDS_MIN
            log.warning("%s stopped, again in %.1f s: %s: %s", name, pause, type(error).__name__, error)
            log.debug("%s stopped", name, exc_info=True)
        await asyncio.sleep(pause)
        pause = min(pause * 2, restart_seconds_max)


@asynccontextmanager
async def supervised(
    tasks: Mapping[str, Callable[[], Awaitable[None]]], restart_seconds_max: float
) -> AsyncGenerator[None]:
    """The tasks run while the block does; leaving it cancels them and waits until all have ended."""
    running = [asyncio.create_task(supervise(name, run, restart_seconds_max), name=name) for name, run in tasks.items()]
    try:
        yield
    finally:
        await _cancel(set(running))


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    # Again and again: Python 3.11's ``asyncio.wait_for``, under psycopg, loses a cancellation that comes at the moment
    # its future is done (cpython#86296), and the task would run on.
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_SECONDS)
