"""Homes of their own, whatever a test does to their supervisors."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.home import Home
from cluster.parts import Part
from cluster.processes import HOME_MARK, marked
from cluster.supervisor import clean

SUPERVISED = Path(__file__).with_name("supervised.py")


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
open(sys.argv[1], "a").write("up")
time.sleep(600)
"""


def stubborn_part(home: Home) -> Part:
    """Three processes, one of them an orphan in a session of its own, all deaf to SIGTERM."""
    proof = home.runtime / "stubborn"

    def prepare() -> None:
        proof.unlink(missing_ok=True)

    async def ready() -> bool:
        return proof.exists() and len(proof.read_text()) >= len("upup")

    command = (sys.executable, "-c", STUBBORN, str(proof))
    return Part("stubborn", command, ready, "1", home.folder, prepare=prepare, stop_seconds_max=0.5, needs=("redis",))


@pytest.fixture
def stubborn(home: Home) -> Part:
    return stubborn_part(home)


@pytest.fixture
def running(home: Home) -> Callable[[], list[str]]:
    """Every process of the home, whoever is its parent."""
    return lambda: [f"{process.pid} {process.name()}" for process in marked({HOME_MARK: str(home.folder)})]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path / "home")
    yield found
    # A failed test must not leave a cluster behind.
    if found.folder.exists():
        clean(found)
        data = found.folder / "postgres"
        if data.is_symlink():
            shutil.rmtree(data.readlink().parent)
    shutil.rmtree(found.runtime, ignore_errors=True)


@pytest.fixture
def start_supervised(home: Home) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, SUPERVISED, home.folder], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "all ready\n":
                return process
        raise AssertionError(f"the supervisor ended: {lines}")

    yield start
    for process in started:
        process.kill()
        process.communicate()
