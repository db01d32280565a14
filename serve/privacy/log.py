"""Keeping prompts: a queue in memory, emptied into the control plane beside the calls.

Invariants
1. ``put`` neither waits nor fails. What does not fit into the queue is dropped and counted; so is what the control
   plane refuses, and what a replica that ends could not hand over in time.
2. What leaves the process is masked by its project's policy; what cannot be masked is dropped.
3. A record may be sent twice, and is kept once: its id is made before it is first sent.
"""

import asyncio
import logging
from collections import deque
from concurrent.futures import Executor

from prometheus_client import Counter

from models.errors import InvalidRequest, PlatformError, Unavailable
from models.privacy import PromptRecord, PromptRecords
from serve.internal import InternalClient
from serve.privacy.config import PrivacyConfig
from serve.privacy.records import KeptCall, record

PATH = "/prompts"
RECORDS_A_POST = 16

logger = logging.getLogger(__name__)


class PromptLog:
    """One replica's. ``outcomes`` counts by ``outcome``: kept, dropped."""

    def __init__(self, client: InternalClient, pool: Executor, config: PrivacyConfig, outcomes: Counter) -> None:
        self._client = client
        self._pool = pool
        self._config = config
        self._kept = outcomes.labels("kept")
        self._dropped = outcomes.labels("dropped")
        self._queue: deque[KeptCall] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it still empties its queue."""
        return self._task is None or not self._task.done()

    def start(self) -> None:
        """Begin to hand over."""
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Hand over what can be handed over soon."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(self._config.close_seconds_max):
                await self._empty.wait()
        except TimeoutError:
            logger.warning("%d prompts were not handed over in time", len(self._queue))
            self._dropped.inc(len(self._queue))
        self._task.cancel()
        await asyncio.wait({self._task})

    def put(self, kept: KeptCall) -> None:
        """Have a call kept, if there is room."""
        config = self._config
        if len(self._queue) >= config.queue_records_max or self._bytes + kept.size > config.queue_bytes_max:
            self._dropped.inc()
            return
        self._queue.append(kept)
        self._bytes += kept.size
        self._empty.clear()
        self._some.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            batch = list(self._queue)[:RECORDS_A_POST]
            records = await loop.run_in_executor(self._pool, self._records, batch)
            if records:
                await self._hand_over(records)
            self._dropped.inc(len(batch) - len(records))
            for kept in batch:
                self._queue.popleft()
                self._bytes -= kept.size
            if not self._queue:
                self._some.clear()
                self._empty.set()

    def _records(self, batch: list[KeptCall]) -> list[PromptRecord]:
        found: list[PromptRecord] = []
        for kept in batch:
            try:
                found.append(record(kept, self._config))
            except (InvalidRequest, RecursionError):
                logger.warning("the prompt of request %s cannot be masked and is not kept", kept.request_id)
        return found

    async def _hand_over(self, records: list[PromptRecord]) -> None:
        """Again and again until the control plane answers; the queue is bounded meanwhile."""
        while True:
            try:
                await self._client.ask("POST", PATH, PromptRecords(data=tuple(records)))
            except Unavailable:
                await asyncio.sleep(self._config.pause_seconds)
            except PlatformError as error:
                logger.warning("%d prompts are refused by the control plane: %s", len(records), error)
                self._dropped.inc(len(records))
                return
            else:
                self._kept.inc(len(records))
                return
