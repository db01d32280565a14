"""A subprocess that fills a folder, watched: its bytes are progress, and one that stands still is ended."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Progress = Callable[[str, int, int | None], None]
"""``(what is being done, bytes so far, bytes in all or None)``; called a few times a second."""

POLL_SECONDS = 0.25
ERROR_CHARACTERS_MAX = 1_500


class StepFailed(Exception):
    """The subprocess failed; the message is the end of what it said."""


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below, not following links; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
        except FileNotFoundError:
            continue
    return total


def run_watched(
    command: Sequence[str],
    watched: Path,
    environment: dict[str, str],
    report: Callable[[int], None],
    stall_seconds_max: float,
) -> None:
    """Run ``command`` and report how many bytes ``watched`` holds. Raises StepFailed."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=watched)
        try:
            _watch(process, watched, report, stall_seconds_max)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        said.seek(0)
        tail = said.read()[-ERROR_CHARACTERS_MAX:].strip()
    if process.returncode != 0:
        raise StepFailed(tail or f"{Path(command[0]).name} ended with {process.returncode}")


def _watch(
    process: subprocess.Popen[bytes], watched: Path, report: Callable[[int], None], stall_seconds_max: float
) -> None:
    seen, moved = -1, time.monotonic()
    while True:
        try:
            process.wait(timeout=POLL_SECONDS)
            return
        except subprocess.TimeoutExpired:
            pass
        size = folder_bytes(watched)
        if size != seen:
            seen, moved = size, time.monotonic()
            report(size)
        elif time.monotonic() - moved > stall_seconds_max:
            raise StepFailed(f"nothing happened for {stall_seconds_max:.0f} seconds")


def python_module(module: str, *arguments: str) -> list[str]:
    """A command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
