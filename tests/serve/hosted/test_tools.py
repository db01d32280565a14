"""Tools and structured answers: asked for in the provider's words, answered in OpenAI's."""

from typing import Any

import openai
import orjson
import pytest

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "pattern": "^[A-Z]"}, "degrees": {"type": "integer", "minimum": -90}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any = WEATHER, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters, **more}}


def use(name: str, arguments: dict[str, Any], identity: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": identity, "name": name, "input": arguments}


def structured(schema: Any = SCHEMA) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema, "strict": True}}


TEXT = {"type": "text", "text": "Let me look."}


async def test_tools_are_offered_and_calls_come_back(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.blocks = [TEXT, use("weather", {"city": "Bonn"}, "toolu_1"), use("time", {}, "toolu_2")]
    stage.provider.stop_reason = "tool_use"
    answer = await stage.chat(tools=[tool("weather"), tool("time", {"type": "object", "properties": {}})])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me look. "
    calls = [(call.id, call.function.name, orjson.loads(call.function.arguments)) for call in choice.message.tool_calls]
    assert calls == [("toolu_1", "weather", {"city": "Bonn"}), ("toolu_2", "time", {})]
    assert stage.provider.asked["tools"][0] == {"name": "weather", "description": "d", "input_schema": WEATHER}
    assert "tool_choice" not in stage.provider.asked


async def test_a_streamed_call_names_itself_once_and_brings_its_arguments_in_pieces(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.blocks = [use("weather", {"city": "Bonn"}, "toolu_1"), use("time", {}, "toolu_2")]
    stage.provider.stop_reason = "tool_use"
    frames = await stage.frames(tools=[tool("weather"), tool("time")])
    deltas = [call for frame in frames[1:-2] for call in frame["choices"][0]["delta"]["tool_calls"]]
    assert deltas[0] == {
        "index": 0,
        "id": "toolu_1",
        "type": "function",
        "function": {"name": "weather", "arguments": ""},
    }
    assert [delta["index"] for delta in deltas] == [0, 0, 0, 1, 1]
    assert [delta.get("id") for delta in deltas] == ["toolu_1", None, None, "toolu_2", None]
    assert orjson.loads("".join(delta["function"]["arguments"] for delta in deltas[:3])) == {"city": "Bonn"}
    assert deltas[4]["function"] == {"arguments": "{}"}
    assert frames[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "asked"),
    [
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        ({"type": "function", "function": {"name": "weather"}}, {"type": "tool", "name": "weather"}),
    ],
)
async def test_a_tool_choice_is_the_providers(adapter: Any, choice: Any, asked: Any) -> None:
    stage = await adapter()
    await stage.chat(tools=[tool("weather")], tool_choice=choice)
    assert stage.provider.asked["tool_choice"] == asked
    assert [item["name"] for item in stage.provider.asked["tools"]] == ["weather"]


async def test_one_call_at_a_time_is_asked_for(adapter: Any) -> None:
    stage = await adapter()
    await stage.chat(tools=[tool("weather")], parallel_tool_calls=False)
    assert stage.provider.asked["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


async def test_results_of_tools_go_back_in_the_providers_words(adapter: Any) -> None:
    stage = await adapter()
    call = {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "Rain"},
    ]
    await stage.chat(messages=messages, tools=[tool("weather")])
    asked = stage.provider.asked
    assert asked["system"] == "Be brief."
    assert asked["messages"][1]["content"] == [use("weather", {"city": "Bonn"}, "toolu_1")]
    result = {"type": "tool_result", "content": "Rain", "tool_use_id": "toolu_1", "is_error": False}
    assert asked["messages"][2] == {"role": "user", "content": [result]}


async def test_a_strict_tools_arguments_keep_its_schema_or_the_call_fails(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.blocks = [use("weather", {"town": "Bonn"}, "toolu_1")]
    stage.provider.stop_reason = "tool_use"
    assert (await stage.chat(tools=[tool("weather")])).choices[0].finish_reason == "tool_calls"
    error = await stage.refused(tools=[tool("weather", strict=True)])
    assert (error.status_code, error.code) == (502, "upstream_error")
    assert stage.provider.asked["tools"][0]["strict"] is True
    frames = await stage.frames(tools=[tool("weather", strict=True)])
    assert frames[-1]["error"]["code"] == "upstream_error"


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([tool("weather", strict=True), tool("time")], "tools"),
        ([tool("weather", {"anyOf": [WEATHER]})], "tools"),
        ([tool("a"), tool("b", {"anyOf": [WEATHER]})], "tools"),
        ([tool("a"), tool("a")], "tools"),
        ([tool("weather", {"type": "nothing"}, strict=True)], "tools[0].function.parameters"),
        ([{"type": "custom", "custom": {"name": "x"}}], "tools[0].type"),
    ],
)
async def test_tools_that_the_provider_would_lose_are_refused(adapter: Any, tools: Any, param: str) -> None:
    stage = await adapter()
    error = await stage.refused(tools=tools)
    assert (error.status_code, error.param) == (400, param)
    assert stage.provider.requests == []


@pytest.mark.parametrize(
    "body",
    [
        {"tool_choice": "required"},
        {"parallel_tool_calls": True},
        {"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "b"}}},
    ],
)
async def test_a_choice_without_its_tool_is_refused(adapter: Any, body: Any) -> None:
    error = await (await adapter()).refused(**body)
    assert (error.status_code, error.param) == (400, next(name for name in reversed(body)))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_structured_answer_is_asked_for_in_the_providers_own_way(adapter: Any, stream: bool) -> None:
    stage = await adapter()
    stage.provider.blocks = [{"type": "text", "text": '{"city":"Bonn", "degrees":7}'}]
    if stream:
        frames = await stage.frames(response_format=structured())
        content = "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames[:-1])
        assert frames[-1] == {"done": True}
    else:
        content = (await stage.chat(response_format=structured())).choices[0].message.content
    assert orjson.loads(content) == {"city": "Bonn", "degrees": 7}
    assert stage.provider.asked["output_config"]["format"]["type"] == "json_schema"
    assert "tools" not in stage.provider.asked


async def test_types_in_a_list_are_asked_for_in_words_that_the_provider_knows(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.blocks = [{"type": "text", "text": '{"city":null}'}]
    optional = {"type": ["string", "null"], "description": "Where", "minLength": 2}
    schema = {"type": "object", "properties": {"city": optional}, "required": ["city"], "additionalProperties": False}
    assert (await stage.chat(response_format=structured(schema))).choices[0].finish_reason == "stop"
    asked = stage.provider.asked["output_config"]["format"]["schema"]["properties"]["city"]
    assert asked["description"] == "Where"
    assert [branch["type"] for branch in asked["anyOf"]] == ["string", "null"]
    stage.provider.blocks = [{"type": "text", "text": '{"city":"B"}'}]
    assert (await stage.refused(response_format=structured(schema))).status_code == 502


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "array", "items": True},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {"a": True}},
    ],
)
async def test_a_schema_that_the_provider_cannot_be_given_is_refused_by_name(adapter: Any, schema: Any) -> None:
    stage = await adapter()
    error = await stage.refused(response_format=structured(schema))
    assert (error.status_code, error.param) == (400, "response_format")
    assert stage.provider.requests == []


@pytest.mark.parametrize("said", ["Bonn, seven", '{"city":"bonn", "degrees":7}', '{"city":"Bonn"}'])
async def test_an_answer_that_breaks_its_schema_fails(adapter: Any, said: str) -> None:
    stage = await adapter()
    stage.provider.blocks = [{"type": "text", "text": said}]
    error = await stage.refused(response_format=structured())
    assert (error.status_code, error.code) == (502, "upstream_error")
    frames = await stage.frames(response_format=structured())
    assert frames[-1]["error"]["code"] == "upstream_error"


async def test_an_answer_cut_short_is_given_as_it_is(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.blocks, stage.provider.stop_reason = [{"type": "text", "text": '{"city":'}], "max_tokens"
    answer = await stage.chat(response_format=structured())
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("length", '{"city": ')


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_without_structured_answers_gives_them_as_a_call(adapter: Any, stream: bool) -> None:
    stage = await adapter()
    stage.provider.blocks = [use("weather", {"city": "Bonn", "degrees": 7}, "toolu_1")]
    stage.provider.stop_reason = "tool_use"
    # LangChain's profile of this model says that it has none.
    body = {"model": "claude-haiku-5-5", "response_format": structured()}
    if stream:
        frames = await stage.frames(**body)
        content = "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames[:-1])
        reason = frames[-2]["choices"][0]["finish_reason"]
    else:
        choice = (await stage.chat(**body)).choices[0]
        content, reason = choice.message.content, choice.finish_reason
        assert choice.message.tool_calls is None
    assert (orjson.loads(content), reason) == ({"city": "Bonn", "degrees": 7}, "stop")
    assert stage.provider.asked["tool_choice"] == {"type": "tool", "name": "weather"}


async def test_a_json_object_is_any_object(adapter: Any) -> None:
    stage = await adapter()
    stage.provider.blocks = [use("json", {"a": [1]}, "toolu_1")]
    stage.provider.stop_reason = "tool_use"
    answer = await stage.chat(response_format={"type": "json_object"})
    assert orjson.loads(answer.choices[0].message.content) == {"a": [1]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"type": "string", "pattern": "(?=a)b"},
        {"type": "object", "patternProperties": {"(a+)+$": {}}},
    ],
)
async def test_a_schema_that_cannot_be_checked_is_refused_before_the_model_is_asked(adapter: Any, schema: Any) -> None:
    stage = await adapter()
    error = await stage.refused(response_format=structured(schema))
    assert isinstance(error, openai.BadRequestError)
    assert error.param == "response_format.json_schema.schema"
    assert stage.provider.requests == []
