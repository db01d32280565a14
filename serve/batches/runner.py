"""Doing a batch: a few lines at a time, as the principal that pays, from where the last job left off.

1. The order: what is done already, and which lines an earlier job sent without hearing the end.
2. The input file, whole, and every line checked before the first one is sent.
3. Lines are begun, sent, and recorded when they have an end; a job that dies loses what is in flight, no more.
4. Once nothing is to be sent any more: output and error file, visible in the transaction that ends the batch.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator

import aiohttp

from models.batches import BatchEnd, BatchOrder, LineError, Outcome, StopReason, Validated
from models.errors import Conflict
from serve.batches.config import RunnerConfig
from serve.batches.ledger import BatchLedger
from serve.batches.lines import Input, fetched
from serve.batches.outcomes import LOST, failed, not_sent
from serve.batches.sender import Sender
from serve.batches.writing import OutcomeFile
from serve.files.ledger import FileLedger
from serve.files.store import ObjectStore, key
from serve.internal import InternalClient

GONE = LineError(code="input_file_not_found", message="The input file is not there any more.", param="input_file_id")
THREADS = 4

logger = logging.getLogger(__name__)


class Runner:
    """One attempt of one batch."""

    def __init__(self, config: RunnerConfig, http: aiohttp.ClientSession, batch_id: str, attempt: int) -> None:
        client = InternalClient(http, config.control_plane_url, config.cluster_secret, config.ask_seconds_max)
        self._config = config
        self._http = http
        self._files = FileLedger(client)
        self._ledger = BatchLedger(client, batch_id, attempt, config.patience_seconds, config.pause_seconds)
        self._store = ObjectStore(config.object_store, THREADS)
        self._stop: StopReason | None = None

    async def run(self) -> None:
        """Returns when the batch has ended, by this attempt or without it.

        Raises Unavailable, OSError where the platform fails for long; another attempt goes on then.
        """
        try:
            await self._do(await self._ledger.order())
        except* Conflict:
            logger.info("the batch has ended meanwhile, or belongs to another attempt")
        finally:
            await asyncio.to_thread(self._store.close)

    async def _do(self, order: BatchOrder) -> None:
        try:
            file = await fetched(self._store, key(order.organisation_id, order.input_file_id))
        except FileNotFoundError:
            await self._ledger.validated(Validated(errors=(GONE,)))
            return
        lines: Input = await self._store.run(Input, file, order.endpoint)
        try:
            errors = tuple(lines.errors)
            told = await self._ledger.validated(Validated(model=lines.model, total=lines.total, errors=errors))
            if not errors:
                self._stop = order.stop or told
                await self._send(order, lines)
                await self._end(order, lines)
        finally:
            lines.close()

    async def _send(self, order: BatchOrder, lines: Input) -> None:
        for number in order.lost:
            await self._ledger.record([failed(order.id, lines.line(number), *LOST)])
        over = {*order.done, *order.lost}
        waiting = deque(number for number in range(1, lines.total + 1) if number not in over)
        if order.principal is None or self._stop is not None:
            return
        sender = Sender(self._http, self._config, order, order.principal)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._config.concurrency):
                group.create_task(self._work(sender, lines, waiting))

    async def _work(self, sender: Sender, lines: Input, waiting: deque[int]) -> None:
        while waiting and self._stop is None:
            # Towards the end in smaller pieces, so that nobody is idle while another one has lines to send.
            share = len(waiting) // self._config.concurrency
            chunk = [waiting.popleft() for _ in range(max(1, min(share, self._config.lines_a_begin)))]
            self._stop = self._stop or await self._ledger.begin(chunk)
            for number in chunk:
                if self._stop is not None:
                    return
                found = await sender.outcome(lines.line(number), self._go_on)
                if isinstance(found, str):
                    self._stop = self._stop or found
                    return
                stop = await self._ledger.record([found])
                self._stop = self._stop or stop

    async def _go_on(self, number: int) -> StopReason | None:
        return self._stop or await self._ledger.begin([number])

    async def _end(self, order: BatchOrder, lines: Input) -> None:
        told = await self._ledger.finalizing()
        stop = self._stop or told
        lease = self._config.lease_seconds
        output = OutcomeFile(self._store, self._files, order, "output", lease)
        errors = OutcomeFile(self._store, self._files, order, "error", lease)
        try:
            number = 0
            async for outcome in self._outcomes():
                for absent in range(number + 1, outcome.line):
                    await self._add_absent(errors, order, lines, absent, stop)
                await (output if outcome.ok else errors).add(outcome.text)
                number = outcome.line
            for absent in range(number + 1, lines.total + 1):
                await self._add_absent(errors, order, lines, absent, stop)
            written = [await output.finish(), await errors.finish()]
            end = BatchEnd(stop=stop, output=written[0], errors=written[1], failed=errors.lines)
            await self._ledger.finish(end)
        finally:
            await output.close()
            await errors.close()

    async def _add_absent(
        self, file: OutcomeFile, order: BatchOrder, lines: Input, number: int, stop: StopReason | None
    ) -> None:
        await file.add(not_sent(order.id, lines.line(number), stop or "failed").text)

    async def _outcomes(self) -> AsyncIterator[Outcome]:
        after = 0
        while page := await self._ledger.outcomes(after):
            for outcome in page:
                yield outcome
            after = page[-1].line
