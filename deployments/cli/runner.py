"""Bringing the platform up from the command: in the foreground, or detached."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from rich.progress import Progress, TaskID

from cluster.detach import run_detached
from cluster.pull import present, pull
from deployments.cli.show import MIB, Starting, console, pulling, step
from deployments.config import PlatformConfig
from deployments.local import STATE, LocalPlatform, forget_state, local_config, local_home
from deployments.sections import hosted_by

UP_SECONDS_MAX = 900.0

Work = Callable[[LocalPlatform, PlatformConfig, Starting], Coroutine[Any, Any, bool]]
"""What to do once the parts are ready; whether to stay up afterwards."""


def pull_models(config: PlatformConfig) -> None:
    """Bring every served model into the store. Raises PullFailed, NotEnough."""
    for entry in config.served():
        if hosted_by(entry) is not None:
            continue
        pulled = present(entry, config.model_store)
        if pulled is None:
            with pulling() as progress:
                task = progress.add_task(f"pulling {entry.id}")
                pulled = pull(entry, config.model_store, partial(_show_pull, progress, task, entry.id))
        source = f"{pulled.source.scheme}:{pulled.source.location}"
        console.print(f"  [green]●[/green] {entry.id:<36} {pulled.bytes / MIB:.0f} MiB from {source}")


def _show_pull(progress: Progress, task: TaskID, model: str, what: str, done: int, _total: int | None) -> None:
    progress.update(task, description=f"pulling {model}: {what} ({done / MIB:.0f} MiB)")


def run_foreground(work: Work) -> None:
    """Hold the home, bring everything up, do ``work``, and stay until told to stop. Raises ClusterError."""
    home = local_home()
    with home.held():
        config = local_config(home)
        with step("Models"):
            pull_models(config)
        display = Starting()
        platform = LocalPlatform(home, config, display.part, display.application)
        for warning in platform.check():
            console.print(f"  [yellow]{warning}[/yellow]")
        asyncio.run(_run(platform, config, display, work))


async def _run(platform: LocalPlatform, config: PlatformConfig, display: Starting, work: Work) -> None:
    with step("Starting"):
        await platform.start_parts()
    stay = False
    working = asyncio.create_task(work(platform, config, display))
    running = asyncio.create_task(platform.run())
    try:
        await asyncio.wait({working, running}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            stay = await working
        if stay or running.done():
            await running
    finally:
        working.cancel()
        platform.supervisor.request_stop()
        await asyncio.gather(working, running, return_exceptions=True)
        await platform.stop()


async def serve_until_stopped(platform: LocalPlatform, config: PlatformConfig, display: Starting) -> bool:
    """The work of ``up``: deploy, then stay."""
    await platform.deploy()
    console.print(f"[bold green]up[/bold green] after {display.seconds:.0f} s · {config.gateway_url}/v1")
    return True


def run_in_background() -> None:
    """``up --detach``: returns when a call would succeed. Raises ClusterError."""
    home = local_home()
    # Held for a moment: whoever has it is named, and an old state file cannot be taken for the new one.
    with home.held():
        forget_state(home)
    log = home.logs / "up.log"
    log.unlink(missing_ok=True)
    shown = 0

    def is_up() -> bool:
        nonlocal shown
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        console.out(text[shown:], end="", highlight=False)
        shown = len(text)
        return (home.folder / STATE).exists()

    pid = run_detached(home, [sys.executable, "-m", "deployments.cli.main", "up"], {}, is_up, UP_SECONDS_MAX)
    console.print(f"It runs in the background (supervisor pid {pid}): objecta status, objecta down")
