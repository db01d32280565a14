"""A ``multipart/form-data`` body read as it comes, in memory bounded by one fed block whatever the body's length.

Invariants
1. The events of a body are the same however it was cut into blocks; file data of one ``feed`` comes in one piece.
2. Names, text values, headers and the number of parts are bounded; a file's data is not, its reader counts it.
3. ``finish`` accepts a body only if its closing boundary was read.

Source: RFC 7578. The syntax is python-multipart's affair; what the parts mean is decided here.
"""

from dataclasses import dataclass

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from models.errors import InvalidRequest, UnsupportedMedia

FORM_TYPE = b"multipart/form-data"
PARTS_MAX = 32
NAME_BYTES_MAX = 128
FIELD_BYTES_MAX = 4_096
HEADERS_MAX = 8
HEADER_BYTES_MAX = 4_096
# What a form may hold beside the file's data.
OVERHEAD_BYTES_MAX = PARTS_MAX * (FIELD_BYTES_MAX + HEADERS_MAX * HEADER_BYTES_MAX)
PLAIN_ENCODINGS = frozenset({b"", b"7bit", b"8bit", b"binary"})


@dataclass(frozen=True, slots=True)
class FieldGiven:
    """A text field, whole."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileStart:
    """A file begins; ``filename`` as the client wrote it."""

    name: str
    filename: str


@dataclass(frozen=True, slots=True)
class FileData:
    """More of the file that began last; never empty."""

    data: bytes


Event = FieldGiven | FileStart | FileData


class FormReader:
    """Feed it the body's blocks in order, then ``finish``."""

    def __init__(self, content_type: bytes | None) -> None:
        """Raises UnsupportedMedia where the body is no form, InvalidRequest where it has no usable boundary."""
        kind, options = parse_options_header(content_type)
        if kind != FORM_TYPE:
            raise UnsupportedMedia("Send the file as multipart/form-data.")
        boundary = options.get(b"boundary")
        if not boundary:
            raise InvalidRequest("The content type names no boundary.")
        self._events: list[Event] = []
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._data: list[bytes] = []
        self._parts = 0
        self._name = ""
        self._in_file = False
        self._field_bytes = 0
        self._ended = False
        self._delimiter = b"\r\n--" + boundary
        self._delimiters = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_text,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
                max_header_count=HEADERS_MAX,
                max_header_size=HEADER_BYTES_MAX,
            )
        except FormParserError:
            raise InvalidRequest("The content type's boundary is too long.") from None

    def feed(self, block: bytes) -> list[Event]:
        """What ``block`` completes. Raises InvalidRequest where it is no form, or leaves its bounds."""
        # Data must not hold the delimiter (RFC 2046, 5.1.1). The parser walks over each one it meets byte by byte, so
        # data made of them would cost a second of CPU for each megabyte.
        self._delimiters += block.count(self._delimiter)
        if self._delimiters > PARTS_MAX:
            raise malformed()
        try:
            self._parser.write(block)
        except FormParserError:
            raise malformed() from None
        if self._in_file:
            self._flush_file()
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """The body has ended. Raises InvalidRequest where the form has not."""
        if not self._ended:
            raise malformed()

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise InvalidRequest(f"A form has at most {PARTS_MAX} parts.")
        self._headers = {}
        self._header_name = self._header_value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_text(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value.strip(b" \t")
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"")
        if kind != b"form-data" or not 0 < len(name) <= NAME_BYTES_MAX:
            raise InvalidRequest(f"Each part of a form has a name of at most {NAME_BYTES_MAX} bytes.")
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in PLAIN_ENCODINGS:
            raise InvalidRequest("A form's parts are sent as they are, without a transfer encoding.")
        self._name = name.decode(errors="replace")
        self._data, self._field_bytes = [], 0
        filename = options.get(b"filename")
        self._in_file = filename is not None
        if filename is not None:
            self._events.append(FileStart(self._name, filename.decode(errors="replace")))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._field_bytes += end - start
            if self._field_bytes > FIELD_BYTES_MAX:
                raise InvalidRequest(f"'{self._name}' is longer than {FIELD_BYTES_MAX} bytes.", param=self._name)
        self._data.append(data[start:end])

    def _part_end(self) -> None:
        if self._in_file:
            self._flush_file()
            self._in_file = False
            return
        try:
            value = b"".join(self._data).decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"'{self._name}' is not text in UTF-8.", param=self._name) from None
        self._events.append(FieldGiven(self._name, value))
        self._data = []

    def _flush_file(self) -> None:
        if self._data:
            self._events.append(FileData(b"".join(self._data)))
            self._data = []

    def _end(self) -> None:
        self._ended = True


def malformed() -> InvalidRequest:
    """The body is not what its content type says."""
    return InvalidRequest("The request body is not a valid multipart form.")
