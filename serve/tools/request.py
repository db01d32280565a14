"""What a chat request asks of tools and of its answer's form, read and checked."""

import re
from dataclasses import dataclass
from typing import Any, cast

from models.errors import InvalidRequest
from serve.tools.scalars import Schema
from serve.tools.schema import Room, enforceable

Body = dict[str, Any]

TOOLS_MAX = 128
CALLS_MAX = 8
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
NO_PARAMETERS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
# vLLM's own parameters that would put other text around a call, or another grammar in the place of the calls'.
NOT_WITH_TOOLS = ("structured_outputs", "echo", "continue_final_message", "use_beam_search")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function. ``definition`` as the caller gave it; ``schema`` as the grammar enforces its ``parameters``."""

    name: str
    definition: dict[str, Any]
    parameters: Schema
    schema: Schema


@dataclass(frozen=True, slots=True)
class Plan:
    """Which tools the answer may call, at most ``calls_max`` times; ``forced``: it must, and has no text.

    ``text``: the schema of an answer that is no call; None where any text will do.
    """

    tools: tuple[Tool, ...]
    forced: bool
    calls_max: int
    text: Schema | None = None


def plan_of(body: Body) -> Plan | None:
    """None where no tool may be called. Raises InvalidRequest that names the parameter at fault."""
    for name in ("functions", "function_call"):
        if body.get(name) is not None:
            raise InvalidRequest(
                f"Unsupported parameter: '{name}'. Use 'tools' instead.", param=name, code="unsupported_parameter"
            )
    given: object = body.get("tools")
    choice: object = body.get("tool_choice")
    if not isinstance(given, list) or not given or choice == "none":
        return None
    tools = _tools(cast("list[object]", given))
    _refuse_strangers(body)
    single = body.get("parallel_tool_calls") is False
    calls_max = 1 if single else CALLS_MAX
    if choice is None or choice == "auto":
        return Plan(tools, False, calls_max, text_schema(body))
    if choice == "required":
        return Plan(tools, True, calls_max)
    return _chosen(tools, choice, calls_max, body)


def _refuse_strangers(body: Body) -> None:
    for name in NOT_WITH_TOOLS:
        if body.get(name):
            raise InvalidRequest(f"'{name}' cannot be combined with 'tools'.", param=name, code="unsupported_parameter")
    if body.get("logprobs"):
        raise InvalidRequest(
            "'logprobs' cannot be combined with 'tools'.", param="logprobs", code="unsupported_parameter"
        )
    if body.get("skip_special_tokens") is False:
        raise InvalidRequest(
            "'skip_special_tokens' cannot be false together with 'tools'.", param="skip_special_tokens"
        )


def _chosen(tools: tuple[Tool, ...], choice: object, calls_max: int, body: Body) -> Plan:
    fields = cast("dict[str, Any]", choice) if isinstance(choice, dict) else {}
    if fields.get("type") == "function":
        return Plan(_named([fields], tools, "tool_choice"), True, 1)
    allowed: object = fields.get("allowed_tools")
    if fields.get("type") != "allowed_tools" or not isinstance(allowed, dict):
        raise _wrong("tool_choice", "must be 'none', 'auto', 'required', a function or allowed tools")
    inside = cast("dict[str, Any]", allowed)
    mode, references = inside.get("mode"), inside.get("tools")
    if mode not in ("auto", "required") or not isinstance(references, list) or not references:
        raise _wrong("tool_choice.allowed_tools", "needs a mode, 'auto' or 'required', and tools")
    chosen = _named(cast("list[object]", references), tools, "tool_choice.allowed_tools.tools")
    return Plan(chosen, mode == "required", calls_max, text_schema(body) if mode == "auto" else None)


def _named(references: list[object], tools: tuple[Tool, ...], param: str) -> tuple[Tool, ...]:
    names: set[str] = set()
    for reference in references:
        function = cast("dict[str, Any]", reference).get("function") if isinstance(reference, dict) else None
        name = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or all(tool.name != name for tool in tools):
            raise _wrong(param, "must name one of the tools")
        names.add(name)
    return tuple(tool for tool in tools if tool.name in names)


def _tools(given: list[object]) -> tuple[Tool, ...]:
    if len(given) > TOOLS_MAX:
        raise _wrong("tools", f"must have at most {TOOLS_MAX} items")
    tools: list[Tool] = []
    room = Room()
    for index, item in enumerate(given):
        tool = _tool(item, f"tools[{index}]", room)
        if any(other.name == tool.name for other in tools):
            raise _wrong(f"tools[{index}].function.name", "must be unique among the tools")
        tools.append(tool)
    return tuple(tools)


def _tool(item: object, param: str, room: Room) -> Tool:
    if not isinstance(item, dict):
        raise _wrong(param, "must be an object")
    fields = cast("dict[str, Any]", item)
    if fields.get("type") != "function":
        raise _wrong(f"{param}.type", "must be 'function'")
    function: object = fields.get("function")
    if not isinstance(function, dict):
        raise _wrong(f"{param}.function", "must be an object")
    definition = cast("dict[str, Any]", function)
    name: object = definition.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _wrong(f"{param}.function.name", "must have 1 to 64 letters, digits, underscores or hyphens")
    for field, kind, words in (("description", str, "a string"), ("strict", bool, "a boolean")):
        if not isinstance(definition.get(field), kind | None):
            raise _wrong(f"{param}.function.{field}", f"must be {words}")
    return Tool(name, definition, *_parameters(definition.get("parameters"), f"{param}.function.parameters", room))


def _parameters(given: object, param: str, room: Room) -> tuple[Schema, Schema]:
    """The caller's schema of the arguments, and the one that is enforced."""
    if given is None or given == {}:
        return NO_PARAMETERS, NO_PARAMETERS
    if not isinstance(given, dict):
        raise _wrong(param, "must be an object")
    parameters = cast("Schema", given)
    if parameters.get("type", "object") != "object":
        raise _wrong(param, "must be the schema of an object")
    schema = enforceable(parameters, param, "invalid_function_parameters", room)
    referred: str = schema.get("$ref", "")
    root: Schema = schema["$defs"][referred.rpartition("/")[2]] if referred else schema
    if root.get("type") != "object":
        raise _wrong(param, "must be the schema of an object, without a choice at its root")
    return parameters, schema


def text_schema(body: Body) -> Schema | None:
    """The schema that ``response_format`` sets for an answer in text; None where it sets none.

    Raises InvalidRequest.
    """
    form: object = body.get("response_format")
    if not isinstance(form, dict):
        return None
    fields = cast("dict[str, Any]", form)
    if fields.get("type") == "json_object":
        return {"type": "object"}
    if fields.get("type") != "json_schema":
        return None
    inside: object = fields.get("json_schema")
    if not isinstance(inside, dict):
        raise _wrong("response_format.json_schema", "must be an object")
    name: object = cast("dict[str, Any]", inside).get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _wrong("response_format.json_schema.name", "must have 1 to 64 letters, digits, underscores or hyphens")
    schema: object = cast("dict[str, Any]", inside).get("schema")
    if not isinstance(schema, dict):
        raise _wrong("response_format.json_schema.schema", "must be a schema")
    return enforceable(cast("Schema", schema), "response_format", "invalid_json_schema")


def _wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': it {why}.", param=param, code="invalid_value")
