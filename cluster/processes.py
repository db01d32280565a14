"""Processes of a part: starting them so that they end with their parent, knowing all of them, ending all of them.

Invariants
1. Only processes that a part started are ever signalled: known by pid and start time, or by the mark that each part's
   environment carries (the home, the run, the part). Never by name.
2. The supervisor is a subreaper (Linux): a descendant whose parent died becomes its child, so none gets lost.
3. A part gets its stop signal from the kernel when the supervisor dies, however it dies (Linux).
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

HOME_MARK = "_OBJECTA_CLUSTER_HOME"
RUN_MARK = "_OBJECTA_CLUSTER_RUN"
PART_MARK = "_OBJECTA_CLUSTER_PART"
# They would send a part to somebody else's cluster.
NOT_INHERITED = ("RAY_ADDRESS", "RAY_NAMESPACE", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_RAYLET_PID")
PR_SET_CHILD_SUBREAPER = 36
TERM_SECONDS_MAX = 3.0
KILL_SECONDS_MAX = 10.0
START_TOLERANCE_SECONDS = 0.05
POLL_SECONDS = 0.02
EXEC_PART = Path(__file__).with_name("exec_part.py")
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess)


class ProcessId(BaseModel):
    """A process for good: pids come again, a pid with a start time (Unix seconds) does not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started: float

    def find(self) -> psutil.Process | None:
        """The process, None where it has ended."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < START_TOLERANCE_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        return None


def become_subreaper() -> None:
    """Orphaned descendants become children of this process from now on (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


async def launch(
    command: Iterable[str],
    *,
    environment: Mapping[str, str],
    marks: Mapping[str, str],
    folder: Path,
    user: str | None,
    log: Path,
    death_signal: signal.Signals,
) -> asyncio.subprocess.Process:
    """Start a part in a session of its own, its output appended to ``log``. Call it from a thread that stays.

    Raises OSError.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    become = (sys.executable, "-I", "-S", str(EXEC_PART), str(os.getpid()), str(int(death_signal)), user or "-")
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *become,
            *command,
            env={**inherited, **environment, **marks},
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


ProcessTable = Mapping[int, Sequence[psutil.Process]]


def process_table() -> ProcessTable:
    """Every process of the machine by its parent's pid. One look at /proc, some milliseconds."""
    table: dict[int, list[psutil.Process]] = defaultdict(list)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            table[process.ppid()].append(process)
    return table


class Tree:
    """A part's process and every descendant ever seen."""

    def __init__(self, root: asyncio.subprocess.Process, marks: Mapping[str, str]) -> None:
        self.root = root
        self._marks = marks
        self._seen: dict[int, psutil.Process] = {}
        self._sessions: set[int] = {root.pid}
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen[root.pid] = psutil.Process(root.pid)

    def refresh(self, table: ProcessTable) -> None:
        """Look for new descendants, forget those that ended."""
        left = list(self._seen.values())
        while left:
            process = left.pop()
            for child in table.get(process.pid, ()):
                if child.pid not in self._seen:
                    self._seen[child.pid] = child
                    left.append(child)
        for process in list(self._seen.values()):
            with contextlib.suppress(ProcessLookupError):
                self._sessions.add(os.getsid(process.pid))
            if not _alive(process):
                del self._seen[process.pid]
        self._reap(table)

    def _reap(self, table: ProcessTable) -> None:
        """An adopted descendant that ended stays a zombie until its new parent, this process, has asked for it."""
        for child in table.get(os.getpid(), ()):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                if child.pid != self.root.pid and os.getsid(child.pid) in self._sessions and not _alive(child):
                    os.waitpid(child.pid, os.WNOHANG)

    def processes(self) -> list[ProcessId]:
        """Everything alive at the last look."""
        found: list[ProcessId] = []
        for process in self._seen.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(ProcessId(pid=process.pid, started=process.create_time()))
        return found

    def rss_bytes(self) -> int:
        """Resident memory of the whole tree; pages shared between its processes count once a process."""
        total = 0
        for process in self._seen.values():
            with contextlib.suppress(*GONE):
                total += process.memory_info().rss
        return total

    async def end(self, how: signal.Signals, seconds_max: float) -> None:
        """End the root in order, then whatever is left of the tree. Returns when nothing of it runs."""
        self.refresh(process_table())
        if self.root.returncode is None:
            self.root.send_signal(how)
            try:
                await asyncio.wait_for(self.root.wait(), seconds_max)
            except TimeoutError:
                self.refresh(process_table())
                self.root.kill()
                await self.root.wait()
        left = {process.pid: process for process in [*self._seen.values(), *marked(self._marks)] if _alive(process)}
        await asyncio.to_thread(end_all, list(left.values()))
        self._reap(process_table())


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def marked(marks: Mapping[str, str]) -> list[psutil.Process]:
    """Every process of the machine whose environment carries all of ``marks``, as far as this user may look."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if all(environment.get(name) == value for name, value in marks.items()):
                found.append(process)
    return found


def end_all(processes: list[psutil.Process]) -> None:
    """SIGTERM, then SIGKILL to what remains after three seconds. Returns when all are gone. Blocks."""
    for send, seconds_max in ((psutil.Process.terminate, TERM_SECONDS_MAX), (psutil.Process.kill, KILL_SECONDS_MAX)):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                send(process)
        deadline = time.monotonic() + seconds_max
        # A zombie counts as gone: whether its parent ever asks for it is not ours to say.
        while (processes := [process for process in processes if _alive(process)]) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def sweep(marks: Mapping[str, str], recorded: Iterable[ProcessId]) -> int:
    """End what a dead supervisor left: what it wrote down, what carries its mark, and their descendants.

    Returns how many there were. This process and its ancestors are spared.
    """
    spared = {process.pid for process in [psutil.Process(), *psutil.Process().parents()]}
    roots = [process for entry in recorded if (process := entry.find())] + marked(marks)
    found: dict[int, psutil.Process] = {}
    for root in roots:
        found[root.pid] = root
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update({child.pid: child for child in root.children(recursive=True)})
    left = [process for pid, process in found.items() if pid not in spared and _alive(process)]
    end_all(left)
    return len(left)
