"""A stored answer on its way to one caller."""

from dataclasses import dataclass

from serve.asgi import Headers, Send
from serve.cache.answer import StoredAnswer
from serve.streams import StreamShape

JSON = (b"content-type", b"application/json")
COST = b"x-objecta-cost"
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Replay:
    """``shape`` None: the caller asked for the whole answer, under the name ``model``. ``cost_micro``: of the hit."""

    stored: StoredAnswer
    model: str
    shape: StreamShape | None
    cost_micro: int

    async def send(self, headers: Headers, send: Send) -> None:
        """The whole response."""
        own = [(b"age", b"%d" % self.stored.origin.age_seconds())]
        if self.shape is not None:
            body = self.stored.stream(self.shape, {"objecta": {"cost_micro": self.cost_micro}})
            kind = [EVENTS]
        else:
            body = self.stored.whole(self.model)
            kind = [JSON, (b"content-length", b"%d" % len(body)), (COST, b"%d" % self.cost_micro)]
        await send({"type": "http.response.start", "status": 200, "headers": [*kind, *headers, *own]})
        await send({"type": "http.response.body", "body": body})
