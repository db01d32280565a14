"""How much slower do live calls get while a batch is done beside them?

The same live load (closed-loop clients, streams of exactly ``TOKENS`` tokens), by turns alone and beside batch lines.
Prompts differ from request to request. The batch has more lines than can be done meanwhile, each as long as a live
call; a round in which none was done measures nothing and is an error.

By default on the whole platform with the local model: the batch is one of ``/v1/batches``, done by its job. ``--alone``
needs no Ray: vLLM's own server behind one gateway process and a Redis, and the lines are sent by the job's own sender.
``--scripted`` takes the scripted upstream in place of vLLM, with fewer places than there are clients: that measures the
queue alone, for such an upstream gets no slower under load, and answers a line at once.

``live_p95_ratio``: the 95th percentile of whole live answers, beside lines by alone, medians over the rounds.
``live_ttft_p95_ratio``: the same of their first tokens. ``lines_per_minute``: what the batch got done meanwhile.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import openai

from benchmarks.answers import Expectation, LoadResult, LoadSpec, address
from benchmarks.engine_parity import MODEL
from benchmarks.load import measure
from benchmarks.lone_gateway import BEGIN_SECONDS_MAX, body, gateway, lines, until
from benchmarks.processes import BenchmarkError, say
from benchmarks.report import main, median_of, ratio
from benchmarks.stack import Stack, platform

TOKENS = 32
LINES = 5_000
ANSWER_SECONDS_MAX = 120.0
END_SECONDS_MAX = 120.0


class Much(NamedTuple):
    """How much of it. ``answers`` of live calls a measurement."""

    rounds: int = 3
    clients: int = 8
    answers: int = 96


class Bench(NamedTuple):
    """What is measured. ``filling`` has a batch done meanwhile, and gives the number of its lines that are done."""

    url: str
    model: str
    tokens: int
    headers: Mapping[str, str]
    filling: Callable[[], AbstractAsyncContextManager[Callable[[], Any]]]


def live(bench: Bench, much: Much, name: str) -> LoadSpec:
    """One measurement; ``name`` makes its prompts its own."""
    host, port, path = address(bench.url)
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    asked = [f"Story {name}-{count}: tell me of the sea." for count in range(much.answers + much.clients)]
    return LoadSpec(
        host=host,
        port=port,
        path=f"{path}/v1/chat/completions",
        headers=dict(bench.headers),
        bodies=tuple(json.dumps({**body(bench.model, bench.tokens, text), **streamed}) for text in asked),
        expect=Expectation(stream=True, completion_tokens=bench.tokens),
        clients=much.clients,
        requests_max=much.answers,
        seconds_max=600.0,
        answer_seconds_max=ANSWER_SECONDS_MAX,
    )


async def play(bench: Bench, much: Much) -> Mapping[str, float]:
    """All rounds, and the figures."""
    results: dict[str, list[LoadResult]] = {"alone": [], "beside": []}
    rates: list[float] = []
    # An engine that is new takes seconds for its first answers.
    await asyncio.to_thread(measure, live(bench, much._replace(answers=2 * much.clients), "0"))
    for number in range(1, much.rounds + 1):
        for name in ("alone", "beside") if number % 2 else ("beside", "alone"):
            spec = live(bench, much, f"{number}{name}")
            if name == "alone":
                results[name].append(await asyncio.to_thread(measure, spec))
            else:
                results[name].append(await _filled(bench, spec, rates))
            last = results[name][-1]
            say(f"round {number}  {name:6}  p50 {last.p50_ms:8.1f} ms  p95 {last.p95_ms:8.1f} ms")
        say(f"round {number}  {rates[-1]:.1f} lines a minute")
    p95 = {name: median_of(of, lambda one: one.p95_ms) for name, of in results.items()}
    first = {name: median_of(of, lambda one: one.ttft_p95_ms) for name, of in results.items()}
    return {
        "live_p95_ratio": ratio(p95["beside"], p95["alone"]),
        "live_ttft_p95_ratio": ratio(first["beside"], first["alone"]),
        "live_p95_ms": p95["beside"],
        "lines_per_minute": statistics.median(rates),
    }


async def _filled(bench: Bench, spec: LoadSpec, rates: list[float]) -> LoadResult:
    """One measurement beside lines; adds how many of them were done a minute."""
    async with bench.filling() as done:
        before, began = await done(), time.monotonic()
        result = await asyncio.to_thread(measure, spec)
        count = await done() - before
        rates.append(count / (time.monotonic() - began) * 60)
    if not count:
        raise BenchmarkError("no line of the batch was done beside the live calls")
    return result


@contextlib.asynccontextmanager
async def batch(stack: Stack) -> AsyncIterator[Callable[[], Any]]:
    """A batch of the platform is being done; it is cancelled, and at its end, on return."""
    key = stack.api_key.get_secret_value()
    requests = (
        {"custom_id": f"{number}", "method": "POST", "url": "/v1/chat/completions"}
        | {"body": body(MODEL, TOKENS, f"Line {number}: tell me of the hills.")}
        for number in range(LINES)
    )
    content = "\n".join(json.dumps(request) for request in requests).encode()
    async with openai.AsyncOpenAI(base_url=f"{stack.gateway_url}/v1", api_key=key) as client:
        file = await client.files.create(file=("lines.jsonl", content), purpose="batch")
        made = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )

        async def done() -> int:
            counts = (await client.batches.retrieve(made.id)).request_counts
            if counts is None or counts.failed:
                raise BenchmarkError(f"lines of the batch failed: {counts}")
            return counts.completed

        async def ended() -> bool:
            return (await client.batches.retrieve(made.id)).status == "cancelled"

        await until(done, BEGIN_SECONDS_MAX, "no line of the batch was done")
        try:
            yield done
        finally:
            await client.batches.cancel(made.id)
            await until(ended, END_SECONDS_MAX, "the batch did not end")


async def on_the_platform(much: Much) -> Mapping[str, float]:
    """Everything up, all rounds, everything down."""
    with platform([MODEL]) as stack:
        headers = {"authorization": f"Bearer {stack.api_key.get_secret_value()}"}
        return await play(Bench(stack.gateway_url, MODEL, TOKENS, headers, lambda: batch(stack)), much)


async def without_ray(much: Much, *, scripted: bool) -> Mapping[str, float]:
    """An engine, a Redis and one gateway process up, all rounds, everything down."""
    async with gateway(TOKENS, scripted=scripted) as place:
        return await play(Bench(place.url, place.model, place.tokens, place.headers, lambda: lines(place)), much)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", action="store_true", help="without Ray: vLLM's own server and one gateway process")
    parser.add_argument("--scripted", action="store_true", help="without Ray and vLLM: the queue alone")
    for what, number in Much()._asdict().items():
        parser.add_argument(f"--{what}", type=int, default=number)
    given = vars(parser.parse_args())
    alone, scripted = given.pop("alone"), given.pop("scripted")
    order = Much(**given)
    run = without_ray(order, scripted=scripted) if alone or scripted else on_the_platform(order)
    sys.exit(main(lambda: asyncio.run(run)))
