"""Errors and headers under Anthropic's names, one by one."""

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from models.errors import (
    Conflict,
    ContextTooLong,
    InvalidRequest,
    LimitReached,
    PermissionDenied,
    PlatformError,
    QuotaExhausted,
    UpstreamTimeout,
)
from serve.messages.errors import send_error
from serve.messages.headers import translated

ID = (b"x-request-id", b"req_1")


async def sent(error: PlatformError, *headers: tuple[bytes, bytes]) -> tuple[int, dict[bytes, bytes], dict[str, Any]]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await send_error(send, error, [ID, *headers])
    start, body = messages
    return start["status"], dict(start["headers"]), orjson.loads(body["body"])


@pytest.mark.parametrize(
    ("error", "status", "kind", "message"),
    [
        (PermissionDenied("No."), 403, "permission_error", "No."),
        (Conflict("No."), 409, "invalid_request_error", "No."),
        (PlatformError("No."), 500, "api_error", "No."),
        (UpstreamTimeout("No."), 504, "timeout_error", "No."),
        (InvalidRequest("Bad 'stop'.", param="stop"), 400, "invalid_request_error", "Bad 'stop_sequences'."),
        (InvalidRequest("Bad value.", param="user"), 400, "invalid_request_error", "metadata.user_id: Bad value."),
        (InvalidRequest("Bad value.", param=None), 400, "invalid_request_error", "Bad value."),
        (ContextTooLong("Too long.", param="messages"), 400, "invalid_request_error", "Too long."),
    ],
)
async def test_an_error_s_words(error: PlatformError, status: int, kind: str, message: str) -> None:
    answered, headers, body = await sent(error)
    assert answered == status
    assert body == {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    assert (headers[b"request-id"], headers[b"x-request-id"]) == (b"req_1", b"req_1")


async def test_a_spent_budget_is_not_to_be_tried_again_and_a_limit_is() -> None:
    status, headers, body = await sent(QuotaExhausted("The budget is spent."))
    assert (status, headers[b"x-should-retry"], body["error"]["type"]) == (429, b"false", "rate_limit_error")
    status, headers, _ = await sent(LimitReached("Slow down.", retry_after_seconds=1.5))
    assert (status, headers[b"retry-after"], headers[b"retry-after-ms"]) == (429, b"2", b"1500")
    assert b"x-should-retry" not in headers


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [(b"12ms", 0), (b"1s", 1), (b"1.5s", 1), (b"6m0s", 360), (b"1h2m3s", 3_723), (b"nonsense", 0)],
)
def test_a_reset_is_a_moment(reset: bytes, seconds: int) -> None:
    before = datetime.now(UTC)
    ((name, value),) = translated([(b"x-ratelimit-reset-tokens", reset)])
    assert name == b"anthropic-ratelimit-tokens-reset"
    assert -1 <= (datetime.fromisoformat(value.decode()) - before).total_seconds() - seconds <= 2
