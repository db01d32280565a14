"""Ends that are not a model's own: refusals, broken streams, hang-ups, and a control plane that is away."""

import asyncio
from typing import Any

import httpx
import openai
import psycopg
import pytest

from models.doubles.scripted_engine import Script, ScriptedEngine
from serve.config import ResponsesConfig


def states(database_url: str, tenant: dict[str, Any]) -> list[str]:
    with psycopg.connect(database_url) as connection:
        query = "SELECT status FROM responses WHERE organisation_id = %s ORDER BY created_at"
        return [status for (status,) in connection.execute(query, [tenant["id"]])]


@pytest.mark.parametrize(("status", "kept"), [(400, []), (503, ["failed"])])
async def test_a_model_that_refuses_is_an_error_with_its_status(
    platform: Any, settings: Any, state: Any, acme: Any, status: int, kept: list[str]
) -> None:
    stage = await platform(ScriptedEngine(script=Script(status=status)), **settings)
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as error:
            await stage.client(acme["key"]).responses.create(model="scripted", input="x", stream=stream)
        assert error.value.status_code == status
    assert states(state.database_url, acme) == kept * 2
    assert len(await stage.events(2)) == 2


async def test_a_stream_that_breaks_ends_with_failed_and_what_was_said_is_kept(
    platform: Any, settings: Any, acme: Any
) -> None:
    stage = await platform(ScriptedEngine(script=Script(fail_after=2)), **settings)
    client = stage.client(acme["key"])
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    events = [event async for event in stream]
    last = events[-1]
    assert (last.type, last.response.status, last.response.error.code) == ("response.failed", "failed", "server_error")
    kept = await client.responses.retrieve(last.response.id)
    assert (kept.status, kept.output_text, kept.output[0].status) == ("failed", "w0 w1 ", "incomplete")
    (event,) = await stage.events()
    assert event.status == "upstream_lost"


async def test_asked_for_whole_a_broken_stream_is_an_error(platform: Any, settings: Any, acme: Any, state: Any) -> None:
    stage = await platform(ScriptedEngine(script=Script(error_after=2)), **settings)
    with pytest.raises(openai.APIStatusError) as error:
        await stage.client(acme["key"]).responses.create(model="scripted", input="x")
    assert error.value.status_code == 502
    assert states(state.database_url, acme) == ["failed"]


async def test_a_stream_of_nonsense_is_the_model_s_failure(client: Any, speaker: Any, chunk: Any, stage: Any) -> None:
    speaker.answers = [[chunk(content="a"), chunk(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}])]]
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    last = [event async for event in stream][-1]
    assert (last.type, last.response.output_text) == ("response.failed", "a")
    assert len(await stage.events()) == 1


async def test_a_client_that_hangs_up_cancels_its_response(
    client: Any, speaker: Any, chunk: Any, stage: Any, state: Any, acme: Any
) -> None:
    speaker.gate = asyncio.Event()
    speaker.answers = [[chunk(content="a"), chunk(content="b"), chunk("stop")]]
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    await stage.until(lambda: states(state.database_url, acme) == ["cancelled"])
    await stage.until(lambda: speaker.running == 0)
    (event,) = await stage.events()
    assert event.status == "client_gone"
    with psycopg.connect(state.database_url) as connection:
        query = "SELECT id FROM responses WHERE organisation_id = %s"
        (response_id,) = connection.execute(query, [acme["id"]]).fetchone() or ("",)
    kept = await client.responses.retrieve(response_id)
    assert (kept.status, kept.output_text) == ("cancelled", "a")


async def test_a_gateway_that_stops_fails_what_it_runs(
    client: Any, speaker: Any, chunk: Any, stage: Any, state: Any, acme: Any
) -> None:
    speaker.gate = asyncio.Event()
    speaker.answers = [[chunk(content="a"), chunk("stop")]]
    await client.responses.create(model="scripted", input="x", background=True)
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    await stage.until(lambda: speaker.running == 2)
    async for _ in stream:
        break
    await stage.gateway.close()
    assert states(state.database_url, acme) == ["failed", "failed"]
    assert {event.status for event in await stage.events(2)} == {"gateway_lost"}


async def test_with_the_control_plane_away_nothing_stored_begins_and_the_rest_works(
    platform: Any, speaker: Any
) -> None:
    stage = await platform(speaker)
    client = stage.client()
    await client.responses.create(model="scripted", input="x", store=False)
    # The stand-in knows keys and nothing else, as a control plane that is broken would.
    stage.control_plane.status = 503
    answer = await client.responses.create(model="scripted", input="x", store=False)
    assert answer.output_text == "Hi"
    asked = len(speaker.requests)
    for body in ({}, {"background": True}, {"stream": True}, {"store": False, "previous_response_id": "resp_1"}):
        bearer = {"authorization": "Bearer good"}
        refused = await stage.http.post(
            "/v1/responses", json={"model": "scripted", "input": "x", **body}, headers=bearer
        )
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "upstream_error")
        assert int(refused.headers["retry-after"]) >= 1
    assert len(speaker.requests) == asked
    for call in (client.conversations.create(), client.responses.retrieve("resp_1")):
        with pytest.raises(openai.InternalServerError):
            await call


class Door:
    """Before the control plane: closed, it answers nothing but 503."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.closed = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.closed or not scope["path"].startswith("/internal/organisations"):
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def test_an_end_that_cannot_be_recorded_is_answered_and_says_so(
    platform: Any, settings: Any, speaker: Any, state: Any, acme: Any, serving: Any
) -> None:
    door = Door(state.app)
    speaker.gate = asyncio.Event()
    async with serving(door) as url:
        patience = ResponsesConfig(finish_seconds_max=0.3, lease_seconds=0.2, beat_seconds=10)
        stage = await platform(speaker, **{**settings, "control_plane_url": url, "responses": patience})
        asking = asyncio.create_task(stage.client(acme["key"]).responses.create(model="scripted", input="x"))
        await stage.until(lambda: speaker.running == 1)
        door.closed = True
        speaker.gate.set()
        answer = await asking
        assert (answer.status, answer.output_text, answer.to_dict()["store"]) == ("completed", "Hi", False)


async def test_an_end_is_recorded_once_the_control_plane_is_back(
    platform: Any, settings: Any, speaker: Any, state: Any, acme: Any, serving: Any
) -> None:
    door = Door(state.app)
    speaker.gate = asyncio.Event()
    async with serving(door) as url:
        stage = await platform(speaker, **{**settings, "control_plane_url": url})
        client = stage.client(acme["key"])
        asking = asyncio.create_task(client.responses.create(model="scripted", input="x"))
        await stage.until(lambda: speaker.running == 1)
        door.closed = True
        speaker.gate.set()
        await stage.until(lambda: speaker.running == 0)
        assert not asking.done()
        door.closed = False
        answer = await asking
        assert answer.to_dict()["store"] is True
        assert (await client.responses.retrieve(answer.id)).status == "completed"


async def test_a_body_above_the_limit_is_refused(platform: Any, speaker: Any) -> None:
    stage = await platform(speaker, body_bytes_max=1_000)
    answer: httpx.Response = await stage.http.post(
        "/v1/responses",
        json={"model": "scripted", "input": "x" * 2_000},
        headers={"authorization": "Bearer good"},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_gateway_that_stops_does_not_wait_long_for_a_control_plane_that_is_away(
    platform: Any, settings: Any, speaker: Any, chunk: Any, state: Any, acme: Any, serving: Any
) -> None:
    door = Door(state.app)
    speaker.gate = asyncio.Event()
    speaker.answers = [[chunk(content="a"), chunk("stop")]]
    async with serving(door) as url:
        patience = ResponsesConfig(finish_seconds_max=600, lease_seconds=600)
        stage = await platform(speaker, **{**settings, "control_plane_url": url, "responses": patience})
        client = stage.client(acme["key"])
        await client.responses.create(model="scripted", input="x", background=True)
        stream = await client.responses.create(model="scripted", input="x", stream=True)
        await stage.until(lambda: speaker.running == 2)
        async for _ in stream:
            break
        door.closed = True
        async with asyncio.timeout(10):
            await stage.gateway.close()
        await stream.close()
    assert states(state.database_url, acme) == ["in_progress", "in_progress"]
    assert {event.status for event in await stage.events(2)} == {"gateway_lost"}
