"""Documents into passages that an encoder reads whole.

Invariants
1. A chunk never crosses a heading or a page; ``text == document.text[start:end]``.
2. The encoder reads the headings above a passage and the passage (``embedded``), at most ``tokens_max`` tokens of it.
3. Chunks of one section follow each other; neighbours share whole sentences of at most ``overlap_tokens`` tokens.
4. Every letter of a section with a body is in a chunk. A heading without a body is none of its own.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from models.documents import Chunk, chunk_id
from pipelines.parsed import Block, ParsedDocument

# Part of every chunk's identity: raise it when parsing or cutting changes, and documents are indexed anew.
PIPELINE_VERSION = 1
CONTEXT_CHARACTERS_MAX = 160
WINDOW_CHARACTERS_MAX = 2000
SENTENCE = re.compile(r"\S(?:[^.!?\n]|[.!?](?!\s))*[.!?]?")


class ChunkSettings(BaseModel):
    """How to cut. ``tokens_max`` counts all that the encoder reads, its own marks and the headings included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens_max: int = Field(default=200, ge=16)
    overlap_tokens: int = Field(default=24, ge=0)

    @property
    def identity(self) -> str:
        """What else than the content decides a chunk."""
        return f"{PIPELINE_VERSION}/{self.tokens_max}/{self.overlap_tokens}"


class TokenCounter(Protocol):
    """The part of an encoder that cutting needs."""

    @property
    def max_tokens(self) -> int:
        """The longest text the model reads whole."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text, marks included."""
        ...


@dataclass(frozen=True)
class Passage:
    """A chunk, what the encoder is to read for it, and how many tokens that is."""

    chunk: Chunk
    embedded: str
    tokens: int


@dataclass(frozen=True)
class _Piece:
    """A sentence or less. ``tokens``: without the encoder's marks."""

    start: int
    end: int
    tokens: int


@dataclass(frozen=True)
class _Section:
    heading: tuple[str, ...]
    page: int | None
    pieces: tuple[_Piece, ...]


@dataclass(frozen=True)
class _Span:
    section: _Section
    start: int
    end: int
    context: str

    def embedded(self, text: str) -> str:
        """What the encoder reads."""
        passage = text[self.start : self.end]
        return f"{self.context}\n{passage}" if self.context else passage


class Chunker:
    """Cuts documents for one encoder."""

    def __init__(self, counter: TokenCounter, settings: ChunkSettings) -> None:
        self._counter = counter
        self._settings = settings
        self._marks = counter.count_tokens([""])[0]
        self._limit = min(settings.tokens_max, counter.max_tokens)

    def cut(self, document: str, content_hash: str, parsed: ParsedDocument) -> list[Passage]:
        """All passages of a document, in reading order."""
        spans = [
            _Span(section, start, end, context)
            for section in self._sections(parsed)
            for context in (self._context(section.heading),)
            for start, end in self._pack(section.pieces, context)
        ]
        passages: list[Passage] = []
        for span, tokens in self._fitted(spans, parsed.text):
            ordinal = len(passages)
            chunk = Chunk(
                chunk_id=chunk_id(document, content_hash, ordinal, self._settings.identity),
                document=document,
                ordinal=ordinal,
                heading=span.section.heading,
                page=span.section.page,
                start=span.start,
                end=span.end,
                text=parsed.text[span.start : span.end],
                content_hash=content_hash,
            )
            passages.append(Passage(chunk, span.embedded(parsed.text), tokens))
        return passages

    def _fitted(self, spans: list[_Span], text: str) -> list[tuple[_Span, int]]:
        """Each span with its tokens. The tokens of pieces need not add up to those of the whole in every tokenizer, so
        a span that turns out too long is parted until it fits."""
        fitted: list[tuple[_Span, int]] = []
        while spans:
            counts = self._counter.count_tokens([span.embedded(text) for span in spans])
            finer: list[_Span] = []
            for span, tokens in zip(spans, counts, strict=True):
                if tokens <= self._limit or span.end - span.start == 1:
                    fitted.append((span, tokens))
                else:
                    middle = _middle(text, span.start, span.end)
                    finer.extend((replace(span, end=middle), replace(span, start=middle)))
            spans = finer
        return sorted(fitted, key=lambda item: (item[0].start, item[0].end))

    def _sections(self, parsed: ParsedDocument) -> Iterator[_Section]:
        """Blocks under the same headings on the same page, in sentences; headings without a body only if all are."""
        groups = [
            (heading, page, list(blocks))
            for (heading, page), blocks in groupby(parsed.blocks, key=lambda block: (block.heading, block.page))
        ]
        bodies = [group for group in groups if not self._is_bare(group[0], group[2], parsed.text)]
        for heading, page, blocks in bodies or groups:
            yield _Section(heading, page, self._measured(parsed.text, blocks))

    @staticmethod
    def _is_bare(heading: tuple[str, ...], blocks: list[Block], text: str) -> bool:
        if not heading or len(blocks) > 1:
            return False
        letters = re.sub(r"\W+", "", text[blocks[0].start : blocks[0].end])
        return letters == re.sub(r"\W+", "", heading[-1])

    def _measured(self, text: str, blocks: list[Block]) -> tuple[_Piece, ...]:
        """The sentences of blocks; one that exceeds the limit in words, a word that does in halves."""
        spans = [
            (block.start + start, block.start + end)
            for block in blocks
            for start, end in _sentences(text[block.start : block.end])
        ]
        room = self._limit - self._marks
        pieces: list[_Piece] = []
        while spans:
            counts = self._counter.count_tokens([text[start:end] for start, end in spans])
            finer: list[tuple[int, int]] = []
            for (start, end), count in zip(spans, counts, strict=True):
                tokens = count - self._marks
                if tokens <= room // 2 or end - start == 1:
                    pieces.append(_Piece(start, end, tokens))
                else:
                    middle = _middle(text, start, end)
                    finer.extend(((start, middle), (middle, end)))
            spans = finer
        return tuple(sorted(pieces, key=lambda piece: piece.start))

    def _context(self, heading: tuple[str, ...]) -> str:
        """The headings as the encoder reads them; the innermost matter most where there are too many."""
        context = " > ".join(heading)[-CONTEXT_CHARACTERS_MAX:]
        if not context:
            return ""
        tokens = self._counter.count_tokens([context])[0]
        return context if tokens <= self._limit // 2 else ""

    def _pack(self, pieces: tuple[_Piece, ...], context: str) -> Iterator[tuple[int, int]]:
        """Spans of as many whole pieces as fit, each beginning with the last sentences of the one before."""
        room = self._limit - self._marks
        if context:
            room -= self._counter.count_tokens([context])[0] - self._marks
        first = 0
        while first < len(pieces):
            last, tokens = first, 0
            while last < len(pieces) and (last == first or tokens + pieces[last].tokens <= room):
                tokens += pieces[last].tokens
                last += 1
            yield pieces[first].start, pieces[last - 1].end
            first = last if last == len(pieces) else self._overlap_start(pieces, first, last, room)

    def _overlap_start(self, pieces: tuple[_Piece, ...], first: int, last: int, room: int) -> int:
        """Where the next span begins, so that it holds at least the next new piece."""
        budget = min(self._settings.overlap_tokens, room - pieces[last].tokens)
        start = last
        while start - 1 > first and pieces[start - 1].tokens <= budget:
            start -= 1
            budget -= pieces[start].tokens
        return start


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Sentences and lines; a line of a listing or a table stays whole."""
    for match in SENTENCE.finditer(text):
        start, end = match.span()
        end = start + len(match.group().rstrip())
        for window in range(start, end, WINDOW_CHARACTERS_MAX):
            yield window, min(window + WINDOW_CHARACTERS_MAX, end)


def _middle(text: str, start: int, end: int) -> int:
    """Where to part a span: at the space nearest before its middle, else at the middle. Both parts hold something."""
    half = (start + end) // 2
    space = text.rfind(" ", start + 1, half + 1)
    return half if space < 0 else space
