"""The embedder: OpenAI's ``/v1/embeddings`` over one encoder, batched across requests.

Nothing is truncated silently: a text above the context window is refused with the counts.
Source: https://platform.openai.com/docs/api-reference/embeddings
"""

import base64
from typing import Annotated, Any, Literal, cast

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field

from models.catalogue import CatalogueEntry
from models.errors import ContextTooLong, InvalidRequest, ModelNotFound
from models.protocols import Encoder, Text
from serve.asgi import Receive, Scope, Send, read_body, send_bytes
from serve.batching import Batcher, Vectors
from serve.edge import Edge, Route, parse, unless_disconnected

BODY_BYTES_MAX = 10 * 1024 * 1024
INPUTS_MAX = 2_048
REQUEST_TOKENS_MAX = 300_000


class EmbeddingsRequest(BaseModel):
    """The body; ``input`` is checked by ``input_texts``, whose messages a union of types cannot give."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1)]
    input: Any
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None


class EmbedderApp:
    """ASGI application: ``POST /v1/embeddings`` and ``GET /health``."""

    def __init__(self, entry: CatalogueEntry, encoder: Encoder) -> None:
        self._entry = entry
        self._dimensions = encoder.dimensions
        self._vocabulary = encoder.vocabulary
        self._batcher = Batcher(encoder)
        self._edge = Edge({"/v1/embeddings": Route("POST", self._embeddings)}, self.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        await self._edge(scope, receive, send)

    async def close(self) -> None:
        """Refuse what waits and end the encoder's thread; also done at the end of ASGI's lifespan."""
        await self._batcher.close()

    async def _embeddings(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = parse(EmbeddingsRequest, await read_body(receive, scope, BODY_BYTES_MAX))
        self._check(request)
        texts = input_texts(request.input, self._vocabulary)
        vectors, tokens = await unless_disconnected(receive, self._embed(texts))
        body = rendered(request, self._entry.id, vectors, tokens)
        await send_bytes(send, 200, body, b"application/json")

    def _check(self, request: EmbeddingsRequest) -> None:
        if request.model != self._entry.id:
            raise ModelNotFound(f"The model '{request.model}' does not exist.", param="model")
        if request.dimensions not in {None, self._dimensions}:
            raise InvalidRequest(
                f"This model's vectors have {self._dimensions} dimensions; it supports no other number.",
                param="dimensions",
            )

    async def _embed(self, texts: list[Text]) -> tuple[Vectors, int]:
        counts = await self._batcher.count(texts)
        window = self._entry.context_window
        for index, count in enumerate(counts):
            if count > window:
                raise ContextTooLong(
                    f"This model's maximum context length is {window} tokens. "
                    f"However, input {index} has {count} tokens. Please shorten it.",
                    param="input",
                )
        if sum(counts) > REQUEST_TOKENS_MAX:
            raise InvalidRequest(
                f"A request may hold {REQUEST_TOKENS_MAX} tokens in all; this one has {sum(counts)}.",
                param="input",
            )
        return await self._batcher.encode(texts, counts), sum(counts)


def input_texts(value: object, vocabulary: int) -> list[Text]:
    """The texts of an ``input``, as they are or as the model's own tokens.

    Raises InvalidRequest that says what is wrong with it.
    """
    items: list[object] = cast("list[object]", value) if isinstance(value, list) else [value]
    if items and all(type(item) is int for item in items):
        items = [items]
    if not 1 <= len(items) <= INPUTS_MAX:
        raise _bad_input(f"'input' must hold 1 to {INPUTS_MAX} texts; it has {len(items)}.")
    return [_text(index, item, vocabulary) for index, item in enumerate(items)]


def _text(index: int, item: object, vocabulary: int) -> Text:
    if isinstance(item, list):
        tokens = cast("list[object]", item)
        ids = tuple(token for token in tokens if isinstance(token, int) and not isinstance(token, bool))
        if len(ids) < len(tokens) or not all(0 <= token < vocabulary for token in ids):
            raise _bad_input(f"This model's tokens are integers from 0 to {vocabulary - 1} (at {index} of 'input').")
        if ids:
            return ids
    elif not isinstance(item, str):
        raise _bad_input("'input' must be a string, an array of strings, or tokens in arrays.")
    elif item:
        return item
    raise _bad_input(f"'input' must not hold an empty text (at {index}).")


def _bad_input(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="input")


def rendered(request: EmbeddingsRequest, model: str, vectors: Vectors, tokens: int) -> bytes:
    """The response body; base64 is of little-endian float32."""
    if request.encoding_format == "base64":
        rows: list[object] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    else:
        rows = [np.ascontiguousarray(row) for row in vectors]
    payload = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return orjson.dumps(payload, option=orjson.OPT_SERIALIZE_NUMPY)
