"""Timeouts of a route, and what is said of the one that passed."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from serve.config import ModelRoute, RoutePolicy, RouteTimeouts, Timeouts, Upstream
from serve.policies import policy_of

Start = Callable[..., Awaitable[Any]]


def test_a_route_s_figures_stand_over_the_gateway_s() -> None:
    defaults = Timeouts(connect_seconds=1, first_byte_seconds=20, idle_seconds=3, total_seconds=40)
    policy = policy_of(RoutePolicy(timeouts=RouteTimeouts(idle_seconds=5, total_seconds=10)), defaults)
    figures = (policy.connect_seconds, policy.first_byte_seconds, policy.idle_seconds, policy.total_seconds)
    assert figures == (1, 10, 5, 10)


async def test_each_timeout_is_told(authors: Start) -> None:
    them = await authors(alone=True, timeouts={"first_byte_seconds": 0.1, "idle_seconds": 5})
    them.first.gate.clear()
    whole = (await them.stage.chat(model="first")).json()["error"]
    assert whole["code"] == "upstream_timeout"
    assert whole["message"].endswith("nothing of its answer came for 0.1 seconds.")
    them = await authors(alone=True, timeouts={"idle_seconds": 0.1})
    them.first.gate.clear()
    idle = (await them.frames())[-1][1]["error"]
    assert idle["message"].endswith("its answer stopped for 0.1 seconds.")
    them = await authors(alone=True, timeouts={"total_seconds": 0.3, "idle_seconds": 5})
    them.first.gate.clear()
    total = (await them.frames())[-1][1]["error"]
    assert total["message"].endswith("its whole answer took longer than 0.3 seconds.")


async def test_a_second_attempt_has_what_is_left_of_the_whole(authors: Start) -> None:
    them = await authors(alone=True, mid_stream="restart", timeouts={"total_seconds": 0.4})
    them.first.breaks, them.first.stalls = [2, 2], True
    frames = await them.frames()
    assert frames[-1][1]["error"]["message"].endswith("its whole answer took longer than 0.4 seconds.")


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server whose queue of connections is full: who connects waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"
        for one in waiting:
            one.close()


async def test_a_route_s_time_to_connect_is_its_own(platform: Any, catalogue_entry: Any, deaf: str) -> None:
    upstream = Upstream(name="deaf", base_url=deaf)
    policy = RoutePolicy(timeouts=RouteTimeouts(connect_seconds=0.1))
    stage = await platform(
        routes=(ModelRoute(entry=catalogue_entry("quick"), upstream=upstream, policy=policy),),
        timeouts={"connect_seconds": 60},
    )
    async with asyncio.timeout(10):
        answer = await stage.chat(model="quick")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.json()["error"]["message"].endswith("no connection came about within 0.1 seconds.")
