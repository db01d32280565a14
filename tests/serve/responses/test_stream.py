"""A response's typed events: in order, numbered, never held, and as the official client's helper reads them."""

import asyncio
from typing import Any

import orjson
from pydantic import BaseModel

TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def test_text_comes_in_openai_s_events_numbered_without_a_gap(client: Any, speaker: Any, chunk: Any) -> None:
    speaker.answers = [[chunk(role="assistant", content="Hel"), chunk(content="lo"), chunk("stop")]]
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == TEXT_EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["Hel", "lo"]
    first, last = events[0].response, events[-1].response
    assert (first.id, first.status, first.output, first.usage) == (last.id, "in_progress", [], None)
    assert (last.status, last.output_text, last.usage.total_tokens) == ("completed", "Hello", 19)
    item = events[2].item
    assert (item.id, item.status, item.content) == (last.output[0].id, "in_progress", [])
    assert {event.item_id for event in events[3:8]} == {item.id}
    assert (await client.responses.retrieve(last.id)).to_dict() == last.to_dict()


async def test_the_wire_is_named_events_and_their_data(stage: Any, acme: Any) -> None:
    bearer = {"authorization": f"Bearer {acme['key']}"}
    body = {"model": "scripted", "input": "x", "stream": True, "store": False}
    answer = await stage.http.post("/v1/responses", json=body, headers=bearer)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = answer.text.split("\n\n")
    assert frames.pop() == ""
    for text in frames:
        name, data = text.split("\n")
        assert name.removeprefix("event: ") == orjson.loads(data.removeprefix("data: "))["type"]
    assert "[DONE]" not in answer.text


async def test_the_first_token_is_not_held(client: Any, speaker: Any, chunk: Any) -> None:
    speaker.gate = asyncio.Event()
    speaker.answers = [[chunk(content="a"), chunk(content="b"), chunk("stop")]]
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    async with asyncio.timeout(10):
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
    assert not speaker.gate.is_set()
    speaker.gate.set()
    rest = [event.type async for event in stream]
    assert rest == TEXT_EVENTS[5:]


async def test_calls_come_piece_by_piece(client: Any, speaker: Any, chunk: Any, call: Any) -> None:
    speaker.answers = [
        [
            chunk(**call(0, "", "call_1", "weather")),
            chunk(**call(0, '{"city":')),
            chunk(**call(0, '"Ulm"}')),
            chunk(**call(1, "{}", "call_2", "time")),
            chunk("tool_calls"),
        ]
    ]
    tools: Any = [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in ("weather", "time")]
    stream = await client.responses.create(model="scripted", input="x", stream=True, tools=tools)
    events = [event async for event in stream]
    added, delta = "response.output_item.added", "response.function_call_arguments.delta"
    done, closed = "response.function_call_arguments.done", "response.output_item.done"
    kinds = [event.type for event in events[2:-1]]
    assert kinds == [added, delta, delta, done, closed, added, delta, done, closed]
    assert [event.arguments for event in events if event.type == done] == ['{"city":"Ulm"}', "{}"]
    assert [event.output_index for event in events if event.type == closed] == [0, 1]
    assert [item.call_id for item in events[-1].response.output] == ["call_1", "call_2"]


async def test_reasoning_and_refusals_have_their_own_events(client: Any, speaker: Any, chunk: Any) -> None:
    speaker.answers = [[chunk(reasoning_content="Hm"), chunk(refusal="No"), chunk("stop")]]
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events[2:-1]] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    assert [event.output_index for event in events if event.type == "response.output_item.added"] == [0, 1]


async def test_citations_come_as_annotations(client: Any, speaker: Any, chunk: Any) -> None:
    citation = {"url": "kb://base/a.md", "title": "A", "start_index": 0, "end_index": 2, "document": "a.md"}
    cited = [{"type": "url_citation", "url_citation": citation}]
    speaker.answers = [[chunk(content="Hi"), chunk("stop", annotations=cited)]]
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    events = [event async for event in stream]
    (added,) = [event for event in events if event.type == "response.output_text.annotation.added"]
    assert (added.annotation_index, added.annotation.url) == (0, "kb://base/a.md")
    (annotation,) = events[-1].response.output[0].content[0].annotations
    assert (annotation.type, annotation.title, annotation.document) == ("url_citation", "A", "a.md")


async def test_a_cut_answer_ends_with_incomplete(client: Any, speaker: Any, chunk: Any) -> None:
    speaker.answers = [[chunk(content="Half"), chunk("length")]]
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    last = [event async for event in stream][-1]
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.incomplete_details.reason == "max_output_tokens"


class Person(BaseModel):
    name: str


async def test_the_official_helper_reads_the_stream(client: Any, speaker: Any, chunk: Any) -> None:
    speaker.answers = [[chunk(content='{"name":'), chunk(content='"Ada"}'), chunk("stop")]]
    async with client.responses.stream(model="scripted", input="x", text_format=Person) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds == TEXT_EVENTS
    assert final.output_parsed == Person(name="Ada")


async def test_nul_characters_of_a_model_do_not_keep_its_answer_from_being_stored(
    client: Any, speaker: Any, chunk: Any
) -> None:
    speaker.answers = [[chunk(content="a\x00b"), chunk("stop")]]
    answer = await client.responses.create(model="scripted", input="x")
    assert answer.output_text == "a\ufffdb"
    assert (await client.responses.retrieve(answer.id)).output_text == "a\ufffdb"


async def test_an_answer_without_a_word_is_still_a_turn(client: Any, speaker: Any, chunk: Any) -> None:
    speaker.answers = [[chunk(role="assistant", content=""), chunk("stop")]]
    stream = await client.responses.create(model="scripted", input="x", stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [kind for kind in TEXT_EVENTS if not kind.endswith(".delta")]
    (item,) = events[-1].response.output
    assert (item.status, item.content[0].text) == ("completed", "")
