"""What Anthropic's request becomes, and what is refused by name."""

from typing import Any

import pytest

from models.errors import InvalidRequest
from serve.messages.request import count_request, message_request

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL = {"name": "t", "input_schema": {"type": "object"}}
MARK = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
PIXEL = {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}


def chat(**body: Any) -> dict[str, Any]:
    return message_request({"model": "m", "max_tokens": 5, "messages": HI, **body}, engine=True).chat


def said(*messages: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    return chat(messages=list(messages), **body)["messages"]


def user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def asks(*identities: str) -> dict[str, Any]:
    uses = [{"type": "tool_use", "id": identity, "name": "t", "input": {"a": 1}} for identity in identities]
    return {"role": "assistant", "content": uses}


def result(identity: str, content: Any = "r", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identity, "content": content, **more}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {}),
        ({"temperature": 1, "top_p": 0.5, "top_k": 40}, {"temperature": 1, "top_p": 0.5, "top_k": 40}),
        ({"temperature": None, "stop_sequences": [], "stream": False}, {}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"metadata": {"user_id": None}}, {}),
        ({"service_tier": "standard_only"}, {"service_tier": "default"}),
        ({"service_tier": "auto"}, {"service_tier": "auto"}),
        ({"cache_control": {"type": "ephemeral"}}, {}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
        (
            {"stream": True},
            {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        ),
    ],
)
def test_parameters_in_openai_s_words(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    assert chat(**asked) == {"model": "m", "messages": HI, "max_completion_tokens": 5, **sent}


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "t"}, {"tool_choice": {"type": "function", "function": {"name": "t"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (None, {}),
    ],
)
def test_tools_and_the_choice_of_one(choice: Any, sent: dict[str, Any]) -> None:
    given = {**TOOL, **MARK, "description": "d", "strict": True, "type": "custom", "allowed_callers": ["direct"]}
    made = chat(tools=[given], tool_choice=choice)
    function = {"name": "t", "description": "d", "parameters": {"type": "object"}, "strict": True}
    assert made.pop("tools") == [{"type": "function", "function": function}]
    assert made == {"model": "m", "messages": HI, "max_completion_tokens": 5, **sent}


def test_a_choice_of_no_tool_needs_no_tools() -> None:
    assert "tool_choice" not in chat(tool_choice={"type": "none"})


def test_texts_and_images() -> None:
    image = {"type": "image", "source": PIXEL, **MARK}
    far = {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}}
    (message,) = said(user(image, far, text("what?", citations=None, **MARK)))
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}},
        {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}},
        {"type": "text", "text": "what?"},
    ]
    assert said(user(text("one"))) == [{"role": "user", "content": "one"}]


def test_a_system_prompt_in_blocks_leaves_the_billing_line_out() -> None:
    billing = text("x-anthropic-billing-header: cc_version=2; cch=1f3a;")
    assert said(*HI, system=[billing, text("one", **MARK)])[0] == {"role": "system", "content": "one"}
    assert said(*HI, system=[billing]) == HI
    two = [text("one"), text("two")]
    assert said(*HI, {"role": "system", "content": two})[-1] == {"role": "system", "content": two}


def test_thinking_of_earlier_turns_is_left_out() -> None:
    thought = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "redacted_thinking", "data": "…"}]
    assistant = {"role": "assistant", "content": [*thought, text("well")]}
    assert said(*HI, assistant, *HI)[1] == {"role": "assistant", "content": "well"}
    assert said(*HI, {"role": "assistant", "content": thought}, *HI) == [*HI, *HI]


def test_tool_results_lead_and_their_images_follow_them() -> None:
    pictures = [text("a"), {"type": "image", "source": PIXEL}, text("b")]
    messages = said(*HI, asks("1", "2"), user(text("so"), result("2", pictures), result("1", None, is_error=True)))
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert messages[1]["content"] is None
    assert [message["content"] for message in messages[2:4]] == ["a\nb", "Error:"]
    assert [part["type"] for part in messages[4]["content"]] == ["text", "image_url"]


def test_results_may_come_in_several_messages_of_one_turn() -> None:
    messages = said(*HI, asks("1", "2"), user(result("1")), user(result("2")))
    assert [message.get("tool_call_id") for message in messages] == [None, None, "1", "2"]


def test_an_empty_last_word_of_the_assistant_is_nothing_to_continue() -> None:
    assert "continue_final_message" not in chat(messages=[*HI, {"role": "assistant", "content": ""}])
    assert chat(messages=[*HI, {"role": "assistant", "content": "A"}])["continue_final_message"] is True


def test_counting_asks_for_the_prompt_alone() -> None:
    body = {"model": "m", "messages": HI, "system": "s", "tools": [TOOL], "tool_choice": {"type": "any"}}
    counted = count_request({**body, "thinking": {"type": "enabled", "budget_tokens": 2_000}})
    assert counted.keys() == {"model", "messages", "tools", "tool_choice"}
    assert [message["role"] for message in counted["messages"]] == ["system", "user"]
    with pytest.raises(InvalidRequest, match="'max_tokens'"):
        count_request({**body, "max_tokens": 1})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages[0].name"),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text"),
        ({"messages": [user(text("x", more=1))]}, "messages[0].content[0].more"),
        ({"messages": [user({"type": "document", "source": {}})]}, "messages[0].content[0].type"),
        ({"messages": [user({"type": "image"})]}, "messages[0].content[0].source"),
        (
            {"messages": [user({"type": "image", "source": {**PIXEL, "media_type": "image/bmp"}})]},
            "messages[0].content[0].source.media_type",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}})]},
            "messages[0].content[0].source.url",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]},
            "messages[0].content[0].source.type",
        ),
        ({"messages": [user(result("1"))]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [*HI, asks("1"), user(result("1"), result("1"))]}, "messages[2].content[1].tool_use_id"),
        ({"messages": [*HI, asks("1")]}, "messages[1].content[0]"),
        ({"messages": [*HI, asks("1", "2"), user(result("2")), asks("3")]}, "messages[1].content[0]"),
        (
            {"messages": [*HI, asks("1"), user(result("1", [{"type": "document"}]))]},
            "messages[2].content[0].content[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image", "source": PIXEL}]}]},
            "messages[0].content[0].type",
        ),
        ({"system": 3}, "system"),
        ({"system": [{"type": "image", "source": PIXEL}]}, "system[0].type"),
        ({"system": [text("x", cache_control={"type": "forever"})]}, "system[0].cache_control.type"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"stop_sequences": ["a", "b", "c", "d", "e"]}, "stop_sequences"),
        ({"stop_sequences": [" "]}, "stop_sequences[0]"),
        ({"stop_sequences": "a"}, "stop_sequences"),
        ({"stream": "yes"}, "stream"),
        ({"metadata": {"user_id": "u" * 257}}, "metadata.user_id"),
        ({"metadata": {"team": "t"}}, "metadata.team"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, "thinking.budget_tokens"),
        ({"tools": [{"name": "t"}]}, "tools[0].input_schema"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tools": [{"type": "web_search_20260209", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "auto"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format.type"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        chat(**body)
    assert error.value.param == param
    assert f"'{param}'" in error.value.message or param.endswith(".type")


@pytest.mark.parametrize("kind", ["bash_20250124", [], {}, 1, True])
def test_a_tool_of_another_type_is_refused_whatever_json_its_type_is(kind: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(tools=[{**TOOL, "type": kind}])
    assert refused.value.param == "tools[0].type"
