"""One call in the provider's words: the configured model, the messages, and the promises about the answer.

A structured answer is asked for in the provider's own way where it has one, else as the call of a tool whose arguments
are the answer. What LangChain warns of is something it would not do as asked, so it is refused.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages import AnyMessage
from pydantic import SecretStr, ValidationError

from models.errors import InvalidRequest, UpstreamError
from serve.hosted.classes import ModelClass
from serve.hosted.messages import translated
from serve.hosted.parameters import check_profile, refused, settings, unsupported
from serve.hosted.request import ChatRequest, NamedChoice, ResponseFormat, Tool
from serve.hosted.schema import Schema, without_type_lists

JSON_TOOL = "json"
SCHEMA_PARAM = "response_format.json_schema.schema"
CANNOT_HAVE_TOOLS = "The model cannot be given these tools, or not be made to call one."
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Call:
    """``model`` is a LangChain runnable with tools and format bound.

    ``answer_tool``: the tool whose arguments are the answer's content. ``answer``: what the content must keep, a JSON
    object at least where ``json``. ``strict``: what each strict tool's arguments must keep.
    """

    model: Any
    messages: list[AnyMessage]
    stop: list[str] | None
    answer_tool: str | None
    json: bool
    answer: Schema | None
    strict: Mapping[str, Schema]


def prepared(kind: ModelClass, request: ChatRequest, key: SecretStr | None = None) -> Call:
    """The call, under ``key`` or the platform's own.

    Raises InvalidRequest for what the provider cannot do; UpstreamError where the class cannot be configured;
    PermissionDenied where there is no key, or the class takes none.
    """
    request.check()
    found = settings(kind, request)
    messages = translated(request.messages, kind.dialect)
    answer, strict = _schemas(request)
    try:
        model: Any = kind.model(request.model, found, key)
    except ValidationError as error:
        raise refused(error) or UpstreamError("The model's provider is not configured as it should be.") from None
    profile = cast("Mapping[str, Any]", model.profile or {})
    check_profile(profile, request)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            bound, answer_tool = _bound(kind, model, profile, request)
        except (UserWarning, ValueError):
            raise InvalidRequest(CANNOT_HAVE_TOOLS, param="tools") from None
    return Call(
        model=bound,
        messages=messages,
        stop=request.stop_sequences or None,
        answer_tool=answer_tool,
        json=request.response_format is not None and request.response_format.type != "text",
        answer=answer,
        strict=strict,
    )


def _schemas(request: ChatRequest) -> tuple[Schema | None, dict[str, Schema]]:
    strict = {
        tool.function.name: Schema(tool.function.parameters or NO_PARAMETERS, f"tools[{index}].function.parameters")
        for index, tool in enumerate(request.tools or ())
        if tool.function.strict
    }
    form = request.response_format
    answer = Schema(form.json_schema.schema_, SCHEMA_PARAM) if form and form.json_schema else None
    return answer, strict


def _bound(kind: ModelClass, model: Any, profile: Mapping[str, Any], request: ChatRequest) -> tuple[Any, str | None]:
    """The model with tools and format, and the tool that stands for the answer."""
    form = request.response_format
    asked = form is not None and form.type != "text"
    native = form is not None and form.type in kind.dialect.formats and profile.get("structured_output") is not False
    if form is not None and asked and not native:
        if request.tools:
            raise unsupported("response_format")
        tool = _answer_tool(form)
        name = tool["function"]["name"]
        return model.bind_tools([tool], tool_choice=name), name
    if request.tools:
        model = _with_tools(kind, model, request, request.tools)
    if form is not None and asked:
        model = model.bind(response_format=_native(kind, form))
    return model, None


def _native(kind: ModelClass, form: ResponseFormat) -> dict[str, Any]:
    native = form.model_dump(by_alias=True, exclude_none=True)
    if form.json_schema is not None and not kind.dialect.type_lists:
        native["json_schema"]["schema"] = without_type_lists(form.json_schema.schema_)
    return native


def _answer_tool(form: ResponseFormat) -> dict[str, Any]:
    schema = form.json_schema
    if schema is None:
        return _function(JSON_TOOL, "Answer with a JSON object.", {"type": "object"})
    return _function(schema.name, schema.description or "Answer with this.", schema.schema_)


def _function(name: str, description: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    described = {} if description is None else {"description": description}
    return {"type": "function", "function": {"name": name, **described, "parameters": dict(parameters)}}


def _with_tools(kind: ModelClass, model: Any, request: ChatRequest, tools: tuple[Tool, ...]) -> Any:
    choice = _choice(kind, request)
    if request.tool_choice == "none" and choice is None:
        return model
    options: dict[str, Any] = {} if choice is None else {"tool_choice": choice}
    if request.parallel_tool_calls is not None and request.tool_choice != "none":
        options["parallel_tool_calls"] = request.parallel_tool_calls
    given = [_function(tool.function.name, tool.function.description, _parameters(tool)) for tool in tools]
    strict = [tool.function.strict is True for tool in tools]
    together = kind.takes_tool_option("strict") and not kind.dialect.strict_each
    if together and any(strict):
        if not all(strict):
            raise InvalidRequest("Either all tools must be strict for this model, or none.", param="tools")
        options["strict"] = True
    if together or kind.dialect.strict_each:
        for tool, is_strict in zip(given, strict, strict=True):
            tool["function"] |= {"strict": True} if is_strict else {}
    bound = model.bind_tools(given, **options)
    if len(bound.kwargs.get("tools", given)) != len(given):
        raise InvalidRequest(CANNOT_HAVE_TOOLS, param="tools")
    return bound


def _parameters(tool: Tool) -> Mapping[str, Any]:
    return tool.function.parameters or NO_PARAMETERS


def _choice(kind: ModelClass, request: ChatRequest) -> Any:
    """LangChain's words: ``any`` requires a call, a name requires that one."""
    choice = request.tool_choice
    if isinstance(choice, NamedChoice):
        return choice.function.name
    return {"none": kind.dialect.no_tool_choice, "required": "any", "auto": "auto"}.get(choice or "")
