"""What an upload's form says beside the bytes, checked field by field as it comes."""

import unicodedata
from typing import cast, get_args

from models.errors import InvalidRequest
from models.files import EXPIRY_SECONDS_MAX, EXPIRY_SECONDS_MIN, FILENAME_LENGTH_MAX, Purpose
from serve.files.form import FieldGiven, FileStart

FILE = "file"
PURPOSE = "purpose"
ANCHOR = "expires_after[anchor]"
SECONDS = "expires_after[seconds]"
FIELDS = frozenset({PURPOSE, ANCHOR, SECONDS})
PURPOSES: tuple[str, ...] = get_args(Purpose)
UNNAMED = "file"


class UploadFields:
    """One upload's fields. Wrong ones are refused at once, missing ones by ``check``; both raise InvalidRequest."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}
        self.filename: str | None = None

    def take_field(self, given: FieldGiven) -> None:
        """A text field."""
        name = given.name
        if name == FILE:
            raise InvalidRequest("'file' must be a file, sent with a filename.", param=FILE)
        if name not in FIELDS:
            raise InvalidRequest(f"Unsupported parameter: '{name}'.", param=name, code="unsupported_parameter")
        if name in self._fields:
            raise InvalidRequest(f"'{name}' is given twice.", param=name)
        if name == PURPOSE and given.value not in PURPOSES:
            raise InvalidRequest(f"'purpose' must be one of {', '.join(PURPOSES)}.", param=PURPOSE)
        if name == ANCHOR and given.value != "created_at":
            raise InvalidRequest("'expires_after[anchor]' must be 'created_at'.", param=ANCHOR)
        self._fields[name] = given.value
        if name == SECONDS:
            seconds_of(given.value)

    def take_file(self, start: FileStart) -> None:
        """The file begins."""
        if start.name in FIELDS:
            raise InvalidRequest(f"'{start.name}' must be text, not a file.", param=start.name)
        if start.name != FILE:
            raise InvalidRequest(
                f"Unsupported parameter: '{start.name}'.", param=start.name, code="unsupported_parameter"
            )
        if self.filename is not None:
            raise InvalidRequest("One file at a time can be uploaded.", param=FILE)
        self.filename = plain(start.filename)

    def check(self) -> None:
        """All that must be there is."""
        for name, there in ((FILE, self.filename is not None), (PURPOSE, PURPOSE in self._fields)):
            if not there:
                raise InvalidRequest(f"Missing required parameter: '{name}'.", param=name)
        for name, other in ((ANCHOR, SECONDS), (SECONDS, ANCHOR)):
            if other in self._fields and name not in self._fields:
                raise InvalidRequest(f"Missing required parameter: '{name}'.", param=name)

    @property
    def purpose(self) -> Purpose:
        """Once checked."""
        return cast("Purpose", self._fields[PURPOSE])

    @property
    def expires_after_seconds(self) -> int | None:
        """None: as the purpose has it."""
        given = self._fields.get(SECONDS)
        return None if given is None else seconds_of(given)


def seconds_of(text: str) -> int:
    """Raises InvalidRequest where it is no number within bounds."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(EXPIRY_SECONDS_MAX)) else 0
    if not EXPIRY_SECONDS_MIN <= number <= EXPIRY_SECONDS_MAX:
        bounds = f"from {EXPIRY_SECONDS_MIN} to {EXPIRY_SECONDS_MAX}"
        raise InvalidRequest(f"'{SECONDS}' must be a whole number {bounds}.", param=SECONDS)
    return number


def plain(filename: str) -> str:
    """A name without folders and without characters that steer a terminal, a header or a file system."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    shown = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()[:FILENAME_LENGTH_MAX]
    return shown if shown.strip(".") else UNNAMED
