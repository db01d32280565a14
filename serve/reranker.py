"""The reranker: ``/v1/rerank`` over one cross-encoder, batched across requests.

Nothing is truncated silently: a query and a document above the context window together are refused with the counts.
The shape is the one that Cohere, Jina and vLLM share.
Sources: https://docs.cohere.com/reference/rerank, https://jina.ai/reranker
"""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from models.catalogue import CatalogueEntry
from models.errors import ContextTooLong, InvalidRequest, ModelNotFound
from models.protocols import Scorer
from serve.asgi import Receive, Scope, Send, read_body, send_bytes
from serve.batching import Batcher, Vectors
from serve.edge import Edge, Route, parse, unless_disconnected

BODY_BYTES_MAX = 10 * 1024 * 1024
DOCUMENTS_MAX = 2_048
REQUEST_TOKENS_MAX = 300_000

Pair = tuple[str, str]


class Document(BaseModel):
    """A document; a string is one with that text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text: Annotated[str, Field(min_length=1)]


def _document(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


class RerankRequest(BaseModel):
    """The body."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1)]
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[
        tuple[Annotated[Document, BeforeValidator(_document)], ...], Field(min_length=1, max_length=DOCUMENTS_MAX)
    ]
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None


class RerankerApp:
    """ASGI application: ``POST /v1/rerank`` and ``GET /health``."""

    def __init__(self, entry: CatalogueEntry, scorer: Scorer) -> None:
        self._entry = entry
        self._window = min(entry.context_window, scorer.max_tokens)
        self._batcher = Batcher(_Scores(scorer))
        self._edge = Edge({"/v1/rerank": Route("POST", self._rerank)}, self.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        await self._edge(scope, receive, send)

    async def close(self) -> None:
        """Refuse what waits and end the model's thread; also done at the end of ASGI's lifespan."""
        await self._batcher.close()

    async def _rerank(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = parse(RerankRequest, await read_body(receive, scope, BODY_BYTES_MAX))
        if request.model != self._entry.id:
            raise ModelNotFound(f"The model '{request.model}' does not exist.", param="model")
        texts = [document.text for document in request.documents]
        scores, tokens = await unless_disconnected(receive, self._score([(request.query, text) for text in texts]))
        await send_bytes(send, 200, rendered(request, texts, scores, tokens), b"application/json")

    async def _score(self, pairs: Sequence[Pair]) -> tuple[list[float], int]:
        counts = await self._batcher.count(pairs)
        for index, count in enumerate(counts):
            if count > self._window:
                raise ContextTooLong(
                    f"This model's maximum context length is {self._window} tokens. "
                    f"However, the query and document {index} have {count} tokens. Please shorten them.",
                    param="documents",
                )
        if sum(counts) > REQUEST_TOKENS_MAX:
            raise InvalidRequest(
                f"A request may hold {REQUEST_TOKENS_MAX} tokens in all; this one has {sum(counts)}.",
                param="documents",
            )
        scores = await self._batcher.encode(pairs, counts)
        return scores[:, 0].tolist(), sum(counts)


class _Scores:
    """A scorer as the batcher knows models: one number for each pair."""

    dimensions = 1

    def __init__(self, scorer: Scorer) -> None:
        self.count_tokens = scorer.count_tokens
        self._score = scorer.score

    def encode(self, pairs: Sequence[Pair]) -> Vectors:
        return self._score(pairs)[:, None]


def rendered(request: RerankRequest, texts: Sequence[str], scores: Sequence[float], tokens: int) -> bytes:
    """The response body, the best document first; of equals the first."""
    order = sorted(range(len(texts)), key=lambda index: -scores[index])
    results: list[dict[str, Any]] = []
    for index in order[: request.top_n]:
        document = {"document": {"text": texts[index]}} if request.return_documents else {}
        results.append({"index": index, "relevance_score": scores[index], **document})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return orjson.dumps({"object": "list", "model": request.model, "results": results, "usage": usage})
