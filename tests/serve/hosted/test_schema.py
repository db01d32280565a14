"""A caller's schema is checked at a bounded price and fetches nothing."""

from typing import Any

import pytest

from models.errors import InvalidRequest
from serve.hosted.schema import Schema, without_type_lists


def bomb(levels: int) -> dict[str, Any]:
    """Each level asks the next one twice."""
    twice = {f"d{level}": {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**twice, f"d{levels}": {}}}


@pytest.mark.parametrize(
    ("schema", "text", "kept"),
    [
        ({"type": "object", "required": ["a"]}, '{"a": 1}', True),
        ({"type": "object", "required": ["a"]}, "{}", False),
        ({"type": "object"}, "{", False),
        ({"properties": {"pattern": {"type": "string", "pattern": "b+"}}}, '{"pattern": "abba"}', True),
        ({"properties": {"pattern": {"type": "string", "pattern": "b+"}}}, '{"pattern": "aa"}', False),
        ({"properties": {"pattern": {"pattern": "b+"}}}, '{"pattern": 1}', True),
        ({"enum": [{"pattern": "(?=x)"}]}, '{"pattern": "(?=x)"}', True),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, "7", True),
        ({"$ref": "https://schema.invalid/x.json"}, "7", False),
        ({"$ref": "#"}, "7", False),
        (bomb(3), "7", True),
        (bomb(60), "7", False),
    ],
)
def test_text_keeps_a_schema_or_not(schema: dict[str, Any], text: str, kept: bool) -> None:
    assert Schema(schema, "s").keeps(text) is kept


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "string"}, {"type": "string"}),
        ({"type": ["string", "null"], "title": "t"}, {"title": "t", "anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": ["integer"], "minimum": 1, "pattern": "x"}, {"anyOf": [{"type": "integer", "minimum": 1}]}),
        ({"type": ["string", "null"], "enum": ["a", None]}, {"enum": ["a", None]}),
        ({"const": {"type": ["a"]}}, {"const": {"type": ["a"]}}),
        ({"items": [{"type": ["null"]}]}, {"items": [{"anyOf": [{"type": "null"}]}]}),
    ],
)
def test_lists_of_types_become_alternatives(schema: dict[str, Any], told: dict[str, Any]) -> None:
    assert without_type_lists(schema) == told


def test_a_pattern_that_would_take_for_ever_takes_no_time() -> None:
    assert not Schema({"type": "string", "pattern": "^(a+)+$"}, "s").keeps('"' + "a" * 50_000 + '!"')


@pytest.mark.parametrize("schema", [{"type": 1}, {"pattern": "("}, {"pattern": r"(a)\1"}, {"patternProperties": {}}])
def test_a_schema_that_cannot_be_checked_is_refused_by_name(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Schema(schema, "tools[0].function.parameters")
    assert caught.value.param == "tools[0].function.parameters"
