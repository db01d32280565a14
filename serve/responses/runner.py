"""Runs responses, one after its record was made, and records their ends.

Invariants
1. However a run ends, its end is recorded, before its client hears of it: a call that builds on it finds it.
2. A run that was refused before its model began leaves no record: its client never learnt its id.
3. What cannot be recorded is answered all the same, with ``"store": false``; its lease lapses, and it counts as failed.
4. A response in the background is cancelled by nobody's hang-up, only by its cancellation or this replica's end.
"""

import asyncio
import logging
from dataclasses import dataclass

import orjson

from models.errors import NotFound, PlatformError, Unavailable
from serve.asgi import ClientDisconnected, Message, Receive
from serve.callers import Caller
from serve.calls import Calls
from serve.config import ResponsesConfig
from serve.responses.composer import Composer
from serve.responses.intake import Forward, Intake
from serve.responses.leases import Leases
from serve.responses.store import ResponseStore
from serve.routing import ENDPOINTS
from serve.validation import Body

CHAT = ENDPOINTS["/v1/chat/completions"]
UNFORESEEN = "The server had an error while processing your request."
STOPPED = "The server that ran the response was stopped. Create it again."

# A replica that stops has usage events to write as well, and is killed if it takes long.
CLOSE_SECONDS_MAX = 2.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """A response to run. ``stored``: it has a record; ``error``: why it failed."""

    caller: Caller
    composer: Composer
    chat: Body
    stored: bool
    error: PlatformError | None = None

    @property
    def id(self) -> str:
        """The response's id."""
        return self.composer.response["id"]


class Admitted:
    """A ``receive`` whose client never leaves. It is asked once the call is admitted, which ``event`` tells."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def __call__(self) -> Message:
        """Never returns."""
        self.event.set()
        return await asyncio.get_running_loop().create_future()


class Runner:
    """For one replica."""

    def __init__(self, calls: Calls, store: ResponseStore, leases: Leases, config: ResponsesConfig) -> None:
        self._calls = calls
        self._store = store
        self._leases = leases
        self._config = config
        self._ends: set[asyncio.Task[bool]] = set()
        self._background: dict[str, asyncio.Task[Intake]] = {}

    async def close(self) -> None:
        """End what runs in the background, and record every end that can be recorded soon."""
        for task in self._background.values():
            task.cancel()
        if self._background:
            await asyncio.wait(self._background.values())
        late: set[asyncio.Task[bool]] = set()
        if self._ends:
            _, late = await asyncio.wait(self._ends, timeout=CLOSE_SECONDS_MAX)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def run(self, job: Job, receive: Receive, forward: Forward | None) -> Intake:
        """One run. Raises what it was refused with before its model began; ClientDisconnected, CancelledError.

        A model that fails later is no error here: ``job.error`` and the last event tell it.
        """
        composer = job.composer
        intake = Intake(composer, job.chat["model"], forward)
        if job.stored:
            self._leases.hold(job.id, lambda: self.stop(job.id))
        try:
            await self._calls.run(job.caller, CHAT, job.chat, orjson.dumps(job.chat), receive, intake)
            intake.ended()
            composer.close()
        except PlatformError as error:
            job.error = error
            composer.fail(error)
            if not intake.started:
                raise
        except (ClientDisconnected, asyncio.CancelledError):
            if self._calls.closing:
                composer.fail(PlatformError(STOPPED))
            else:
                composer.cancel()
            raise
        finally:
            if composer.running:
                composer.fail(PlatformError(UNFORESEEN))
            await self._recorded(job, started=intake.started)
        await intake.finale()
        return intake

    async def _recorded(self, job: Job, *, started: bool) -> None:
        if not job.stored:
            return
        # Until its end is recorded it is still this replica's; that it has ended is no reason to stop recording it.
        self._leases.hold(job.id, _nothing)
        refused = job.error is not None and job.error.status < PlatformError.status and not started
        end = asyncio.ensure_future(self.discard(job) if refused else self._record(job))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        if not await asyncio.shield(end):
            job.composer.response["store"] = False

    async def _record(self, job: Job) -> bool:
        response = job.composer.response
        order = {"status": response["status"], "body": response, "output": job.composer.output}
        try:
            patience = CLOSE_SECONDS_MAX if self._calls.closing else self._config.finish_seconds_max
            return await self._store.finish(job.caller.principal, job.id, order, patience)
        finally:
            self._leases.release(job.id)

    async def discard(self, job: Job) -> bool:
        """Take back the record of a run that was refused; where that fails, its lease lapses."""
        self._leases.release(job.id)
        try:
            await self._store.ask("DELETE", job.caller.principal, f"/responses/{job.id}")
        except (NotFound, Unavailable):
            return False
        return True

    async def start(self, job: Job, forward: Forward | None) -> asyncio.Task[Intake]:
        """Run in the background; returns once the call is admitted. Raises what it was refused with."""
        if len(self._background) >= self._config.background_max:
            await self.discard(job)
            raise Unavailable("Too many responses run in the background.", retry_after_seconds=1.0)
        admitted = Admitted()
        task = asyncio.ensure_future(self.run(job, admitted, forward))
        self._background[job.id] = task
        task.add_done_callback(lambda done: self._ended(job, done))
        entry = asyncio.ensure_future(admitted.event.wait())
        try:
            await asyncio.wait({task, entry}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            entry.cancel()
        if task.done():
            task.result()
        return task

    def _ended(self, job: Job, task: asyncio.Task[Intake]) -> None:
        self._background.pop(job.id, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PlatformError):
            logger.error("response %s failed unforeseen", job.id, exc_info=error)

    def stop(self, response_id: str) -> None:
        """End what runs in the background of this replica under this id, if it does."""
        task = self._background.get(response_id)
        if task is not None:
            task.cancel()


def _nothing() -> None:
    pass
