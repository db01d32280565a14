"""Asking the control plane whose an API key is."""

import asyncio

import aiohttp
from pydantic import SecretStr, ValidationError

from models.channels import CLUSTER_SECRET_HEADER
from models.errors import Unauthenticated, Unavailable
from models.identity import Principal

WRONG_KEY = "Incorrect API key provided."


class KeyDirectory:
    """``POST /internal/authenticate``, at most ``asks_max`` at once, each within ``seconds_max``."""

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
        self._live_url = f"{control_plane_url.rstrip('/')}/health/live"
        self._headers = {CLUSTER_SECRET_HEADER: secret.get_secret_value()}
        self._seconds_max = seconds_max
        self._places = asyncio.Semaphore(asks_max)

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

    async def alive(self) -> bool:
        """Whether the control plane answers."""
        try:
            async with asyncio.timeout(self._seconds_max), self._session.get(self._live_url) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False
