"""The Ray head of one machine, with its dashboard, token authentication, and Serve behind HAProxy.

Invariants
1. Two homes live side by side: every port is picked free, and HAProxy's files and Ray's sockets lie in the home's own
   runtime folder (Serve's default is one folder a machine, with an admin socket open to all).
2. Ray listens on loopback alone, for its node address is 127.0.0.1. Beyond it listen only HAProxy's stats and metrics
   pages and a replica's gRPC port for calls between replicas: Serve has no setting for these three.

``ray start --block`` ends, and takes the rest of the head with it, when one of the head's processes dies: that is what
the supervisor sees.
"""

import importlib.metadata
import os
import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from cluster.home import FOLDER_MODE, Home
from cluster.parts import Part, answers
from cluster.ports import free_block, free_ports

HOST = "127.0.0.1"
# Serve's own endpoint, for it is the last to come up and the next to be used.
READY_PATH = "/api/serve/applications/"
OBJECT_STORE_BYTES = 512 * 1024**2
START_SECONDS_MAX = 180.0
STOP_SECONDS_MAX = 30.0
REPLICA_PORTS = 64
# HAProxy's connections: as many as the files allow, within reason.
CONNECTIONS_MIN, CONNECTIONS_MAX = 256, 32_768
OWN_FILES = 500
# Sessions kept for their logs, besides the one about to start.
SESSIONS_KEPT = 1


def ray_part(
    home: Home,
    *,
    dashboard_port: int,
    token: SecretStr,
    environment: Mapping[str, str],
    cpus: int | None = None,
    needs: tuple[str, ...] = (),
) -> Part:
    """The head. ``cpus``: what it offers, all of the machine by default. ``environment`` reaches every replica and job.

    Raises ClusterError where there are not enough free ports.
    """
    cpus = cpus or os.cpu_count() or 1
    sessions = home.runtime / "ray"
    secret = token.get_secret_value()

    def prepare() -> None:
        for folder in (sessions, home.runtime / "h"):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        _prune(sessions)
        log = home.logs / "ray"
        log.unlink(missing_ok=True)
        log.symlink_to(sessions / "session_latest" / "logs")

    async def ready() -> bool:
        return await answers(f"http://{HOST}:{dashboard_port}{READY_PATH}", {"authorization": f"Bearer {secret}"})

    return Part(
        name="ray",
        command=_command(sessions, dashboard_port, cpus),
        ready=ready,
        version=importlib.metadata.version("ray"),
        folder=home.folder,
        environment={**environment, **_environment(home, secret, cpus)},
        port=dashboard_port,
        needs=needs,
        prepare=prepare,
        start_seconds_max=START_SECONDS_MAX,
        stop_seconds_max=STOP_SECONDS_MAX,
    )


def _prune(sessions: Path) -> None:
    old = sorted(path for path in sessions.glob("session_2*") if path.is_dir() and not path.is_symlink())
    for path in old[:-SESSIONS_KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _command(sessions: Path, dashboard_port: int, cpus: int) -> tuple[str, ...]:
    gcs, agent_http, agent_grpc, runtime_env, metrics, client = free_ports(6)
    return (
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--port", str(gcs), "--temp-dir", str(sessions), "--num-cpus", str(cpus)),
        *("--object-store-memory", str(OBJECT_STORE_BYTES), "--include-log-monitor", "false"),
        *("--include-dashboard", "true", "--dashboard-host", HOST, "--dashboard-port", str(dashboard_port)),
        *("--dashboard-agent-listen-port", str(agent_http), "--dashboard-agent-grpc-port", str(agent_grpc)),
        *("--runtime-env-agent-port", str(runtime_env), "--metrics-export-port", str(metrics)),
        # Zero: any free port.
        *("--min-worker-port", "0", "--max-worker-port", "0", "--ray-client-server-port", str(client)),
    )


def _environment(home: Home, secret: str, cpus: int) -> dict[str, str]:
    haproxy = home.runtime / "h"
    stats, metrics, fallback_http, fallback_grpc, autoscaler, dashboard = free_ports(6)
    http, grpc = free_block(REPLICA_PORTS), free_block(REPLICA_PORTS)
    return {
        # On Linux Ray would resolve loopback to the machine's address; this is how its laptops elsewhere run.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secret,
        "RAY_USAGE_STATS_ENABLED": "0",
        # There is no other node to drain to; waiting would only delay the end by its 30 seconds.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # Replicas answer calls: they do not give way to other programs of the machine, as Ray's workers do by default.
        "RAY_worker_niceness": "0",
        # Our own metrics are at /metrics; Ray's cost every worker a thread and an exporter.
        "RAY_enable_metrics_collection": "false",
        "AUTOSCALER_METRIC_PORT": str(autoscaler),
        "DASHBOARD_METRIC_PORT": str(dashboard),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http.stop - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc.stop - 1),
        # One thread on a laptop's two cores: it is never the bottleneck, and more of them take turns with the replicas.
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, cpus // 4)),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_connections_max()),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        # Above the longest stream: a reload must not cut it.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "1800",
    }


def _connections_max() -> int:
    """What the files that HAProxy may open suffice for: two a connection, two a pipe for every fourth, some of its own.

    Asked for more it does not start.
    """
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = CONNECTIONS_MAX if files == resource.RLIM_INFINITY else (files - OWN_FILES) * 2 // 5
    return max(CONNECTIONS_MIN, min(limit, CONNECTIONS_MAX))
