"""The load client believes nothing: what it counts was right, whole and in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn

from benchmarks.answers import Expectation, LoadResult, LoadSpec, address
from benchmarks.bare import PassThrough
from benchmarks.load import measure, run
from benchmarks.processes import BenchmarkError, scripted_upstream
from benchmarks.upstream import MARKER, STREAM_CHUNKS, STREAMS, WHOLE, ScriptedServer

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CHUNK = b'data: {"choices":[{"delta":{"content":"tick "}}]}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS_A_STREAM = STREAM_CHUNKS + 2


def spec(
    port: int,
    *,
    stream: bool = False,
    body: str = '{"stream": false}',
    clients: int = 1,
    requests_max: int = 3,
    answer_seconds_max: float = 10.0,
    expect: Expectation | None = None,
) -> LoadSpec:
    return LoadSpec(
        host="127.0.0.1",
        port=port,
        path="/v1/chat/completions",
        bodies=('{"stream": true}' if stream else body,),
        expect=expect or Expectation(stream=stream, marker=MARKER, marker_count=STREAM_CHUNKS if stream else 1),
        clients=clients,
        requests_max=requests_max,
        seconds_max=30.0,
        answer_seconds_max=answer_seconds_max,
    )


@asynccontextmanager
async def scripted() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(ScriptedServer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def answering(*writes: bytes, hang_up: bool = False, ready: bool = True) -> AsyncIterator[int]:
    """A server that answers each request with ``writes``, and then keeps the connection, or not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                if ready:
                    writer.write(b"".join(writes))
                    await writer.drain()
                if hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


async def test_counts_exactly_the_requests_it_was_given_after_the_warm_up() -> None:
    async with scripted() as port:
        result = await run(spec(port, clients=4, requests_max=50))
    assert result.requests == 50
    assert result.per_second == pytest.approx(50 / result.seconds)
    assert 0 < result.p50_ms <= result.p99_ms
    assert result.ttft_p50_ms == result.p50_ms


async def test_a_stream_is_counted_by_events_and_timed_to_its_first_token() -> None:
    async with scripted() as port:
        result = await run(spec(port, stream=True, clients=3, requests_max=9))
    assert result.requests == 9
    assert result.events_per_answer == EVENTS_A_STREAM
    assert 0 < result.ttft_p50_ms < result.p50_ms


async def test_the_time_bound_ends_a_load_that_has_requests_left() -> None:
    async with scripted() as port:
        result = await run(spec(port, clients=2, requests_max=10**9).model_copy(update={"seconds_max": 0.2}))
    assert 0.2 <= result.seconds < 5
    assert 0 < result.requests < 10**9


async def test_tokens_are_those_of_the_reported_usage() -> None:
    asked = '{"stream": true, "stream_options": {"include_usage": true}}'
    expect = Expectation(stream=True, completion_tokens=STREAM_CHUNKS)
    async with scripted() as port:
        result = await run(spec(port, body=asked, expect=expect))
    assert result.tokens_per_second == pytest.approx(3 * STREAM_CHUNKS / result.seconds)
    assert result.events_per_answer == EVENTS_A_STREAM + 1


async def test_a_usage_that_is_not_the_expected_one_fails() -> None:
    asked = '{"stream": true, "stream_options": {"include_usage": true}}'
    async with scripted() as port:
        with pytest.raises(BenchmarkError, match="64 completion tokens instead of 65"):
            await run(spec(port, body=asked, expect=Expectation(stream=True, completion_tokens=65)))


@pytest.mark.parametrize(
    ("writes", "expect", "reason"),
    [
        ([whole(b'{"error": {}}', b"429 Too Many Requests")], Expectation(stream=False), "status 429"),
        ([whole(b'{"choices": []}')], Expectation(stream=False, marker=MARKER), "0 chunks of content instead of 1"),
        ([whole(CHUNK * 2)], Expectation(stream=True, marker=MARKER, marker_count=2), r"does not end with \[DONE\]"),
        ([whole(CHUNK + DONE)], Expectation(stream=True, marker=MARKER, marker_count=2), "1 chunks of content"),
        ([whole(CHUNK * 3 + DONE)], Expectation(stream=True, marker=MARKER, marker_count=2), "3 chunks of content"),
        ([whole(b'data: {"error":{}}\n\n' + DONE)], Expectation(stream=True), "an error in the stream"),
        ([b"SSH-2.0-OpenSSH_9.9\r\n"], Expectation(stream=False), "not HTTP"),
    ],
)
async def test_a_wrong_answer_ends_the_load_and_says_what_was_wrong(
    writes: list[bytes], expect: Expectation, reason: str
) -> None:
    async with answering(*writes) as port:
        with pytest.raises(BenchmarkError, match=reason):
            await run(spec(port, clients=2, expect=expect))


async def test_an_answer_that_breaks_off_fails() -> None:
    async with answering(STREAMS[False][0], STREAMS[False][1], hang_up=True) as port:
        with pytest.raises(BenchmarkError, match="closed a connection"):
            await run(spec(port, stream=True))


async def test_a_server_that_hangs_up_between_answers_fails() -> None:
    async with answering(WHOLE, hang_up=True) as port:
        with pytest.raises(BenchmarkError, match="closed a connection"):
            await run(spec(port))


async def test_an_answer_that_does_not_come_fails_in_time() -> None:
    async with answering(ready=False) as port:
        with pytest.raises(BenchmarkError, match=r"took more than 0\.2 s"):
            await run(spec(port, answer_seconds_max=0.2))


async def test_a_port_without_a_server_fails() -> None:
    async with scripted() as port:
        pass
    with pytest.raises(BenchmarkError, match="cannot connect"):
        await run(spec(port))


async def test_the_upstream_answers_requests_that_come_in_pieces_and_in_a_row() -> None:
    async with scripted() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 16\r\n\r\n" + b'{"stream": true}'
        for part in (request[:7], request[7:40], request[40:] + request):
            writer.write(part)
            await writer.drain()
        expected = b"".join(STREAMS[False])
        assert await asyncio.wait_for(reader.readexactly(2 * len(expected)), 10) == 2 * expected
        writer.close()
        await writer.wait_closed()


def test_the_load_runs_in_a_process_of_its_own() -> None:
    with scripted_upstream() as url:
        port = address(url)[1]
        result = measure(spec(port, stream=True, clients=2, requests_max=10))
        assert isinstance(result, LoadResult)
        assert result.requests == 10
        with pytest.raises(BenchmarkError, match="64 chunks of content instead of 63"):
            measure(spec(port, stream=True, expect=Expectation(stream=True, marker=MARKER, marker_count=63)))


async def test_the_bare_pass_through_passes_answers_and_streams() -> None:
    async with scripted() as port:
        app = PassThrough(f"http://127.0.0.1:{port}")
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_level="error"))
        task = asyncio.create_task(server.serve())
        async with asyncio.timeout(30):
            while not server.started:
                await asyncio.wait({task}, timeout=0.01)
        bare = server.servers[0].sockets[0].getsockname()[1]
        assert (await run(spec(bare, clients=4, requests_max=20))).requests == 20
        streams = await run(spec(bare, stream=True, clients=4, requests_max=20))
        assert streams.events_per_answer == EVENTS_A_STREAM
        server.should_exit = True
        await task
        await app.close()
