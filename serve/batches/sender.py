"""Sending one line to the gateway, as the principal that pays, until it has an end."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import orjson

from models.batches import BatchOrder, Outcome, StopReason
from models.channels import (
    BATCH_CLASS,
    CLASS_HEADER,
    CLUSTER_SECRET_HEADER,
    PRINCIPAL_HEADER,
    REQUEST_ID_HEADER,
)
from models.identity import Principal
from serve.batches.config import RunnerConfig
from serve.batches.lines import Line
from serve.batches.outcomes import ANSWER_BYTES_MAX, LOST, answered, failed

QUOTA = "insufficient_quota"
# Refused before anything was done: to be sent again for as long as the batch goes on.
REFUSED = frozenset({429, 503})
# An upstream failed; such a call is not charged.
BROKEN = frozenset({502, 504})

Ask = Callable[[int], Awaitable[StopReason | None]]
"""Whether to go on with a line, asked between its attempts."""


class Sender:
    """Sends lines of one batch."""

    def __init__(self, http: aiohttp.ClientSession, config: RunnerConfig, order: BatchOrder, who: Principal) -> None:
        self._http = http
        self._config = config
        self._order = order
        self._url = config.gateway_url.rstrip("/") + order.endpoint
        self._headers = {
            CLUSTER_SECRET_HEADER: config.cluster_secret.get_secret_value(),
            PRINCIPAL_HEADER: who.to_header(),
            CLASS_HEADER: BATCH_CLASS,
            "content-type": "application/json",
        }

    async def outcome(self, line: Line, ask: Ask) -> Outcome | StopReason:
        """The line's end, or why it was not reached: then nothing of it was charged.

        It is sent again only after an answer that says that nothing was done.
        """
        name = f"{self._order.id}-{line.number}"
        body = orjson.dumps(line.body)
        pause, broken = self._config.pause_seconds, 0
        while True:
            try:
                status, answer, wait = await self._post(name, body)
            except aiohttp.ClientConnectorError:
                status, answer, wait = 503, b"", 0.0
            except (aiohttp.ClientError, OSError):
                return failed(self._order.id, line, *LOST)
            broken += status in BROKEN
            again = broken < self._config.attempts_max if status in BROKEN else status in REFUSED and not spent(answer)
            if not again:
                return answered(self._order.id, line, status, name, answer)
            await asyncio.sleep(min(max(pause, wait), self._config.pause_seconds_max))
            pause *= 2
            stop = await ask(line.number)
            if stop is not None:
                return stop

    async def _post(self, name: str, body: bytes) -> tuple[int, bytes, float]:
        """Status, body, and the seconds to wait before another try."""
        headers = {**self._headers, REQUEST_ID_HEADER: name}
        async with asyncio.timeout(self._config.answer_seconds_max):
            async with self._http.post(self._url, data=body, headers=headers) as response:
                answer = bytearray()
                async for block in response.content.iter_any():
                    answer += block
                    if len(answer) > ANSWER_BYTES_MAX:
                        break
                wait = response.headers.get("retry-after", "")
                return response.status, bytes(answer), float(wait) if wait.isdecimal() else 0.0


def spent(answer: bytes) -> bool:
    """Whether a refusal is for good: the budget is used up."""
    try:
        return orjson.loads(answer)["error"]["code"] == QUOTA
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False
