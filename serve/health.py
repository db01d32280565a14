"""Readiness that tells the truth: each dependency is asked, and the answer is 503 when no call could be served."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from serve.admission import Admission
from serve.auth import Authenticator
from serve.directory import KeyDirectory
from serve.upstreams import UpstreamClient

FRESH_SECONDS = 0.5


class Health:
    """Asks the dependencies, at most every half second however often it is asked itself."""

    def __init__(
        self,
        admission: Admission,
        directory: KeyDirectory,
        authenticator: Authenticator,
        upstreams: Mapping[str, UpstreamClient],
    ) -> None:
        self._admission = admission
        self._directory = directory
        self._authenticator = authenticator
        self._upstreams = upstreams
        self._asking = asyncio.Lock()
        self._states: dict[str, bool] = {}
        self._asked_at = 0.0

    async def ready(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body.

        ``ready``: everything is up. ``degraded``: calls are served, though not all or not as they should (Redis away:
        under a local limit; control plane away: only keys seen before). ``unavailable``, 503: no call can be served.
        """
        async with self._asking:
            if time.monotonic() > self._asked_at + FRESH_SECONDS:
                await self._ask()
        upstreams = {name: self._states[name] for name in self._upstreams}
        directory = self._states["control_plane"]
        can_serve = any(upstreams.values()) and (directory or self._authenticator.holds_principals)
        status = "ready" if all(self._states.values()) else "degraded" if can_serve else "unavailable"
        return (200 if can_serve else 503), {
            "status": status,
            "dependencies": {
                "redis": _word(self._states["redis"]),
                "control_plane": _word(directory),
                "upstreams": {name: _word(up) for name, up in upstreams.items()},
            },
        }

    async def _ask(self) -> None:
        names = ["redis", "control_plane", *self._upstreams]
        asks = [self._admission.alive(), self._directory.alive(), *(one.alive() for one in self._upstreams.values())]
        self._states = dict(zip(names, await asyncio.gather(*asks), strict=True))
        self._asked_at = time.monotonic()


def _word(up: bool) -> str:  # noqa: FBT001 - a state, not an option
    return "up" if up else "down"
