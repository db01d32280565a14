"""Whatever JSON a reader of requests gets, it reads it or refuses it by name: nothing else is raised.

The JSON is made of the words that the readers know, in any order and at any depth, so that it gets past a first check.
"""

import os
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidRequest
from serve.claims import demand
from serve.config import Bounds
from serve.ignored import refuse_ignored
from serve.messages.request import count_request, message_request
from serve.openapi.document import document
from serve.responses.conversations import read_order as read_conversation
from serve.responses.messages import chat_messages
from serve.responses.request import read_order
from serve.routing import ENDPOINTS
from serve.tools.history import rendered
from serve.tools.request import plan_of, text_schema
from serve.tools.scalars import KEYWORDS

EXAMPLES = 1_000 if "FUZZ_CASES" in os.environ else 150
HI = [{"role": "user", "content": "hi"}]
VALUES = (
    *("function", "allowed_tools", "auto", "any", "tool", "none", "required", "custom", "text", "json_schema"),
    *("json_object", "message", "function_call", "function_call_output", "reasoning", "item_reference", "input_text"),
    *("input_image", "input_audio", "output_text", "refusal", "summary_text", "user", "assistant", "system", "tool"),
    *("tool_use", "tool_result", "image", "thinking", "base64", "url", "ephemeral", "enabled", "disabled", "a", ""),
    *(
        "object",
        "array",
        "string",
        "number",
        "integer",
        "boolean",
        "null",
        "#",
        "#/$defs/a",
        "date",
        "^a$",
        "(",
        "uuid",
    ),
)


def fields_of(node: Any, found: set[str]) -> set[str]:
    """The names of all fields that the description knows, at any depth."""
    if isinstance(node, dict):
        properties = node.get("properties")
        found |= set(properties) if isinstance(properties, dict) else set()
        for below in node.values():
            fields_of(below, found)
    elif isinstance(node, list):
        for below in node:
            fields_of(below, found)
    return found


SCHEMA_WORDS = {name for names in KEYWORDS.values() for name in names} | {"type", "enum", "const", "$ref", "$defs"}
SCHEMA_WORDS |= {"anyOf", "oneOf", "allOf", "properties", "required", "items", "additionalProperties", "not", "a"}
WORDS = sorted(fields_of(document(with_files=False)["components"]["schemas"], set()) | SCHEMA_WORDS)
LEAVES = st.sampled_from(VALUES) | st.none() | st.booleans() | st.integers(-2, 2**63) | st.floats(allow_nan=False)
ANYTHING = st.recursive(
    LEAVES,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(WORDS), below, max_size=5),
    max_leaves=12,
)
TOOL = st.fixed_dictionaries(
    {"type": st.just("function")},
    optional={
        "function": st.fixed_dictionaries(
            {"name": st.just("t")}, optional={"parameters": ANYTHING, "strict": ANYTHING}
        ),
        "name": st.just("t"),
        "parameters": ANYTHING,
        "input_schema": ANYTHING,
        "cache_control": ANYTHING,
    },
)


def body_of(least: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A body with what it must have, and anything in some other fields."""
    tools = st.lists(TOOL | ANYTHING, max_size=2)
    more = st.dictionaries(st.sampled_from(WORDS), ANYTHING, max_size=4)
    parts = st.tuples(more, st.dictionaries(st.sampled_from(("tools", "none")), tools, max_size=1))
    return parts.map(lambda drawn: {**least, **drawn[0], **drawn[1]})


def read_tools(body: dict[str, Any]) -> None:
    plan_of(body)
    text_schema(body)
    messages = body.get("messages")
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        rendered(messages)


def read_response(body: dict[str, Any]) -> None:
    order = read_order(body)
    chat_messages(order.instructions, order.items)


def read_call(path: str) -> Callable[[dict[str, Any]], None]:
    def read(body: dict[str, Any]) -> None:
        ENDPOINTS[path].check(body)
        refuse_ignored(path, ENDPOINTS[path].known, body)
        demand(ENDPOINTS[path].kind, body, len(orjson.dumps(body)), 8_192, Bounds())

    return read


LEAST = {"messages": HI, "prompt": "x", "input": "x", "query": "x", "documents": ["x"]}
READERS: dict[str, tuple[Callable[[dict[str, Any]], object], dict[str, Any]]] = {
    "tools": (read_tools, {"model": "m", "messages": HI}),
    "responses": (read_response, {"model": "m", "input": "hi"}),
    "items": (read_response, {"model": "m", "input": HI}),
    "conversations": (lambda body: read_conversation(body, []), {}),
    "messages": (lambda body: message_request(body, engine=True), {"model": "m", "messages": HI, "max_tokens": 1}),
    "count": (count_request, {"model": "m", "messages": HI}),
    **{
        path: (read_call(path), {name: value for name, value in LEAST.items() if name in ENDPOINTS[path].known})
        for path in ENDPOINTS
    },
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses(name: str) -> None:
    read, least = READERS[name]
    ends = {"read": 0, "refused": 0}

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(body=body_of(least))
    def reads_or_refuses(body: dict[str, Any]) -> None:
        try:
            read(body)
            ends["read"] += 1
        except InvalidRequest:
            ends["refused"] += 1

    reads_or_refuses()
    assert all(ends.values()), ends
