"""Starts parts, keeps them running, stops them all.

1. ``start``: what a former run left in this home is ended; parts start as soon as those they need are ready.
2. A part that dies is started again, after half a second at first, twice as long each time up to fifteen; what was
   left of its process tree is ended before. A hook of ``restarted`` runs once it is ready again, and where the hook
   fails the part starts over.
3. ``stop``: a part is stopped when those that need it are; by pid, with all its descendants.
4. The status file says all this to other processes, and what to end should this one be killed.
"""

import asyncio
import contextlib
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from signal import SIGINT, SIGTERM

import psutil

from cluster.errors import ClusterError, PartFailed
from cluster.home import Home
from cluster.parts import Part, PartEvent, PartStatus
from cluster.processes import HOME_MARK, ProcessId, become_subreaper, process_table, sweep
from cluster.runner import Runner
from cluster.status import ClusterStatus, read_status, write_status

Hook = Callable[[], Awaitable[None]]

LOOK_SECONDS = 2.0
SWEEPER_SECONDS_MAX = 30.0
SUPERVISOR_SECONDS_MAX = 60.0
POLL_SECONDS = 0.1


class Supervisor:
    """The parts of one home. The caller holds the home (``Home.held``) for as long."""

    def __init__(
        self,
        home: Home,
        parts: Sequence[Part],
        report: Callable[[PartEvent], None],
        restarted: Mapping[str, Hook] | None = None,
    ) -> None:
        """``report`` is called in the loop's thread at each change. Raises ValueError on an unknown need or a cycle."""
        self._home = home
        self._run = uuid.uuid4().hex
        self._report = report
        self._me = ProcessId(pid=os.getpid(), started=psutil.Process().create_time())
        hooks = restarted or {}
        self._runners = {
            part.name: Runner(part, home, self._run, self._changed, hooks.get(part.name)) for part in _ordered(parts)
        }
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sweeper: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when every part is ready. Raises PartFailed, with everything stopped again."""
        become_subreaper()
        loop = asyncio.get_running_loop()
        for number in (SIGINT, SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        await asyncio.to_thread(clean, self._home)
        # Its output goes to a log: with ours it would hold a pipe open that somebody reads to the end.
        with (self._home.logs / "sweeper.log").open("ab") as output:
            self._sweeper = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cluster.sweeper", str(self._home.folder), self._run),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._tasks.append(asyncio.create_task(self._look()))
        try:
            await self._start_all()
        except BaseException:
            await self.stop()
            raise

    async def _start_all(self) -> None:
        starting = {asyncio.create_task(self._start_one(runner)) for runner in self._runners.values()}
        stopped = asyncio.create_task(self._stop_asked())
        try:
            waiting = {*starting, stopped}
            while waiting != {stopped}:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if stopped in done:
                    raise PartFailed("stopped by a signal before everything was ready")
        finally:
            for task in (*starting, stopped):
                task.cancel()
            await asyncio.gather(*starting, stopped, return_exceptions=True)
        self._tasks += [asyncio.create_task(runner.keep()) for runner in self._runners.values()]

    async def _stop_asked(self) -> None:
        await self._stop.wait()

    async def _start_one(self, runner: Runner) -> None:
        for name in runner.part.needs:
            await self._runners[name].once_ready.wait()
        await runner.start()

    async def run_until_stopped(self) -> None:
        """Returns after SIGINT, SIGTERM or ``request_stop``, with everything stopped.

        Raises what broke supervision itself (a hook's error that is not a ClusterError), with everything stopped.
        """
        asked = asyncio.create_task(self._stop_asked())
        try:
            done, _ = await asyncio.wait({asked, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {asked}:
                task.result()
        finally:
            asked.cancel()
            await self.stop()

    def request_stop(self) -> None:
        """Let ``run_until_stopped`` end."""
        self._stop.set()

    async def stop(self) -> None:
        """Stop every part, those first that others do not need. Safe to call twice, and at any time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*(self._stop_one(runner) for runner in self._runners.values()))
        self._write()
        await self._end_sweeper()
        loop = asyncio.get_running_loop()
        for number in (SIGINT, SIGTERM):
            loop.remove_signal_handler(number)

    async def _stop_one(self, runner: Runner) -> None:
        for other in self._runners.values():
            if runner.part.name in other.part.needs:
                await other.once_stopped.wait()
        await runner.stop()

    async def _end_sweeper(self) -> None:
        sweeper, self._sweeper = self._sweeper, None
        if sweeper is None or sweeper.stdin is None:
            return
        sweeper.stdin.close()
        await asyncio.wait_for(sweeper.wait(), SWEEPER_SECONDS_MAX)

    async def _look(self) -> None:
        """Every two seconds: follow the process trees and write the status file."""
        while True:
            table = process_table()
            for runner in self._runners.values():
                runner.refresh(table)
            self._write()
            await asyncio.sleep(LOOK_SECONDS)

    def _changed(self, event: PartEvent) -> None:
        self._write()
        self._report(event)

    def _write(self) -> None:
        status = ClusterStatus(
            run=self._run,
            supervisor=self._me,
            parts=tuple(self.snapshot()),
            processes=tuple(entry for runner in self._runners.values() for entry in runner.processes()),
        )
        # A report only: a full disk must not end the supervision.
        with contextlib.suppress(OSError):
            write_status(self._home, status)

    def snapshot(self) -> list[PartStatus]:
        """Every part as it is now; memory as of the last look."""
        return [runner.status() for runner in self._runners.values()]


def _ordered(parts: Sequence[Part]) -> list[Part]:
    """Needs first. Raises ValueError on an unknown need or a cycle."""
    left = {part.name: part for part in parts}
    if len(left) != len(parts):
        raise ValueError("two parts have the same name")
    ordered: list[Part] = []
    while left:
        met = {part.name for part in ordered}
        free = [part for part in left.values() if met.issuperset(part.needs)]
        if not free:
            raise ValueError(f"needs that nobody meets, or a cycle: {', '.join(left)}")
        ordered += free
        left = {name: part for name, part in left.items() if part not in free}
    return ordered


def clean(home: Home) -> int:
    """End what a dead supervisor left in this home; how many processes there were. Hold the home meanwhile."""
    status = read_status(home)
    if status is not None and status.alive and status.supervisor.pid != psutil.Process().pid:
        raise ClusterError(f"the supervisor with pid {status.supervisor.pid} is alive: objecta down ends it")
    return sweep({HOME_MARK: str(home.folder)}, status.processes if status is not None else ())


def bring_down(home: Home) -> bool:
    """``objecta down``: end this home's supervisor in order, or clean up after one that died. Blocks.

    Returns whether there was anything. Raises ClusterError where the supervisor does not end.
    """
    status = read_status(home)
    supervisor = status.supervisor.find() if status is not None else None
    if supervisor is not None:
        supervisor.terminate()
        deadline = time.monotonic() + SUPERVISOR_SECONDS_MAX
        while supervisor.is_running() and supervisor.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the supervisor (pid {supervisor.pid}) does not end: kill -9 {supervisor.pid}, then objecta down"
                )
            time.sleep(POLL_SECONDS)
    with home.held():
        return clean(home) > 0 or supervisor is not None
