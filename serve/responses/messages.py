"""Items as OpenAI's chat messages.

- An answer and the calls beside it are one message of the assistant.
- Reasoning of earlier turns is left out, as OpenAI leaves it out.
- An output stands behind its call, wherever it lay: two responses at once may have mixed their items in a conversation.
- Every call is answered, and nothing is answered that was not called for.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.errors import InvalidRequest
from serve.responses.items import Item

ChatMessage = dict[str, Any]


def chat_messages(instructions: str | None, items: Sequence[Item]) -> list[ChatMessage]:
    """The conversation so far. Raises InvalidRequest where calls and outputs do not match."""
    messages: list[ChatMessage] = []
    if instructions is not None:
        messages.append({"role": "system", "content": instructions})
    outputs = {item["call_id"]: item for item in items if item["type"] == "function_call_output"}
    called: set[str] = set()
    waiting: list[str] = []
    for item in items:
        kind = item["type"]
        if kind == "function_call":
            call_id = item["call_id"]
            if call_id not in outputs:
                raise _unmatched(f"No tool output found for function call {call_id}.")
            called.add(call_id)
            waiting.append(call_id)
            _calling(messages)["tool_calls"].append(_call(item))
            continue
        if kind == "function_call_output" and item["call_id"] not in called:
            raise _unmatched(f"No tool call found for function call output with call_id {item['call_id']}.")
        if kind != "reasoning":
            messages += [_answered(outputs[call_id]) for call_id in waiting]
            waiting = []
        if kind == "message":
            _say(messages, item)
    messages += [_answered(outputs[call_id]) for call_id in waiting]
    if not messages:
        raise InvalidRequest("The input holds nothing that a model could read.", param="input")
    return messages


def _unmatched(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="input")


def _calling(messages: list[ChatMessage]) -> ChatMessage:
    """The assistant's message that takes the next call."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", [])
    return messages[-1]


def _call(item: Item) -> ChatMessage:
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _answered(item: Item) -> ChatMessage:
    output: str | list[Item] = item["output"]
    text = output if isinstance(output, str) else "".join(part["text"] for part in output)
    return {"role": "tool", "tool_call_id": item["call_id"], "content": text}


def _say(messages: list[ChatMessage], item: Item) -> None:
    if item["role"] == "assistant":
        text = "".join(part.get("text") or part.get("refusal") or "" for part in item["content"])
        messages.append({"role": "assistant", "content": text})
        return
    parts = [PARTS[part["type"]](part) for part in item["content"]]
    alone = len(parts) == 1 and parts[0]["type"] == "text"
    messages.append({"role": item["role"], "content": parts[0]["text"] if alone else parts})


def _image(part: Item) -> ChatMessage:
    # A detail of ``auto`` is what every server assumes, and what some do not know by name.
    detail = {} if part["detail"] == "auto" else {"detail": part["detail"]}
    return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}


PARTS: Mapping[str, Callable[[Item], ChatMessage]] = {
    "input_text": lambda part: {"type": "text", "text": part["text"]},
    "input_image": _image,
    "input_audio": lambda part: {"type": "input_audio", "input_audio": part["input_audio"]},
}
