"""What a parser makes of a file, and how it says that it cannot.

Invariants
1. ``text`` is the whole document; every block is ``text[block.start:block.end]``.
2. Blocks are in reading order and do not overlap.
"""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

HEADING_CHARACTERS_MAX = 200
BLANK_LINES = re.compile(r"\n[ \t\f\v]*\n\s*")

FailureCode = Literal[
    "broken", "empty", "encrypted", "no_text", "outside", "timeout", "too_large", "unreadable", "unsupported"
]


class Block(BaseModel):
    """A paragraph, list, table or listing. ``heading``: the titles above it, outermost first; ``page`` is 1-based."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int
    end: int
    heading: tuple[str, ...] = ()
    page: int | None = None


class ParsedDocument(BaseModel):
    """A document's text and the blocks in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    blocks: tuple[Block, ...]


class DocumentFailure(Exception):
    """This document cannot be indexed; ``reason`` is for people. Ends one document, never the ingestion."""

    def __init__(self, code: FailureCode, reason: str) -> None:
        super().__init__(code, reason)
        self.code: FailureCode = code
        self.reason = reason


class HeadingPath:
    """The titles above the reading position, kept while a document is read from its start."""

    def __init__(self) -> None:
        self._levels: list[tuple[int, str]] = []

    def enter(self, level: int, title: str) -> None:
        """A heading of ``level`` (1 is the outermost) ends all of its level and below."""
        self._levels = [entry for entry in self._levels if entry[0] < level]
        title = " ".join(title.split())[:HEADING_CHARACTERS_MAX]
        if title:
            self._levels.append((level, title))

    @property
    def path(self) -> tuple[str, ...]:
        """Outermost first."""
        return tuple(title for _, title in self._levels)


def paragraphs(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of what blank lines part, without the space around it."""
    start = len(text) - len(text.lstrip())
    end = len(text.rstrip())
    for gap in BLANK_LINES.finditer(text, start, end):
        yield start, gap.start()
        start = gap.end()
    if start < end:
        yield start, end
