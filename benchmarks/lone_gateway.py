"""A gateway without Ray, before vLLM's own server or the scripted upstream; batch lines sent as a job sends them."""

import asyncio
import contextlib
import json
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from pydantic import SecretStr

from benchmarks import upstream
from benchmarks.engine_parity import MODEL, vllm_alone
from benchmarks.processes import BenchmarkError, free_port, say, scripted_upstream
from benchmarks.replica import Replica
from cluster.home import Home
from cluster.parts import PartEvent
from cluster.redis_server import redis_part
from cluster.supervisor import Supervisor
from deployments.config import PlatformConfig
from deployments.sections import places
from models.batches import BatchOrder
from models.catalogue import load_catalogue
from models.channels import CLUSTER_SECRET_HEADER, PRINCIPAL_HEADER
from models.identity import Principal
from serve.batches.config import RunnerConfig
from serve.batches.lines import Line
from serve.batches.sender import Sender

# As the platform's: so many lines at a time of each of so many batches.
LINES_AT_ONCE = 8
SCRIPTED_PLACES = 6
SCRIPTED_PACE = "0.005"
BEGIN_SECONDS_MAX = 240.0
POLL_SECONDS = 0.5


class Place(NamedTuple):
    """A gateway process before an engine; ``headers`` make a caller of the platform's own."""

    url: str
    secret: str
    model: str
    tokens: int
    headers: Mapping[str, str]


def body(model: str, tokens: int, text: str) -> dict[str, Any]:
    """A chat of exactly so many tokens."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}


async def until(condition: Callable[[], Any], seconds_max: float, what: str) -> None:
    """Returns once the awaited ``condition`` is true. Raises BenchmarkError."""
    deadline = time.monotonic() + seconds_max
    while not await condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what} within {seconds_max:.0f} s")
        await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def lines(place: Place) -> AsyncIterator[Callable[[], Any]]:
    """Lines are being sent as a batch's job sends them; none is under way on return."""
    who = Principal(organisation_id="org_batch", project_id="proj_batch", api_key_id="key_batch")
    config = RunnerConfig(
        gateway_url=place.url,
        control_plane_url=place.url,
        cluster_secret=SecretStr(place.secret),
        object_store="-",
    )
    order = BatchOrder(
        id="batch_benchmark",
        principal=who,
        organisation_id=who.organisation_id,
        project_id=who.project_id,
        endpoint="/v1/chat/completions",
        input_file_id="file_benchmark",
        expires_at=0,
        stop=None,
        done=(),
        lost=(),
    )
    ends: list[bool] = []

    async def go_on(_: int) -> None:
        return None

    async def work(sender: Sender, worker: int) -> None:
        number = worker
        while True:
            line = Line(
                number + 1, str(number), body(place.model, place.tokens, f"Line {number}: tell me of the hills.")
            )
            found = await sender.outcome(line, go_on)
            ends.append(not isinstance(found, str) and found.ok)
            number += LINES_AT_ONCE

    async def done() -> int:
        if not all(ends):
            raise BenchmarkError("a line failed")
        return len(ends)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), trust_env=False) as http:
        sender = Sender(http, config, order, who)
        workers = [asyncio.ensure_future(work(sender, number)) for number in range(LINES_AT_ONCE)]
        try:
            await until(done, BEGIN_SECONDS_MAX, "no line was done")
            yield done
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


@contextlib.asynccontextmanager
async def gateway(tokens: int, *, scripted: bool) -> AsyncIterator[Place]:
    """An engine, a Redis and one gateway process. ``tokens`` of an answer, unless the upstream is scripted."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="objecta-bench-")))
        model, tokens = (upstream.MODEL, upstream.STREAM_CHUNKS) if scripted else (MODEL, tokens)
        engine = stack.enter_context(scripted_upstream("--pace", SCRIPTED_PACE) if scripted else vllm_alone())
        home = Home(folder / "home")
        home.prepare()
        part, redis_url = redis_part(home)
        supervisor = Supervisor(home, [part], _told)
        secret = secrets.token_hex(16)
        config = folder / "gateway.json"
        config.write_text(json.dumps(gateway_config(folder, engine, redis_url, secret, scripted=scripted)))
        who = Principal(organisation_id="org_live", project_id="proj_live", api_key_id="key_live")
        headers = {CLUSTER_SECRET_HEADER: secret, PRINCIPAL_HEADER: who.to_header()}
        stack.enter_context(home.held())
        await supervisor.start()
        try:
            replica = Replica(config, free_port())
            try:
                await replica.ready()
                yield Place(replica.url, secret, model, tokens, headers)
            finally:
                replica.end(signal.SIGKILL)
        finally:
            await supervisor.stop()


def gateway_config(folder: Path, engine: str, redis_url: str, secret: str, *, scripted: bool) -> dict[str, Any]:
    """A gateway's, as the platform gives it for the local model; nobody asks a control plane."""
    entry = load_catalogue().find(MODEL)
    if scripted:
        entry, concurrency = entry.model_copy(update={"id": upstream.MODEL}), SCRIPTED_PLACES
    else:
        # What the platform's configuration says of this engine, without the rest of one.
        concurrency = places(PlatformConfig.model_construct(concurrency={}, gpus_per_node=0, gateway_replicas=1), entry)
    server = {"name": entry.id, "base_url": engine, "internal": True, "concurrency": concurrency}
    return {
        "control_plane_url": "http://127.0.0.1:9",
        "cluster_secret": secret,
        "redis_url": redis_url,
        "spool_folder": str(folder / "spool"),
        "agents": {"name": "agents", "base_url": "http://127.0.0.1:9", "internal": True},
        "routes": [{"entry": entry.model_dump(mode="json"), "upstream": server}],
    }


def _told(event: PartEvent) -> None:
    say(f"{event.name}: {event.state}")
