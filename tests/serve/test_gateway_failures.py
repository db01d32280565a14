"""What goes wrong around a call: clients that leave, upstreams that die, Redis that is away. Each call: one event."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from models.channels import OPEN_CALLS, REPLICA_PREFIX, USAGE_STREAM
from models.doubles.scripted_engine import Script, ScriptedEngine
from models.usage import UsageEvent
from serve.asgi import Message
from serve.config import Upstream

Platform = Callable[..., Awaitable[Any]]
HI: Any = [{"role": "user", "content": "hi there"}]


async def test_a_client_that_hangs_up_stops_the_engine_and_pays_for_what_it_got(platform: Platform) -> None:
    stage = await platform()
    stage.engine.gate = asyncio.Event()
    stage.engine.script = Script(chunks=1_000)
    stream = await stage.client().chat.completions.create(model="scripted", messages=HI, stream=True)
    async for _ in stream:
        break
    assert stage.engine.running == 1
    await stream.close()
    await stage.until(lambda: stage.engine.aborted == 1, seconds=1.0)
    (event,) = await stage.events()
    assert (event.status, event.http_status, event.source) == ("client_gone", 499, "provider")
    assert event.usage.completion == 1


async def test_a_client_of_a_whole_answer_that_hangs_up_stops_the_engine(platform: Platform) -> None:
    stage = await platform()
    stage.engine.gate = asyncio.Event()
    call = asyncio.ensure_future(stage.chat())
    await stage.until(lambda: stage.engine.running)
    call.cancel()
    await stage.until(lambda: stage.engine.aborted == 1, seconds=1.0)
    (event,) = await stage.events()
    assert (event.status, event.source, event.usage.completion) == ("client_gone", "estimated", 0)
    assert event.usage.prompt > 0


@pytest.mark.parametrize("script", [Script(fail_after=2), Script(error_after=2)])
async def test_an_upstream_lost_in_a_stream_ends_it_with_an_error_frame(platform: Platform, script: Script) -> None:
    stage = await platform()
    stage.engine.script = script
    answer = await stage.chat(stream=True)
    frames = answer.text.strip().split("\n\n")
    assert len(frames) == 3
    assert '"error"' in frames[-1]
    assert "BadRequestError" not in answer.text
    assert "[DONE]" not in answer.text
    stream = await stage.client().chat.completions.create(model="scripted", messages=HI, stream=True)
    with pytest.raises(openai.APIError, match="failed to answer"):
        [chunk async for chunk in stream]
    events = await stage.events(2)
    assert {(e.status, e.usage.completion, e.source) for e in events} == {("upstream_lost", 2, "provider")}


@pytest.mark.parametrize("script", [Script(fail_after=0), Script(error_after=0)])
async def test_an_upstream_lost_before_its_first_frame_is_an_error_with_its_status(
    platform: Platform, script: Script
) -> None:
    stage = await platform()
    stage.engine.script = script
    answer = await stage.chat(stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    (event,) = await stage.events()
    assert (event.status, event.http_status, event.usage.total, event.cost_micro) == ("error", 502, 0, 0)


async def test_a_stream_without_any_usage_is_counted_by_its_chunks(platform: Platform) -> None:
    stage = await platform()
    stage.engine.script = Script(usage=False)
    await stage.chat(stream=True, model="hosted/model")
    await stage.chat(model="hosted/model")
    streamed, whole = await stage.events(2)
    assert (streamed.source, streamed.usage.completion, streamed.status) == ("counted", 4, "ok")
    assert (whole.source, whole.usage.completion, whole.status) == ("estimated", 0, "ok")
    assert streamed.usage.prompt > 10


async def test_several_choices_of_a_stream_cut_off_are_added_up(platform: Platform) -> None:
    stage = await platform()
    stage.engine.script = Script(fail_after=2)
    await stage.chat(stream=True, n=2)
    (event,) = await stage.events()
    assert (event.source, event.usage.completion) == ("provider", 2)


async def test_an_upstream_that_is_not_there_is_unavailable_and_costs_nothing(platform: Platform) -> None:
    away = Upstream(name="agents", base_url="http://127.0.0.1:9", internal=True)
    stage = await platform(agents=away)
    answer = await stage.chat(model="agent/handbook")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    (event,) = await stage.events()
    assert (event.status, event.http_status, event.cost_micro) == ("error", 503, 0)


async def test_an_upstream_that_breaks_off_is_not_asked_twice(platform: Platform) -> None:
    asked: list[bytes] = []
    connected: set[asyncio.StreamWriter] = set()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.add(writer)
        with suppress(asyncio.IncompleteReadError):
            asked.append((await reader.readuntil(b"\r\n\r\n"))[:4])
        writer.close()
        await writer.wait_closed()
        connected.discard(writer)

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    stage = await platform(agents=Upstream(name="agents", base_url=f"http://127.0.0.1:{port}", internal=True))
    answer = await stage.chat(model="agent/handbook")
    await stage.gateway.close()
    await stage.until(lambda: not connected)
    server.close()
    assert (answer.status_code, asked.count(b"POST")) == (502, 1)


@pytest.mark.parametrize(
    ("status", "content_type", "body", "expected"),
    [
        (503, "text/html", b"<html><h1>503 Service Unavailable</h1>", (503, "unavailable")),
        (503, "text/plain", b"", (503, "unavailable")),
        (404, "text/html", b"not found", (503, "unavailable")),
        (500, "application/json", b'{"error":{"message":"EngineDeadError","code":500}}', (502, "upstream_error")),
        (200, "text/html", b"<html>", (502, "upstream_error")),
        (504, "text/html", b"", (504, "upstream_timeout")),
    ],
)
async def test_a_proxy_s_page_is_an_error_object(
    platform: Platform, status: int, content_type: str, body: bytes, expected: tuple[int, str]
) -> None:
    async def proxy(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    stage = await platform(engine=proxy)
    for streamed in (False, True):
        answer = await stage.chat(stream=streamed)
        assert (answer.status_code, answer.json()["error"]["code"]) == expected
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"[1]", b'{"model": ', b""])
async def test_a_broken_whole_answer_is_an_error(platform: Platform, body: bytes) -> None:
    async def broken(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    stage = await platform(engine=broken)
    assert (await stage.chat()).status_code == 502


async def test_an_answer_cut_short_or_above_the_limit_is_an_error(platform: Platform) -> None:
    async def short(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"model"', "more_body": True})
        raise ConnectionResetError

    stage = await platform(engine=short)
    assert (await stage.chat()).status_code == 502
    limited = await platform(answer_bytes_max=50)
    assert (await limited.chat()).status_code == 502


TIMEOUTS = {"connect_seconds": 1, "first_byte_seconds": 0.1, "idle_seconds": 0.1, "total_seconds": 5}


async def test_an_upstream_that_is_silent_runs_out_of_time(platform: Platform) -> None:
    stage = await platform(timeouts=TIMEOUTS)
    stage.engine.gate = asyncio.Event()
    whole = await stage.chat()
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "upstream_timeout")
    streamed = await stage.chat(stream=True)
    assert streamed.status_code == 200
    assert '"code":"upstream_timeout"' in streamed.text
    assert "[DONE]" not in streamed.text
    await stage.until(lambda: stage.engine.aborted == 2)
    first, second = await stage.events(2)
    assert (first.status, first.http_status, first.usage.total) == ("error", 504, 0)
    assert (second.status, second.usage.completion) == ("upstream_lost", 1)


async def test_a_limit_refuses_with_the_time_to_wait_and_leaves_no_event(platform: Platform) -> None:
    stage = await platform()
    stage.admit("slow", project_limits={"requests_per_minute": 2})
    answers = [await stage.chat("slow") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    refused = answers[-1]
    assert (refused.json()["error"]["type"], refused.json()["error"]["code"]) == ("rate_limit_exceeded",) * 2
    assert 28 <= int(refused.headers["retry-after"]) <= 30
    assert int(refused.headers["retry-after-ms"]) <= 30_000
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] in {"1m0s", "60s", "59s"}
    with pytest.raises(openai.RateLimitError):
        await stage.client("slow").chat.completions.create(model="scripted", messages=HI)
    await stage.events(2)


async def test_concurrent_calls_are_limited_and_their_places_freed(platform: Platform) -> None:
    stage = await platform()
    stage.admit("one", organisation_limits={"concurrent_requests": 1}, agents=())
    stage.engine.gate = asyncio.Event()
    first = asyncio.ensure_future(stage.chat("one"))
    await stage.until(lambda: stage.engine.running)
    refused = await stage.chat("one")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    stage.engine.gate.set()
    assert (await first).status_code == 200
    await stage.events(1)
    assert (await stage.chat("one")).status_code == 200


async def test_a_revoked_key_is_refused_within_a_second(platform: Platform) -> None:
    stage = await platform()
    await stage.until(lambda: stage.gateway._authenticator.hearing)
    assert (await stage.chat()).status_code == 200
    assert (await stage.chat()).status_code == 200
    assert stage.control_plane.asked == ["good"]
    await stage.revoke("good")

    async def refused() -> bool:
        return (await stage.chat()).status_code == 401

    await stage.until(refused, seconds=1.0)


async def test_a_revoke_holds_within_seconds_without_redis_too(platform: Platform) -> None:
    stage = await platform(redis="unix:///nowhere.sock", keys={"unheard_seconds_max": 0.2})
    assert (await stage.chat()).status_code == 200
    stage.control_plane.principals.clear()

    async def refused() -> bool:
        return (await stage.chat()).status_code == 401

    await stage.until(refused, seconds=2.0)


async def test_calls_without_redis_pass_and_are_metered_once_when_it_is_back(
    platform: Platform, start_redis: Callable[[], Any]
) -> None:
    server = start_redis()
    stage = await platform(redis=server.url)
    assert (await stage.chat()).status_code == 200
    await stage.events(1)
    server.stop()
    answers = [await stage.chat(stream=streamed) for streamed in (False, True, False)]
    assert [answer.status_code for answer in answers] == [200] * 3
    ready = (await stage.http.get("/health/ready")).json()
    assert (ready["status"], ready["dependencies"]["redis"]) == ("degraded", "down")
    await stage.until(lambda: stage.gateway._meter.spool_bytes and not stage.gateway._meter.waiting)
    server.start()
    events = await stage.events(3)
    assert len({event.event_id for event in events}) == 3
    await stage.until(lambda: not stage.gateway._meter.spool_bytes)
    assert (await stage.chat()).status_code == 200
    await stage.events(4)


async def test_redis_lost_during_a_call_and_back_meters_it_once(
    platform: Platform, start_redis: Callable[[], Any]
) -> None:
    server = start_redis()
    stage = await platform(redis=server.url)
    stage.engine.gate = asyncio.Event()
    call = asyncio.ensure_future(stage.chat(stream=True))
    await stage.until(lambda: stage.engine.running)
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    stage.engine.gate.set()
    assert (await call).text.endswith("data: [DONE]\n\n")
    await stage.until(lambda: stage.gateway._meter.spool_bytes)
    server.start()
    (event,) = await stage.events(1)
    assert (event.status, event.usage.completion) == ("ok", 4)


async def test_a_redis_that_hangs_delays_a_call_by_its_timeout_and_the_next_not_at_all(
    platform: Platform, start_redis: Callable[[], Any]
) -> None:
    server = start_redis()
    stage = await platform(redis=server.url, redis_seconds_max=0.2, redis_rest_seconds=60.0)
    await stage.chat()
    await stage.events(1)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            assert [(await stage.chat()).status_code for _ in range(5)] == [200] * 5
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_replica_that_stops_settles_what_runs_and_gives_its_lease_back(platform: Platform) -> None:
    stage = await platform()
    stage.engine.gate = asyncio.Event()
    call = asyncio.ensure_future(stage.chat(stream=True))
    await stage.until(lambda: stage.engine.running)
    assert await stage.until(lambda: stage.redis.keys(REPLICA_PREFIX + "*"))
    assert UsageEvent.model_validate_json((await stage.redis.hvals(OPEN_CALLS))[0].partition(b"|")[2])
    await stage.gateway.close()
    (event,) = await stage.events(1)
    assert event.status == "gateway_lost"
    assert await stage.redis.keys(REPLICA_PREFIX + "*") == []
    with pytest.raises(httpx.RemoteProtocolError):
        await call


async def test_a_cancelled_handler_is_metered_once(platform: Platform) -> None:
    stage = await platform()
    stage.engine.gate = asyncio.Event()
    body = b'{"model":"scripted","messages":[{"role":"user","content":"hi"}],"stream":true}'
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Event().wait()  # type: ignore

    async def send(message: Message) -> None:
        pass

    headers = [(b"authorization", b"Bearer good")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    handler = asyncio.ensure_future(stage.gateway(scope, receive, send))
    await stage.until(lambda: stage.engine.running)
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    await stage.until(lambda: stage.engine.aborted == 1)
    (event,) = await stage.events(1)
    assert event.status == "client_gone"
    assert len(await stage.redis.xrange(USAGE_STREAM)) == 1


async def test_a_client_that_leaves_before_its_body_is_read_leaves_nothing(platform: Platform) -> None:
    stage = await platform()
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer good")]
    await stage.gateway({"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers}, receive, send)
    assert (sent, await stage.stored()) == ([], [])


async def test_what_was_not_foreseen_answers_500_without_a_word_of_it(platform: Platform) -> None:
    stage = await platform()
    stage.gateway._routes._chains["scripted"] = None
    answer = await stage.chat()
    assert answer.status_code == 404
    stage.gateway._routes._chains["scripted"] = "nonsense"
    answer = await stage.chat()
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "nonsense" not in answer.text
    assert "Attribute" not in answer.text


class Held:
    """An engine behind Serve's proxy: while it is away, what is sent to it is neither refused nor answered."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.back = asyncio.Event()
        self.held = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.back.is_set():
            self.held += 1
            await self.back.wait()
        await self.engine(scope, receive, send)


async def test_nobody_waits_for_an_engine_that_is_away(platform: Platform) -> None:
    held = Held(ScriptedEngine())
    stage = await platform(engine=held, timeouts={"doubt_seconds": 0.05, "probe_seconds": 0.05})
    answers = await asyncio.gather(*(stage.chat(stream=bool(number % 2)) for number in range(6)))
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(503, "unavailable")}
    assert {answer.headers["retry-after"] for answer in answers} == {"2"}
    events = await stage.events(6)
    assert {(event.status, event.http_status, event.cost_micro) for event in events} == {("error", 503, 0)}
    asked = held.held
    assert (await stage.chat()).status_code == 503
    held.back.set()

    async def served() -> bool:
        return (await stage.chat()).status_code == 200

    await stage.until(served)
    assert [path for path, _, _ in held.engine.requests].count("/v1/chat/completions") < asked
