"""Tools in front of an engine: what the engine is asked, and what the caller gets of the text it writes."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from serve.asgi import Message, Receive, Scope, Send
from serve.tools.middleware import Tools as ToolCalls

Tools = Callable[..., Any]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
            "required": ["city"],
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "clock"}}
BOTH = [WEATHER, CLOCK]
ARGUMENTS = '{"city": "Rome \\"{}\\" \\u00e9", "unit": "c"}'
ROME = '<tool_call>\n{"name": "get_weather", "arguments": ' + ARGUMENTS + "}\n</tool_call>"
NOW = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def functions(message: dict[str, Any]) -> list[tuple[str, str]]:
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in message["tool_calls"])
    assert len({call["id"] for call in message["tool_calls"]}) == len(message["tool_calls"])
    return [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]


def grammar(stage: Any) -> dict[str, Any]:
    """The form that the engine was asked to keep to."""
    return json.loads(stage.engine.bodies[-1]["structured_outputs"]["structural_tag"])["format"]


@pytest.mark.parametrize("parser", ["prompted", "hermes"])
async def test_a_named_function_is_called_once(tools: Tools, parser: str) -> None:
    stage = tools(ROME, parser=parser)
    choice = await stage.choice(tools=BOTH, tool_choice=NAMED)
    assert functions(choice["message"]) == [("get_weather", ARGUMENTS)]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    form = grammar(stage)
    assert (form["type"], form["begin"]) == ("tag", '<tool_call>\n{"name": "get_weather", "arguments": ')
    assert form["content"]["json_schema"]["additionalProperties"] is False


async def test_a_required_call_may_be_several_and_of_any_function(tools: Tools) -> None:
    stage = tools(f"{ROME}\n{NOW}")
    choice = await stage.choice(tools=BOTH, tool_choice="required")
    assert functions(choice["message"]) == [("get_weather", ARGUMENTS), ("clock", "{}")]
    first, more = grammar(stage)["elements"]
    assert [tag["begin"].split('"')[3] for tag in first["elements"]] == ["get_weather", "clock"]
    assert (more["type"], more["min"], more["max"]) == ("repeat", 0, 7)


async def test_without_parallel_calls_there_is_one(tools: Tools) -> None:
    stage = tools(NOW)
    await stage.choice(tools=BOTH, tool_choice="required", parallel_tool_calls=False)
    assert grammar(stage)["type"] == "or"
    assert "parallel_tool_calls" not in stage.engine.bodies[-1]


async def test_text_and_calls_of_a_model_that_may_choose(tools: Tools) -> None:
    said = await tools("It is warm. <tool>").choice(tools=BOTH)
    assert said["message"] == {"role": "assistant", "content": "It is warm. <tool>"}
    assert said["finish_reason"] == "stop"
    stage = tools(f"Let me see.\n{ROME}")
    called = await stage.choice(tools=BOTH, tool_choice="auto")
    assert called["message"]["content"] == "Let me see."
    assert functions(called["message"]) == [("get_weather", ARGUMENTS)]
    assert called["finish_reason"] == "tool_calls"
    assert grammar(stage)["type"] == "dispatch"


async def test_allowed_tools_are_the_only_ones(tools: Tools) -> None:
    stage = tools(NOW)
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    choice = await stage.choice(tools=BOTH, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert functions(choice["message"]) == [("clock", "{}")]
    assert "get_weather" not in json.dumps(stage.engine.bodies[-1])


async def test_an_answer_in_json_or_a_call(tools: Tools) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    for text in ('{"say": "<tool_call>"}', NOW):
        stage = tools(text)
        choice = await stage.choice(tools=BOTH, response_format=form)
        assert choice["message"].get("content") == (None if text == NOW else text)
        assert grammar(stage)["elements"][0]["json_schema"] == {"type": "object"}
        assert "response_format" not in stage.engine.bodies[-1]


async def test_a_template_without_tools_is_told_in_words(tools: Tools) -> None:
    stage = tools(ROME)
    history = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "Rome and the time?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"R"}'}},
                {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sun"}]},
        {"role": "user", "content": "And tomorrow?"},
    ]
    await stage.choice(messages=history, tools=[WEATHER], tool_choice="required", stop=["}"])
    body = stage.engine.bodies[-1]
    system, question, calls, results, last = body["messages"]
    assert system["content"][0] == {"type": "text", "text": "Be brief."}
    assert json.dumps(WEATHER, separators=(",", ":")) in system["content"][1]["text"]
    assert system["content"][1]["text"].endswith("You must call the function get_weather now.")
    assert (question["role"], last["role"]) == ("user", "user")
    assert calls == {
        "role": "assistant",
        "content": '<tool_call>\n{"name": "get_weather", "arguments": {"city":"R"}}\n</tool_call>\n' + NOW,
    }
    told = "<tool_response>\nsun\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
    assert results == {"role": "user", "content": told}
    assert not {"tools", "tool_choice", "stop"} & body.keys()


async def test_a_history_with_calls_is_told_in_words_also_where_no_tool_is_left(tools: Tools) -> None:
    stage = tools("Noon.")
    call = {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    history = [
        {"role": "assistant", "content": "Well.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_2", "content": "noon"},
    ]
    assert (await stage.choice(messages=history))["message"]["content"] == "Noon."
    assert [message["content"] for message in stage.engine.bodies[-1]["messages"]] == [
        f"Well.\n{NOW}",
        "<tool_response>\nnoon\n</tool_response>",
    ]


async def test_a_template_with_tools_is_left_to_show_them(tools: Tools) -> None:
    stage = tools(ROME, parser="hermes")
    messages = [{"role": "tool", "tool_call_id": "call_1", "content": "sun"}]
    await stage.choice(messages=messages, tools=BOTH, tool_choice="required")
    body = stage.engine.bodies[-1]
    assert (body["messages"], body["tools"], body["tool_choice"]) == (messages, BOTH, "none")


async def test_what_has_no_tools_passes_as_it_came(tools: Tools) -> None:
    stage = tools("hello")
    for content in (
        b'{ "model": "m",  "messages":[] }',
        b'{"model": "m", "note": "\\u0041", "messages": [{"role": "user", "content": "a \\"tool"}]}',
        b'{"model": "m", "tools": null, "response_format": {"type": "text"}, "messages": [] }',
        json.dumps({"tools": BOTH, "tool_choice": "none", "messages": []}).encode(),
        b'{"tools": broken]',
        b'["tools"]',
    ):
        await stage.http.post("/v1/chat/completions", content=content)
        assert stage.engine.raw.pop() == content
    await stage.http.post("/v1/completions", content=b'{"tools": [1], "prompt": ""}')
    assert stage.engine.raw.pop() == b'{"tools": [1], "prompt": ""}'


async def test_a_name_cannot_hide_behind_an_escape(tools: Tools) -> None:
    body = json.dumps({"messages": [], "tools": BOTH, "tool_choice": "required"}).replace('"tools"', '"\\u0074ools"')
    answer = await tools(NOW).http.post("/v1/chat/completions", content=body.encode())
    assert functions(answer.json()["choices"][0]["message"]) == [("clock", "{}")]


@pytest.mark.parametrize("reason", ["length", "stop"])
async def test_a_call_that_was_cut_off_is_no_finished_one(tools: Tools, reason: str) -> None:
    cut = ROME[: ROME.index("Rome") + 2]
    choice = await tools(f"{NOW}\n{cut}", reason=reason).choice(tools=BOTH)
    assert functions(choice["message"]) == [("clock", "{}"), ("get_weather", '{"city": "Ro')]
    assert choice["finish_reason"] == "length"
    nameless = await tools("<tool_call>\n{", reason="length").choice(tools=BOTH, tool_choice="required")
    assert nameless["message"] == {"role": "assistant", "content": None}
    assert nameless["finish_reason"] == "length"


@pytest.mark.parametrize(
    "text",
    [
        ROME.replace('"c"', '"k"'),
        ROME.replace('"city"', '"town"'),
        ROME.replace("get_weather", "get_money"),
        ROME.replace("</tool_call>", "}</tool_call>"),
        f"{ROME} and more",
        "no call",
    ],
)
async def test_a_call_that_breaks_its_schema_is_never_shown_as_one(tools: Tools, text: str) -> None:
    answer = await tools(text).chat(tools=BOTH, tool_choice="required")
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "upstream_error"
    streamed = await tools(text).chat(tools=BOTH, tool_choice="required", stream=True)
    last = streamed.text.rstrip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "upstream_error"
    assert '"finish_reason":"tool_calls"' not in streamed.text


async def test_an_engine_s_refusal_passes_as_it_is(tools: Tools) -> None:
    refusal = b'{"error": {"message": "too long", "type": "BadRequestError", "param": null, "code": 400}}'
    answer = await tools(reply=(400, refusal)).chat(tools=BOTH)
    assert (answer.status_code, answer.content) == (400, refusal)


async def test_parameters_may_be_a_definition_that_refers_to_itself(tools: Tools) -> None:
    tree = {"type": "object", "properties": {"name": {"type": "string"}, "below": {"$ref": "#/$defs/Tree"}}}
    tool = {"name": "plant", "parameters": {"$ref": "#/$defs/Tree", "$defs": {"Tree": tree}}}
    written = '<tool_call>\n{"name": "plant", "arguments": {"name": "a", "below": {"name": "b"}}}\n</tool_call>'
    choice = await tools(written).choice(tools=[{"type": "function", "function": tool}], tool_choice="required")
    assert functions(choice["message"]) == [("plant", '{"name": "a", "below": {"name": "b"}}')]


async def test_the_engine_is_told_when_the_client_leaves() -> None:
    heard: list[str] = []

    async def engine(_: Scope, receive: Receive, __: Send) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            heard.append(json.loads(message["body"])["model"])
        heard.append("left")

    messages = [{"type": "http.request", "body": json.dumps({"model": "m", "tools": BOTH}).encode()}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/engine/v1/chat/completions", "root_path": "/engine"}
    app = ToolCalls(engine, "prompted")
    await app({**scope, "headers": []}, receive, send)
    assert heard == ["m", "left"]
    messages.clear()
    await app({**scope, "headers": []}, receive, send)
    assert heard == ["m", "left"]


async def test_every_choice_has_its_own_calls(tools: Tools) -> None:
    stage = tools(ROME, f"{NOW}\n{NOW}", "text")
    whole = (await stage.chat(tools=BOTH, n=3)).json()["choices"]
    assert [len(choice["message"].get("tool_calls", [])) for choice in whole] == [1, 2, 0]
    assert [choice["finish_reason"] for choice in whole] == ["tool_calls", "tool_calls", "stop"]
    chunks = await stage.chunks(tools=BOTH, n=3)
    finals = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert [(choice["index"], choice["finish_reason"]) for choice in finals] == [
        (0, "tool_calls"),
        (1, "tool_calls"),
        (2, "stop"),
    ]


async def test_calls_of_the_engine_s_own_parser_pass_once_they_are_checked(tools: Tools) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    call = {"id": "chatcmpl-tool-1", "type": "function", "function": function}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    stage = tools("", parser="llama3_json", message=message, reason="tool_calls")
    choice = await stage.choice(tools=BOTH, tool_choice="auto")
    assert choice["message"] == {**message, "content": None}
    assert (choice["finish_reason"], stage.engine.bodies[-1]["tool_choice"]) == ("tool_calls", "auto")
    function["arguments"] = '{"town": "Rome"}'
    assert (await stage.chat(tools=BOTH)).status_code == 502
    deltas = [
        {"tool_calls": [{"index": 0, "id": "x", "type": "function", "function": {"name": "clock", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
    ]
    stage = tools("", parser="llama3_json", deltas=deltas, reason="tool_calls")
    chunks = await stage.chunks(tools=BOTH)
    assert [chunk["choices"][0]["delta"] for chunk in chunks[1:4]] == deltas
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    stage = tools("", parser="llama3_json", deltas=deltas[:2], reason="tool_calls")
    assert '"error"' in (await stage.chat(tools=BOTH, stream=True)).text
