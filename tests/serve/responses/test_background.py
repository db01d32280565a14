"""Responses in the background: they outlive their client, not their cancellation, and not unnoticed their gateway."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import openai
import orjson
import psycopg
import pytest

PROCESS = Path(__file__).with_name("gateway_process.py")


async def ended(client: Any, response_id: str, seconds: float = 15.0) -> Any:
    async with asyncio.timeout(seconds):
        while True:
            found = await client.responses.retrieve(response_id)
            if found.status != "in_progress":
                return found
            await asyncio.sleep(0.02)


async def test_it_is_answered_at_once_and_completes(client: Any, speaker: Any, stage: Any) -> None:
    speaker.gate = asyncio.Event()
    answer = await client.responses.create(model="scripted", input="x", background=True)
    assert (answer.status, answer.background, answer.output) == ("in_progress", True, [])
    assert (await client.responses.retrieve(answer.id)).status == "in_progress"
    speaker.gate.set()
    found = await ended(client, answer.id)
    assert (found.status, found.output_text, found.usage.total_tokens) == ("completed", "Hi", 19)
    (event,) = await stage.events()
    assert event.status == "ok"


async def test_its_lease_is_renewed_for_as_long_as_it_runs(
    platform: Any, settings: Any, speaker: Any, state: Any, acme: Any
) -> None:
    lease = settings["responses"].model_copy(update={"lease_seconds": 1.5})
    stage = await platform(speaker, **{**settings, "responses": lease})
    client = stage.client(acme["key"])
    speaker.gate = asyncio.Event()
    answer = await client.responses.create(model="scripted", input="x", background=True)
    async with state.app.router.lifespan_context(state.app):
        # Two leases long.
        loop = asyncio.get_running_loop()
        end = loop.time() + 3.0
        await stage.until(lambda: loop.time() > end)
        speaker.gate.set()
        assert (await ended(client, answer.id)).status == "completed"


async def test_it_survives_a_client_that_reads_its_stream_and_leaves(client: Any, speaker: Any) -> None:
    speaker.gate = asyncio.Event()
    stream = await client.responses.create(model="scripted", input="x", background=True, stream=True)
    created = await anext(aiter(stream))
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    speaker.gate.set()
    found = await ended(client, created.response.id)
    assert (found.status, found.output_text) == ("completed", "Hi")


async def test_its_stream_is_whole(client: Any) -> None:
    stream = await client.responses.create(model="scripted", input="x", background=True, stream=True)
    events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert (await client.responses.retrieve(events[-1].response.id)).output_text == "Hi"


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_any_replica_ends_it(
    client: Any, platform: Any, settings: Any, speaker: Any, stage: Any, acme: Any, how: str
) -> None:
    other = (await platform(speaker, **settings)).client(acme["key"])
    speaker.gate = asyncio.Event()
    answer = await client.responses.create(model="scripted", input="x", background=True)
    await stage.until(lambda: speaker.running == 1)
    if how == "cancel":
        assert (await other.responses.cancel(answer.id)).status == "cancelled"
        assert (await other.responses.cancel(answer.id)).status == "cancelled"
    else:
        await other.responses.delete(answer.id)
    await stage.until(lambda: speaker.running == 0)
    (event,) = await stage.events()
    assert event.status == "client_gone"
    if how == "cancel":
        assert (await client.responses.retrieve(answer.id)).status == "cancelled"
    else:
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(answer.id)


async def test_one_that_has_ended_stays_as_it_is(client: Any) -> None:
    answer = await client.responses.create(model="scripted", input="x", background=True)
    assert (await ended(client, answer.id)).status == "completed"
    assert (await client.responses.cancel(answer.id)).status == "completed"
    foreground = await client.responses.create(model="scripted", input="x")
    with pytest.raises(openai.BadRequestError):
        await client.responses.cancel(foreground.id)


async def test_what_is_refused_is_refused_at_once_and_leaves_no_record(
    platform: Any, settings: Any, speaker: Any, state: Any, acme: Any
) -> None:
    stage = await platform(speaker, **settings)
    answer = await state.http.patch(
        f"/api/v1/organisations/{acme['id']}",
        json={"limits": {"requests_per_minute": 1}},
        headers={"authorization": "Bearer test-operator-key-0"},
    )
    assert answer.status_code == 200
    client = stage.client(acme["key"])
    first = await client.responses.create(model="scripted", input="x", background=True)
    await ended(client, first.id)
    with pytest.raises(openai.RateLimitError):
        await client.responses.create(model="scripted", input="x", background=True)
    with psycopg.connect(state.database_url) as connection:
        query = "SELECT id FROM responses WHERE organisation_id = %s"
        assert connection.execute(query, [acme["id"]]).fetchall() == [(first.id,)]


async def test_a_replica_takes_no_more_than_its_places(platform: Any, settings: Any, speaker: Any, acme: Any) -> None:
    few = settings["responses"].model_copy(update={"background_max": 1})
    client = (await platform(speaker, **{**settings, "responses": few})).client(acme["key"])
    speaker.gate = asyncio.Event()
    first = await client.responses.create(model="scripted", input="x", background=True)
    with pytest.raises(openai.InternalServerError) as error:
        await client.responses.create(model="scripted", input="x", background=True)
    assert (error.value.status_code, error.value.response.headers["retry-after"]) == (503, "1")
    speaker.gate.set()
    assert (await ended(client, first.id)).status == "completed"


async def test_a_killed_gateway_s_responses_are_failed_within_their_lease(
    client: Any, stage: Any, speaker: Any, state: Any, acme: Any, redis_url: str, tmp_path: Path, serving: Any
) -> None:
    speaker.gate = asyncio.Event()
    async with serving(speaker) as engine:
        order = {"engine": engine, "control_plane": state.url, "redis": redis_url, "spool": str(tmp_path / "other")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(PROCESS), orjson.dumps(order).decode(), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
            doomed = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=acme["key"], max_retries=0)
            answer = await doomed.responses.create(model="scripted", input="x", background=True)
            await stage.until(lambda: speaker.running == 1)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        assert (await client.responses.retrieve(answer.id)).status == "in_progress"
        async with state.app.router.lifespan_context(state.app):
            found = await ended(client, answer.id)
        assert (found.status, found.error.code) == ("failed", "server_error")
        await doomed.close()
