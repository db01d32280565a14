"""The parsing process: ``python -m pipelines.parser_child <ParserLimits as JSON>``.

Parsers are third-party code fed with files of unknown origin, so they run apart from Ray: this process reads one path a
frame from standard input and answers one ParserAnswer a frame on standard output.

1. A document that takes too long is ended by the kernel (SIGALRM, default action), even inside C code;
   the parent sees why.
2. Memory is limited; what exceeds it fails as any broken document does.
3. It ends when its input ends, so it never outlives its parent.
4. It does not import Ray: starting it takes a fraction of a second.
"""

import hashlib
import logging
import os
import resource
import signal
import stat
import struct
import sys
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, ConfigDict

from pipelines.detect import decode, is_pdf, text_format
from pipelines.parse_html import parse_html
from pipelines.parse_pdf import parse_pdf
from pipelines.parse_text import parse_markdown, parse_text
from pipelines.parsed import DocumentFailure, FailureCode, ParsedDocument

FRAME = struct.Struct(">Q")
PARSE = {"html": parse_html, "markdown": parse_markdown, "text": parse_text}
log = logging.getLogger(__name__)


class ParserLimits(BaseModel):
    """What one document may cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file_bytes_max: int
    text_characters_max: int
    parse_seconds_max: float
    memory_bytes_max: int


class ParserAnswer(BaseModel):
    """A parsed document or a failure, with the hash of the bytes that were read (absent where none could be)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    content_hash: str | None = None
    bytes: int = 0
    document: ParsedDocument | None = None
    code: FailureCode | None = None
    reason: str | None = None


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next message; None at the end of the stream."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    size = FRAME.unpack(head)[0]
    body = stream.read(size)
    return body if len(body) == size else None


def write_frame(stream: BinaryIO, body: bytes) -> None:
    """One message, flushed."""
    stream.write(FRAME.pack(len(body)) + body)
    stream.flush()


def read_file(path: str, bytes_max: int) -> bytes:
    """A regular file's bytes; never through a link. Raises DocumentFailure ``unreadable``, ``too_large``, ``empty``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DocumentFailure("unreadable", "This is not a regular file.")
            data = file.read(bytes_max)
    except OSError as error:
        raise DocumentFailure("unreadable", f"The file cannot be read: {error.strerror}.") from None
    if len(data) == bytes_max:
        raise DocumentFailure("too_large", f"The file has {bytes_max:,} bytes or more.")
    if not data:
        raise DocumentFailure("empty", "The file has no content.")
    return data


def parse(data: bytes, name: str, characters_max: int) -> ParsedDocument:
    """By content. Raises DocumentFailure, or whatever the format's parser raises for a broken file."""
    if is_pdf(data):
        document = parse_pdf(data)
    else:
        text = decode(data)
        document = PARSE[text_format(text, name)](text)
    if len(document.text) > characters_max:
        raise DocumentFailure("too_large", f"The document has more than {characters_max:,} characters of text.")
    if not any(
        character.isalnum() for block in document.blocks for character in document.text[block.start : block.end]
    ):
        raise DocumentFailure("no_text", "There is no text in it; scanned pages need text recognition first.")
    return document


def answer(path: str, limits: ParserLimits) -> ParserAnswer:
    """Read and parse one file."""
    content_hash, size = None, 0
    try:
        data = read_file(path, limits.file_bytes_max)
        content_hash, size = hashlib.sha256(data).hexdigest(), len(data)
        document = parse(data, Path(path).name, limits.text_characters_max)
    except DocumentFailure as failure:
        return ParserAnswer(content_hash=content_hash, bytes=size, code=failure.code, reason=failure.reason)
    # The edge between us and the parsers: whatever they raise for a hostile file is that file's failure alone.
    except Exception as error:
        log.warning("a parser raised %s", type(error).__qualname__, exc_info=True)
        reason = f"The file is broken: its parser gave up ({type(error).__name__})."
        return ParserAnswer(content_hash=content_hash, bytes=size, code="broken", reason=reason)
    return ParserAnswer(content_hash=content_hash, bytes=size, document=document)


def main() -> int:
    """Answer until the input ends."""
    limits = ParserLimits.model_validate_json(sys.argv[1])
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes_max, limits.memory_bytes_max))
    # Whatever a library prints goes to the log, not between our frames.
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)
        while (request := read_frame(sys.stdin.buffer)) is not None:
            signal.setitimer(signal.ITIMER_REAL, limits.parse_seconds_max)
            reply = answer(os.fsdecode(request), limits).model_dump_json().encode()
            signal.setitimer(signal.ITIMER_REAL, 0)
            write_frame(output, reply)
    return 0


if __name__ == "__main__":
    sys.exit(main())
