"""Numbers, strings and named values of a JSON Schema, as the engine's grammar enforces them."""

import math
from typing import Any, cast

from serve.tools.patterns import Unenforceable, bounded_string, enforceable_pattern

Schema = dict[str, Any]

INTEGER_MAX = 2**53
FORMATS = frozenset({"date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid"})
# By the type they speak of: a schema without a type that has one of these is taken to mean that type.
KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def values(schema: Schema, given: list[str], where: str) -> Schema:
    """A schema of the values that are named and have the type. Raises Unenforceable."""
    others = set(given) - {"enum", "const", "type"}
    if others or {"enum", "const"} <= schema.keys():
        raise Unenforceable(f"'enum' and 'const' {at(where)} can be combined with 'type' alone")
    values = filled(schema["enum"], where, "enum") if "enum" in schema else [schema["const"]]
    types = types_of(schema, given, where)
    kept = [value for value in values if not types or kinds(value) & set(types)]
    if not kept:
        raise Unenforceable(f"no value {at(where)} has the type")
    return {"enum": kept}


def kinds(value: object) -> set[str]:
    """The types of a JSON value: an integer is a number, too."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"integer", "number"} if value.is_integer() else {"number"}
    if isinstance(value, str):
        return {"string"}
    return {"array" if isinstance(value, list) else "object" if isinstance(value, dict) else "null"}


def string(schema: Schema, where: str) -> Schema:
    """A schema of strings. Raises Unenforceable."""
    least, most = count(schema, "minLength", where) or 0, count(schema, "maxLength", where)
    if most is not None and most < least:
        raise Unenforceable(f"no length {at(where)} is possible")
    bounded = least > 0 or most is not None
    pattern: object = schema.get("pattern")
    try:
        if pattern is not None:
            if bounded:
                raise Unenforceable("'pattern' and a length cannot be combined")
            return {"type": "string", "pattern": enforceable_pattern(typed(pattern, str, where, "pattern"))}
        if bounded:
            return {"type": "string", "pattern": bounded_string(least, most)}
    except Unenforceable as error:
        raise Unenforceable(f"{error} ({at(where)})") from None
    # Any other format is an annotation, as JSON Schema has it.
    named: object = schema.get("format")
    return {"type": "string", "format": named} if isinstance(named, str) and named in FORMATS else {"type": "string"}


def number(schema: Schema, kind: str, where: str) -> Schema:
    """A schema of numbers, ``kind`` of them. Raises Unenforceable."""
    if schema.get("multipleOf", 1) != 1 or ("multipleOf" in schema and kind != "integer"):
        raise Unenforceable(f"the keyword 'multipleOf' {at(where)} cannot be enforced")
    bounds: dict[str, int | float] = {}
    for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
        value: object = schema.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not -INTEGER_MAX <= value <= INTEGER_MAX:
            raise Unenforceable(f"the keyword '{name}' {at(where)} must be a number within ±{INTEGER_MAX}")
        bounds[name] = value
    if kind == "integer":
        bounds = _whole(bounds)
    low = max((bounds[name] for name in ("minimum", "exclusiveMinimum") if name in bounds), default=-math.inf)
    high = min((bounds[name] for name in ("maximum", "exclusiveMaximum") if name in bounds), default=math.inf)
    if low > high or (low == high and any(name.startswith("exclusive") for name in bounds)):
        raise Unenforceable(f"no number {at(where)} is within the bounds")
    if low == high:
        return {"enum": [low]}
    return {"type": kind, **bounds}


def _whole(bounds: dict[str, int | float]) -> dict[str, int | float]:
    """Bounds of integers: inclusive, and integers themselves."""
    made: dict[str, int | float] = {}
    lows = [math.ceil(bounds["minimum"])] if "minimum" in bounds else []
    lows += [math.floor(bounds["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in bounds else []
    highs = [math.floor(bounds["maximum"])] if "maximum" in bounds else []
    highs += [math.ceil(bounds["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in bounds else []
    if lows:
        made["minimum"] = max(lows)
    if highs:
        made["maximum"] = min(highs)
    return made


def types_of(schema: Schema, given: list[str], where: str) -> list[str]:
    """The types a schema allows, or speaks of; none where it allows all. Raises Unenforceable."""
    named: object = schema.get("type")
    if named is None:
        return [kind for kind, keywords in KEYWORDS.items() if keywords & set(given)]
    types = cast("list[object]", named) if isinstance(named, list) else [named]
    if not types or any(kind not in TYPES for kind in types):
        raise Unenforceable(f"the type {at(where)} is none")
    return list(dict.fromkeys(cast("list[str]", types)))


def count(schema: Schema, name: str, where: str) -> int | None:
    """A bound on a number of things. Raises Unenforceable."""
    value: object = schema.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Unenforceable(f"the keyword '{name}' {at(where)} must be a whole number")
    return value


def filled(value: object, where: str, name: str) -> list[Any]:
    """A list that is not empty. Raises Unenforceable."""
    items = typed(value, list, where, name)
    if not items:
        raise Unenforceable(f"the keyword '{name}' {at(where)} must not be empty")
    return items


def typed(value: object, kind: type, where: str, name: str) -> Any:
    """The value, which must be of a kind. Raises Unenforceable."""
    if not isinstance(value, kind):
        raise Unenforceable(f"the keyword '{name}' {at(where)} has the wrong type")
    return value


def at(where: str) -> str:
    """Where a keyword is, for a message."""
    return f"at '{where.lstrip('.')}'" if where else "at its root"
