"""The seams between packages. Each is one or two methods; implementations live where their dependencies live."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.agents import PublishedAgent
from models.documents import DocumentRecord
from models.identity import Principal

Text = str | tuple[int, ...]
"""A text, or the ids of its tokens in a model's own vocabulary, with or without the marks that the model sets."""


class Encoder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest text the model reads whole, in tokens, its own marks included; it ignores what lies beyond."""
        ...

    @property
    def vocabulary(self) -> int:
        """How many ids of tokens there are; they count from 0."""
        ...

    def count_tokens(self, texts: Sequence[Text]) -> list[int]:
        """Tokens of each text as the model sees it, untruncated."""
        ...

    def encode(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Float32 array of shape (len(texts), dimensions), rows of length one, in the order given."""
        ...


class Scorer(Protocol):
    """Says how well a text answers a query."""

    @property
    def max_tokens(self) -> int:
        """The longest pair the model reads whole, in tokens, its own marks included; it ignores what lies beyond."""
        ...

    def count_tokens(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Tokens of each pair of query and text as the model sees it, untruncated."""
        ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Float32 array of shape (len(pairs),), from 0 to 1, in the order given."""
        ...


class Directory(Protocol):
    """What the request path asks of the control plane."""

    async def authenticate(self, api_key: str) -> Principal:
        """The principal of a key. Raises Unauthenticated, or Unavailable where the control plane is away."""
        ...

    async def published_agent(self, organisation_id: str, agent_id: str, version: int) -> PublishedAgent:
        """One version, by identity. Raises NotFound, Unavailable."""
        ...


class Manifest(Protocol):
    """The record of every document of one knowledge base; survives the job that writes it."""

    def load(self) -> dict[str, DocumentRecord]:
        """All records, by document path."""
        ...

    def save(self, records: Iterable[DocumentRecord]) -> None:
        """Insert or replace records by document path, durably before it returns."""
        ...


class Progress(Protocol):
    """Told how an ingestion goes; may raise to cancel it."""

    def update(
        self, *, documents_total: int, documents_done: int, documents_failed: int, chunks_done: int, tokens_done: int
    ) -> None:
        """Absolute counts so far."""
        ...
