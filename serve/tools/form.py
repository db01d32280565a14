"""The form in which a model writes calls, as a prompt tells it and as the grammar enforces it.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Rome"}}
    </tool_call>

It is the form of Hermes' and Qwen's chat templates; several calls are one a line block after the other.
"""

import json
from collections.abc import Iterable
from typing import Any

import orjson

from serve.tools.request import Plan, Tool
from serve.tools.scalars import Schema

OPEN = "<tool_call>"
BEFORE_NAME = '\n{"name": "'
BEFORE_ARGUMENTS = '", "arguments": '
CLOSE = "}\n</tool_call>"
BETWEEN = "\n"
# One space after a comma or a colon, as models are used to; without a bound a weak model writes spaces for ever.
SPACES_MAX = 1

EXPLANATION = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{definitions}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def structural_tag(plan: Plan) -> str:
    """vLLM's ``structured_outputs.structural_tag`` for an answer as planned: calls, text, or text and then calls."""
    calls = _calls(plan, OPEN)
    if plan.forced:
        return _tag(calls)
    if plan.text is not None:
        return _tag({"type": "or", "elements": [_json(plan.text), calls]})
    # Any text, until it opens a call; then calls to the end.
    return _tag({"type": "dispatch", "rules": [[OPEN, _calls(plan, "")]], "loop": False})


def json_tag(schema: Schema) -> str:
    """The same for an answer that is JSON."""
    return _tag(_json(schema))


def _tag(form: dict[str, Any]) -> str:
    return json.dumps({"type": "structural_tag", "format": form})


def _json(schema: Schema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": SPACES_MAX}


def _calls(plan: Plan, first: str) -> dict[str, Any]:
    one = _call(plan.tools, first)
    if plan.calls_max == 1:
        return one
    more = {"type": "repeat", "min": 0, "max": plan.calls_max - 1, "content": _call(plan.tools, BETWEEN + OPEN)}
    return {"type": "sequence", "elements": [one, more]}


def _call(tools: Iterable[Tool], opening: str) -> dict[str, Any]:
    tags = [
        {
            "type": "tag",
            "begin": f"{opening}{BEFORE_NAME}{tool.name}{BEFORE_ARGUMENTS}",
            "content": _json(tool.schema),
            "end": CLOSE,
        }
        for tool in tools
    ]
    return tags[0] if len(tags) == 1 else {"type": "or", "elements": tags}


def explanation(plan: Plan) -> str:
    """What a model whose template knows no tools is told of them."""
    functions = [{"type": "function", "function": tool.definition} for tool in plan.tools]
    text = EXPLANATION.format(definitions="\n".join(orjson.dumps(function).decode() for function in functions))
    if not plan.forced:
        return text
    if len(plan.tools) == 1:
        return f"{text}\n\nYou must call the function {plan.tools[0].name} now."
    return f"{text}\n\nYou must call a function now."


def written_call(name: str, arguments: str) -> str:
    """A call as the model would have written it; arguments that are no JSON are shown as they are."""
    return f"{OPEN}{BEFORE_NAME}{name}{BEFORE_ARGUMENTS}{arguments or '{}'}{CLOSE}"
