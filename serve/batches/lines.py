"""A batch's input file: fetched into a local file, every line checked before the first one is sent."""

import tempfile
from dataclasses import dataclass
from typing import IO, Any, cast

import orjson

from models.batches import ERRORS_MAX, INPUT_BYTES_MAX, LINES_MAX, BatchEndpoint, LineError
from serve.files.store import ObjectStore

BLOCK_BYTES = 1024 * 1024
CUSTOM_ID_LENGTH_MAX = 512
NAME_LENGTH_MAX = 200
KNOWN = frozenset({"custom_id", "method", "url", "body"})


@dataclass(frozen=True, slots=True)
class Line:
    """One request. ``number`` counts from one; ``body`` as the endpoint takes it."""

    number: int
    custom_id: str
    body: dict[str, Any]


class Input:
    """The file, its lines' places, and what is wrong with it. Close it."""

    def __init__(self, file: IO[bytes], endpoint: BatchEndpoint) -> None:
        """Reads the whole file, a line at a time."""
        self._file = file
        self._endpoint = endpoint
        self._places: list[int] = []
        self._seen: set[str] = set()
        self.model: str | None = None
        self.errors: list[LineError] = []
        self._read()

    @property
    def total(self) -> int:
        """Lines that hold a request."""
        return len(self._places)

    def line(self, number: int) -> Line:
        """A line of a file without errors."""
        self._file.seek(self._places[number - 1])
        found = orjson.loads(self._file.readline())
        return Line(number, found["custom_id"], found["body"])

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self) -> None:
        self._file.seek(0, 2)
        if self._file.tell() > INPUT_BYTES_MAX:
            self._refuse("file_too_large", f"The file is larger than {INPUT_BYTES_MAX} bytes.")
            return
        self._file.seek(0)
        place = 0
        for raw in self._file:
            if raw.strip():
                if len(self._places) == LINES_MAX:
                    self._refuse("too_many_lines", f"A batch has at most {LINES_MAX} requests.")
                    return
                self._places.append(place)
                self._check(raw)
            if len(self.errors) >= ERRORS_MAX:
                return
            place += len(raw)
        if not self._places:
            self._refuse("empty_file", "The file holds no request.")

    def _check(self, raw: bytes) -> None:
        number = len(self._places)
        try:
            found: object = orjson.loads(raw)
        except orjson.JSONDecodeError:
            self._refuse("invalid_json_line", "The line is not valid JSON.", number)
            return
        if not isinstance(found, dict):
            self._refuse("invalid_json_line", "The line is not a JSON object.", number)
            return
        problem = self._problem(cast("dict[str, Any]", found))
        if problem is not None:
            code, param, message = problem
            self._refuse(code, message, number, param)

    def _problem(self, found: dict[str, Any]) -> tuple[str, str, str] | None:
        """What is wrong with a line: code, field, message."""
        unknown = sorted(found.keys() - KNOWN)
        if unknown:
            return "unknown_parameter", shown(unknown[0]), "The line has a field that is not known."
        custom_id, body = found.get("custom_id"), found.get("body")
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID_LENGTH_MAX:
            return "invalid_custom_id", "custom_id", f"Give a text of at most {CUSTOM_ID_LENGTH_MAX} characters."
        if custom_id in self._seen:
            return "duplicate_custom_id", "custom_id", "Another line of the file has this custom_id."
        self._seen.add(custom_id)
        if found.get("method") != "POST":
            return "invalid_method", "method", "The method must be 'POST'."
        if found.get("url") != self._endpoint:
            return "invalid_url", "url", f"The url must be the batch's endpoint, '{self._endpoint}'."
        if not isinstance(body, dict):
            return "invalid_body", "body", "The body must be a JSON object."
        return self._body_problem(cast("dict[str, Any]", body))

    def _body_problem(self, body: dict[str, Any]) -> tuple[str, str, str] | None:
        model = body.get("model")
        if not isinstance(model, str) or model != shown(model) or not model:
            return "invalid_model", "body.model", "The body must name a model."
        self.model = self.model or model
        if model != self.model:
            return "mismatched_model", "body.model", "All lines of a batch must name one model."
        if body.get("stream"):
            return "invalid_stream", "body.stream", "A line of a batch cannot be streamed."
        return None

    def _refuse(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        self.errors.append(LineError(code=code, message=message, param=param, line=line))


def shown(name: str) -> str:
    """A name as an error may quote it, and PostgreSQL store it."""
    return "".join(letter for letter in name[:NAME_LENGTH_MAX] if letter.isprintable())


async def fetched(store: ObjectStore, name: str) -> IO[bytes]:
    """The object as a local file without a name, which goes when it is closed. Raises OSError."""
    file = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115 - the caller closes it
    reader = store.reader(name, 0)
    try:
        await reader.open()
        while block := await reader.read(BLOCK_BYTES):
            await store.run(file.write, block)
    except BaseException:
        file.close()
        raise
    finally:
        await reader.close()
    return file
