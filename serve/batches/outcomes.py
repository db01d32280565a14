"""How a line's end is written: one line of the output file, or of the error file."""

import orjson

from models.batches import Outcome, StopReason
from serve.batches.lines import Line

# Of one line's answer; the control plane takes requests of 16 MiB, in which JSON may be twice as long.
ANSWER_BYTES_MAX = 6 * 1024 * 1024
NOT_SENT = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed, for the batch was cancelled."),
    "revoked": ("invalid_api_key", "This request was not executed, for the batch's API key may no longer be used."),
    "failed": ("batch_failed", "This request was not executed."),
}
LOST = (
    "answer_lost",
    "This request may have been executed, but its answer was lost; it was not sent again.",
)
TOO_LARGE = ("answer_too_large", f"The answer is larger than {ANSWER_BYTES_MAX} bytes.")
NO_JSON = ("server_error", "The answer was not valid JSON.")


def answered(batch_id: str, line: Line, status: int, request_id: str, answer: bytes) -> Outcome:
    """The line was answered, well or not."""
    if len(answer) > ANSWER_BYTES_MAX:
        return failed(batch_id, line, *TOO_LARGE)
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return failed(batch_id, line, *NO_JSON)
    response = {"status_code": status, "request_id": request_id, "body": body}
    return outcome(batch_id, line, response, None, ok=200 <= status < 300)


def failed(batch_id: str, line: Line, code: str, message: str) -> Outcome:
    """The line has no answer."""
    return outcome(batch_id, line, None, {"code": code, "message": message}, ok=False)


def not_sent(batch_id: str, line: Line, stop: StopReason) -> Outcome:
    """The batch ended before the line was sent."""
    return failed(batch_id, line, *NOT_SENT[stop])


def outcome(batch_id: str, line: Line, response: object, error: object, *, ok: bool) -> Outcome:
    """OpenAI's line."""
    name = f"batch_req_{batch_id.removeprefix('batch_')}_{line.number}"
    text = orjson.dumps({"id": name, "custom_id": line.custom_id, "response": response, "error": error})
    return Outcome(line=line.number, ok=ok, text=text.decode())
