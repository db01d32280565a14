"""Dynamic batching: what waits while a model works becomes the next batch.

Invariants
1. The model is touched by one thread only: it is synchronous, and its tokenizer is not safe to share.
2. An idle model starts at once; nothing ever waits for a batch to fill.
3. A batch takes one item of each waiting call in turn, so a small call is never behind a large one for longer than
   one batch; within a call the longest go first, within a batch all are sorted by length.
4. A batch that fails is tried again call by call: only the call at fault fails.
5. A caller that goes away takes its waiting items with it.

All state belongs to the event loop; there are no locks.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import Unavailable, UpstreamError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")
ItemIn = TypeVar("ItemIn", contravariant=True)
Vectors = NDArray[np.float32]
BATCH_TOKENS_MAX = 8_192
WAITING_CALLS_MAX = 1_024
RETRY_SECONDS = 1.0


class Batchable(Protocol[ItemIn]):
    """A model over items: texts for an encoder, pairs of texts for a scorer."""

    @property
    def dimensions(self) -> int:
        """Numbers for each item."""
        ...

    def count_tokens(self, items: Sequence[ItemIn], /) -> list[int]:
        """Tokens of each item as the model sees it."""
        ...

    def encode(self, items: Sequence[ItemIn], /) -> Vectors:
        """Float32 array of shape (len(items), dimensions)."""
        ...


class _Call(Generic[Item]):
    """One caller's items: ``waiting`` holds the indices not yet taken, longest first."""

    def __init__(self, items: Sequence[Item], tokens: Sequence[int], dimensions: int) -> None:
        self.items = items
        self.tokens = tokens
        self.waiting = deque(sorted(range(len(items)), key=lambda index: -tokens[index]))
        self.vectors: Vectors = np.zeros((len(items), dimensions), dtype=np.float32)
        self.missing = len(items)
        self.done: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()

    def fill(self, indices: Sequence[int], rows: Vectors) -> None:
        self.vectors[list(indices)] = rows
        self.missing -= len(indices)
        if not self.missing and not self.done.done():
            self.done.set_result(self.vectors)

    def fail(self, error: UpstreamError) -> None:
        self.waiting.clear()
        if not self.done.done():
            self.done.set_exception(error)


class Batcher(Generic[Item]):
    """Shares one model among concurrent callers."""

    def __init__(
        self,
        encoder: Batchable[Item],
        batch_tokens_max: int = BATCH_TOKENS_MAX,
        waiting_calls_max: int = WAITING_CALLS_MAX,
    ) -> None:
        """``batch_tokens_max`` bounds a batch (a longer item is a batch by itself), so it bounds the wait."""
        self._encoder = encoder
        self._batch_tokens_max = batch_tokens_max
        self._waiting_calls_max = waiting_calls_max
        self._calls: dict[_Call[Item], None] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    async def count(self, items: Sequence[Item]) -> list[int]:
        """Tokens of each item. Raises Unavailable after ``close``."""
        self._refuse_when_full()
        return await self._in_worker(self._encoder.count_tokens, items)

    async def encode(self, items: Sequence[Item], tokens: Sequence[int]) -> Vectors:
        """Float32 array of shape (len(items), dimensions), in the order given; ``tokens`` as ``count`` told.

        Raises UpstreamError where the model fails on these items, Unavailable after ``close`` or above
        ``waiting_calls_max``.
        """
        self._refuse_when_full()
        call = _Call(items, tokens, self._encoder.dimensions)
        self._calls[call] = None
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        try:
            return await call.done
        finally:
            del self._calls[call]

    async def close(self) -> None:
        """Fail what waits, let the batch in the model end, and end the thread."""
        self._closed = True
        for call in self._calls:
            call.fail(Unavailable("The model is shutting down.", retry_after_seconds=RETRY_SECONDS))
        if self._pump is not None:
            await asyncio.wait({self._pump})
        await asyncio.to_thread(partial(self._worker.shutdown, cancel_futures=True))

    def _refuse_when_full(self) -> None:
        if self._closed or len(self._calls) >= self._waiting_calls_max:
            raise Unavailable("The model takes no more requests at the moment.", retry_after_seconds=RETRY_SECONDS)

    async def _in_worker(self, function: Callable[[Sequence[Item]], T], items: Sequence[Item]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, items)

    async def _run(self) -> None:
        while batch := self._next_batch():
            if not await self._encode(batch):
                by_call: dict[_Call[Item], list[tuple[_Call[Item], int]]] = {}
                for place in batch:
                    by_call.setdefault(place[0], []).append(place)
                for call, places in by_call.items():
                    if len(by_call) == 1 or not await self._encode(places):
                        call.fail(UpstreamError("The model failed on this input."))

    def _next_batch(self) -> list[tuple[_Call[Item], int]]:
        """Items of all waiting calls in turn, up to the budget; sorted by length, longest first."""
        turns = deque(call for call in self._calls if call.waiting)
        batch: list[tuple[_Call[Item], int]] = []
        budget = self._batch_tokens_max
        while turns:
            call = turns.popleft()
            budget -= call.tokens[call.waiting[0]]
            if budget < 0 and batch:
                break
            batch.append((call, call.waiting.popleft()))
            if call.waiting:
                turns.append(call)
        return sorted(batch, key=lambda place: -place[0].tokens[place[1]])

    async def _encode(self, batch: Sequence[tuple[_Call[Item], int]]) -> bool:
        """Encode and hand out; False where the model failed."""
        items = [call.items[index] for call, index in batch]
        work = asyncio.ensure_future(self._in_worker(self._encoder.encode, items))
        await asyncio.wait({work})
        error = work.exception()
        if error is not None:
            logger.error("the model failed on a batch of %d items", len(batch), exc_info=error)
            return False
        shares: dict[_Call[Item], tuple[list[int], list[int]]] = {}
        for position, (call, index) in enumerate(batch):
            indices, positions = shares.setdefault(call, ([], []))
            indices.append(index)
            positions.append(position)
        rows = work.result()
        for call, (indices, positions) in shares.items():
            call.fill(indices, rows[positions])
        return True
