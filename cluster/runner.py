"""One part under supervision: its process, its state, its restarts."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from cluster.errors import ClusterError, PartFailed
from cluster.home import Home
from cluster.parts import Part, PartEvent, PartState, PartStatus
from cluster.processes import HOME_MARK, PART_MARK, RUN_MARK, ProcessId, ProcessTable, Tree, launch

POLL_SECONDS = 0.1
BACKOFF_SECONDS_MIN = 0.5
BACKOFF_SECONDS_MAX = 15.0
# A part that ran this long starts again at the shortest back-off.
STEADY_SECONDS = 60.0
FAILED_AFTER = 3
LOG_LINES = 15
LOG_BYTES_MAX = 20_000


class Runner:
    """``start`` once, then ``keep`` until cancelled, then ``stop``."""

    def __init__(
        self,
        part: Part,
        home: Home,
        run: str,
        report: Callable[[PartEvent], None],
        restarted: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.part = part
        self.once_ready = asyncio.Event()
        self.once_stopped = asyncio.Event()
        self._report = report
        self._restarted = restarted
        self._marks = {HOME_MARK: str(home.folder), RUN_MARK: run, PART_MARK: part.name}
        self._log = home.logs / f"{part.name}.log"
        self._tree: Tree | None = None
        self._state: PartState = "stopped"
        self._message: str | None = None
        self._since = datetime.now(UTC)
        self._restarts = 0
        self._rss_bytes = 0

    async def start(self) -> None:
        """Returns when the part is ready. Raises PartFailed; its processes, if any, still run then."""
        began = time.monotonic()
        self._enter("starting", began)
        await self._bring_up()
        self._enter("ready", began)
        self.once_ready.set()

    async def _bring_up(self) -> None:
        part = self.part
        try:
            if part.prepare is not None:
                await asyncio.to_thread(part.prepare)
            process = await launch(
                part.command,
                environment=part.environment,
                marks=self._marks,
                folder=part.folder,
                user=part.user,
                log=self._log,
                death_signal=part.stop,
            )
        except OSError as error:
            raise PartFailed(f"{part.name} could not be started: {error}") from error
        self._tree = Tree(process, self._marks)
        deadline = time.monotonic() + part.start_seconds_max
        while not await part.ready():
            if process.returncode is not None:
                raise PartFailed(f"{part.name} ended with {_code(process)} before it was ready{self._tail()}")
            if time.monotonic() > deadline:
                raise PartFailed(f"{part.name} was not ready within {part.start_seconds_max:.0f} s{self._tail()}")
            await asyncio.sleep(POLL_SECONDS)

    async def keep(self) -> None:
        """Start the part again whenever it dies, for ever."""
        failures = 0
        ready_at = time.monotonic()
        while True:
            died = await self._death()
            failures = 0 if time.monotonic() - ready_at > STEADY_SECONDS else failures
            while True:
                began = time.monotonic()
                self._restarts += 1
                self._enter("failed" if failures >= FAILED_AFTER else "restarting", began, died)
                await asyncio.sleep(min(BACKOFF_SECONDS_MIN * 2**failures, BACKOFF_SECONDS_MAX))
                failures += 1
                try:
                    await self._again()
                    break
                except ClusterError as error:
                    died = error.message
            ready_at = time.monotonic()
            self._enter("ready", began)

    async def _again(self) -> None:
        await self._end(signal.SIGKILL)
        await self._bring_up()
        if self._restarted is not None:
            await self._restarted()

    async def _death(self) -> str:
        if self._tree is None:
            return "was not started"
        await self._tree.root.wait()
        return f"ended with {_code(self._tree.root)}"

    async def stop(self) -> None:
        """Returns when nothing of the part runs."""
        began = time.monotonic()
        if self._tree is not None:
            self._enter("stopping", began)
            await self._end(self.part.stop)
            self._enter("stopped", began)
        self.once_stopped.set()

    async def _end(self, how: signal.Signals) -> None:
        if self._tree is not None:
            await self._tree.end(how, self.part.stop_seconds_max)
            self._tree = None

    def _enter(self, state: PartState, began: float, message: str | None = None) -> None:
        self._state, self._message, self._since = state, message, datetime.now(UTC)
        seconds = time.monotonic() - began
        self._report(PartEvent(name=self.part.name, state=state, seconds=seconds, message=message))

    def refresh(self, table: ProcessTable) -> None:
        """Follow the process tree."""
        if self._tree is not None:
            self._tree.refresh(table)
        self._rss_bytes = self._tree.rss_bytes() if self._tree is not None else 0

    def processes(self) -> list[ProcessId]:
        """Everything of the part that runs."""
        return self._tree.processes() if self._tree is not None else []

    def status(self) -> PartStatus:
        """The part as it is now."""
        return PartStatus(
            name=self.part.name,
            state=self._state,
            pid=self._tree.root.pid if self._tree is not None else None,
            port=self.part.port,
            version=self.part.version,
            rss_bytes=self._rss_bytes,
            restarts=self._restarts,
            since=self._since,
            message=self._message,
        )

    def _tail(self) -> str:
        if not self._log.exists():
            return ""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - LOG_BYTES_MAX))
            lines = file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        return f". The end of {self._log}:\n" + "\n".join(f"  {line}" for line in lines)


def _code(process: asyncio.subprocess.Process) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
