"""What a supervisor runs: one process with a way to know that it is ready, and a way to end it.

Builders of the concrete parts are in ``cluster.postgres``, ``cluster.redis_server`` and ``cluster.ray_head``; a server
of ours is a ``process_part``.
"""

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict

READY_PROBE_SECONDS = 2.0
HTTP_OK = 200

PartState = Literal["starting", "ready", "restarting", "failed", "stopping", "stopped"]


@dataclass(frozen=True)
class Part:
    """One supervised process.

    ``prepare`` runs in a thread before each start and may raise ClusterError; ``ready`` is asked ten times a second;
    ``needs`` names the parts that must be ready before and stopped after; ``stop`` is the signal for an orderly end,
    given ``stop_seconds_max`` until the whole tree is killed.
    """

    name: str
    command: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]]
    version: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    user: str | None = None
    port: int | None = None
    needs: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    stop: signal.Signals = signal.SIGTERM
    stop_seconds_max: float = 15.0
    start_seconds_max: float = 60.0


class PartStatus(BaseModel):
    """A part as ``objecta status`` shows it. ``rss_bytes`` includes its descendants; ``since`` is UTC.

    ``failed`` means that it did not come up several times in a row; it is tried again all the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: PartState
    pid: int | None
    port: int | None
    version: str
    rss_bytes: int
    restarts: int
    since: datetime
    message: str | None = None


class PartEvent(BaseModel):
    """A part's change of state. ``seconds`` since it began to start (or to stop)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: PartState
    seconds: float
    message: str | None = None


def process_part(
    name: str,
    command: tuple[str, ...],
    ready_url: str,
    *,
    version: str,
    folder: Path,
    environment: Mapping[str, str],
    port: int,
    needs: tuple[str, ...] = (),
) -> Part:
    """A server of ours, ready when ``ready_url`` answers 200."""

    async def ready() -> bool:
        return await answers(ready_url)

    return Part(
        name=name,
        command=command,
        ready=ready,
        version=version,
        folder=folder,
        environment=environment,
        port=port,
        needs=needs,
    )


async def answers(url: str, headers: Mapping[str, str] | None = None) -> bool:
    """Whether ``url`` answers 200 within two seconds; never through a proxy, for it is on this machine."""
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=READY_PROBE_SECONDS, headers=headers) as client:
            return (await client.get(url)).status_code == HTTP_OK
    except httpx.HTTPError:
        return False
