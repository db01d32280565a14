import sys
from pathlib import Path

import pytest

from cluster.detach import run_detached
from cluster.errors import PartFailed
from cluster.home import Home
from cluster.status import read_status
from cluster.supervisor import bring_down

SUPERVISED = Path(__file__).with_name("supervised.py")


def all_ready(home: Home) -> bool:
    status = read_status(home)
    return status is not None and len(status.parts) == 3 and all(part.state == "ready" for part in status.parts)


# The supervisor outlives its ``Popen``, as it is meant to.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_detached_supervisor_runs_on_until_it_is_brought_down(home: Home, running) -> None:
    pid = run_detached(home, [sys.executable, str(SUPERVISED), str(home.folder)], {}, lambda: all_ready(home), 60)
    status = read_status(home)
    assert status is not None
    assert status.supervisor.pid == pid
    assert bring_down(home)
    assert running() == []


def test_one_that_fails_shows_what_it_said(home: Home) -> None:
    with pytest.raises(PartFailed, match="nothing works today"):
        run_detached(home, [sys.executable, "-c", "raise SystemExit('nothing works today')"], {}, lambda: False, 60)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_one_that_takes_too_long_is_ended(home: Home) -> None:
    with pytest.raises(PartFailed, match="not everything was up within 0 s"):
        run_detached(home, ["sleep", "600"], {}, lambda: False, 0.3)
