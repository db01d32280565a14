"""Many event streams held open at once, each token's delay known: the client of ``benchmarks.connections``.

``python -m benchmarks.open_streams``: a ``StreamsSpec`` on standard input, a ``StreamsResult`` on standard output.
A token's content is the moment it was sent, in seconds of the machine's one monotonic clock, so its delay is the time
from the upstream's write to this process's read.
"""

import asyncio
import re
import subprocess
import sys
import time
from typing import cast

import numpy
import uvloop
from pydantic import BaseModel, ConfigDict

from benchmarks.processes import ROOT, BenchmarkError

SENT_AT = re.compile(rb'"content":"([0-9]+\.[0-9]+) "')
DONE = b"data: [DONE]"
START_SECONDS_MAX = 60.0


class StreamsSpec(BaseModel):
    """``streams`` posts of ``body``, opened at ``opens_per_second``; all must have ended after ``seconds_max``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int
    path: str
    headers: dict[str, str]
    body: str
    tokens: int
    streams: int
    opens_per_second: float
    seconds_max: float


class StreamsResult(BaseModel):
    """``lost``: streams without all of their tokens and their end. ``open_max``: streams open at the same time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    streams: int
    lost: int
    open_max: int
    p50_delay_ms: float
    p99_delay_ms: float


class Stream(asyncio.Protocol):
    """One connection with one stream; callbacks only, for a task each would cost more than the stream."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._tokens = 0
        self._done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._crowd.wire)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        now = time.monotonic()
        # Half a frame waits for its other half.
        whole, _, self._rest = (self._rest + data).rpartition(b"\n")
        for sent in SENT_AT.findall(whole):
            self._tokens += 1
            self._crowd.delays.append(now - float(sent))
        if DONE in whole and self._transport is not None:
            self._done = True
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the loop's signature
        """Called by the loop."""
        self._crowd.ended(complete=self._done and self._tokens == self._crowd.spec.tokens)


class Crowd:
    """All streams and what came of them."""

    def __init__(self, spec: StreamsSpec) -> None:
        self.spec = spec
        self.delays: list[float] = []
        self._open = self._open_max = self._complete = self._ended = 0
        self._all_ended = asyncio.Event()
        body = spec.body.encode()
        lines = [f"POST {spec.path} HTTP/1.1", f"host: {spec.host}:{spec.port}", "content-type: application/json"]
        lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in spec.headers.items())]
        self.wire = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def ended(self, *, complete: bool) -> None:
        """One stream less."""
        self._open -= 1
        self._ended += 1
        self._complete += complete
        if self._ended == self.spec.streams:
            self._all_ended.set()

    async def run(self) -> StreamsResult:
        """Open all, wait for all. Raises BenchmarkError where not one token came."""
        loop = asyncio.get_running_loop()
        spec, started = self.spec, loop.time()
        async with asyncio.timeout(spec.seconds_max):
            for number in range(spec.streams):
                await asyncio.sleep(max(0.0, started + number / spec.opens_per_second - loop.time()))
                await loop.create_connection(lambda: Stream(self), spec.host, spec.port)
                self._open += 1
                self._open_max = max(self._open_max, self._open)
            await self._all_ended.wait()
        if not self.delays:
            raise BenchmarkError("no token came on any stream")
        p50, p99 = numpy.percentile(self.delays, (50, 99)) * 1_000
        return StreamsResult(
            streams=spec.streams,
            lost=spec.streams - self._complete,
            open_max=self._open_max,
            p50_delay_ms=p50,
            p99_delay_ms=p99,
        )


def hold_open(spec: StreamsSpec) -> StreamsResult:
    """Run the spec in a process of its own. Raises BenchmarkError."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.open_streams"],
        cwd=ROOT,
        input=spec.model_dump_json().encode(),
        stdout=subprocess.PIPE,
        timeout=spec.seconds_max + START_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkError("the streams' client failed; standard error has the reason")
    return StreamsResult.model_validate_json(done.stdout)


async def _main() -> None:
    result = await Crowd(StreamsSpec.model_validate_json(sys.stdin.buffer.read())).run()
    sys.stdout.write(result.model_dump_json())


if __name__ == "__main__":
    uvloop.run(_main())
