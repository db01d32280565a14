"""How many open streams does one gateway replica hold, and what do they cost?

4,000 chat streams at once through HAProxy and one gateway replica, with authentication, admission and metering on, from
an upstream that sends one token a second on each. Every stream must get all of its tokens and its end.

``p99_delay_ms``: from the upstream's write of a token to the client's read of it. ``kb_per_stream``: what the replica's
resident memory grew by at its most, for each open stream. The limits are the machine's: 20,000 open files, of which a
stream takes two in HAProxy, two in the replica, one in the client.
"""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from benchmarks import upstream
from benchmarks.answers import address
from benchmarks.gateway_overhead import CATALOGUE, PROMPT
from benchmarks.open_streams import StreamsSpec, hold_open
from benchmarks.processes import BenchmarkError, say, scripted_upstream
from benchmarks.report import main
from benchmarks.stack import Stack, platform
from cluster.serve_api import ServeApi

STREAMS = 4_000
OPENS_PER_SECOND = 150.0
PACE_SECONDS = 1.0
SECONDS_MAX = 240.0
WARM_UP_STREAMS = 50
LOOK_SECONDS = 1.0


def spec(stack: Stack, streams: int) -> StreamsSpec:
    """The order for so many streams."""
    host, port, path = address(stack.gateway_url)
    body = {"model": upstream.MODEL, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    return StreamsSpec(
        host=host,
        port=port,
        path=f"{path}/v1/chat/completions",
        headers={"authorization": f"Bearer {stack.api_key.get_secret_value()}"},
        body=json.dumps(body),
        tokens=upstream.STREAM_CHUNKS,
        streams=streams,
        opens_per_second=OPENS_PER_SECOND,
        seconds_max=SECONDS_MAX,
    )


def gateway_process(stack: Stack) -> psutil.Process:
    """The one gateway replica. Raises BenchmarkError where there is not exactly one."""
    applications = asyncio.run(ServeApi(stack.dashboard_url, stack.ray_token).applications())
    pids = [replica.pid for one in applications if one.name == "gateway" for replica in one.replicas]
    if len(pids) != 1 or pids[0] is None:
        raise BenchmarkError(f"one gateway replica was expected, there are {len(pids)}")
    return psutil.Process(pids[0])


@contextmanager
def most_memory(process: psutil.Process) -> Iterator[list[int]]:
    """Inside the block the list holds the most resident bytes seen so far."""
    most = [process.memory_info().rss]
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_SECONDS):
            most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()


def connections() -> Mapping[str, float]:
    """Bring everything up, hold the streams open, report. Raises BenchmarkError."""
    with (
        scripted_upstream("--pace", str(PACE_SECONDS)) as url,
        platform(
            [upstream.MODEL], CATALOGUE, [{"name": "scripted", "base_url": url, "needs_credential": False}]
        ) as stack,
    ):
        hold_open(spec(stack, WARM_UP_STREAMS))
        gateway = gateway_process(stack)
        before = gateway.memory_info().rss
        with most_memory(gateway) as most:
            result = hold_open(spec(stack, STREAMS))
        say(f"{result.open_max} streams were open at once; the replica grew from {before} to {most[0]} bytes")
        return {
            "streams": result.open_max,
            "lost": result.lost,
            "p50_delay_ms": result.p50_delay_ms,
            "p99_delay_ms": result.p99_delay_ms,
            "kb_per_stream": (most[0] - before) / 1_000 / result.open_max,
        }


if __name__ == "__main__":
    sys.exit(main(connections))
