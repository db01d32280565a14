"""How much of the engine is left behind the platform?

The same vLLM with the same flags, once as its own server, once as the platform serves it (HAProxy, gateway with
authentication, admission and metering, HAProxy, engine replica). Both are up all the time, one works at a time; rounds
interleave them. Prompts are the same, different from request to request and new in each round (a prefix cache hit
would measure nothing); each answer is a stream of exactly ``TOKENS`` tokens, as its usage says.

``throughput_vs_vllm``: tokens a second, ours by theirs, **the least over the numbers of clients**. ``ttft_added_ms``:
median time to the first token at 1 client, ours less theirs.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.answers import Expectation, LoadResult, LoadSpec, address
from benchmarks.load import measure
from benchmarks.processes import ROOT, BenchmarkError, free_port, running, say, wait_for
from benchmarks.report import main, median_of, ratio
from benchmarks.stack import platform
from deployments.engine import engine_environment, engine_flags
from models.catalogue import load_catalogue

MODEL = "smollm2-135m-instruct"
ROUNDS = 2
CLIENTS = (1, 8, 32)
TOKENS = 32
# Answers a round: enough for a median, few enough for a minute (2 cores: 23 tokens/s alone, 84 at 32 clients).
ANSWERS = {1: 12, 8: 32, 32: 64}
SECONDS_MAX = 180.0
ANSWER_SECONDS_MAX = 120.0
START_SECONDS_MAX = 300.0
MEMORY_BYTES_MIN = 13 * 1024**3
# `vllm serve` without the `vllm` command, which looks for a distribution that the CPU wheel is not.
SERVER = "vllm.entrypoints.launchers.api_server.entry"


class Server(NamedTuple):
    """Who is measured. ``base_url`` is without /v1."""

    name: str
    base_url: str
    api_key: str | None


Results = dict[tuple[str, int], list[LoadResult]]


@contextlib.contextmanager
def vllm_alone() -> Iterator[str]:
    """The base URL of vLLM's own server, with the flags and the environment that the platform gives it."""
    entry = load_catalogue().find(MODEL)
    arguments = entry.engine(0)
    folder = ROOT / ".objecta" / "models" / MODEL
    if not folder.is_dir():
        raise BenchmarkError(f"the model is not in {folder.parent}: objecta models pull")
    port = free_port()
    flags = engine_flags(entry, arguments, str(folder), 0)
    command = [sys.executable, "-m", SERVER, *flags, "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="objecta-vllm-") as name:
        log = Path(name) / "vllm.log"
        with running(command, log, engine_environment(arguments, 0)) as process:
            wait_for(f"{url}/health", process, log, START_SECONDS_MAX)
            yield url


def load(server: Server, clients: int, number: int) -> LoadSpec:
    """One measurement in round ``number``; both servers get the same."""
    host, port, path = address(server.base_url)
    bodies = [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Story {number}-{clients}-{count}: tell me of the sea."}],
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for count in range(ANSWERS[clients] + clients)
    ]
    return LoadSpec(
        host=host,
        port=port,
        path=f"{path}/v1/chat/completions",
        headers={"authorization": f"Bearer {server.api_key}"} if server.api_key else {},
        bodies=tuple(json.dumps(body) for body in bodies),
        expect=Expectation(stream=True, completion_tokens=TOKENS),
        clients=clients,
        requests_max=ANSWERS[clients],
        seconds_max=SECONDS_MAX,
        answer_seconds_max=ANSWER_SECONDS_MAX,
    )


def play(servers: tuple[Server, ...], rounds: int = ROUNDS) -> Results:
    """All rounds; each second one in the opposite order, so that neither is always the one that comes after."""
    results: Results = {}
    for number in range(1, rounds + 1):
        for clients in CLIENTS:
            for server in servers if number % 2 else servers[::-1]:
                result = measure(load(server, clients, number))
                results.setdefault((server.name, clients), []).append(result)
                say(
                    f"round {number}  {server.name:8} {clients:3} clients  {result.tokens_per_second:7.1f} tokens/s  "
                    f"first token p50 {result.ttft_p50_ms:8.1f} ms"
                )
    return results


def figures(results: Results) -> Mapping[str, float]:
    """The report, out of the rounds."""
    shares: dict[int, float] = {}
    for clients in CLIENTS:
        ours, theirs = (
            median_of(results[name, clients], lambda result: result.tokens_per_second) for name in ("objecta", "vllm")
        )
        shares[clients] = ratio(ours, theirs)
        say(f"{clients:3} clients: {ours:.1f} tokens/s, vLLM alone {theirs:.1f}: {shares[clients]:.3f}")
    first = {name: median_of(results[name, 1], lambda result: result.ttft_p50_ms) for name in ("objecta", "vllm")}
    return {"throughput_vs_vllm": min(shares.values()), "ttft_added_ms": first["objecta"] - first["vllm"]}


def engine_parity() -> Mapping[str, float]:
    """Bring both up, play, report. Raises BenchmarkError."""
    available = psutil.virtual_memory().available
    if available < MEMORY_BYTES_MIN:
        raise BenchmarkError(
            f"{available / 1024**3:.0f} GiB of memory are free; two engines need {MEMORY_BYTES_MIN / 1024**3:.0f}"
        )
    with vllm_alone() as url, platform([MODEL]) as stack:
        return figures(
            play(
                (
                    Server("vllm", url, None),
                    Server("objecta", stack.gateway_url, stack.api_key.get_secret_value()),
                )
            )
        )


if __name__ == "__main__":
    sys.exit(main(engine_parity))
