"""The benchmark of batches beside live calls in small: a real gateway and queue, the scripted upstream, no Ray."""

import json
import subprocess
import sys

import pytest

from benchmarks.processes import ROOT

SECONDS_MAX = 240


@pytest.mark.slow
def test_live_calls_and_batch_lines_are_answered_side_by_side() -> None:
    # In a process of its own: it takes over the signals of the one it runs in.
    much = ("--scripted", "--rounds", "1", "--clients", "8", "--answers", "40")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fill_in", *much],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"live_p95_ratio", "live_ttft_p95_ratio", "live_p95_ms", "lines_per_minute"}
    assert all(value > 0 for value in figures.values())
