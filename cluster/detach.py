"""``up --detach``: run the supervisor in a session of its own and wait until it says that it is up."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from cluster.errors import PartFailed
from cluster.home import Home

POLL_SECONDS = 0.2
LOG_CHARACTERS_MAX = 3_000


def run_detached(
    home: Home,
    command: Sequence[str],
    environment: Mapping[str, str],
    is_up: Callable[[], bool],
    seconds_max: float,
) -> int:
    """Start ``command`` (a foreground ``up`` of this home), its output in ``<home>/logs/up.log``; its pid when up.

    ``is_up`` is asked five times a second, so it can show progress from the status file. Raises PartFailed, with the
    end of the log, where the command ends first; one that takes too long is asked to end.
    """
    home.prepare()
    path = home.logs / "up.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + seconds_max
    while not is_up():
        if process.poll() is not None:
            said = path.read_text(encoding="utf-8", errors="replace").strip()[-LOG_CHARACTERS_MAX:]
            raise PartFailed(said or f"up ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            process.terminate()
            raise PartFailed(f"not everything was up within {seconds_max:.0f} s; see {path}")
        time.sleep(POLL_SECONDS)
    return process.pid
