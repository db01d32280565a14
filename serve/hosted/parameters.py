"""OpenAI's parameters in a LangChain class's words. One that cannot be honoured is refused by name, never dropped.

``docs/providers.md`` shows the same table; a test holds the two together.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from models.errors import InvalidRequest
from serve.hosted.classes import ModelClass
from serve.hosted.request import ChatRequest

# Told by the messages, the tools or the shape of the answer: see ``serve.hosted.call``.
TRANSLATED = frozenset({"model", "messages", "stream", "stream_options", "stop"})
TOOLS = frozenset({"tools", "tool_choice"})
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")
# The fields that may hold a parameter; the first that the class declares does.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "max_completion_tokens": LIMITS,
    "max_tokens": LIMITS,
    "reasoning_effort": ("reasoning_effort",),
    "verbosity": ("verbosity",),
    "seed": ("seed",),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "logit_bias": ("logit_bias",),
}
# Arguments of the class's ``bind_tools``.
TOOL_OPTIONS = frozenset({"parallel_tool_calls"})
# Values that ask for nothing.
NEUTRAL: Mapping[str, Callable[[Any], bool]] = {
    "n": lambda value: value == 1,
    "logprobs": lambda value: value is False,
    "store": lambda value: value is False,
    "modalities": lambda value: value == ("text",),
    "service_tier": lambda value: value in {"auto", "default"},
}
# For the caller's own books: they say nothing to the model and do not leave the platform.
LABELS = frozenset({"user", "safety_identifier", "prompt_cache_key", "metadata"})


def supported(kind: ModelClass, name: str) -> bool:
    """Whether a call of this class may hold the parameter, with some value beside the neutral one."""
    if name in FIELDS:
        return kind.field(FIELDS[name]) is not None
    if name in TOOLS or name == "response_format":
        return kind.takes_tools or (name == "response_format" and bool(kind.dialect.formats))
    return name in TRANSLATED or name in LABELS or (name in TOOL_OPTIONS and kind.takes_tool_option(name))


def settings(kind: ModelClass, request: ChatRequest) -> dict[str, Any]:
    """The constructor's arguments. Raises InvalidRequest for the first parameter that the class does not know."""
    found: dict[str, Any] = {}
    for name in sorted(request.model_fields_set):
        value = getattr(request, name)
        if value is None or (name in NEUTRAL and NEUTRAL[name](value)):
            continue
        if not supported(kind, name):
            raise unsupported(name)
        field = kind.field(FIELDS[name]) if name in FIELDS else None
        if field is not None:
            found[field] = value
    if request.max_completion_tokens is not None and request.max_tokens is not None:
        raise InvalidRequest("'max_tokens' and 'max_completion_tokens' exclude each other.", param="max_tokens")
    return found


def refused(error: ValidationError) -> InvalidRequest | None:
    """The parameter whose value the class's constructor does not take; None where it is none of the caller's."""
    place = error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
    name = next((name for name, fields in FIELDS.items() if place and place[0] in (name, *fields)), None)
    return None if name is None else InvalidRequest(f"The model does not support this '{name}'.", param=name)


def check_profile(profile: Mapping[str, Any], request: ChatRequest) -> None:
    """What LangChain knows of the provider's model. Raises InvalidRequest."""
    for name in ("temperature", "top_p"):
        if profile.get("temperature") is False and getattr(request, name) not in {None, 1}:
            raise unsupported(name)
    if profile.get("tool_calling") is False and request.tools:
        raise unsupported("tools")
    efforts = profile.get("reasoning_effort_levels") or (() if profile.get("reasoning_output") is False else None)
    if request.reasoning_effort is not None and efforts is not None and request.reasoning_effort not in efforts:
        raise unsupported("reasoning_effort")


def unsupported(name: str) -> InvalidRequest:
    """The refusal of a parameter."""
    return InvalidRequest(f"The model does not support '{name}'.", param=name, code="unsupported_parameter")
