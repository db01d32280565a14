"""A conversation with calls and their results, in the three roles that every chat template knows."""

from typing import Any, cast

from serve.tools.form import written_call

Message = dict[str, Any]

RESULT_ROLES = frozenset({"tool", "function"})
SYSTEM_ROLES = frozenset({"system", "developer"})


def has_calls(messages: list[Message]) -> bool:
    """Whether a template without tools would stumble over it."""
    return any(
        message.get("role") in RESULT_ROLES or message.get("tool_calls") or message.get("function_call")
        for message in messages
    )


def rendered(messages: list[Message]) -> list[Message]:
    """Calls as the text that they are in the prompt's form, results as the user's words.

    The results of one turn become one message, in the order of the calls.
    """
    out: list[Message] = []
    order: dict[str, int] = {}
    results: list[tuple[int, str]] = []
    for message in messages:
        if message.get("role") in RESULT_ROLES:
            place = order.get(str(message.get("tool_call_id")), len(order))
            results.append((place, _text(message.get("content"))))
            continue
        out += _answered(results)
        results = []
        calls = _calls(message)
        if calls:
            order = {str(call.get("id")): place for place, call in enumerate(calls)}
        out.append(_with_calls(message, calls) if calls else message)
    return out + _answered(results)


def with_explanation(messages: list[Message], explanation: str) -> list[Message]:
    """The explanation at the end of the first message where that is the system's, else in one before it."""
    if not messages or messages[0].get("role") not in SYSTEM_ROLES:
        return [{"role": "system", "content": explanation}, *messages]
    first = messages[0]
    content: object = first.get("content")
    if isinstance(content, list):
        joined: object = [*cast("list[Any]", content), {"type": "text", "text": f"\n\n{explanation}"}]
    else:
        joined = f"{content}\n\n{explanation}" if content else explanation
    return [{**first, "content": joined}, *messages[1:]]


def _answered(results: list[tuple[int, str]]) -> list[Message]:
    if not results:
        return []
    texts = [f"<tool_response>\n{text}\n</tool_response>" for _, text in sorted(results, key=lambda result: result[0])]
    return [{"role": "user", "content": "\n".join(texts)}]


def _calls(message: Message) -> list[Message]:
    calls: object = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        return [cast("Message", call) for call in cast("list[object]", calls) if isinstance(call, dict)]
    old: object = message.get("function_call")
    return [{"function": old}] if isinstance(old, dict) else []


def _with_calls(message: Message, calls: list[Message]) -> Message:
    texts = [text] if (text := _text(message.get("content"))) else []
    for call in calls:
        function: object = call.get("function")
        fields = cast("Message", function) if isinstance(function, dict) else {}
        texts.append(written_call(str(fields.get("name")), str(fields.get("arguments") or "")))
    kept = {name: value for name, value in message.items() if name not in {"tool_calls", "function_call", "content"}}
    return {**kept, "content": "\n".join(texts)}


def _text(content: object) -> str:
    """Content as text; of parts, those that are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [cast("Message", part) for part in cast("list[object]", content) if isinstance(part, dict)]
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts)
