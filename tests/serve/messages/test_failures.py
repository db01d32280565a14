"""Anthropic's errors: shape, status and type, on the wire and as the official client raises them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx
import orjson
import pytest

from models.doubles.scripted_engine import Script
from serve.asgi import Receive, Scope, Send, send_bytes

Platform = Callable[..., Awaitable[Any]]
Asking = Callable[..., anthropic.AsyncAnthropic]
HI: Any = [{"role": "user", "content": "hi there"}]
BODY: dict[str, Any] = {"model": "scripted", "max_tokens": 4, "messages": HI}
KEY = {"x-api-key": "good"}


async def post(stage: Any, body: Any = None, path: str = "/v1/messages", **headers: str) -> httpx.Response:
    given = {**KEY, **{name.replace("_", "-"): value for name, value in headers.items()}}
    content = body if isinstance(body, bytes) else orjson.dumps({**BODY, **(body or {})})
    return await stage.http.post(path, content=content, headers={"content-type": "application/json", **given})


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, type and message; the rest of the shape is checked here."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert body.keys() == {"type", "error", "request_id"}
    assert (body["type"], body["error"].keys()) == ("error", {"type", "message"})
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == body["request_id"]
    return answer.status_code, body["error"]["type"], body["error"]["message"]


async def test_refusals_before_the_call_cost_nothing(platform: Platform) -> None:
    stage = await platform(body_bytes_max=2_000)
    stage.admit("narrow", allowed_models=("hosted/model",))
    stage.admit("limited", key_limits={"requests_per_minute": 1})
    cases = [
        (await stage.http.post("/v1/messages", json=BODY), 401, "authentication_error", "API key"),
        (await post(stage, x_api_key="wrong"), 401, "authentication_error", "Incorrect API key"),
        (await post(stage, x_api_key="narrow"), 404, "not_found_error", "'scripted'"),
        (await post(stage, {"model": "none"}), 404, "not_found_error", "'none'"),
        (await post(stage, {"model": "embedder"}), 400, "invalid_request_error", "/v1/messages."),
        (await post(stage, {"max_tokens": None}), 400, "invalid_request_error", "'max_tokens'"),
        (await post(stage, {"max_tokens": 9_000}), 400, "invalid_request_error", "'max_tokens'"),
        (await post(stage, {"seed": 1}), 400, "invalid_request_error", "'seed'"),
        (await post(stage, {"model": "hosted/model", "top_k": 4}), 400, "invalid_request_error", "'top_k'"),
        (await post(stage, b"{"), 400, "invalid_request_error", "JSON"),
        (await post(stage, content_type="text/plain"), 415, "invalid_request_error", "application/json"),
        (await post(stage, {"system": "x" * 3_000}), 413, "request_too_large", "2000 bytes"),
        (await post(stage, path="/v1/messages/batches"), 404, "not_found_error", "nothing"),
        (await stage.http.get("/v1/messages", headers=KEY), 405, "invalid_request_error", "POST"),
    ]
    for answer, status, kind, words in cases:
        found = error_of(answer)
        assert found[:2] == (status, kind)
        assert words in found[2]
    assert (await stage.stored(), stage.engine.requests) == ([], [])
    assert (await post(stage, x_api_key="limited")).status_code == 200
    answer = await post(stage, x_api_key="limited")
    assert error_of(answer)[:2] == (429, "rate_limit_error")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"


@pytest.mark.parametrize(
    ("upstream", "status", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (429, 529, "overloaded_error"),
        (500, 502, "api_error"),
        (503, 529, "overloaded_error"),
        (504, 504, "timeout_error"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_upstream_s_failure(
    platform: Platform, asking: Asking, upstream: int, status: int, kind: str, *, streamed: bool
) -> None:
    stage = await platform()
    stage.engine.script = Script(status=upstream)
    with pytest.raises(anthropic.APIStatusError) as error:
        await asking(stage).messages.create(**BODY, stream=streamed)
    assert (error.value.status_code, error.value.body["error"]["type"]) == (status, kind)
    assert error.value.request_id == error.value.body["request_id"]
    (event,) = await stage.events()
    assert (event.status, event.cost_micro) == ("error", 0)


async def test_the_client_s_retry_finds_an_engine_that_came_back(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    stage.engine.script = Script(status=503)
    client = asking(stage, max_retries=2)
    task = asyncio.ensure_future(client.messages.create(**BODY))
    await stage.until(lambda: stage.engine.requests)
    stage.engine.script = Script()
    assert (await task).content[0].text == "w0 w1 w2 w3 "
    assert [event.status for event in await stage.events(2)] == ["error", "ok"]


@pytest.mark.parametrize("script", [Script(fail_after=2), Script(error_after=2)])
async def test_an_upstream_lost_mid_stream_is_an_error_event_and_is_billed(
    platform: Platform, asking: Asking, script: Script
) -> None:
    stage = await platform()
    stage.engine.script = script
    stream = await asking(stage).messages.create(**BODY, stream=True)
    events: list[Any] = []

    async def read() -> None:
        async for event in stream:
            events.append(event)  # noqa: PERF401 - a comprehension would lose them with the error

    with pytest.raises(anthropic.APIStatusError) as error:
        await read()
    texts = [event.delta.text for event in events if event.type == "content_block_delta"]
    assert texts == ["w0 ", "w1 "]
    assert error.value.body["error"] == {"type": "api_error", "message": "The model 'scripted' failed to answer."}
    (event,) = await stage.events()
    assert (event.status, event.usage.completion) == ("upstream_lost", 2)
    assert error.value.body["request_id"] == event.request_id


async def test_a_client_that_hangs_up_ends_the_engine_s_work(platform: Platform, asking: Asking) -> None:
    stage = await platform()
    stage.engine.gate = asyncio.Event()
    stream = await asking(stage).messages.create(**BODY, stream=True)
    for _ in range(3):
        await anext(stream)
    await stream.close()
    await stage.until(lambda: stage.engine.aborted == 1)
    (event,) = await stage.events()
    assert (event.status, event.usage.completion, event.http_status) == ("client_gone", 1, 499)


@pytest.mark.parametrize(
    "script",
    [Script(calls=(("weather", '"Paris"'),)), Script(calls=(("weather", "{"),), finish="tool_calls")],
)
async def test_a_call_whose_arguments_are_no_object_is_not_passed_off_as_one(
    platform: Platform, script: Script
) -> None:
    stage = await platform()
    stage.engine.script = script
    assert error_of(await post(stage))[:2] == (502, "api_error")
    (event,) = await stage.events()
    # The tokens were made all the same.
    assert (event.status, event.http_status, event.usage.completion) == ("error", 502, 4)


async def test_a_call_that_the_token_limit_cut_is_left_out(platform: Platform) -> None:
    stage = await platform()
    stage.engine.script = Script(chunks=1, calls=(("a", "{}"), ("b", '{"x":')), finish="length")
    answer = (await post(stage)).json()
    assert [block["type"] for block in answer["content"]] == ["text", "tool_use"]
    assert answer["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    "body", [b"{}", b'{"choices":[]}', b'{"choices":[{"message":3}]}', b'{"choices":[{}],"usage":3}']
)
async def test_an_answer_that_is_no_completion_is_an_api_error(platform: Platform, body: bytes) -> None:
    async def engine(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
        await send_bytes(send, 200, body, b"application/json")

    stage = await platform(engine)
    assert error_of(await post(stage))[:2] == (502, "api_error")


async def test_what_nobody_foresaw_is_anthropic_s_500_without_a_word_of_it(platform: Platform) -> None:
    stage = await platform()

    class Broken:
        async def caller(self, *_: Any) -> None:
            raise RuntimeError("secret inside")

    stage.gateway._families["/v1/messages"]._calls = Broken()
    status, kind, message = error_of(await post(stage))
    assert (status, kind) == (500, "api_error")
    assert "inside" not in message
