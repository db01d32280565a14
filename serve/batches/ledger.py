"""The job's side of a batch in the control plane. It waits out a control plane that is away for a while."""

import asyncio
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from models.batches import BatchEnd, BatchOrder, Begin, Outcome, Outcomes, StopReason, Told, Validated
from models.errors import Unavailable
from serve.internal import InternalClient

# Each may have megabytes.
OUTCOMES_A_PAGE = 50


class BatchLedger:
    """One attempt of one batch; every report is one that can be made twice.

    Every method raises Unavailable after ``patience_seconds``, and Conflict where this attempt has no more to report.
    """

    def __init__(
        self, client: InternalClient, batch_id: str, attempt: int, patience_seconds: float, pause_seconds: float
    ) -> None:
        self._client = client
        self._place = f"/batches/{batch_id}/{attempt}"
        self._patience_seconds = patience_seconds
        self._pause_seconds = pause_seconds

    async def order(self) -> BatchOrder:
        """What is to be done."""
        return BatchOrder.model_validate_json(await self._ask("GET", ""))

    async def validated(self, found: Validated) -> StopReason | None:
        """What the input file holds."""
        return self._told(await self._ask("POST", "/validated", found))

    async def begin(self, lines: Sequence[int]) -> StopReason | None:
        """Lines about to be sent, unless the answer is a reason to stop."""
        return self._told(await self._ask("POST", "/begin", Begin(lines=tuple(lines))))

    async def record(self, outcomes: Sequence[Outcome]) -> StopReason | None:
        """Lines that are done; durable on return."""
        return self._told(await self._ask("PUT", "/outcomes", Outcomes(data=tuple(outcomes))))

    async def outcomes(self, after: int) -> tuple[Outcome, ...]:
        """The next outcomes by line; none at the end."""
        query = {"after": str(after), "limit": str(OUTCOMES_A_PAGE)}
        return Outcomes.model_validate_json(await self._ask("GET", "/outcomes", query=query)).data

    async def finalizing(self) -> StopReason | None:
        """No more lines will be sent."""
        return self._told(await self._ask("POST", "/finalizing"))

    async def finish(self, end: BatchEnd) -> None:
        """The end."""
        await self._ask("POST", "/finish", end)

    async def _ask(
        self, method: str, path: str, body: BaseModel | None = None, query: Mapping[str, str] | None = None
    ) -> bytes:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_seconds
        while True:
            try:
                return await self._client.ask(method, self._place + path, body, query)
            except Unavailable:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(self._pause_seconds)

    def _told(self, answer: bytes) -> StopReason | None:
        return Told.model_validate_json(answer).stop
