"""What an upstream refuses, as the caller hears it."""

import json
import re
from typing import Any

import pytest

from models.errors import (
    BodyTooLarge,
    ContextTooLong,
    InvalidRequest,
    ModelNotFound,
    NotFound,
    PlatformError,
    RateLimited,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from serve.refusals import refusal


def refused(status: int, error: Any, retry_after: str | None = None, **how: bool) -> PlatformError:
    return refusal(status, json.dumps({"error": error}).encode(), retry_after, "m", **{"internal": True, **how})


NO_DETAIL = "The model's server refused the request as invalid."
CONTEXT = (
    "This model's maximum context length is 8192 tokens. However, your prompt contains 9000 input tokens, which "
    "exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
)


@pytest.mark.parametrize(
    "message",
    [
        CONTEXT,
        f"VLLMValidationError: {CONTEXT} (parameter=input_tokens, value=9000)",
        "Input length (9000) exceeds model's maximum context length (8192).",
    ],
)
def test_a_context_too_long_keeps_its_counts(message: str) -> None:
    error = refused(400, {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400})
    assert isinstance(error, ContextTooLong)
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert {"8192", "9000"} <= set(re.findall(r"\d+", error.message))
    assert "VLLM" not in error.message
    assert "parameter=" not in error.message


def test_a_hosted_provider_s_context_code_is_enough() -> None:
    error = refused(400, {"message": "Too long.", "code": "context_length_exceeded"}, internal=False)
    assert isinstance(error, ContextTooLong)
    assert error.message == "Too long."


@pytest.mark.parametrize(
    ("message", "param", "expected", "named"),
    [
        ("top_k must be at least 1, got -5.", "top_k", "top_k must be at least 1, got -5.", "top_k"),
        ("first line\nTraceback of the second", None, NO_DETAIL, None),
        (
            "1 validation error for ChatCompletionRequest",
            None,
            NO_DETAIL,
            None,
        ),
        ("[{'type': 'x', 'loc': ('body', 'top_k'), 'msg': 'y'}]", None, "Invalid value for 'top_k'.", "top_k"),
        ("see /usr/lib/python3/site.py", "seed", "Invalid value for 'seed'.", "seed"),
        ("got SamplingParams of n", None, NO_DETAIL, None),
        ("", "bad param!", NO_DETAIL, None),
        (None, None, NO_DETAIL, None),
    ],
)
def test_a_refused_parameter_keeps_its_name_and_loses_our_inside(
    message: str | None, param: str | None, expected: str, named: str | None
) -> None:
    error = refused(400, {"message": message, "type": "BadRequestError", "param": param, "code": 400})
    assert isinstance(error, InvalidRequest)
    assert (error.message, error.param, error.code) == (expected, named, None)


@pytest.mark.parametrize(
    ("status", "internal", "kind"),
    [
        (413, True, BodyTooLarge),
        (422, True, InvalidRequest),
        (401, False, UpstreamError),
        (403, False, UpstreamError),
        (404, False, ModelNotFound),
        (404, True, Unavailable),
        (408, True, UpstreamTimeout),
        (429, True, Unavailable),
        (429, False, RateLimited),
        (500, True, UpstreamError),
        (503, False, Unavailable),
        (504, False, UpstreamTimeout),
        (302, False, UpstreamError),
    ],
)
def test_each_status_has_its_error(status: int, internal: bool, kind: type[PlatformError]) -> None:
    error = refused(status, {"message": "sk-hosted is invalid", "code": status}, internal=internal)
    assert type(error) is kind
    if kind is not InvalidRequest:
        assert "sk-hosted" not in error.message


@pytest.mark.parametrize(
    ("given", "seconds"), [("7", 7.0), (None, 1.0), ("-1", 1.0), ("Wed, 21 Oct", 1.0), ("nan", 1.0), ("99999", 1.0)]
)
def test_a_sane_retry_after_is_passed_on(given: str | None, seconds: float) -> None:
    assert refused(429, {}, given, internal=False).retry_after_seconds == seconds
    assert refused(503, {}, given).retry_after_seconds == seconds


def test_the_platform_s_own_empty_account_is_not_the_caller_s() -> None:
    error = refused(429, {"message": "no money", "code": "insufficient_quota"}, internal=False)
    assert type(error) is Unavailable


def test_our_own_runtime_s_errors_are_passed_as_they_are() -> None:
    error = refused(404, {"message": "No such agent.", "param": "model", "code": "not_found"}, own=True)
    assert (type(error), error.message, error.param, error.code) == (NotFound, "No such agent.", "model", "not_found")
    too_long = refused(400, {"message": "8 of 9", "code": "context_length_exceeded"}, own=True)
    assert type(too_long) is ContextTooLong
    limited = refused(429, {"message": "Slow down."}, "3", own=True)
    assert (type(limited), limited.retry_after_seconds) == (RateLimited, 3.0)
    assert type(refused(401, {"message": "who?"}, own=True)) is UpstreamError


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "text"}', b'{"detail": "Not Found"}', b""])
def test_a_body_that_is_no_error_object_is_still_an_error(body: bytes) -> None:
    assert type(refusal(400, body, None, "m", internal=True)) is InvalidRequest
    assert type(refusal(500, body, None, "m", internal=True)) is UpstreamError
