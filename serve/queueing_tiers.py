"""What a call asks of the queue before its upstream, and how its answer says which service tier it had.

``service_tier`` is OpenAI's: ``flex`` waits behind all that is not; the other tiers are one, ``default``. The lines of
batches wait behind both, whatever tier they name.
"""

from dataclasses import dataclass
from typing import Any

from models.errors import InvalidRequest
from models.usage import CallKind
from serve.asgi import Message, Send
from serve.claims import demand
from serve.config import Bounds
from serve.queueing import Rank
from serve.validation import Body

TIER = "service_tier"
FLEX = "flex"
DEFAULT = "default"
# An engine's own: whoever could name it would go before everybody else.
PRIORITY = "priority"
LENGTH = b"content-length"
# Of a chunk. It is in no text: a quote that a brace comes before is escaped there, or ends it.
CHUNK = b'data: {"id"'


@dataclass(frozen=True, slots=True)
class Turn:
    """Its class, its tokens as estimated, and the tier its answer names; None where the request named none."""

    rank: Rank = Rank.LIVE
    cost: int = 1
    tier: str | None = None


LIVE = Turn()


def turn_of(body: Body, *, batch: bool) -> Turn:
    """Without the cost, which a call needs only where it may have to wait. Raises InvalidRequest."""
    if PRIORITY in body:
        raise InvalidRequest(f"Unsupported parameter: '{PRIORITY}'.", param=PRIORITY, code="unsupported_parameter")
    asked = body.get(TIER)
    if asked is None:
        return Turn(Rank.BATCH) if batch else LIVE
    rank = Rank.BATCH if batch else Rank.FLEX if asked == FLEX else Rank.LIVE
    return Turn(rank, tier=FLEX if rank is Rank.FLEX else DEFAULT)


def weighed(turn: Turn, kind: CallKind, body: Body, body_bytes: int, window: int | None, bounds: Bounds) -> Turn:
    """With the cost."""
    return Turn(turn.rank, max(1, demand(kind, body, body_bytes, window, bounds).tokens), turn.tier)


def with_priority(raw: bytes, rank: Rank) -> bytes:
    """A request as vLLM is to read it, which has calls of a lower ``priority`` go first."""
    return b'{"priority":%d,' % rank + raw.lstrip()[1:]


def naming(send: Send, tier: str) -> Send:
    """``send``, which names the tier in an answer of ours where the answer does not."""
    field = b'"service_tier":"%s"' % tier.encode()
    held: list[Message] = []

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            if any(name == LENGTH for name, _ in message["headers"]):
                held.append(message)
                return
        elif held:
            start = held.pop()
            if not message.get("more_body", False):
                message = {**message, "body": _whole(message.get("body", b""), field)}
                start = {**start, "headers": _of_length(start["headers"], len(message["body"]))}
            await send(start)
        elif data := message.get("body", b""):
            message = {**message, "body": _chunks(data, field)}
        await send(message)

    return named


def _whole(body: bytes, field: bytes) -> bytes:
    if b'"service_tier":' in body:
        return body.replace(b'"service_tier":null', field, 1)
    return b"{" + field + b"," + body[1:] if body.startswith(b'{"') else body


def _chunks(data: bytes, field: bytes) -> bytes:
    if b'"service_tier":' in data:
        return data.replace(b'"service_tier":null', field)
    return data.replace(CHUNK, CHUNK[:7] + field + b"," + CHUNK[7:])


def _of_length(headers: Any, length: int) -> list[tuple[bytes, bytes]]:
    return [(name, b"%d" % length if name == LENGTH else value) for name, value in headers]
