"""Plain text and Markdown. Their text stays as written, so offsets point into the source (line ends as ``\\n``)."""

import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pipelines.parsed import Block, HeadingPath, ParsedDocument, paragraphs

FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")

BREAKS = ("softbreak", "hardbreak")


def parse_text(text: str) -> ParsedDocument:
    """Paragraphs are what blank lines part."""
    return ParsedDocument(text=text, blocks=tuple(Block(start=start, end=end) for start, end in paragraphs(text)))


def parse_markdown(text: str) -> ParsedDocument:
    """CommonMark with tables; headings become the path above, front matter is no content."""
    front = FRONT_MATTER.match(text)
    body_start = front.end() if front else 0
    lines = _line_starts(text, body_start)
    path = HeadingPath()
    blocks: list[Block] = []
    tokens = MarkdownIt("commonmark").enable("table").parse(text[body_start:])
    for index, token in enumerate(tokens):
        if token.level != 0 or token.map is None or token.nesting < 0:
            continue
        if token.type == "heading_open":
            path.enter(int(token.tag[1:]), _plain(tokens[index + 1]))
        first, last = token.map
        block = _trimmed(text, lines[first], lines[min(last, len(lines) - 1)], path.path)
        if block is not None:
            blocks.append(block)
    return ParsedDocument(text=text, blocks=tuple(blocks))


def _line_starts(text: str, start: int) -> list[int]:
    """Offset of each line from ``start`` on, and of the end."""
    breaks = (start + match.end() for match in re.finditer("\n", text[start:]))
    return [start, *breaks, len(text)]


def _plain(inline: Token) -> str:
    parts = (" " if child.type in BREAKS else child.content for child in inline.children or [])
    return "".join(parts)


def _trimmed(text: str, start: int, end: int, heading: tuple[str, ...]) -> Block | None:
    piece = text[start:end]
    end = start + len(piece.rstrip())
    start += len(piece) - len(piece.lstrip("\n"))
    return Block(start=start, end=end, heading=heading) if start < end else None
