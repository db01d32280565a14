"""OpenAI's messages as LangChain's.

Invariants
1. Nothing of a message is dropped: what a provider's class has no place for is refused, with its place in ``param``.
2. No address is opened here or by a class that would fetch it itself: only classes that hand addresses on get them.
"""

import re
from typing import Any

import orjson
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage

from models.errors import InvalidRequest
from serve.hosted.classes import Dialect
from serve.hosted.request import Message, Part, ToolCall

DATA_URL = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
ADDRESS = re.compile(r"https?://[^\s]+")
INSTRUCTIONS = frozenset({"system", "developer"})


def translated(messages: tuple[Message, ...], dialect: Dialect) -> list[AnyMessage]:
    """Raises InvalidRequest.

    Where the provider takes instructions at the beginning only, later ones are joined to them, in their order.
    """
    items = [(f"messages[{index}]", message) for index, message in enumerate(messages)]
    for place, message in items:
        _check(place, message, dialect)
    if dialect.system_anywhere:
        return [_one(place, message, dialect) for place, message in items]
    instructions = [_text(place, message) for place, message in items if message.role in INSTRUCTIONS]
    rest = [_one(place, message, dialect) for place, message in items if message.role not in INSTRUCTIONS]
    if not rest:
        raise InvalidRequest("The model needs a message that is no instruction.", param="messages")
    return [SystemMessage("\n\n".join(instructions)), *rest] if instructions else rest


def _check(place: str, message: Message, dialect: Dialect) -> None:
    """Fields that belong to another role, or to none of the provider's."""
    if message.name is not None and not dialect.names:
        raise _unsupported(f"{place}.name")
    if message.role != "assistant":
        for name in ("tool_calls", "refusal", "reasoning", "reasoning_content"):
            if getattr(message, name) is not None:
                raise InvalidRequest(f"'{place}.{name}' is an assistant's.", param=f"{place}.{name}")
    if message.content is None and message.role != "assistant":
        raise InvalidRequest(f"Missing required parameter: '{place}.content'.", param=f"{place}.content")
    if (message.role == "tool") != (message.tool_call_id is not None):
        param = f"{place}.tool_call_id"
        raise InvalidRequest(f"'{param}' belongs to a message of the role 'tool', and only there.", param=param)


def _one(place: str, message: Message, dialect: Dialect) -> AnyMessage:
    if message.role == "user":
        return HumanMessage(_content(place, message, dialect), name=message.name)
    if message.role == "assistant":
        calls = [_call(f"{place}.tool_calls[{index}]", call) for index, call in enumerate(message.tool_calls or ())]
        return AIMessage(_text(place, message), tool_calls=calls, name=message.name)
    if message.role == "tool":
        return ToolMessage(_content(place, message, dialect), tool_call_id=message.tool_call_id or "")
    return SystemMessage(_text(place, message), name=message.name)


def _text(place: str, message: Message) -> str:
    """The content as one text. A refusal is what the model said."""
    if not isinstance(message.content, tuple):
        return (message.content or "") + (message.refusal or "")
    texts: list[str] = []
    for index, part in enumerate(message.content):
        if part.type == "image_url" or (part.type == "refusal" and message.role != "assistant"):
            raise _misplaced(f"{place}.content[{index}].type", message.role)
        texts.append(_required(f"{place}.content[{index}]", part))
    return "".join(texts) + (message.refusal or "")


def _content(place: str, message: Message, dialect: Dialect) -> Any:
    """The content of a role that may hold images."""
    if not isinstance(message.content, tuple):
        return message.content
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(message.content):
        where = f"{place}.content[{index}]"
        if part.type == "text":
            parts.append({"type": "text", "text": _required(where, part)})
        elif part.type == "image_url" and message.role == "user":
            parts.append(_image(where, part, dialect))
        else:
            raise _misplaced(f"{where}.type", message.role)
    return parts


def _image(place: str, part: Part, dialect: Dialect) -> dict[str, Any]:
    if not dialect.images:
        raise InvalidRequest("The model takes no images.", param=f"{place}.type", code="unsupported_parameter")
    image = part.image_url
    if image is None:
        raise InvalidRequest(f"Missing required parameter: '{place}.image_url'.", param=f"{place}.image_url")
    param = f"{place}.image_url.url"
    if not DATA_URL.fullmatch(image.url) and not ADDRESS.fullmatch(image.url):
        raise InvalidRequest(
            f"'{param}' must be an http(s) address or a base64 data URL of a PNG, JPEG, GIF or WebP image.", param=param
        )
    if ADDRESS.fullmatch(image.url) and not dialect.image_addresses:
        raise InvalidRequest("The model takes images as data URLs only.", param=param, code="unsupported_parameter")
    if image.detail not in {None, "auto"} and not dialect.image_details:
        raise _unsupported(f"{place}.image_url.detail")
    return {"type": "image_url", "image_url": image.model_dump(exclude_none=True)}


def _call(place: str, call: ToolCall) -> dict[str, Any]:
    try:
        arguments: object = orjson.loads(call.function.arguments or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        param = f"{place}.function.arguments"
        raise InvalidRequest(f"'{param}' must be a JSON object.", param=param)
    return {"type": "tool_call", "id": call.id, "name": call.function.name, "args": arguments}


def _required(place: str, part: Part) -> str:
    value = part.text if part.type == "text" else part.refusal
    if value is None:
        raise InvalidRequest(f"Missing required parameter: '{place}.{part.type}'.", param=f"{place}.{part.type}")
    return value


def _misplaced(param: str, role: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' is not supported in a message of the role '{role}'.", param=param)


def _unsupported(param: str) -> InvalidRequest:
    return InvalidRequest(f"Unsupported parameter: '{param}'.", param=param, code="unsupported_parameter")
