"""Whatever JSON comes, it is an order or it is refused by name: nothing else is ever raised."""

import copy
from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import InvalidRequest
from serve.responses.conversations import read_order as read_conversation_order
from serve.responses.messages import chat_messages
from serve.responses.request import read_order
from serve.validation import check_chat

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "description": "d"}
FULL: dict[str, Any] = {
    "model": "m",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:,", "detail": "low"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "y", "annotations": [], "logprobs": []}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "z"}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]},
        {"type": "item_reference", "id": "msg_1"},
    ],
    "tools": [FUNCTION],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
    "metadata": {"k": "v"},
    "include": ["message.output_text.logprobs"],
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "conversation": {"id": "conv_1"},
    "max_output_tokens": 5,
    "temperature": 1,
}
SCALARS = st.none() | st.booleans() | st.integers(-10, 10) | st.floats(allow_nan=False) | st.text(max_size=5)
WORDS = st.sampled_from(["message", "function", "function_call", "user", "auto", "type", "input_text", "json_schema"])
JSON = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | WORDS, inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(inner, (*path, key))
    return found


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    body = copy.deepcopy(FULL)
    holder: Any = body
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return body


def refused(read: Callable[[], object]) -> str | None:
    """The parameter that a refusal names, which is to be one; empty where there was no refusal."""
    try:
        read()
    except InvalidRequest as error:
        return error.param
    return ""


@given(path=st.sampled_from(places(FULL)), value=JSON)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_change_is_an_order_or_a_named_refusal(path: tuple[Any, ...], value: Any) -> None:
    def read() -> None:
        order = read_order(changed(path, value))
        items = [item for item in order.items if item["type"] != "item_reference"]
        chat = {**order.chat, "messages": chat_messages(order.instructions, items)}
        check_chat(chat)
        orjson.dumps([order.echo, items, chat])

    assert refused(read) is not None


@given(body=st.dictionaries(st.sampled_from(["metadata", "items", "x"]), JSON), depth=st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_any_body_of_a_conversation_is_an_order_or_a_named_refusal(body: dict[str, Any], depth: int) -> None:
    parts = ["conv_1", "items"][:depth]
    assert refused(lambda: orjson.dumps(read_conversation_order(body, parts))) is not None


def test_the_body_that_is_changed_is_an_order() -> None:
    assert read_order(copy.deepcopy(FULL)).references == ["msg_1"]
