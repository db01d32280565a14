"""A provider's failures: our error tree, our words where its own are none of the caller's business."""

import asyncio
import logging
from typing import Any

import httpx
import httpx2
import pytest

from serve.hosted.failures import provider_error

SECRET_WORDS = "sk-ant-secret is not a key of organization acme"


@pytest.mark.parametrize(
    ("status", "kind", "text", "told", "code", "param"),
    [
        (401, "authentication_error", SECRET_WORDS, 502, "upstream_error", None),
        (402, "billing_error", SECRET_WORDS, 503, "unavailable", None),
        (403, "permission_error", SECRET_WORDS, 502, "upstream_error", None),
        (404, "not_found_error", SECRET_WORDS, 404, "model_not_found", "model"),
        (400, "invalid_request_error", "temperature: range: 0..1", 400, None, "temperature"),
        (400, "invalid_request_error", "messages.0.content: too odd", 400, None, "messages"),
        (400, "invalid_request_error", "stop_sequences.0: whitespace", 400, None, "stop"),
        (400, "invalid_request_error", "Your credit balance is too low", 503, "unavailable", None),
        (400, "invalid_request_error", "prompt is too long: 9 tokens > 8", 400, "context_length_exceeded", "messages"),
        (413, "request_too_large", SECRET_WORDS, 503, "unavailable", None),
        (413, "request_too_large", "Request exceeds the maximum size", 413, "body_too_large", None),
        (429, "rate_limit_error", SECRET_WORDS, 429, "rate_limit_exceeded", None),
        (500, "api_error", SECRET_WORDS, 502, "upstream_error", None),
        (503, "api_error", SECRET_WORDS, 503, "unavailable", None),
        (504, "timeout_error", SECRET_WORDS, 504, "upstream_timeout", None),
        (529, "overloaded_error", SECRET_WORDS, 503, "unavailable", None),
    ],
)
async def test_a_refusal_becomes_ours(
    adapter: Any, status: int, kind: str, text: str, told: int, code: str | None, param: str | None
) -> None:
    stage = await adapter()
    stage.provider.refusal, stage.provider.headers = (status, kind, text), {"retry-after": "7"}
    error = await stage.refused()
    assert (error.status_code, error.code, error.param) == (told, code, param)
    assert "secret" not in error.response.text
    assert "acme" not in error.response.text
    assert error.response.headers.get("retry-after") == ("7" if told in {429, 503} else None)
    assert len(stage.provider.requests) == 1


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("overloaded_error", 503, "unavailable"),
        ("rate_limit_error", 429, "rate_limit_exceeded"),
        ("api_error", 502, "upstream_error"),
        ("something_new", 502, "upstream_error"),
    ],
)
async def test_an_error_inside_a_stream_has_its_status_or_its_frame(
    adapter: Any, kind: str, status: int, code: str
) -> None:
    stage = await adapter()
    stage.provider.error_in_stream = kind
    frames = await stage.frames()
    assert frames[-1]["error"]["code"] == code
    assert "secret" not in frames[-1]["error"]["message"]
    stage.provider.blocks = []
    error = await stage.refused(stream=True)
    assert (error.status_code, error.code) == (status, code)


async def test_an_answer_that_was_cut_off_is_no_answer(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.cut = True
    assert (await stage.refused()).status_code == 502
    frames = await stage.frames()
    assert frames[-1]["error"]["code"] == "upstream_error"


async def test_a_provider_that_is_away_is_unavailable(adapter: Any) -> None:
    stage = await adapter(base_url="http://127.0.0.1:9")
    error = await stage.refused()
    assert (error.status_code, error.code) == (503, "unavailable")
    assert error.response.headers["retry-after"] == "1"


@pytest.mark.parametrize("limit", [{"seconds_max": 0.2}, {"idle_seconds_max": 0.2}])
async def test_a_provider_that_takes_too_long_is_given_up(adapter: Any, limit: Any) -> None:
    stage = await adapter(**limit)
    stage.provider.door.clear()
    assert (await stage.refused()).status_code == 504
    stage.provider.door.set()
    stage.provider.gate.clear()
    frames = await stage.frames()
    assert frames[-1]["error"]["code"] == "upstream_timeout"
    async with asyncio.timeout(10):
        await stage.provider.left.wait()


async def test_nothing_of_a_failure_but_its_kind_is_logged(adapter: Any, caplog: pytest.LogCaptureFixture) -> None:
    stage = await adapter()
    stage.provider.refusal = (401, "authentication_error", SECRET_WORDS)
    with caplog.at_level(logging.INFO):
        await stage.refused("A prompt")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("serve.")]
    assert ours == ["anthropic failed with AnthropicAuthenticationError: 502"]
    assert "secret" not in caplog.text
    assert "A prompt" not in caplog.text


@pytest.mark.parametrize(
    ("error", "started", "status"),
    [
        (ValueError("cannot"), False, 400),
        (ValueError("cannot"), True, 502),
        (KeyError("x"), False, 502),
        (ConnectionResetError(), True, 502),
        (httpx.ReadTimeout("slow"), True, 504),
        (httpx2.ReadTimeout("slow"), False, 504),
        (httpx2.RemoteProtocolError("cut"), True, 502),
    ],
)
def test_an_error_of_any_class_is_one_of_ours(error: Exception, started: bool, status: int) -> None:
    assert provider_error(error, started=started).status == status
