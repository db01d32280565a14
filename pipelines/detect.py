"""What a file is, by its content. Its name only tells Markdown from other text.

Text is UTF-8, UTF-16 with a byte order mark, or windows-1252 (which holds Latin-1). Text has no control characters but
those of layout; that is what keeps binaries out.
"""

import codecs
import re
from typing import Literal

from pipelines.parsed import DocumentFailure

Format = Literal["pdf", "html", "markdown", "text"]

PDF_MARK = b"%PDF-"
PDF_MARK_WITHIN_BYTES = 1024
MARKDOWN_SUFFIXES = (".md", ".markdown", ".mdown", ".mkd", ".mdx")
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
LEGACY_HIGH_SHARE_MAX = 0.3

# First bytes of formats that hold text of a kind, so the reason can name them.
BINARY_MARKS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive or an office document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document of the old binary kind"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a media file"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
    (b"SQLite format 3\x00", "a database"),
    (b"{\\rtf", "a rich text document"),
)

CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
HTML_START = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.{0,4000}?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
HTML_TAG = re.compile(r"</?(?:p|div|h[1-6]|ul|ol|table|body|span|a|br)\b[^>]*>", re.I)


def decode(data: bytes) -> str:
    """The text of a file, line ends as ``\\n``. Raises DocumentFailure ``unsupported`` where it is not text."""
    for mark, kind in BINARY_MARKS:
        if data.startswith(mark):
            raise DocumentFailure("unsupported", f"This is {kind}, not HTML, Markdown, text or PDF.")
    text = _decode(data)
    if CONTROL.search(text):
        raise DocumentFailure("unsupported", "This is a binary file, not HTML, Markdown, text or PDF.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes) -> str:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        pass
    high = sum(byte > 0x7F for byte in data[:65536])
    try:
        if wide or high > LEGACY_HIGH_SHARE_MAX * len(data[:65536]):
            raise DocumentFailure("unsupported", "This is not text in UTF-8, UTF-16 or Latin-1.")
        return data.decode("cp1252")
    except UnicodeDecodeError:
        raise DocumentFailure("unsupported", "This is not text in UTF-8, UTF-16 or Latin-1.") from None


def is_pdf(data: bytes) -> bool:
    """Readers accept a PDF's mark anywhere in its first kilobyte."""
    return PDF_MARK in data[:PDF_MARK_WITHIN_BYTES]


def text_format(text: str, name: str) -> Format:
    """HTML, Markdown or plain."""
    lower = name.lower()
    if HTML_START.match(text) or (lower.endswith(HTML_SUFFIXES) and HTML_TAG.search(text)):
        return "html"
    return "markdown" if lower.endswith(MARKDOWN_SUFFIXES) else "text"
