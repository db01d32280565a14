"""A chat completion as Anthropic's message: the parts that whole answers and streams share, and the whole answer."""

from typing import Any, cast

import orjson
from uuid_utils import uuid7

from models.errors import UpstreamError

Object = dict[str, Any]


def message_id() -> str:
    """A new one."""
    return f"msg_{uuid7().hex}"


def message_of(answer: Object, model: str, *, thinking: bool) -> Object:
    """The whole answer. Raises UpstreamError where it is no chat completion.

    A tool call that the token limit cut short is left out: its input would not be what the model meant to say.
    """
    try:
        choice = cast("Object", answer["choices"][0])
        said = cast("Object", choice["message"])
        finish = choice.get("finish_reason")
        content: list[Object] = []
        thought = said.get("reasoning") or said.get("reasoning_content")
        if thought and thinking:
            content.append({"type": "thinking", "thinking": thought, "signature": ""})
        text = said.get("content") or said.get("refusal")
        if text:
            content.append({"type": "text", "text": text})
        calls = [_tool_use(call, model, cut=finish == "length") for call in said.get("tool_calls") or ()]
        content += [call for call in calls if call is not None]
        reason, sequence = stopped(
            finish, choice.get("stop_reason"), tools=bool(calls), refused=bool(said.get("refusal"))
        )
        usage = usage_of(answer.get("usage"))
    except (AttributeError, IndexError, KeyError, TypeError):
        raise _failed(model) from None
    return {**head(message_id(), model, content, usage), "stop_reason": reason, "stop_sequence": sequence}


def head(identity: str, model: str, content: list[Object], usage: Object) -> Object:
    """A message that has not stopped."""
    return {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def stopped(finish: object, matched: object, *, tools: bool, refused: bool = False) -> tuple[str, str | None]:
    """``stop_reason`` and ``stop_sequence``; ``matched`` is what vLLM says of the stop string that it met."""
    if finish == "length":
        return "max_tokens", None
    if finish == "content_filter" or refused:
        return "refusal", None
    if isinstance(matched, str) and finish == "stop":
        return "stop_sequence", matched
    # A call by name ends with "stop" on OpenAI's wire.
    return ("tool_use" if tools or finish == "tool_calls" else "end_turn"), None


def usage_of(usage: object) -> Object:
    """OpenAI's usage, whose prompt includes what came from the cache or went into it; Anthropic's does not."""
    given: Object = cast("Object", usage) if isinstance(usage, dict) else {}
    details = cast("Object", given.get("prompt_tokens_details") or {})
    prompt = given.get("prompt_tokens") or 0
    cached = min(details.get("cached_tokens") or 0, prompt)
    written = min(details.get("cache_write_tokens") or 0, prompt - cached)
    return {
        "input_tokens": prompt - cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": given.get("completion_tokens") or 0,
    }


def _tool_use(call: Object, model: str, *, cut: bool) -> Object | None:
    function = cast("Object", call["function"])
    try:
        given: object = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        given = None
    if isinstance(given, dict):
        return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": given}
    if cut:
        return None
    raise _failed(model)


def _failed(model: str) -> UpstreamError:
    return UpstreamError(f"The model '{model}' failed to answer.")
