"""Erases kept prompts whose time is over, and those of projects that are archived. Several may do it at once."""

import asyncio

from control_plane.config import ControlPlaneConfig
from control_plane.database import Sessions, begin, utc_now
from control_plane.privacy import repository


class PromptReaper:
    """The loop."""

    def __init__(self, sessions: Sessions, config: ControlPlaneConfig) -> None:
        self._sessions = sessions
        self._seconds = config.prompt_reap_seconds

    async def run(self) -> None:
        """Look again and again. Raises SQLAlchemyError where the database is away."""
        while True:
            while await self.look():
                pass
            await asyncio.sleep(self._seconds)

    async def look(self) -> int:
        """Erase some of what is due; how many they were."""
        async with begin(self._sessions) as transaction:
            return await repository.delete_due(transaction.session, utc_now())
