"""The benchmark of admission in small: real processes, one of them killed; no budget is overspent, leaked or shut."""

import json
import subprocess
import sys

import pytest

from benchmarks.processes import ROOT

CALLS = 150
SECONDS_MAX = 240


@pytest.mark.slow
def test_a_killed_replica_and_clients_that_leave_cost_no_budget_anything() -> None:
    # In a process of its own: it takes over the signals and the orphans of the one it runs in.
    much = ("--replicas", "2", "--calls", str(CALLS), "--worth", "20", "--kills", "1")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.admission", *much],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {name: figures[name] for name in ("overspend_micro", "phantom_holds", "refused_wrongly")} == {
        "overspend_micro": 0,
        "phantom_holds": 0,
        "refused_wrongly": 0,
    }
    ends = sum(int(figures[name]) for name in ("served", "left", "cut_off", "refused"))
    assert (ends, figures["refused"] > 0, figures["served"] > 0) == (CALLS, True, True)
    assert 0.5 < figures["spent_share"] <= 1
