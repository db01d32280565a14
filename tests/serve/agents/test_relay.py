"""Errors of inner calls as errors of the agent's call."""

import httpx2
import openai
import pytest

from models.errors import ContextTooLong, PlatformError, RateLimited, Unavailable, UpstreamError, UpstreamTimeout
from serve.agents.relay import from_client, relayed

REQUEST = httpx2.Request("POST", "http://x")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (None, {"message": "m", "type": "rate_limit_exceeded", "code": "rate_limit_exceeded"}, RateLimited),
        (None, {"message": "m", "type": "server_error", "code": None}, PlatformError),
        (None, {"message": "m"}, UpstreamError),
        (400, {"error": {"message": "m", "code": "context_length_exceeded"}}, ContextTooLong),
        (503, {"error": {"message": "m", "code": "rate_limit_exceeded"}}, Unavailable),
        (429, {"error": {"message": 3}}, UpstreamError),
        (429, {"error": "text"}, UpstreamError),
        (429, None, UpstreamError),
        (301, {"error": {"message": "m"}}, UpstreamError),
    ],
)
def test_an_answer_stands_for_an_error(status, body, kind) -> None:
    assert type(relayed(status, body, {})) is kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "3", "retry-after-ms": "2500"}, 2.5),
        ({"retry-after": "x"}, None),
    ],
)
def test_when_to_try_again_is_passed_on(headers, seconds) -> None:
    assert relayed(429, {"error": {"message": "m"}}, headers).retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (openai.APITimeoutError(REQUEST), UpstreamTimeout),
        (httpx2.ReadTimeout("t", request=REQUEST), UpstreamTimeout),
        (openai.APIConnectionError(request=REQUEST), Unavailable),
        (httpx2.RemoteProtocolError("cut", request=REQUEST), UpstreamError),
        (openai.APIError("m", REQUEST, body={"message": "m", "type": "invalid_request_error"}), PlatformError),
    ],
)
def test_what_openai_s_client_raises_becomes_ours(error, kind) -> None:
    assert isinstance(from_client(error), kind)
