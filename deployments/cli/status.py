"""``objecta status``: the parts as their supervisor last saw them, and what Serve says of the applications."""

import asyncio

from rich.table import Table

from cluster.errors import DeployFailed
from cluster.home import Home
from cluster.serve_api import ServeApi
from cluster.status import read_status
from deployments.cli.show import MIB, console
from deployments.local import config_of

COLOURS = {"ready": "green", "RUNNING": "green", "failed": "red", "DEPLOY_FAILED": "red", "stopped": "dim"}


def show_status(home: Home) -> bool:
    """Print it; whether the platform runs. Raises ClusterError where this home was never up."""
    status = read_status(home)
    if status is None or not status.alive:
        console.print(f"nothing runs in {home.folder}")
        return False
    table = Table("part", "state", "pid", "port", "version", "memory", "restarts", box=None, pad_edge=False)
    for part in status.parts:
        table.add_row(
            part.name,
            _coloured(part.state),
            str(part.pid or ""),
            str(part.port or ""),
            part.version,
            f"{part.rss_bytes / MIB:.0f} MiB",
            str(part.restarts),
        )
    console.print(table)
    config = config_of(home)
    try:
        applications = asyncio.run(ServeApi(config.dashboard_url, config.ray_token).applications())
    except DeployFailed as failure:
        console.print(f"Serve does not answer: {failure.message}", markup=False)
        return True
    table = Table("application", "state", "replicas", "at", box=None, pad_edge=False)
    for one in applications:
        running = [replica for replica in one.replicas if replica.state == "RUNNING"]
        pids = ", ".join(str(replica.pid) for replica in running)
        table.add_row(one.name, _coloured(one.state), f"{len(running)} (pid {pids})", one.route_prefix or "")
    console.print(table)
    console.print(f"models served: {', '.join(config.models)}")
    console.print(f"endpoint {config.gateway_url}/v1 · control plane {config.control_plane_url}")
    return True


def _coloured(state: str) -> str:
    colour = COLOURS.get(state, "yellow")
    return f"[{colour}]{state}[/{colour}]"
