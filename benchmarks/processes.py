"""The processes a benchmark starts: ended by pid, with their descendants, whatever happens to the benchmark."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
END_SECONDS_MAX = 30.0
POLL_SECONDS = 0.1
LOG_BYTES_SHOWN = 3_000


class BenchmarkError(Exception):
    """No figure can be given; the message says why."""


def say(step: str) -> None:
    """A line of progress, on standard error: standard output holds results alone."""
    sys.stderr.write(f"{step}\n")
    sys.stderr.flush()


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_input_closes() -> None:
    """Returns when whoever started this process is gone or done with it."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_bytes()[-LOG_BYTES_SHOWN:].decode(errors="replace")


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its output in ``log``; on leaving, it and its descendants are gone."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        end_tree(process)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process, SIGKILL to what of its tree is left after that."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(family, timeout=2)
    for descendant in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()
    psutil.wait_procs(alive, timeout=END_SECONDS_MAX)


@contextlib.contextmanager
def scripted_upstream(*options: str) -> Iterator[str]:
    """The base URL (without /v1) of a ``benchmarks.upstream`` in its own process."""
    command = [sys.executable, "-m", "benchmarks.upstream", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds_max: float, key: str | None = None) -> None:
    """Returns once ``url`` answers 200. Raises BenchmarkError with the log's end where it never does."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    deadline = time.monotonic() + seconds_max
    while True:
        with contextlib.suppress(OSError):
            request = urllib.request.Request(url, headers=headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return
        if process.poll() is not None:
            raise BenchmarkError(f"{process.args} ended with code {process.returncode}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{url} did not answer within {seconds_max:.0f} s:\n{tail(log)}")
        time.sleep(POLL_SECONDS)
