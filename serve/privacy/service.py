"""All of a replica's guarding: what looks through requests, what keeps prompts, and the threads that both share."""

from concurrent.futures import ThreadPoolExecutor

import aiohttp

from serve.config import GatewayConfig
from serve.internal import InternalClient
from serve.metrics import Metrics
from serve.privacy.guard import Privacy
from serve.privacy.log import PromptLog


class PrivacyService:
    """``guard`` is for calls. ``start`` before the first one, ``close`` after the last."""

    def __init__(self, config: GatewayConfig, http: aiohttp.ClientSession, metrics: Metrics) -> None:
        limits = config.privacy
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="privacy")
        client = InternalClient(http, config.control_plane_url, config.cluster_secret, limits.post_seconds_max)
        self._log = PromptLog(client, self._pool, limits, metrics.prompts)
        self.guard = Privacy(limits, self._log, self._pool, metrics.masked)

    @property
    def alive(self) -> bool:
        """Whether prompts are still handed over."""
        return self._log.alive

    def start(self) -> None:
        """Begin to hand prompts over."""
        self._log.start()

    async def close(self) -> None:
        """Hand over what can be handed over soon, and end the threads."""
        await self._log.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
