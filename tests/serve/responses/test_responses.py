"""``/v1/responses`` through the official client: what is answered, what is kept, what is built on."""

from typing import Any

import openai
import pytest
from pydantic import BaseModel

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather somewhere",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
WEATHER_IN_CHAT = {"type": "function", "function": {key: WEATHER[key] for key in WEATHER if key != "type"}}


async def test_a_response_is_answered_metered_once_and_kept(client: Any, stage: Any) -> None:
    answer = await client.responses.create(model="scripted", input="hello", metadata={"team": "blue"})
    assert (answer.object, answer.status, answer.output_text, answer.error) == ("response", "completed", "Hi", None)
    assert (answer.model, answer.metadata, answer.background) == ("scripted", {"team": "blue"}, False)
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (12, 7, 19)
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (8, 3)
    (event,) = await stage.events()
    assert (event.kind, event.status, event.usage.total) == ("chat", "ok", 19)
    kept = await client.responses.retrieve(answer.id)
    assert kept.to_dict() == answer.to_dict()
    assert kept.to_dict()["store"] is True


async def test_the_answer_bears_the_call_s_headers(client: Any) -> None:
    answer = await client.responses.with_raw_response.create(model="scripted", input="hello")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-objecta-upstream"] == "engine"
    assert answer.headers["x-request-id"].startswith("req_")


async def test_the_engine_is_asked_in_chat_s_words(client: Any, speaker: Any) -> None:
    await client.responses.create(
        model="scripted",
        instructions="Be brief.",
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        service_tier="flex",
        store=False,
        text={"verbosity": "medium"},
        input=[
            {"role": "developer", "content": "Rules."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look:"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                ],
            },
        ],
    )
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    asked = speaker.requests[0]
    assert asked.pop("stream_options")["include_usage"]
    assert asked == {
        "model": "scripted",
        "stream": True,
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "tools": [WEATHER_IN_CHAT],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "service_tier": "flex",
        "priority": 1,
        "verbosity": "medium",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Rules."},
            {"role": "user", "content": [{"type": "text", "text": "Look:"}, image]},
        ],
    }


async def test_of_the_allowed_tools_alone_one_is_called(client: Any, speaker: Any) -> None:
    other = {**WEATHER, "name": "time"}
    choice: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    answer = await client.responses.create(model="scripted", input="x", tools=[WEATHER, other], tool_choice=choice)
    assert speaker.requests[0]["tools"] == [WEATHER_IN_CHAT]
    assert speaker.requests[0]["tool_choice"] == "required"
    assert answer.tool_choice.type == "allowed_tools"
    assert [tool.name for tool in answer.tools] == ["weather", "time"]


class Person(BaseModel):
    name: str
    age: int


async def test_structured_output_is_parsed_by_the_official_client(client: Any, speaker: Any, chunk: Any) -> None:
    speaker.answers = [[chunk(content='{"name":"Ada",'), chunk(content='"age":36}'), chunk("stop")]]
    answer = await client.responses.parse(model="scripted", input="Who?", text_format=Person)
    assert answer.output_parsed == Person(name="Ada", age=36)
    given = speaker.requests[0]["response_format"]
    assert (given["type"], given["json_schema"]["name"], given["json_schema"]["strict"]) == (
        "json_schema",
        "Person",
        True,
    )
    assert given["json_schema"]["schema"]["required"] == ["name", "age"]
    assert answer.text.format.type == "json_schema"
    await client.responses.create(model="scripted", input="Who?", text={"format": {"type": "json_object"}})
    assert speaker.requests[1]["response_format"] == {"type": "json_object"}


async def test_tools_are_called_and_answered_over_a_chain(client: Any, speaker: Any, chunk: Any, call: Any) -> None:
    speaker.answers = [
        [
            chunk(content="Let me see. "),
            chunk(**call(0, '{"city":', "call_1", "weather")),
            chunk(**call(0, '"Ulm"}')),
            chunk(**call(1, '{"city":"Bonn"}', "call_2", "weather")),
            chunk("tool_calls"),
        ],
        [chunk(content="Sunny."), chunk("stop")],
    ]
    first = await client.responses.create(model="scripted", input="Weather?", tools=[WEATHER])
    said, ulm, bonn = first.output
    assert said.content[0].text == "Let me see. "
    assert (ulm.type, ulm.name, ulm.arguments, ulm.status) == (
        "function_call",
        "weather",
        '{"city":"Ulm"}',
        "completed",
    )
    assert (bonn.call_id, bonn.arguments) == ("call_2", '{"city":"Bonn"}')
    outputs: Any = [
        {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [{"type": "input_text", "text": "ra"}, {"type": "input_text", "text": "in"}],
        },
    ]
    second = await client.responses.create(
        model="scripted", input=outputs, previous_response_id=first.id, tools=[WEATHER]
    )
    assert second.output_text == "Sunny."
    calls = [
        {"id": f"call_{n}", "type": "function", "function": {"name": "weather", "arguments": f'{{"city":"{city}"}}'}}
        for n, city in ((1, "Ulm"), (2, "Bonn"))
    ]
    expected = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Let me see. ", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "sun"},
        {"role": "tool", "tool_call_id": "call_2", "content": "rain"},
    ]
    assert speaker.requests[1]["messages"] == expected
    # The same without state: the client keeps the items.
    history: Any = [{"role": "user", "content": "Weather?"}, *first.output, *outputs]
    await client.responses.create(model="scripted", input=history, store=False)
    assert speaker.requests[2]["messages"] == expected


async def test_instructions_are_not_carried_over(client: Any, speaker: Any) -> None:
    first = await client.responses.create(model="scripted", input="a", instructions="Be rude.")
    await client.responses.create(model="scripted", input="b", instructions="Be kind.", previous_response_id=first.id)
    assert [message["content"] for message in speaker.requests[1]["messages"]] == ["Be kind.", "a", "Hi", "b"]


async def test_what_is_not_stored_is_not_there_and_may_build_on_what_is(client: Any, speaker: Any) -> None:
    first = await client.responses.create(model="scripted", input="a")
    second = await client.responses.create(model="scripted", input="b", previous_response_id=first.id, store=False)
    assert [message["content"] for message in speaker.requests[1]["messages"]] == ["a", "Hi", "b"]
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(second.id)


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
async def test_an_answer_that_was_cut_is_incomplete(
    client: Any, speaker: Any, chunk: Any, finish: str, reason: str
) -> None:
    speaker.answers = [[chunk(content="Half"), chunk(finish)]]
    answer = await client.responses.create(model="scripted", input="x")
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", reason)
    assert (answer.output[0].status, answer.completed_at) == ("incomplete", None)
    assert (await client.responses.retrieve(answer.id)).status == "incomplete"


async def test_reasoning_refusals_and_logprobs_have_their_places(client: Any, speaker: Any, chunk: Any) -> None:
    logprobs = {"content": [{"token": "No", "logprob": -0.1, "bytes": [78, 111], "top_logprobs": []}]}
    speaker.answers = [
        [
            chunk(role="assistant", content=""),
            chunk(reasoning="Hmm. "),
            chunk(reasoning="So."),
            chunk(content="No", logprobs=logprobs),
            chunk(refusal="never"),
            chunk("stop"),
        ]
    ]
    answer = await client.responses.create(
        model="scripted", input="x", include=["message.output_text.logprobs"], top_logprobs=2
    )
    thought, said = answer.output
    assert (thought.type, thought.summary, thought.content[0].text) == ("reasoning", [], "Hmm. So.")
    assert [part.type for part in said.content] == ["output_text", "refusal"]
    assert (said.content[0].logprobs[0].token, said.content[1].refusal) == ("No", "never")
    assert (speaker.requests[0]["logprobs"], speaker.requests[0]["top_logprobs"]) == (True, 2)
    await client.responses.create(model="scripted", input="y", previous_response_id=answer.id)
    assert [message["content"] for message in speaker.requests[1]["messages"]] == ["x", "Nonever", "y"]


FULL: dict[str, Any] = {
    "instructions": "Be brief.",
    "max_output_tokens": 3,
    "temperature": 0.1,
    "top_p": 0.5,
    "tools": [WEATHER],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "json_object"}, "verbosity": "medium"},
    "include": ["message.output_text.logprobs"],
    "metadata": {"k": "v"},
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "service_tier": "default",
    "truncation": "disabled",
    "max_tool_calls": 3,
}


@pytest.mark.parametrize(("model", "upstream"), [("hosted/model", "hosted"), ("scripted", "engine")])
async def test_a_hosted_model_takes_every_parameter_that_an_engine_takes(
    client: Any, stage: Any, model: str, upstream: str
) -> None:
    answer = await client.responses.create(model=model, input="x", **FULL)
    shown = answer.to_dict()
    assert {name: shown[name] for name in FULL if name not in {"include", "reasoning", "text"}} == {
        name: value for name, value in FULL.items() if name not in {"include", "reasoning", "text"}
    }
    assert (shown["reasoning"]["effort"], shown["text"]) == ("low", FULL["text"])
    (event,) = await stage.events()
    assert (event.upstream, event.kind, event.model) == (upstream, "chat", model)


async def test_an_agent_answers_like_any_model(platform: Any, speaker: Any) -> None:
    stage = await platform(speaker)
    answer = await stage.client().responses.create(model="agent/handbook", input="x", store=False)
    assert (answer.model, answer.output_text) == ("agent/handbook", "w0 w1 w2 w3 ")
    (event,) = await stage.events()
    assert (event.kind, event.cost_micro) == ("agent", 0)
