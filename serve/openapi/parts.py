"""What the description is put together from: JSON Schema and OpenAPI objects as plain dictionaries."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from serve.checks import Check

Object = dict[str, Any]

JSON = "application/json"
EVENTS = "text/event-stream"
STRING: Object = {"type": "string"}
INTEGER: Object = {"type": "integer"}
COUNT: Object = {"type": "integer", "minimum": 0}
BOOLEAN: Object = {"type": "boolean"}
ANYTHING: Object = {"type": "object"}
OWN_HEADERS = ("openai-version", "openai-organization", "openai-processing-ms")
"""Of every answer to a caller who is known, on OpenAI's wire."""
TIME: Object = {"type": "integer", "description": "Unix seconds"}


def ref(name: str) -> Object:
    """A schema by its name among the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def said(schema: Mapping[str, Any], description: str) -> Object:
    """A schema with a description."""
    return {**schema, "description": description}


def one_of(choices: Sequence[str]) -> Object:
    """One of some words."""
    return {"type": "string", "enum": list(choices)}


def bounded(low: float, high: float, kind: str = "integer") -> Object:
    """A number, both bounds included."""
    return {"type": kind, "minimum": low, "maximum": high}


def array(items: Object, **more: Any) -> Object:
    """An array."""
    return {"type": "array", "items": items, **more}


def record(properties: Object, required: Sequence[str] = (), *, closed: bool = False, **more: Any) -> Object:
    """An object; ``closed``: fields that are not described are refused."""
    schema: Object = {"type": "object", "properties": properties, **more}
    if required:
        schema["required"] = list(required)
    return {**schema, "additionalProperties": False} if closed else schema


def nullable(schema: Mapping[str, Any]) -> Object:
    """The same, or null."""
    if "$ref" in schema:
        return {"anyOf": [dict(schema), {"type": "null"}]}
    made = dict(schema)
    for keyword in ("anyOf", "oneOf"):
        if keyword in made:
            made[keyword] = [*made[keyword], {"type": "null"}]
    if "enum" in made:
        made["enum"] = [*made["enum"], None]
    kind: object = made.get("type")
    if kind is not None:
        made["type"] = [*(cast("list[str]", kind) if isinstance(kind, list) else [kind]), "null"]
    return made


def parameters(checks: Mapping[str, Check], words: Mapping[str, str], more: Mapping[str, Object]) -> Object:
    """The properties that ``checks`` test, in ``words``; ``more`` is what is known of a value's inside."""
    return {
        name: said(nullable({**check.schema, **more.get(name, {})}), words.get(name, ""))
        for name, check in checks.items()
    }


def list_of(entry: Object) -> Object:
    """OpenAI's list object."""
    end = nullable(STRING)
    return record(
        {
            "object": {"const": "list"},
            "data": array(entry),
            "first_id": said(end, "Null where the list is empty"),
            "last_id": said(end, "Give it as `after` for the next part"),
            "has_more": BOOLEAN,
        },
        ("object", "data", "first_id", "last_id", "has_more"),
    )


def deleted(kind: str) -> Object:
    """What is answered for something that is no more."""
    return record(
        {"id": STRING, "object": {"const": kind}, "deleted": {"const": True}}, ("id", "object", "deleted"), closed=True
    )


def takes(schema: Object, example: Object | None = None, *, kind: str = JSON, required: bool = True) -> Object:
    """A request body."""
    content: Object = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"required": required, "content": {kind: content}}


def events(description: str) -> Object:
    """A stream of server-sent events; the schema is that of each of them."""
    return {"schema": record({"event": STRING, "data": said(STRING, "JSON")}, ("data",), description=description)}


def answers(description: str, content: Mapping[str, Object], headers: Sequence[str] = ()) -> Object:
    """A successful answer; ``content`` by media type."""
    named = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *headers)}
    return {"description": description, "headers": named, "content": {kind: dict(it) for kind, it in content.items()}}


def gives(description: str, schema: Object, headers: Sequence[str] = ()) -> Object:
    """A successful answer in JSON."""
    return answers(description, {JSON: {"schema": schema}}, headers)


def in_path(name: str, description: str, **schema: Any) -> Object:
    """A part of the path."""
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", **schema},
    }


def in_query(name: str, description: str, schema: Object) -> Object:
    """A parameter of the query."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def in_header(name: str, description: str, schema: Object) -> Object:
    """A header of the request."""
    return {"name": name, "in": "header", "description": description, "schema": schema}
