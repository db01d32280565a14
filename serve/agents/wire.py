"""Answers on OpenAI's wire: the whole completion and its chunks, with citations as annotations.

An annotation is OpenAI's ``url_citation``; beside its own keys it holds ``document``, ``heading``, ``page``, ``score``,
``chunk_id`` and the passage's character offsets ``start`` and ``end`` in the document.
"""

from typing import Any
from urllib.parse import quote

from models.errors import PlatformError
from serve.agents.citations import Citation
from serve.agents.prompt import label
from serve.agents.runtime import Answer
from serve.asgi import Send, send_json
from serve.chunks import ChunkStream, head


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
        await send_json(self._send, 200, {**self._head, "choices": [choice], "usage": answer.usage.body()})

    async def fail(self, error: PlatformError) -> None:
        """Raises ``error``: nothing has been sent."""
        raise error


class StreamedReply(ChunkStream):
    """Server-sent chunks, the last of them with the citations."""

    async def end(self, answer: Answer) -> None:
        """The last delta with the annotations, the usage where it was asked for, and the end of the stream."""
        cited = annotations(answer)
        await self.delta({"annotations": cited} if cited else {}, answer.finish_reason)
        await self.close(answer.usage.body())


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
