"""Removing the bytes of files that expired, were deleted, or whose upload never ended, whichever gateway wrote them.

Any number of replicas sweep: the control plane gives each file to one of them at a time.
"""

import asyncio
import logging

from models.errors import PlatformError
from models.files import FilePlace
from serve.files.ledger import FileLedger
from serve.files.store import ObjectStore, key

FILES_A_CLAIM = 100
LEASE_SECONDS = 300.0

logger = logging.getLogger(__name__)


class Sweeper:
    """The loop of one replica."""

    def __init__(self, store: ObjectStore, ledger: FileLedger, pause_seconds: float) -> None:
        self._store = store
        self._ledger = ledger
        self._pause_seconds = pause_seconds

    async def run(self) -> None:
        """Sweep again and again; what fails is tried again when its lease has run out."""
        while True:
            await asyncio.sleep(self._pause_seconds)
            try:
                while await self.sweep() == FILES_A_CLAIM:
                    pass
            except PlatformError as error:
                logger.warning("files are not swept: %s", error)

    async def sweep(self) -> int:
        """Claim files once and remove them; how many were claimed. Raises Unavailable."""
        claimed = await self._ledger.claim(FILES_A_CLAIM, LEASE_SECONDS)
        gone = [place for place in claimed if await self._removed(place)]
        if gone:
            await self._ledger.purge(gone)
        return len(claimed)

    async def _removed(self, place: FilePlace) -> bool:
        try:
            await self._store.remove(key(place.organisation_id, place.id))
        except OSError as error:
            logger.warning("file %s is not removed: %r", place.id, error)
            return False
        return True
