"""A lean HTTP/1.1 load client: N closed-loop clients, one keep-alive connection each, every answer verified.

``measure(spec)`` runs it in a process of its own (``python -m benchmarks.load``, the spec on standard input, the
result on standard output), so that the client shares no interpreter with anything it measures.

1. Each client sends its next request when it has read the whole answer to the last one.
2. ``warmup_requests`` a client come first and count for nothing; then the clock starts.
3. Requests end at the first of ``requests_max`` and ``seconds_max``; answers under way are waited for, and the clock
   stops with the last of them: a rate is answers by the time it took to get them all.
4. The first wrong, broken or late answer ends the run: a figure with failures in it is no figure.
"""

import asyncio
import contextlib
import gc
import subprocess
import sys
import time
from typing import Any, cast

import httptools
import uvloop

from benchmarks.answers import LoadResult, LoadSpec, Timing, check_answer, has_token
from benchmarks.processes import ROOT, BenchmarkError

WATCH_SECONDS = 0.1
START_SECONDS_MAX = 60.0


class Phase:
    """A stretch of requests with one bound; hands them out, and collects what came of them."""

    def __init__(self, spec: LoadSpec, requests_max: int, seconds_max: float, first: int = 0) -> None:
        """``first``: the number of the first request, which chooses its body."""
        self.spec = spec
        self._next = first
        self._end = first + requests_max
        self._wires = [_wire(spec, body.encode()) for body in spec.bodies]
        self.started = time.perf_counter()
        self._deadline = self.started + seconds_max
        self._finished = self.started
        self.active = spec.clients
        self.timings: list[Timing] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def next_request(self, now: float) -> bytes | None:
        """The bytes to send, or None: then the client is through, and the last client ends the phase."""
        if self._next < self._end and now < self._deadline and not self.done.done():
            self._next += 1
            return self._wires[(self._next - 1) % len(self._wires)]
        self.active -= 1
        if not self.active and not self.done.done():
            self._finished = now
            self.done.set_result(None)
        return None

    def fail(self, reason: str) -> None:
        """End the phase without a result."""
        if not self.done.done():
            self.done.set_exception(BenchmarkError(reason))

    def result(self) -> LoadResult:
        """Of a phase that is done."""
        return LoadResult.of(self.timings, self._finished - self.started)


class Client(asyncio.Protocol):
    """One connection of one client. Callbacks only: a task and a queue per answer would cost as much as the answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._phase: Phase | None = None
        self._parser: Any = None
        self._parts: list[bytes] = []
        self._first: float | None = None
        self._seeks_token = False
        self._sent: float | None = None
        self._closing = False

    def overdue(self, now: float) -> bool:
        """Whether the answer under way is late."""
        return (
            self._phase is not None
            and self._sent is not None
            and now - self._sent > self._phase.spec.answer_seconds_max
        )

    def begin(self, phase: Phase) -> None:
        """Send this phase's first request."""
        self._phase = phase
        self._next(time.perf_counter())

    def close(self) -> None:
        """Hang up."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop. A connection lost between two answers is lost too: the server promised to keep it."""
        self._transport = None
        if not self._closing and self._phase is not None:
            self._phase.fail(f"the server closed a connection: {exc or 'end of stream'}")

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            assert self._phase is not None
            self._phase.fail(f"not HTTP: {error}: {data[:200]!r}")

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._parts.append(body)
        if self._seeks_token and has_token(b"".join(self._parts)):
            self._first = time.perf_counter()
            self._seeks_token = False

    def on_message_complete(self) -> None:
        """Called by the parser."""
        now = time.perf_counter()
        phase, sent = self._phase, self._sent
        if phase is None or sent is None:
            return
        body = b"".join(self._parts)
        verdict = check_answer(phase.spec.expect, self._parser.get_status_code(), body)
        if verdict.error:
            phase.fail(verdict.error)
            return
        if not self._parser.should_keep_alive():
            phase.fail("the server does not keep connections alive")
            return
        first = (self._first or now) - sent
        phase.timings.append(Timing(now - sent, first, verdict.tokens, verdict.events))
        self._next(now)

    def _next(self, now: float) -> None:
        assert self._phase is not None
        request = self._phase.next_request(now)
        self._parts = []
        self._sent = None
        if request is None:
            return
        if self._transport is None:
            self._phase.fail("the server closed a connection")
        else:
            self._first = None
            self._seeks_token = self._phase.spec.expect.stream
            self._sent = now
            self._transport.write(request)


def _wire(spec: LoadSpec, body: bytes) -> bytes:
    lines = [
        f"POST {spec.path} HTTP/1.1",
        f"host: {spec.host}:{spec.port}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in spec.headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def run(spec: LoadSpec) -> LoadResult:
    """The load as ``spec`` says, from this process. Raises BenchmarkError at the first answer that is not right."""
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    try:
        for _ in range(spec.clients):
            _, client = await loop.create_connection(Client, spec.host, spec.port)
            clients.append(client)
        warmup = spec.clients * spec.warmup_requests
        if warmup:
            await _play(Phase(spec, warmup, spec.answer_seconds_max), clients)
        phase = Phase(spec, spec.requests_max, spec.seconds_max, first=warmup)
        await _play(phase, clients)
        return phase.result()
    except OSError as error:
        raise BenchmarkError(f"cannot connect to {spec.host}:{spec.port}: {error}") from error
    finally:
        for client in clients:
            client.close()


async def _play(phase: Phase, clients: list[Client]) -> None:
    # What is raised in a callback would otherwise be logged, and the load would wait for ever.
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: phase.fail(repr(context.get("exception") or context["message"]))
    )
    for client in clients:
        client.begin(phase)
    while not phase.done.done():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(phase.done), WATCH_SECONDS)
        now = time.perf_counter()
        if any(client.overdue(now) for client in clients):
            phase.fail(f"an answer took more than {phase.spec.answer_seconds_max} s")
    await phase.done


def measure(spec: LoadSpec) -> LoadResult:
    """The load as ``spec`` says, from a process of its own. Raises BenchmarkError."""
    seconds_max = START_SECONDS_MAX + spec.seconds_max + 2 * spec.answer_seconds_max
    command = [sys.executable, "-m", "benchmarks.load"]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            input=spec.model_dump_json().encode(),
            capture_output=True,
            timeout=seconds_max,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"the load client took more than {seconds_max:.0f} s") from error
    if done.returncode != 0:
        raise BenchmarkError(done.stderr.decode(errors="replace").strip())
    return LoadResult.model_validate_json(done.stdout)


def main() -> int:
    """Entry point: a LoadSpec on standard input, a LoadResult on standard output."""
    spec = LoadSpec.model_validate_json(sys.stdin.buffer.read())
    gc.disable()
    try:
        result = uvloop.run(run(spec))
    except BenchmarkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{result.model_dump_json()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
