"""Tools and the choice among them, in the words of chat completions. Only functions of the caller's own run here."""

from typing import Any

from models.errors import InvalidRequest
from serve.messages.reader import Reader, unsupported, wrong
from serve.validation import Body

TOOLS_MAX = 1_000
CHOICES = ("none", "auto", "required")


def read_tools(reader: Reader, chat: Body) -> Body:
    """``tools``, ``tool_choice`` and ``parallel_tool_calls``; what the response repeats of them."""
    tools = [_read_tool(tool) for tool in reader.objects("tools", TOOLS_MAX)]
    choice, allowed = _read_choice(reader, {tool["name"] for tool in tools})
    usable = [tool for tool in tools if allowed is None or tool["name"] in allowed]
    if usable:
        chat["tools"] = [_chat_tool(tool) for tool in usable]
    if choice is not None:
        chat["tool_choice"] = choice
    parallel = reader.value("parallel_tool_calls")
    if parallel is not None and (not reader.flag("parallel_tool_calls") or usable):
        chat["parallel_tool_calls"] = parallel
    return {
        "tools": tools,
        "tool_choice": reader.value("tool_choice") or "auto",
        "parallel_tool_calls": parallel is not False,
    }


def _read_tool(reader: Reader) -> Body:
    kind = reader.text("type")
    if kind != "function":
        raise InvalidRequest(
            f"The tool type '{kind}' is not available: this platform offers tools of the type 'function' only.",
            param=reader.name("type"),
            code="unsupported_tool",
        )
    strict = None if reader.value("strict") is None else reader.flag("strict")
    parameters = None if reader.value("parameters") is None else reader.schema("parameters")
    if reader.flag("defer_loading"):
        raise unsupported(reader.name("defer_loading"), "value true of parameter")
    tool: Body = {
        "type": kind,
        "name": reader.text("name"),
        "description": reader.optional_text("description"),
        "parameters": parameters,
        "strict": strict,
    }
    reader.done()
    return tool


def _chat_tool(tool: Body) -> Body:
    fields = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": fields}


def _read_choice(reader: Reader, names: set[str]) -> tuple[Any, set[str] | None]:
    """In chat's words (None where nothing is asked), and the functions that may be called (None for all)."""
    value = reader.value("tool_choice")
    if value is None:
        return None, None
    if isinstance(value, str):
        choice = reader.one_of("tool_choice", *CHOICES)
        if choice == "required" and not names:
            raise wrong("tool_choice", "is only allowed when 'tools' are given")
        return (choice if names else None), None
    asked = Reader(value, "tool_choice")
    kind = asked.text("type")
    if kind == "allowed_tools":
        return _read_allowed(asked, names)
    if kind != "function":
        raise unsupported("tool_choice.type", f"type of tool, '{kind}',")
    name = _known(asked, names)
    asked.done()
    return {"type": "function", "function": {"name": name}}, None


def _read_allowed(asked: Reader, names: set[str]) -> tuple[str, set[str]]:
    mode = asked.one_of("mode", "auto", "required")
    allowed: set[str] = set()
    for tool in asked.objects("tools", TOOLS_MAX):
        tool.one_of("type", "function")
        allowed.add(_known(tool, names))
        tool.done()
    if not allowed:
        raise wrong(asked.name("tools"), "must not be empty")
    asked.done()
    return mode, allowed


def _known(reader: Reader, names: set[str]) -> str:
    name = reader.text("name")
    if name not in names:
        raise wrong(reader.name("name"), "must be the name of one of 'tools'")
    return name
