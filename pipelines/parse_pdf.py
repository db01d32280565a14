"""PDF by pypdf: each page's text, with the bookmarks as headings."""

import io
import re
from collections.abc import Iterator
from typing import Any, cast

from pypdf import PdfReader
from pypdf.errors import DependencyError, PyPdfError

from pipelines.parsed import Block, DocumentFailure, HeadingPath, ParsedDocument, paragraphs

UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
BOOKMARK_DEPTH_MAX = 6


def parse_pdf(data: bytes) -> ParsedDocument:
    """Raises DocumentFailure ``encrypted`` for a password, pypdf's own errors for a broken file."""
    reader = PdfReader(io.BytesIO(data), strict=False)
    _unlock(reader)
    bookmarks = _bookmarks(reader)
    path = HeadingPath()
    texts: list[str] = []
    blocks: list[Block] = []
    length = 0
    for number, page in enumerate(reader.pages):
        for level, title in bookmarks.get(number, ()):
            path.enter(level, title)
        text = UNPRINTABLE.sub(" ", page.extract_text()) + "\n\n"
        for start, end in paragraphs(text):
            blocks.append(Block(start=length + start, end=length + end, heading=path.path, page=number + 1))
        texts.append(text)
        length += len(text)
    return ParsedDocument(text="".join(texts), blocks=tuple(blocks))


def _unlock(reader: PdfReader) -> None:
    """A document that only restricts printing opens with the empty password."""
    if not reader.is_encrypted:
        return
    try:
        opened = reader.decrypt("")
    except (DependencyError, NotImplementedError):
        opened = 0
    if not opened:
        raise DocumentFailure("encrypted", "The PDF needs a password.")


def _bookmarks(reader: PdfReader) -> dict[int, list[tuple[int, str]]]:
    """Page index → (level, title). Bookmarks are a help, so a broken outline costs the headings, not the document."""
    found: dict[int, list[tuple[int, str]]] = {}
    try:
        for level, item in _flat(cast("list[Any]", reader.outline), 1):
            page = reader.get_destination_page_number(item)
            if page is not None:
                found.setdefault(page, []).append((level, str(item.title)))
    except (PyPdfError, KeyError, TypeError, ValueError, AttributeError):
        return {}
    return found


def _flat(items: list[Any], level: int) -> Iterator[tuple[int, Any]]:
    for item in items:
        if isinstance(item, list):
            if level < BOOKMARK_DEPTH_MAX:
                yield from _flat(cast("list[Any]", item), level + 1)
        else:
            yield level, item
