"""What may be asked on Anthropic's wire, and the same in OpenAI's chat parameters.

What we cannot pass on is refused by name, never dropped.
Source: https://platform.claude.com/docs/en/api/messages
"""

from dataclasses import dataclass
from typing import Any

from models.errors import InvalidRequest
from serve.checks import TOKENS_MAX
from serve.messages.conversation import Conversation
from serve.messages.reader import Reader, unsupported, wrong
from serve.validation import MESSAGES_MAX, Body

TOOLS_MAX = 1_024
STOPS_MAX = 4
USER_ID_CHARACTERS_MAX = 256
TEMPERATURE_MAX = 1
THINKING_TOKENS_MIN = 1_024
TOOL_CHOICES = ("auto", "any", "tool", "none")
THINKING = ("enabled", "adaptive", "disabled")
DISPLAYS = ("summarized", "omitted")
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
TIERS = {"auto": "auto", "standard_only": "default"}
EFFORTS = ("low", "medium", "high", "xhigh", "max")
# The model goes on with the last message: vLLM's words, which no hosted provider knows.
CONTINUED = {"add_generation_prompt": False, "continue_final_message": True}


@dataclass(frozen=True, slots=True)
class Asked:
    """``chat``: the body of a chat completion. ``thinking``: whether the caller wants to see the model think."""

    chat: Body
    stream: bool
    thinking: bool


def message_request(body: Body, *, engine: bool) -> Asked:
    """A request to ``/v1/messages``; ``engine``: one of ours answers, which tells its usage all along a stream.

    Raises InvalidRequest that names the field at fault.
    """
    request = Reader(body)
    chat = _prompt(request)
    request.need("max_tokens")
    stream = request.flag("stream")
    user = _user(request.object("metadata"))
    tier = None if request.value("service_tier") is None else TIERS[request.one_of("service_tier", *TIERS)]
    # In OpenAI's words; None: not asked for.
    settings: dict[str, Any] = {
        "max_completion_tokens": request.integer("max_tokens", 1, TOKENS_MAX),
        "temperature": request.number("temperature", 0, TEMPERATURE_MAX),
        "top_p": request.number("top_p", 0, 1),
        "top_k": request.integer("top_k", 0, TOKENS_MAX),
        "stop": _stops(request) or None,
        "user": user,
        "service_tier": tier,
        **_output(request.object("output_config")),
        **_tool_choice(request),
    }
    thinking = _thinking(request.object("thinking"), settings)
    request.cache_mark()
    request.done()
    chat.update({name: value for name, value in settings.items() if value is not None})
    if stream:
        options = {"include_usage": True}
        chat |= {"stream": True, "stream_options": {**options, "continuous_usage_stats": True} if engine else options}
    return Asked(chat, stream, thinking)


def count_request(body: Body) -> Body:
    """A request to ``/v1/messages/count_tokens`` as one to vLLM's ``/tokenize``. Raises InvalidRequest."""
    request = Reader(body)
    prompt = _prompt(request)
    # What of it is told to the model, and how, is the engine's to know.
    settings = _tool_choice(request) | _output(request.object("output_config"))
    # Checked as it would be in a message, and without weight here.
    _thinking(request.object("thinking"), {})
    request.cache_mark()
    request.done()
    return prompt | settings


def _prompt(request: Reader) -> Body:
    """What the model reads."""
    conversation = Conversation()
    model = request.text("model")
    conversation.system(request, "system")
    request.need("messages")
    messages = request.objects("messages", MESSAGES_MAX)
    if not messages:
        raise wrong("messages", "must not be empty")
    for message in messages:
        conversation.add(message)
    continued = conversation.end()
    body: Body = {"model": model, "messages": conversation.messages}
    tools = [_tool(tool) for tool in request.objects("tools", TOOLS_MAX)]
    if tools:
        body["tools"] = tools
    return {**body, **CONTINUED} if continued else body


def _tool(tool: Reader) -> dict[str, Any]:
    kind = tool.value("type")
    if kind is not None and kind != "custom":
        raise InvalidRequest(
            f"Unsupported tool '{kind}': only tools that the caller runs itself can be given.",
            param=tool.name("type"),
            code="unsupported_parameter",
        )
    function: dict[str, Any] = {"name": tool.text("name")}
    description = tool.optional_text("description")
    if description is not None:
        function["description"] = description
    function["parameters"] = tool.schema("input_schema")
    if tool.value("strict") is not None:
        function["strict"] = tool.flag("strict")
    # Arguments are always streamed as they come.
    tool.flag("eager_input_streaming")
    if tool.flag("defer_loading"):
        raise unsupported(tool.name("defer_loading"))
    if tool.items("allowed_callers", TOOLS_MAX) not in ([], ["direct"]):
        raise unsupported(tool.name("allowed_callers"))
    tool.cache_mark()
    tool.done()
    return {"type": "function", "function": function}


def _tool_choice(request: Reader) -> dict[str, Any]:
    choice = request.object("tool_choice")
    if choice is None:
        return {}
    kind = choice.one_of("type", *TOOL_CHOICES)
    names = [tool.text("name") for tool in request.objects("tools", TOOLS_MAX)]
    if not names and kind != "none":
        raise wrong("tool_choice", "needs 'tools'")
    chosen: Any = CHOICES.get(kind)
    if kind == "tool":
        name = choice.text("name")
        if name not in names:
            raise wrong("tool_choice.name", "must be the name of one of the 'tools'")
        chosen = {"type": "function", "function": {"name": name}}
    alone = choice.flag("disable_parallel_tool_use")
    choice.done()
    # OpenAI refuses a choice where there are no tools.
    return ({"tool_choice": chosen} if names else {}) | ({"parallel_tool_calls": False} if alone else {})


def _stops(request: Reader) -> list[str]:
    stops = request.items("stop_sequences", STOPS_MAX)
    for index, stop in enumerate(stops):
        if not isinstance(stop, str) or not stop.strip():
            raise wrong(f"stop_sequences[{index}]", "must be a string with more than white space")
    return stops


def _user(metadata: Reader | None) -> str | None:
    if metadata is None:
        return None
    user = metadata.optional_text("user_id")
    if user is not None and len(user) > USER_ID_CHARACTERS_MAX:
        raise wrong("metadata.user_id", f"must have at most {USER_ID_CHARACTERS_MAX} characters")
    metadata.done()
    return user


def _output(output: Reader | None) -> dict[str, Any]:
    if output is None:
        return {}
    settings: dict[str, Any] = {}
    if output.value("effort") is not None:
        settings["reasoning_effort"] = output.one_of("effort", *EFFORTS)
    shape = output.object("format")
    if shape is not None:
        shape.one_of("type", "json_schema")
        schema = {"name": "answer", "schema": shape.schema("schema"), "strict": True}
        settings["response_format"] = {"type": "json_schema", "json_schema": schema}
        shape.done()
    output.done()
    return settings


def _thinking(thinking: Reader | None, settings: dict[str, Any]) -> bool:
    """Whether the caller wants to see the model think; a budget goes into ``settings``."""
    if thinking is None:
        return False
    kind = thinking.one_of("type", *THINKING)
    if kind == "enabled":
        thinking.need("budget_tokens")
        budget = thinking.integer("budget_tokens", THINKING_TOKENS_MIN, TOKENS_MAX)
        limit = settings.get("max_completion_tokens")
        if budget is not None and limit is not None and budget >= limit:
            raise wrong("thinking.budget_tokens", "must be less than 'max_tokens'")
        settings["thinking_token_budget"] = budget
    shown = kind != "disabled"
    if thinking.value("display") is not None:
        shown = thinking.one_of("display", *DISPLAYS) == "summarized" and shown
    thinking.done()
    return shown
