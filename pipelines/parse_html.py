"""HTML by Lexbor: the text a reader sees, block by block.

The tree is walked without recursion: nesting is the author's choice, the stack is ours.
"""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipelines.parsed import Block, HeadingPath, ParsedDocument

HEADINGS = {f"h{level}": level for level in range(1, 7)}
# A tag tells how its text is read; one not named here is inline.
# fmt: off
UNSEEN = {
    "button", "footer", "form", "head", "iframe", "math", "nav", "noscript", "object", "script", "select", "style",
    "svg", "template", "textarea",
}
BLOCKS = {
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "header", "hr", "html", "li", "main", "ol", "p", "pre", "section", "summary", "table",
    "tbody", "tfoot", "thead", "tr", "ul", *HEADINGS,
}
# fmt: on
CELLS = frozenset(("td", "th"))
SPACE = re.compile(r"\s+")


class _Reader:
    """Gathers inline text into blocks while the tree is walked."""

    def __init__(self, title: str) -> None:
        self._path = HeadingPath()
        # The page's own title stands above only where the body has no <h1>: see level 1.
        self._path.enter(1, title)
        self._text: list[str] = []
        self._length = 0
        self._inline: list[str] = []
        self._preformatted = 0
        self.blocks: list[Block] = []

    def enter(self, tag: str) -> None:
        if tag in BLOCKS:
            self._flush()
        if tag == "pre":
            self._preformatted += 1
        elif tag == "li":
            self._inline.append("- ")
        elif tag in CELLS and "".join(self._inline).strip():
            self._inline.append(" | ")
        elif tag == "br":
            self._inline.append("\n" if self._preformatted else " ")

    def leave(self, tag: str) -> None:
        if tag in HEADINGS:
            self._path.enter(HEADINGS[tag], "".join(self._inline))
        if tag in BLOCKS:
            self._flush()
        if tag == "pre":
            self._preformatted -= 1

    def read(self, text: str) -> None:
        self._inline.append(text if self._preformatted else SPACE.sub(" ", text))

    def _flush(self) -> None:
        raw = "".join(self._inline)
        self._inline.clear()
        text = raw.strip("\n").rstrip() if self._preformatted else SPACE.sub(" ", raw).strip()
        if not text.strip("- \n\t"):
            return
        if self._length:
            self._text.append("\n\n")
            self._length += 2
        self.blocks.append(Block(start=self._length, end=self._length + len(text), heading=self._path.path))
        self._text.append(text)
        self._length += len(text)

    def finish(self) -> ParsedDocument:
        self._flush()
        return ParsedDocument(text="".join(self._text), blocks=tuple(self.blocks))


def _walk(root: LexborNode) -> Iterator[tuple[LexborNode, bool]]:
    """Every node with whether it is entered (True) or left (False), skipping what no reader sees."""
    stack = [(root, True)]
    while stack:
        node, entering = stack.pop()
        if not entering:
            yield node, False
            continue
        if node.next is not None and node is not root:
            stack.append((node.next, True))
        if node.tag in UNSEEN:
            continue
        yield node, True
        stack.append((node, False))
        if node.child is not None:
            stack.append((node.child, True))


def parse_html(text: str) -> ParsedDocument:
    """The body's text; ``<title>`` is the outermost heading where there is no ``<h1>``."""
    tree = LexborHTMLParser(text)
    title = tree.css_first("head > title", default=None)
    reader = _Reader(title.text() if title is not None else "")
    if tree.body is not None:
        for node, entering in _walk(tree.body):
            if node.is_text_node:
                if entering:
                    reader.read(node.text_content or "")
            elif node.is_element_node:
                (reader.enter if entering else reader.leave)(node.tag or "")
    return reader.finish()
