"""Asking the control plane whose an API key is, and what budgets have come to."""

import asyncio
from collections.abc import Sequence

import aiohttp
from pydantic import SecretStr, ValidationError

from models.channels import BUDGET_COUNTS, CLUSTER_SECRET_HEADER
from models.errors import Unauthenticated, Unavailable
from models.identity import Principal

WRONG_KEY = "Incorrect API key provided."


class KeyDirectory:
    """``POST /internal/authenticate`` and ``…/budgets/counts``: ``asks_max`` at once, each within ``seconds_max``."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        control_plane_url: str,
        secret: SecretStr,
        seconds_max: float,
        asks_max: int,
    ) -> None:
        self._session = session
        self._url = f"{control_plane_url.rstrip('/')}/internal/authenticate"
        self._counts_url = f"{control_plane_url.rstrip('/')}{BUDGET_COUNTS}"
        self._live_url = f"{control_plane_url.rstrip('/')}/health/live"
        self._headers = {CLUSTER_SECRET_HEADER: secret.get_secret_value()}
        self._seconds_max = seconds_max
        self._places = asyncio.Semaphore(asks_max)
        self._counting: dict[tuple[str, ...], asyncio.Task[bool]] = {}

    async def authenticate(self, api_key: str) -> Principal:
        """Raises Unauthenticated for a key that is none; Unavailable where the control plane does not say."""
        try:
            async with asyncio.timeout(self._seconds_max), self._places:
                request = self._session.post(self._url, json={"api_key": api_key}, headers=self._headers)
                async with request as response:
                    if response.status == 401:
                        raise Unauthenticated(WRONG_KEY)
                    if response.status == 200:
                        return Principal.model_validate_json(await response.read())
        except (aiohttp.ClientError, OSError, ValidationError):
            pass
        raise Unavailable("API keys cannot be checked at the moment.", retry_after_seconds=1.0)

    async def count_budgets(self, keys: Sequence[str]) -> bool:
        """Have the ledger's sums put into the windows with these keys; whether they are in. Asked once at a time."""
        asked = tuple(keys)
        task = self._counting.get(asked)
        if task is None:
            task = self._counting[asked] = asyncio.ensure_future(self._count(asked))
            task.add_done_callback(lambda _: self._counting.pop(asked))
        return await asyncio.shield(task)

    async def _count(self, keys: tuple[str, ...]) -> bool:
        try:
            async with asyncio.timeout(self._seconds_max), self._places:
                request = self._session.post(self._counts_url, json={"keys": keys}, headers=self._headers)
                async with request as response:
                    return response.status == 204
        except (aiohttp.ClientError, OSError):
            return False

    async def alive(self) -> bool:
        """Whether the control plane answers."""
        try:
            async with asyncio.timeout(self._seconds_max), self._session.get(self._live_url) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False
