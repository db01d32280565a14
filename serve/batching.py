"""Dynamic batching: what waits while the encoder works becomes the next batch.

Invariants
1. The encoder is touched by one thread only: it is synchronous, and its tokenizer is not safe to share.
2. An idle encoder starts at once; nothing ever waits for a batch to fill.
3. A batch takes one text of each waiting call in turn, so a small call is never behind a large one for longer than
   one batch; within a call the longest go first, within a batch all are sorted by length.
4. A batch that fails is tried again call by call: only the call at fault fails.
5. A caller that goes away takes its waiting texts with it.

All state belongs to the event loop; there are no locks.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from models.errors import Unavailable, UpstreamError
from models.protocols import Encoder

logger = logging.getLogger(__name__)

T = TypeVar("T")
Vectors = NDArray[np.float32]
BATCH_TOKENS_MAX = 8_192
WAITING_CALLS_MAX = 1_024
RETRY_SECONDS = 1.0


class _Call:
    """One caller's texts: ``waiting`` holds the indices not yet taken, longest first."""

    def __init__(self, texts: Sequence[str], tokens: Sequence[int], dimensions: int) -> None:
        self.texts = texts
        self.tokens = tokens
        self.waiting = deque(sorted(range(len(texts)), key=lambda index: -tokens[index]))
        self.vectors: Vectors = np.zeros((len(texts), dimensions), dtype=np.float32)
        self.missing = len(texts)
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


_Item = tuple[_Call, int]


class Batcher:
    """Shares one encoder among concurrent callers."""

    def __init__(
        self,
        encoder: Encoder,
        batch_tokens_max: int = BATCH_TOKENS_MAX,
        waiting_calls_max: int = WAITING_CALLS_MAX,
    ) -> None:
        """``batch_tokens_max`` bounds a batch (a longer text is a batch by itself), so it bounds the wait."""
        self._encoder = encoder
        self._batch_tokens_max = batch_tokens_max
        self._waiting_calls_max = waiting_calls_max
        self._calls: dict[_Call, None] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    async def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text. Raises Unavailable after ``close``."""
        self._refuse_when_full()
        return await self._in_worker(self._encoder.count_tokens, texts)

    async def encode(self, texts: Sequence[str], tokens: Sequence[int]) -> Vectors:
        """Float32 array of shape (len(texts), dimensions), in the order given; ``tokens`` as ``count`` told.

        Raises UpstreamError where the encoder fails on these texts, Unavailable after ``close`` or above
        ``waiting_calls_max``.
        """
        self._refuse_when_full()
        call = _Call(texts, tokens, self._encoder.dimensions)
        self._calls[call] = None
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        try:
            return await call.done
        finally:
            del self._calls[call]

    async def close(self) -> None:
        """Fail what waits, let the batch in the encoder end, and end the thread."""
        self._closed = True
        for call in self._calls:
            call.fail(Unavailable("The model is shutting down.", retry_after_seconds=RETRY_SECONDS))
        if self._pump is not None:
            await asyncio.wait({self._pump})
        await asyncio.to_thread(partial(self._worker.shutdown, cancel_futures=True))

    def _refuse_when_full(self) -> None:
        if self._closed or len(self._calls) >= self._waiting_calls_max:
            raise Unavailable("The model takes no more requests at the moment.", retry_after_seconds=RETRY_SECONDS)

    async def _in_worker(self, function: Callable[[Sequence[str]], T], texts: Sequence[str]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, texts)

    async def _run(self) -> None:
        while batch := self._next_batch():
            if not await self._encode(batch):
                by_call: dict[_Call, list[_Item]] = {}
                for item in batch:
                    by_call.setdefault(item[0], []).append(item)
                for call, items in by_call.items():
                    if len(by_call) == 1 or not await self._encode(items):
                        call.fail(UpstreamError("The model failed to embed the input."))

    def _next_batch(self) -> list[_Item]:
        """Texts of all waiting calls in turn, up to the budget; sorted by length, longest first."""
        turns = deque(call for call in self._calls if call.waiting)
        batch: list[_Item] = []
        budget = self._batch_tokens_max
        while turns:
            call = turns.popleft()
            budget -= call.tokens[call.waiting[0]]
            if budget < 0 and batch:
                break
            batch.append((call, call.waiting.popleft()))
            if call.waiting:
                turns.append(call)
        return sorted(batch, key=lambda item: -item[0].tokens[item[1]])

    async def _encode(self, batch: Sequence[_Item]) -> bool:
        """Encode and hand out; False where the encoder failed."""
        texts = [call.texts[index] for call, index in batch]
        work = asyncio.ensure_future(self._in_worker(self._encoder.encode, texts))
        await asyncio.wait({work})
        error = work.exception()
        if error is not None:
            logger.error("the encoder failed on a batch of %d texts", len(batch), exc_info=error)
            return False
        shares: dict[_Call, tuple[list[int], list[int]]] = {}
        for position, (call, index) in enumerate(batch):
            indices, positions = shares.setdefault(call, ([], []))
            indices.append(index)
            positions.append(position)
        rows = work.result()
        for call, (indices, positions) in shares.items():
            call.fill(indices, rows[positions])
        return True
