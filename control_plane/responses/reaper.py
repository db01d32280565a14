"""Responses that nobody runs any more, and those that were kept long enough.

Invariants
1. A response is failed only after its lease was over while this reaper looked on for ``response_grace_seconds``: a
   control plane or a database that comes back must not make the living look dead.
2. Several may look at once: each passes by what another one has locked.
"""

import asyncio
import logging
import time

from control_plane.config import ControlPlaneConfig
from control_plane.database import Sessions, begin
from control_plane.responses import repository, service

PRUNE_SECONDS = 3_600.0

log = logging.getLogger(__name__)


class ResponseReaper:
    """The loop."""

    def __init__(self, sessions: Sessions, config: ControlPlaneConfig) -> None:
        self._sessions = sessions
        self._config = config
        self._prune_at = 0.0

    async def run(self) -> None:
        """Look again and again. Raises SQLAlchemyError where the database is away."""
        await asyncio.sleep(self._config.response_grace_seconds)
        while True:
            while await self.look():
                pass
            if time.monotonic() >= self._prune_at:
                await self.prune()
                self._prune_at = time.monotonic() + PRUNE_SECONDS
            await asyncio.sleep(self._config.reap_seconds)

    async def look(self) -> int:
        """Fail what has lapsed; how many it were."""
        async with begin(self._sessions) as transaction:
            rows = await repository.lapsed(transaction.session)
            for row in rows:
                service.fail(row)
                log.warning("response %s was lost by its gateway", row.id)
        return len(rows)

    async def prune(self) -> int:
        """Delete what is old; how many it were."""
        total = 0
        while True:
            async with begin(self._sessions) as transaction:
                deleted = await repository.delete_old(transaction.session, self._config.response_days)
            total += deleted
            if not deleted:
                return total
