"""All texts of a request, wherever they stand: looked at, and put back changed.

Looked at is every string but those that are names of the wire (roles, types, ids, functions) and data that is no text
(images, audio, files as data). The arguments of a tool call are JSON in a string: its strings, keys and numbers are
looked at each, so that what comes out is JSON again.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import orjson

from serve.validation import Body

Change = Callable[[str, str], str]
"""Gets a text and where it stands (``messages.2.content``); gives what is to stand there."""

# Parameters that are no text of the caller's.
SETTINGS = frozenset(
    {"model", "service_tier", "reasoning_effort", "verbosity", "encoding_format", "modalities", "audio"}
)
# Below these some strings are names of the wire: another value would be another request.
WIRE = frozenset({"messages", "tools", "tool_choice", "functions", "function_call", "response_format", "prediction"})
NAMES = frozenset({"role", "type", "id", "tool_call_id"})
# Whose ``name`` is a function's or a schema's.
NAMED = frozenset({"function", "json_schema", "tool_choice", "function_call", "custom"})
BINARY = frozenset({"file_data", "data"})
ARGUMENTS = "arguments"
# A string that looks deeper than any real tool's arguments is read as a text.
BRACKETS_MAX = 200


def changed(body: Body, change: Change) -> Body:
    """``body`` with every text changed; the same object where none was."""
    result: Body = {}
    same = True
    for key, value in body.items():
        fresh = value if key in SETTINGS else _changed(value, key, key, change)
        same = same and fresh is value
        result[key] = fresh
    return body if same else result


def texts(value: Any) -> Iterator[str]:
    """Every string in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in cast("dict[str, Any]", value).items():
            yield key
            yield from texts(one)
    elif isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from texts(one)


def token_ids(body: Body) -> str | None:
    """The parameter that holds token ids in place of text, where one does."""
    for name in ("prompt", "input"):
        value = body.get(name)
        if isinstance(value, list) and value and not isinstance(value[0], str):
            return name
    return None


def _changed(value: Any, path: str, key: str, change: Change) -> Any:
    if isinstance(value, str):
        return _text(value, path, key, change)
    if isinstance(value, dict):
        return _object(cast("dict[str, Any]", value), path, key, change)
    if isinstance(value, list):
        items = cast("list[Any]", value)
        fresh = [_changed(item, f"{path}.{index}", key, change) for index, item in enumerate(items)]
        return items if all(one is other for one, other in zip(fresh, items, strict=True)) else fresh
    return value


def _object(fields: dict[str, Any], path: str, key: str, change: Change) -> dict[str, Any]:
    result: dict[str, Any] = {}
    same = True
    wire = path.partition(".")[0] in WIRE
    for name, value in fields.items():
        if wire and isinstance(value, str) and (name in NAMES or (name == "name" and key in NAMED)):
            result[name] = value
            continue
        fresh = _changed(value, f"{path}.{name}", name, change)
        same = same and fresh is value
        result[name] = fresh
    return fields if same else result


def _text(value: str, path: str, key: str, change: Change) -> str:
    if key in BINARY or value.startswith("data:"):
        return value
    if key == ARGUMENTS and value.count("{") + value.count("[") < BRACKETS_MAX:
        try:
            parsed: object = orjson.loads(value)
        except orjson.JSONDecodeError:
            parsed = None
        if isinstance(parsed, dict | list):
            fresh = _json(parsed, path, change)
            return value if fresh == parsed else orjson.dumps(fresh).decode()
    return change(value, path)


def _json(value: Any, path: str, change: Change) -> Any:
    """A JSON value, keys and numbers too; a number that is changed becomes a string."""
    if isinstance(value, str):
        return change(value, path)
    if isinstance(value, dict):
        return {change(name, path): _json(one, path, change) for name, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_json(one, path, change) for one in cast("list[Any]", value)]
    if type(value) is int:
        written = str(value)
        fresh = change(written, path)
        return value if fresh == written else fresh
    return value
