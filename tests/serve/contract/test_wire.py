"""Promises of the OpenAI wire that no feature's own test proves: errors and headers, on every path."""

import asyncio
import base64
import re
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from models.doubles.scripted_engine import Script
from models.errors import PermissionDenied
from serve.asgi import Message
from serve.config import ModelRoute, Upstream

Platform = Callable[..., Awaitable[Any]]
KEY = {"authorization": "Bearer good"}
DURATION = re.compile(r"(?=.)(?:\d+h)?(?:\d+m)?(?:\d+s)?(?:\d+ms)?")
CALLS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"model": "scripted", "prompt": "hi"},
    "/v1/embeddings": {"model": "embedder", "input": "hi"},
}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error object, once its shape is checked."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    error = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert isinstance(error["message"], str)
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    return error


@pytest.mark.contract("errors.object")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_an_address_that_is_none_answers_the_error_object(platform: Platform, method: str) -> None:
    stage = await platform()
    for path in ("/", "/nothing", "/v1", "/v1/chat", "/v1/engines", "/v1/models/a/b", "/%00", "/v1//"):
        answer = await stage.http.request(method, path, headers=KEY)
        assert answer.status_code in {404, 405}, path
        assert error_of(answer)["type"] == "invalid_request_error", path


@pytest.mark.contract("errors.object")
async def test_a_method_that_an_address_does_not_take_answers_the_error_object(platform: Platform) -> None:
    stage = await platform()
    for path in (*CALLS, "/v1/models"):
        answer = await stage.http.request("PATCH", path, headers=KEY)
        assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed"), path


@pytest.mark.contract("errors.unauthenticated")
async def test_a_wrong_key_is_a_401_of_one_kind(platform: Platform) -> None:
    stage = await platform()
    for path in (*CALLS, "/v1/models"):
        method = "GET" if path == "/v1/models" else "POST"
        answer = await stage.http.request(method, path, json=CALLS.get(path), headers={"authorization": "Bearer none"})
        error = error_of(answer)
        assert (answer.status_code, error["type"], error["code"]) == (401, "invalid_request_error", "invalid_api_key")


@pytest.mark.contract("errors.permission")
async def test_what_a_key_may_not_do_is_a_403(platform: Platform) -> None:
    stage = await platform()
    body = PermissionDenied("The agent may not read this knowledge base.").body()
    stage.agents.script = Script(status=403, error=str(body).replace("'", '"').replace("None", "null").encode())
    answer = await stage.chat(model="agent/handbook")
    error = error_of(answer)
    assert (answer.status_code, error["type"], error["code"]) == (403, "permission_error", "permission_denied")


@pytest.mark.contract("errors.no-422")
@pytest.mark.parametrize("model", ["scripted", "hosted/model"])
async def test_an_upstream_s_422_is_a_400(platform: Platform, model: str) -> None:
    stage = await platform()
    stage.engine.script = Script(status=422, error=b'{"detail":[{"loc":["body","n"],"msg":"no"}]}')
    answer = await stage.chat(model=model)
    assert (answer.status_code, error_of(answer)["type"]) == (400, "invalid_request_error")


@pytest.mark.contract("errors.upstream")
@pytest.mark.parametrize(
    ("script", "timeouts", "status", "code"),
    [
        (Script(status=500), {}, 502, "upstream_error"),
        (Script(status=503), {}, 503, "unavailable"),
        (Script(status=200, delay=60.0), {"first_byte_seconds": 0.05}, 504, "upstream_timeout"),
    ],
)
async def test_an_upstream_s_failure_has_its_status_and_one_type(
    platform: Platform, script: Script, timeouts: dict[str, float], status: int, code: str
) -> None:
    stage = await platform(timeouts=timeouts)
    stage.engine.script = script
    answer = await stage.chat()
    error = error_of(answer)
    assert (answer.status_code, error["type"], error["code"]) == (status, "upstream_error", code)


@pytest.mark.contract("errors.not-to-a-client-that-left")
async def test_a_client_that_left_is_sent_nothing(platform: Platform) -> None:
    stage = await platform()
    stage.engine.gate = asyncio.Event()
    sent: list[Message] = []
    body = b'{"model":"scripted","messages":[{"role":"user","content":"hi"}]}'
    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": body, "more_body": False})

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"authorization", b"Bearer good"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "root_path": ""}
    call = asyncio.ensure_future(stage.gateway(scope, messages.get, send))
    await stage.until(lambda: stage.engine.running)
    messages.put_nowait({"type": "http.disconnect"})
    await call
    assert sent == []
    (event,) = await stage.events()
    assert (event.status, event.http_status) == ("client_gone", 499)


@pytest.mark.contract("headers.openai")
async def test_answers_bear_openai_s_headers(platform: Platform) -> None:
    stage = await platform()
    chat, completion, embedding = CALLS.items()
    streamed = [(path, {**body, "stream": True}) for path, body in (chat, completion)]
    for path, body in (chat, completion, embedding, *streamed):
        answer = await stage.http.post(path, json=body, headers=KEY)
        assert answer.status_code == 200
        assert answer.headers["x-request-id"].startswith("req_")
        assert int(answer.headers["openai-processing-ms"]) >= 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", answer.headers["openai-version"])
        assert answer.headers["openai-organization"] == "org_a"


@pytest.mark.contract("headers.openai")
async def test_models_bear_openai_s_headers(platform: Platform) -> None:
    stage = await platform()
    for path in ("/v1/models", "/v1/models/hosted/model"):
        answer = await stage.http.get(path, headers={**KEY, "x-request-id": "mine"})
        assert answer.headers["x-request-id"] == "mine"
        assert int(answer.headers["openai-processing-ms"]) >= 0
        assert answer.headers["openai-version"] == "2020-10-01"
        assert answer.headers["openai-organization"] == "org_a"


@pytest.mark.contract("headers.ratelimit")
async def test_answers_bear_both_limits_with_what_remains_and_when_it_is_whole_again(platform: Platform) -> None:
    stage = await platform()
    stage.admit("limited", key_limits={"requests_per_minute": 600, "tokens_per_minute": 1_000_000})
    answer = await stage.chat("limited", max_tokens=5)
    for what, limit in (("requests", 600), ("tokens", 1_000_000)):
        assert int(answer.headers[f"x-ratelimit-limit-{what}"]) == limit
        assert 0 < int(answer.headers[f"x-ratelimit-remaining-{what}"]) < limit
        assert DURATION.fullmatch(answer.headers[f"x-ratelimit-reset-{what}"])


@pytest.mark.contract("headers.retry-after")
async def test_a_refusal_by_a_limit_says_when_to_come_back_in_seconds_and_milliseconds(platform: Platform) -> None:
    stage = await platform()
    stage.admit("slow", key_limits={"requests_per_minute": 1})
    assert (await stage.chat("slow")).status_code == 200
    refused = await stage.chat("slow")
    seconds, milliseconds = (int(refused.headers[name]) for name in ("retry-after", "retry-after-ms"))
    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
    assert 0 < milliseconds <= seconds * 1_000
    assert DURATION.fullmatch(refused.headers["x-ratelimit-reset-requests"])


@pytest.mark.contract("lists.object")
async def test_the_list_of_models_is_openai_s_list_object(platform: Platform) -> None:
    stage = await platform()
    listed = (await stage.http.get("/v1/models", headers=KEY)).json()
    ids = [model["id"] for model in listed["data"]]
    assert listed == {
        "object": "list",
        "data": listed["data"],
        "first_id": ids[0],
        "last_id": ids[-1],
        "has_more": False,
    }


@pytest.mark.contract("vector-stores.later")
async def test_vector_stores_are_not_pretended(platform: Platform) -> None:
    stage = await platform()
    for call in (
        "POST ",
        "GET ",
        "GET /vs_1",
        "POST /vs_1",
        "DELETE /vs_1",
        "POST /vs_1/search",
        "POST /vs_1/files",
        "GET /vs_1/files/file-1",
        "POST /vs_1/file_batches",
        "GET /vs_1/file_batches/vsfb_1",
    ):
        method, path = call.split(" ")
        answer = await stage.http.request(method, f"/v1/vector_stores{path}", headers=KEY)
        error = error_of(answer)
        assert (answer.status_code, error["type"], error["code"]) == (404, "invalid_request_error", "not_found"), call


@pytest.mark.contract("embeddings.encoding")
async def test_base64_embeddings_are_little_endian_floats(platform: Platform) -> None:
    stage = await platform()
    ask = {"model": "embedder", "input": ["one", "two words"]}
    floats, packed = [
        (await stage.http.post("/v1/embeddings", json={**ask, "encoding_format": form}, headers=KEY)).json()["data"]
        for form in ("float", "base64")
    ]
    for plain, coded in zip(floats, packed, strict=True):
        raw = base64.b64decode(coded["embedding"], validate=True)
        assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == plain["embedding"]


@pytest.mark.contract("models.slashes")
async def test_a_model_s_id_may_hold_slashes_escaped_or_not(platform: Platform, catalogue_entry: Any) -> None:
    upstream = Upstream(name="engine", base_url="http://127.0.0.1:9", internal=True)
    stage = await platform(routes=(ModelRoute(entry=catalogue_entry("a/b/c"), upstream=upstream),))
    for path in ("a/b/c", "a%2Fb%2Fc"):
        assert (await stage.http.get(f"/v1/models/{path}", headers=KEY)).json()["id"] == "a/b/c"
