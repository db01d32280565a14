"""Answers on OpenAI's wire: the whole completion and its chunks, with citations as annotations.

An annotation is OpenAI's ``url_citation``; beside its own keys it holds ``document``, ``heading``, ``page``, ``score``,
``chunk_id`` and the passage's character offsets ``start`` and ``end`` in the document.
"""

import time
import uuid
from typing import Any
from urllib.parse import quote

import orjson

from models.errors import PlatformError
from models.usage import TokenUsage
from serve.agents.citations import Citation
from serve.agents.prompt import label
from serve.agents.runtime import Answer
from serve.asgi import Send, send_json

DONE = b"data: [DONE]\n\n"
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class WholeReply:
    """One JSON answer, sent at the end."""

    def __init__(self, model: str, send: Send) -> None:
        self._send = send
        self._head = head(model, "chat.completion")

    async def text(self, piece: str) -> None:
        """Nothing is sent before the end."""

    async def end(self, answer: Answer) -> None:
        """Send it."""
        message = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": annotations(answer)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        await send_json(self._send, 200, {**self._head, "choices": [choice], "usage": usage_object(answer.usage)})

    async def fail(self, error: PlatformError) -> None:
        """Raises ``error``: nothing has been sent."""
        raise error


class StreamedReply:
    """Server-sent chunks; the response starts with the first word, so an error before it is still a plain answer."""

    def __init__(self, model: str, send: Send, *, include_usage: bool) -> None:
        self._send = send
        self._include_usage = include_usage
        self._head = head(model, "chat.completion.chunk")
        self._started = False

    async def text(self, piece: str) -> None:
        """Send a piece of the answer, after the chunk that names the role."""
        await self._start()
        await self._chunk({"content": piece})

    async def end(self, answer: Answer) -> None:
        """The last delta with the annotations, the usage where it was asked for, and the end of the stream."""
        await self._start()
        cited = annotations(answer)
        await self._chunk({"annotations": cited} if cited else {}, answer.finish_reason)
        if self._include_usage:
            await self._event({**self._head, "choices": [], "usage": usage_object(answer.usage)})
        await self._send({"type": "http.response.body", "body": DONE})

    async def fail(self, error: PlatformError) -> None:
        """An error after the first byte: one event, and no ``[DONE]``. Raises ``error`` where nothing has been sent."""
        if not self._started:
            raise error
        await self._event(error.body(), more=False)

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
            await self._chunk({"role": "assistant", "content": "", "refusal": None})

    async def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        await self._event({**self._head, "choices": [choice], **usage})

    async def _event(self, payload: dict[str, Any], *, more: bool = True) -> None:
        body = b"data: " + orjson.dumps(payload) + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def head(model: str, kind: str) -> dict[str, Any]:
    """The keys that an answer and all its chunks share."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def annotations(answer: Answer) -> list[dict[str, Any]]:
    """The answer's citations as ``url_citation`` annotations."""
    return [_annotation(citation, answer.knowledge_base_id or "") for citation in answer.citations]


def _annotation(citation: Citation, knowledge_base_id: str) -> dict[str, Any]:
    passage = citation.passage
    cited = {
        "start_index": citation.start,
        "end_index": citation.end,
        "url": f"kb://{knowledge_base_id}/{quote(passage.document)}#{passage.start}-{passage.end}",
        "title": label(passage),
        "document": passage.document,
        "heading": list(passage.heading),
        "page": passage.page,
        "score": passage.score,
        "chunk_id": passage.chunk_id,
        "start": passage.start,
        "end": passage.end,
    }
    return {"type": "url_citation", "url_citation": cited}


def usage_object(usage: TokenUsage) -> dict[str, Any]:
    """OpenAI's usage: the details are parts of their sums."""
    return {
        "prompt_tokens": usage.prompt + usage.cached,
        "completion_tokens": usage.completion + usage.reasoning,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }
