"""What is refused before a token is spent: the parameter and the keyword are named."""

from collections.abc import Callable
from typing import Any

import pytest

from models.errors import InvalidRequest
from serve.refusals import refusal
from serve.tools.schema import enforceable

Tools = Callable[..., Any]
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": {"type": "object", **parameters}}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [CLOCK], "functions": [{}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"tools": ["clock"]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [CLOCK, {"type": "function"}]}, "tools[1].function"),
        ({"tools": [CLOCK, CLOCK]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "strict": "yes"}}]}, "tools[0].function.strict"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": 1}}]}, "tools[0].function.parameters"),
        ({"tools": [with_parameters(type="string")]}, "tools[0].function.parameters"),
        (
            {"tools": [{**CLOCK, "function": {"name": "a", "parameters": {"anyOf": [{}]}}}]},
            "tools[0].function.parameters",
        ),
        ({"tools": [CLOCK] * 129}, "tools"),
        ({"tools": [CLOCK], "tool_choice": "clock"}, "tool_choice"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": [], "tools": [1]}}},
            "tool_choice.allowed_tools",
        ),
        ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [CLOCK], "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "all"}}},
            "tool_choice.allowed_tools",
        ),
        ({"tools": [CLOCK], "logprobs": True}, "logprobs"),
        ({"tools": [CLOCK], "structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
        ({"tools": [CLOCK], "echo": True}, "echo"),
        ({"tools": [CLOCK], "skip_special_tokens": False}, "skip_special_tokens"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
            "response_format",
        ),
    ],
)
async def test_a_wrong_request_is_told_which_parameter_it_is(tools: Tools, body: dict[str, Any], param: str) -> None:
    error = await tools("never").refused(**body)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_the_gateway_passes_the_name_of_the_keyword_on(tools: Tools) -> None:
    tags = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    answer = await tools("never").chat(tools=[CLOCK, with_parameters(properties={"tags": tags})])
    told = refusal(answer.status_code, answer.content, None, "m", internal=True)
    assert (told.status, told.param) == (400, "tools[1].function.parameters")
    assert "'uniqueItems' at 'tags'" in told.message
    assert told.code == "invalid_function_parameters"


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"patternProperties": {}}, "'patternProperties' at its root"),
        ({"properties": {"a": {"items": {"contains": {}}}}}, "'contains' at 'a[]'"),
        ({"properties": {"a": {"type": "number", "multipleOf": 0.1}}}, "'multipleOf' at 'a'"),
        ({"allOf": [{}, {}]}, "'allOf'"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "exclude one another"),
        ({"anyOf": [{}], "type": "object"}, "'anyOf' and 'type'"),
        ({"$ref": "http://elsewhere/schema"}, "leaves the schema"),
        ({"$ref": "#/$defs/none"}, "points to nothing"),
        ({"enum": [1], "minimum": 0}, "'type' alone"),
        ({"enum": ["a"], "type": "integer"}, "no value"),
        ({"enum": []}, "must not be empty"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "within the bounds"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "no length"),
        ({"type": "string", "minLength": -1}, "whole number"),
        ({"type": "string", "minLength": 20_000}, "as long"),
        ({"type": "string", "pattern": "a", "maxLength": 2}, "'pattern' and a length"),
        ({"type": "string", "pattern": "(?=a)b"}, "looks around"),
        ({"type": "string", "pattern": r"\bword"}, "cannot be enforced"),
        ({"type": "string", "pattern": 'say "x"'}, "JSON escapes"),
        ({"type": "string", "pattern": "a{1000}"}, "more than 128"),
        ({"type": "string", "pattern": "(a"}, "parentheses"),
        ({"type": "string", "pattern": "a**"}, "repeats nothing"),
        ({"type": "string", "pattern": "[a"}, "empty or open class"),
        ({"type": "object", "minProperties": 1}, "number of properties"),
        ({"type": "object", "required": ["a"], "additionalProperties": False}, "anything satisfies"),
        ({"type": "object", "required": [1]}, "must hold names"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "no number of items"),
        ({"type": "array", "items": [{}]}, "no schema"),
        ({"type": "thing"}, "the type at its root is none"),
        ({"type": [{}]}, "the type at its root is none"),
        ({"properties": {"a": {"$id": "x"}}}, "'$id' at 'a'"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"anyOf": [{"$ref": "#/$defs/x"}, {}]}}}, "leads back to itself"),
        ({"anyOf": [{}] * 65}, "more than 64 schemas"),
        ({"properties": {f"p{n}": {} for n in range(101)}}, "may leave out more than 100"),
        ({"anyOf": [{"pattern": f"{n}"} for n in range(33)]}, "too many patterns"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_in_words(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        enforceable(schema, "response_format", "invalid_json_schema")
    assert said in refused.value.message
    assert (refused.value.param, refused.value.code) == ("response_format", "invalid_json_schema")


def test_a_schema_that_never_ends_is_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    chain = {f"s{n}": {"properties": {"next": {"$ref": f"#/$defs/s{n + 1}"}}} for n in range(500)}
    fan = {"$defs": {f"s{n}": {} for n in range(101)}, "prefixItems": [{"$ref": f"#/$defs/s{n}"} for n in range(101)]}
    wide = {"properties": {f"p{n}": {"type": "string"} for n in range(6_000)}}
    for schema in (deep, {"$ref": "#/$defs/s0", "$defs": chain}, fan, wide, {"enum": list(range(6_000))}):
        with pytest.raises(InvalidRequest, match=r"too large or nested too deeply|more than 100 definitions"):
            enforceable(schema, "response_format", "invalid_json_schema")


async def test_all_tools_of_a_request_share_the_room(tools: Tools) -> None:
    properties = {f"p{n}": {"type": "string"} for n in range(99)}
    many = [with_parameters(properties=properties) for _ in range(60)]
    for number, tool in enumerate(many):
        tool["function"]["name"] = f"f{number}"
    error = await tools("never").refused(tools=many)
    assert error["param"] == "tools[50].function.parameters"


def test_choices_that_exclude_one_another_are_taken() -> None:
    def tagged(name: str) -> dict[str, Any]:
        return {"type": "object", "properties": {"kind": {"const": name}}, "required": ["kind"]}

    schema = {
        "oneOf": [tagged("cat"), {"$ref": "#/$defs/dog"}, {"type": "string"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {"dog": tagged("dog")},
    }
    assert len(enforceable(schema, "response_format", "invalid_json_schema")["anyOf"]) == 3
