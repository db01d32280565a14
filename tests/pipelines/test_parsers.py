"""Every format, by content, and every way a file can be wrong."""

import codecs
import gzip
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.detect import decode, text_format
from pipelines.parse_html import parse_html
from pipelines.parse_text import parse_markdown, parse_text
from pipelines.parsed import DocumentFailure, ParsedDocument
from pipelines.parser_child import ParserAnswer, ParserLimits, answer
from pipelines.parser_process import ParserProcess


def blocks(document: ParsedDocument) -> list[tuple[tuple[str, ...], str]]:
    return [(block.heading, document.text[block.start : block.end]) for block in document.blocks]


def parse_file(folder: Path, name: str, data: bytes, limits: ParserLimits) -> ParserAnswer:
    (folder / name).write_bytes(data)
    return answer(str(folder / name), limits)


def test_markdown_keeps_the_path_of_headings_and_its_source() -> None:
    text = "---\ntitle: x\n---\nintro\n\n# A `b` *c*\n\none\n\n## B\n\n- x\n- y\n\n```\n# no heading\n```\n\n"
    text += "C\n=\n\n| h |\n|---|\n| v |\n"
    assert blocks(parse_markdown(text)) == [
        ((), "intro"),
        (("A b c",), "# A `b` *c*"),
        (("A b c",), "one"),
        (("A b c", "B"), "## B"),
        (("A b c", "B"), "- x\n- y"),
        (("A b c", "B"), "```\n# no heading\n```"),
        (("C",), "C\n="),
        (("C",), "| h |\n|---|\n| v |"),
    ]


def test_html_is_what_a_reader_sees() -> None:
    page = """<!DOCTYPE html><html><head><title>T</title><style>p{}</style></head><body><nav>menu</nav>
    <script>alert(1)</script><p>in<b>tro</b> &amp; <a href=x>link</a></p><h1>One</h1><div>a<p>b</p>c</div>
    <h2>Two</h2><ul><li>x</li><li>y</li></ul><table><tr><th>h</th><td>v</td></tr></table><pre>  if x:
      y</pre></body></html>"""
    assert blocks(parse_html(page)) == [
        (("T",), "intro & link"),
        (("One",), "One"),
        (("One",), "a"),
        (("One",), "b"),
        (("One",), "c"),
        (("One", "Two"), "Two"),
        (("One", "Two"), "- x"),
        (("One", "Two"), "- y"),
        (("One", "Two"), "h | v"),
        (("One", "Two"), "  if x:\n      y"),
    ]


def test_html_nested_beyond_any_stack_is_read() -> None:
    assert blocks(parse_html("<html>" + "<div>" * 20_000 + "deep")) == [((), "deep")]


def test_pdf_has_pages_and_bookmarks(tmp_path: Path, limits: ParserLimits, make_pdf: Callable[..., bytes]) -> None:
    data = make_pdf("First page.", "Second page.", titles=("Start", "Next"))
    document = parse_file(tmp_path, "named.txt", data, limits).document
    assert document is not None
    assert [(block.page, block.heading) for block in document.blocks] == [(1, ("Start",)), (2, ("Next",))]
    assert [text for _, text in blocks(document)] == ["First page.", "Second page."]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"caf\xc3\xa9\r\nx\ry", "café\nx\ny"),
        (codecs.BOM_UTF8 + b"a", "a"),
        ("wide é".encode("utf-16"), "wide é"),
        (b"caf\xe9 au lait \x93here\x94", "café au lait \u201chere\u201d"),
    ],
)
def test_text_is_utf8_utf16_or_latin(data: bytes, text: str) -> None:
    assert decode(data) == text


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("<!doctype HTML><p>x", "a.txt", "html"),
        ("\n<!-- c --><html>", "a", "html"),
        ("<p>fragment</p>", "a.html", "html"),
        ("<p>x</p>", "a.md", "markdown"),
        ("# x", "README.MD", "markdown"),
        ("plain", "a.html", "text"),
        ("plain", "a.py", "text"),
    ],
)
def test_the_content_tells_the_format_and_the_name_only_markdown(text: str, name: str, expected: str) -> None:
    assert text_format(text, name) == expected


def zipped() -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", "<w/>")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("photo.md", b"\x89PNG\r\n\x1a\n" + bytes(100), "unsupported"),
        ("report.pdf", zipped(), "unsupported"),
        ("log.txt", gzip.compress(b"words", mtime=0), "unsupported"),
        ("notes.txt", b"words\x00more", "unsupported"),
        ("noise.md", bytes(range(128, 256)) * 4, "unsupported"),
        ("half.txt", codecs.BOM_UTF16_LE + b"abc", "unsupported"),
        ("broken.pdf", b"%PDF-1.7\n" + b"garbage " * 50, "broken"),
        ("empty.txt", b"", "empty"),
        ("blank.txt", b" \n\n\t ", "no_text"),
        ("rule.md", b"---\n\n***\n", "no_text"),
        ("page.html", b"<!doctype html><script>x</script>", "no_text"),
        ("big.txt", b"x" * 1_000_001, "too_large"),
        ("long.txt", b"word " * 150_000, "too_large"),
    ],
)
def test_what_cannot_be_indexed_says_why(
    tmp_path: Path, limits: ParserLimits, name: str, data: bytes, code: str
) -> None:
    failure = parse_file(tmp_path, name, data, limits)
    assert (failure.code, failure.document) == (code, None)
    assert failure.reason


def test_a_pdf_with_a_password_is_encrypted_and_one_that_opens_without_is_read(
    tmp_path: Path, limits: ParserLimits, make_pdf: Callable[..., bytes]
) -> None:
    assert parse_file(tmp_path, "a.pdf", make_pdf("secret", password="hunter2"), limits).code == "encrypted"
    opened = parse_file(tmp_path, "b.pdf", make_pdf("for all", password=""), limits).document
    assert opened is not None
    assert "for all" in opened.text


def test_a_truncated_pdf_hurts_nobody(tmp_path: Path, limits: ParserLimits, make_pdf: Callable[..., bytes]) -> None:
    data = make_pdf("one", "two")
    result = parse_file(tmp_path, "cut.pdf", data[: len(data) // 2], limits)
    assert result.code in {"broken", "no_text"} or result.document is not None


def test_a_file_swapped_for_a_link_after_discovery_is_not_followed(tmp_path: Path, limits: ParserLimits) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "a.md").symlink_to(tmp_path / "secret")
    assert answer(str(tmp_path / "a.md"), limits).code == "unreadable"


@given(st.text(max_size=400))
def test_every_parser_gives_ordered_blocks_of_its_own_text(text: str) -> None:
    for parse in (parse_text, parse_markdown, parse_html):
        document = parse(text.replace("\r", "\n"))
        ends = [0, *(block.end for block in document.blocks)]
        for end, block in zip(ends, document.blocks, strict=False):
            assert end <= block.start < block.end <= len(document.text)


@given(st.binary(max_size=300))
def test_decoding_gives_text_or_a_failure(data: bytes) -> None:
    with suppress(DocumentFailure):
        assert "\r" not in decode(data).encode().decode()


def test_the_parsing_process_outlives_the_documents_that_end_it(tmp_path: Path, limits: ParserLimits) -> None:
    (tmp_path / "good.md").write_text("# Fine\n\nwords")
    (tmp_path / "slow.md").write_bytes(b"*a **b " * 1_500_000)
    # Servers that other tests share are children of this process too.
    others = set(psutil.Process().children())
    parser = ParserProcess(limits.model_copy(update={"parse_seconds_max": 3.0, "file_bytes_max": 50_000_000}))
    try:
        assert parser.parse(bytes(tmp_path / "good.md")).document is not None
        assert parser.parse(bytes(tmp_path / "slow.md")).code == "timeout"
        assert parser.parse(bytes(tmp_path / "good.md")).document is not None
        (child,) = set(psutil.Process().children()) - others
        child.kill()
        child.wait(10)
        assert parser.parse(bytes(tmp_path / "good.md")).document is not None
    finally:
        parser.close()
    assert set(psutil.Process().children()) <= others


def test_a_document_that_takes_too_much_memory_fails_alone(tmp_path: Path, limits: ParserLimits) -> None:
    (tmp_path / "good.md").write_text("words")
    (tmp_path / "wide.html").write_bytes(b"<html>" + b"<p>x" * 4_000_000)
    tight = {"memory_bytes_max": 400 * 1024**2, "file_bytes_max": 50_000_000, "text_characters_max": 50_000_000}
    parser = ParserProcess(limits.model_copy(update=tight))
    try:
        assert parser.parse(bytes(tmp_path / "wide.html")).code == "broken"
        assert parser.parse(bytes(tmp_path / "good.md")).document is not None
    finally:
        parser.close()
