"""Watches over a supervisor: ``python -m cluster.sweeper HOME RUN``, its standard input a pipe from the supervisor.

When the pipe closes, the supervisor has ended. Parts got their stop signal from the kernel; what still runs after a
grace is ended here, by pid. After an orderly stop there is nothing, and this ends at once.
"""

import signal
import sys
import time
from pathlib import Path

from cluster.home import Home
from cluster.processes import HOME_MARK, RUN_MARK, marked, sweep
from cluster.status import read_status

GRACE_SECONDS_MAX = 5.0
POLL_SECONDS = 0.2


def main(home: Home, run: str) -> None:
    """Returns when nothing of the run is left."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.buffer.read()
    marks = {HOME_MARK: str(home.folder), RUN_MARK: run}
    deadline = time.monotonic() + GRACE_SECONDS_MAX
    status = read_status(home)
    recorded = status.processes if status is not None and status.run == run else ()
    while time.monotonic() < deadline and (marked(marks) or any(entry.find() for entry in recorded)):
        time.sleep(POLL_SECONDS)
    sweep(marks, recorded)


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])), sys.argv[2])
