"""What does the gateway cost, beside LiteLLM's proxy and beside a pass-through that does nothing?

One scripted upstream; before it, in turn: nothing (``direct``), the bare pass-through on the same Ray Serve and HAProxy
(``bare``), the whole platform with authentication, admission and metering on (``objecta``), LiteLLM's proxy
(``litellm``). Rounds interleave the four, so that what else the machine does falls on all of them; each figure is the
median over the rounds. Every answer is verified; one wrong answer, and there is no figure.

``*_rps`` and ``*_per_s`` and the ratios: 32 clients. ``added_*_ms``: median at 1 client, less that of ``direct``.
"""

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from benchmarks import upstream
from benchmarks.answers import Expectation, LoadResult, LoadSpec, address
from benchmarks.load import measure
from benchmarks.processes import say, scripted_upstream
from benchmarks.report import main, median_of, ratio
from benchmarks.rival_litellm import MASTER_KEY, litellm_proxy
from benchmarks.stack import deploy_bare, platform

ROUNDS = 3
SECONDS = 3.0
CLIENTS = (1, 32)
PROMPT = "In one sentence: what does a gateway do?"
CATALOGUE = {
    "currency": "USD",
    "models": [
        {
            "id": upstream.MODEL,
            "kind": "chat",
            "sources": ["hosted:scripted"],
            "context_window": 8192,
            "prices": [{"since": "2026-01-01", "prompt_micro": 10, "cached_micro": 5, "completion_micro": 40}],
        }
    ],
}


class Contender(NamedTuple):
    """Who is measured. ``base_url`` is without /v1."""

    name: str
    base_url: str
    api_key: str | None


class Scenario(NamedTuple):
    """What is asked of it."""

    stream: bool
    clients: int


Results = dict[tuple[str, Scenario], list[LoadResult]]
SCENARIOS = tuple(Scenario(stream, clients) for stream, clients in itertools.product((False, True), CLIENTS))


@contextlib.contextmanager
def contenders() -> Iterator[tuple[Contender, ...]]:
    """All of them, up, each with the same upstream."""
    with (
        scripted_upstream() as url,
        litellm_proxy(url, upstream.MODEL) as litellm_url,
        platform(
            [upstream.MODEL], CATALOGUE, [{"name": "scripted", "base_url": url, "needs_credential": False}]
        ) as stack,
    ):
        bare_url = deploy_bare(stack, url)
        yield (
            Contender("direct", url, None),
            Contender("bare", bare_url, None),
            Contender("objecta", stack.gateway_url, stack.api_key.get_secret_value()),
            Contender("litellm", litellm_url, MASTER_KEY),
        )


def load(contender: Contender, scenario: Scenario, seconds: float = SECONDS) -> LoadSpec:
    """One measurement of one contender."""
    host, port, path = address(contender.base_url)
    body = {"model": upstream.MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    return LoadSpec(
        host=host,
        port=port,
        path=f"{path}/v1/chat/completions",
        headers={"authorization": f"Bearer {contender.api_key}"} if contender.api_key else {},
        bodies=(json.dumps({**body, "stream": True} if scenario.stream else body),),
        expect=Expectation(
            stream=scenario.stream,
            marker=upstream.MARKER,
            marker_count=upstream.STREAM_CHUNKS if scenario.stream else 1,
        ),
        clients=scenario.clients,
        seconds_max=seconds,
    )


def play(field: tuple[Contender, ...], rounds: int = ROUNDS, seconds: float = SECONDS) -> Results:
    """All rounds: in each, every scenario with every contender in turn."""
    results: Results = {}
    for number in range(1, rounds + 1):
        for scenario, contender in itertools.product(SCENARIOS, field):
            result = measure(load(contender, scenario, seconds))
            results.setdefault((contender.name, scenario), []).append(result)
            kind = "streams" if scenario.stream else "unary"
            say(
                f"round {number}  {contender.name:8} {kind:7} {scenario.clients:3} clients  "
                f"{result.per_second:9.1f}/s  p50 {result.p50_ms:8.2f} ms  first token {result.ttft_p50_ms:8.2f} ms"
            )
    return results


def figures(results: Results) -> Mapping[str, float]:
    """The report, out of the rounds."""

    def rate(name: str, *, stream: bool) -> float:
        return median_of(results[name, Scenario(stream, CLIENTS[-1])], lambda result: result.per_second)

    def added(name: str, *, stream: bool) -> float:
        def at_one_client(who: str) -> float:
            return median_of(
                results[who, Scenario(stream, 1)], lambda result: result.ttft_p50_ms if stream else result.p50_ms
            )

        return at_one_client(name) - at_one_client("direct")

    unary, streams = rate("objecta", stream=False), rate("objecta", stream=True)
    litellm_unary, litellm_streams = rate("litellm", stream=False), rate("litellm", stream=True)
    return {
        "unary_rps": unary,
        "litellm_unary_rps": litellm_unary,
        "unary_vs_litellm": ratio(unary, litellm_unary),
        "streams_per_s": streams,
        "litellm_streams_per_s": litellm_streams,
        "streams_vs_litellm": ratio(streams, litellm_streams),
        "unary_vs_bare": ratio(unary, rate("bare", stream=False)),
        "streams_vs_bare": ratio(streams, rate("bare", stream=True)),
        "added_p50_ms": added("objecta", stream=False),
        "added_ttft_p50_ms": added("objecta", stream=True),
        "litellm_added_p50_ms": added("litellm", stream=False),
    }


def gateway_overhead() -> Mapping[str, float]:
    """Bring everything up, play, report. Raises BenchmarkError."""
    with contenders() as field:
        return figures(play(field))


if __name__ == "__main__":
    sys.exit(main(gateway_overhead))
