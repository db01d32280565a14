"""The form reader against forms that Hypothesis writes and cuts."""

from email.message import Message
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidRequest, UnsupportedMedia
from serve.files.form import Event, FieldGiven, FileData, FileStart, FormReader

BOUNDARY = b"----edge"
DELIMITER = b"\r\n--" + BOUNDARY
# Data that looks like the syntax around it, as far as a form allows.
SYNTAX = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"--", b"\r\n--", b"\r\n----edg", b"-", b"----edge", b'"', b";", b"\0"]
)
DATA = st.lists(st.one_of(st.binary(max_size=20), SYNTAX), max_size=12).map(b"".join)
LEGAL = DATA.filter(lambda data: DELIMITER not in b"\r\n" + data + b"\r\n")
NAME = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
TEXT = st.text(max_size=40).filter(lambda text: DELIMITER not in b"\r\n" + text.encode() + b"\r\n")
PARTS = st.lists(
    st.one_of(
        st.tuples(NAME, st.none(), TEXT.map(str.encode)),
        st.tuples(NAME, st.text(st.characters(codec="utf-8", exclude_characters='\r\n"\\'), max_size=20), LEGAL),
    ),
    max_size=6,
)
CUTS = st.lists(st.integers(min_value=0, max_value=2_000), max_size=30)
CONTENT_TYPE = b"multipart/form-data; boundary=" + BOUNDARY


def written(parts: list[tuple[str, str | None, bytes]]) -> bytes:
    body = b""
    for name, filename, data in parts:
        given_name = "" if filename is None else f'; filename="{filename}"'
        head = f'Content-Disposition: form-data; name="{name}"{given_name}\r\nX-More: y\r\n\r\n'
        body += b"--" + BOUNDARY + b"\r\n" + head.encode() + data + b"\r\n"
    return body + b"--" + BOUNDARY + b"--\r\n"


def blocks(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


def events(body: bytes, cuts: list[int]) -> list[Event]:
    """All events, neighbouring pieces of data joined."""
    reader = FormReader(CONTENT_TYPE)
    joined: list[Event] = []
    for block in blocks(body, cuts):
        for event in reader.feed(block):
            if isinstance(event, FileData) and isinstance(joined[-1], FileData):
                joined[-1] = FileData(joined[-1].data + event.data)
            else:
                joined.append(event)
    reader.finish()
    return joined


@given(PARTS, CUTS)
@settings(max_examples=400, deadline=None)
def test_a_form_is_read_as_it_was_written_however_it_is_cut(
    parts: list[tuple[str, str | None, bytes]], cuts: list[int]
) -> None:
    wanted: list[Event] = []
    for name, filename, data in parts:
        if filename is None:
            wanted.append(FieldGiven(name, data.decode()))
        else:
            wanted += [FileStart(name, filename), *([FileData(data)] if data else [])]
    assert events(written(parts), cuts) == wanted


@given(PARTS.filter(bool), CUTS, st.integers(min_value=3, max_value=500))
@settings(max_examples=200, deadline=None)
def test_a_form_that_was_cut_short_is_refused(
    parts: list[tuple[str, str | None, bytes]], cuts: list[int], missing: int
) -> None:
    body = written(parts)
    with pytest.raises(InvalidRequest):
        events(body[: max(0, len(body) - missing)], cuts)


@given(
    st.lists(st.one_of(DATA, st.just(b"--" + BOUNDARY), st.just(b"\r\n\r\n"), st.just(b'name="a"')), max_size=20), CUTS
)
@settings(max_examples=400, deadline=None)
def test_whatever_comes_is_read_or_refused(pieces: list[bytes], cuts: list[int]) -> None:
    body = b"--" + BOUNDARY + b"\r\nContent-Disposition: form-data; " + b"".join(pieces)
    try:
        found = events(body, cuts)
    except InvalidRequest:
        return
    assert sum(len(event.data) for event in found if isinstance(event, FileData)) <= len(body)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_whatever_content_type_comes_is_taken_or_refused(content_type: bytes) -> None:
    for value in (content_type, b"multipart/form-data; " + content_type, CONTENT_TYPE + content_type):
        try:
            FormReader(value)
        except (InvalidRequest, UnsupportedMedia):
            continue


def test_a_quoted_boundary_is_the_one_the_standard_library_reads() -> None:
    value = 'multipart/form-data; charset=utf-8; boundary="a b"'
    message = Message()
    message["content-type"] = value
    assert message.get_boundary() == "a b"
    reader = FormReader(value.encode())
    assert reader.feed(b'--a b\r\nContent-Disposition: form-data; name="x"\r\n\r\ny\r\n--a b--') == [
        FieldGiven("x", "y")
    ]
    reader.finish()


def test_data_is_not_kept_back() -> None:
    """What a block held is given at once, but for the beginning of what may be a delimiter."""
    reader = FormReader(CONTENT_TYPE)
    reader.feed(b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n')
    for _ in range(50):
        (event,) = reader.feed(b"x" * 10_000)
        assert event == FileData(b"x" * 10_000)
