"""Knowledge nouns: documents, chunks, their states and identities.

Invariants
1. ``chunk_id`` is a function of (document, content, ordinal, pipeline settings): the same input makes the same rows.
2. ``text == document_text[start:end]``, where ``document_text`` is the parser's output for the whole document.
3. A document's path is relative to the ingested root and uses ``/``; it names the document within a knowledge base.
"""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DocumentState = Literal["pending", "indexed", "failed", "deleted"]

EMBEDDING_COLUMN = "vector"
TEXT_COLUMN = "text"


class Chunk(BaseModel):
    """One indexed passage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunk_id: str
    document: str
    ordinal: int = Field(ge=0)
    heading: tuple[str, ...] = Field(description="The path of headings above the passage, outermost first")
    page: int | None = Field(default=None, description="1-based page, where the format has pages")
    start: int = Field(ge=0, description="Character offset into the document's text, inclusive")
    end: int = Field(ge=0, description="Character offset, exclusive")
    text: str
    content_hash: str = Field(description="SHA-256 of the source bytes, hex")


class DocumentRecord(BaseModel):
    """A manifest row: what became of one document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    document: str
    state: DocumentState
    content_hash: str | None = None
    bytes: int = Field(default=0, ge=0)
    chunks: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0, description="Embedding tokens spent on the present version")
    code: str | None = Field(default=None, description="Why it failed, machine-readable")
    reason: str | None = Field(default=None, description="Why it failed, for people")


class Passage(BaseModel):
    """A retrieval hit. ``score`` is the cosine similarity; ``rank_score`` the fused rank that ordered it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chunk_id: str
    document: str
    heading: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str
    score: float
    rank_score: float


class SearchRequest(BaseModel):
    """What the retrieval application is asked, as JSON; it answers ``{"passages": [Passage, …]}``, best first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    organisation_id: str
    knowledge_base_id: str
    text: str = Field(min_length=1, description="The query as written, for full text search")
    vector: tuple[float, ...] = Field(min_length=1, description="The query's embedding, of the knowledge base's model")
    limit: int = Field(default=4, ge=1, le=50)
    score_threshold: float = Field(default=0.0, ge=-1.0, le=1.0, description="Least cosine similarity that counts")


def chunk_id(document: str, content_hash: str, ordinal: int, settings: str) -> str:
    """A deterministic id: 32 hex digits of SHA-256 over the chunk's identity."""
    identity = "\x1f".join((document, content_hash, str(ordinal), settings))
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


def table_name(organisation_id: str, knowledge_base_id: str) -> str:
    """The LanceDB table of one knowledge base; the only place that names it, so tenants cannot meet.

    Raises ``ValueError`` for ids that are not plain identifiers.
    """
    for value in (organisation_id, knowledge_base_id):
        if not value.replace("_", "").replace("-", "").isalnum():
            raise ValueError("an id holds letters, digits, '_' and '-' only")
    return f"{organisation_id}.{knowledge_base_id}"
