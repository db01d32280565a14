"""The official clients' tour of the endpoint on the running platform: each feature as an application uses it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import jsonschema
import numpy
import openai
import pytest
from openai import OpenAI

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHAT, EMBEDDER = "smollm2-135m-instruct", "all-minilm-l6-v2"
HI: Any = [{"role": "user", "content": "What is the weather in Turin?"}]
WEATHER: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": WEATHER}}
]
BURST = 30
BATCH_SECONDS_MAX = 180.0


@pytest.fixture(scope="module")
def client(platform) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{platform.gateway_url}/v1", api_key=platform.api_key, max_retries=0) as client:
        yield client


def valid_call(call: Any) -> dict[str, Any]:
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    jsonschema.validate(arguments, WEATHER)
    return arguments


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_tool_call_that_must_be_made_fits_its_schema(client: OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model=CHAT, messages=HI, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, max_tokens=96
    )
    (made,) = answer.choices
    assert made.finish_reason in {"tool_calls", "stop"}
    valid_call((made.message.tool_calls or [])[0])


def test_a_streamed_tool_call_fits_its_schema(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=CHAT, messages=HI, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=96
    ) as stream:
        answer = stream.get_final_completion()
    valid_call((answer.choices[0].message.tool_calls or [])[0])


def test_a_tool_s_result_is_answered_in_words(client: OpenAI) -> None:
    made = client.chat.completions.create(
        model=CHAT, messages=HI, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=96
    )
    call = (made.choices[0].message.tool_calls or [])[0]
    history = [
        *HI,
        made.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "21 degrees and sunny"},
    ]
    answer = client.chat.completions.create(
        model=CHAT, messages=history, tools=TOOLS, tool_choice="none", max_tokens=32
    )
    assert answer.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_strict_json_fits_its_schema(client: OpenAI, stream: bool) -> None:
    order: Any = {
        "model": CHAT,
        "messages": HI,
        "max_tokens": 96,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "weather", "strict": True, "schema": WEATHER},
        },
    }
    if stream:
        chunks = client.chat.completions.create(stream=True, **order)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    else:
        text = client.chat.completions.create(**order).choices[0].message.content or ""
    jsonschema.validate(json.loads(text), WEATHER)


def test_embeddings_in_base64_are_those_in_floats(client: OpenAI) -> None:
    as_floats = client.embeddings.create(model=EMBEDDER, input=["a", "b"], encoding_format="float")
    by_default = client.embeddings.create(model=EMBEDDER, input=["a", "b"])
    for one, other in zip(as_floats.data, by_default.data, strict=True):
        assert numpy.allclose(one.embedding, other.embedding, atol=1e-6)


def test_responses_remember_what_was_said(client: OpenAI) -> None:
    first = client.responses.create(model=CHAT, input="Say hello.", max_output_tokens=16)
    assert first.output_text
    second = client.responses.create(
        model=CHAT, input="And again.", previous_response_id=first.id, max_output_tokens=16
    )
    assert client.responses.retrieve(second.id).previous_response_id == first.id
    asked = [item.id for item in client.responses.input_items.list(second.id)]
    assert asked
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_a_response_streams_typed_events(client: OpenAI) -> None:
    with client.responses.stream(model=CHAT, input="Count to three.", max_output_tokens=16) as stream:
        events = list(stream)
    assert events[0].type == "response.created"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    # The model may well not know when to stop.
    assert last.type in {"response.completed", "response.incomplete"}
    assert text
    assert last.response.output_text == text


def test_a_conversation_gathers_its_responses(client: OpenAI) -> None:
    conversation = client.conversations.create(metadata={"topic": "greeting"})
    client.responses.create(model=CHAT, input="Say hello.", conversation=conversation.id, max_output_tokens=16)
    items = client.conversations.items.list(conversation.id)
    assert [getattr(item, "role", None) for item in items.data].count("assistant") == 1
    assert client.conversations.delete(conversation.id).deleted


def test_files_are_kept_and_given_back(client: OpenAI) -> None:
    content = b'{"a": 1}\n' * 1_000
    made = client.files.create(file=("lines.jsonl", content), purpose="user_data")
    assert (made.bytes, made.filename) == (len(content), "lines.jsonl")
    assert made.id in {file.id for file in client.files.list()}
    assert client.files.content(made.id).read() == content
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_a_batch_is_done_in_the_background(client: OpenAI) -> None:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": EMBEDDER, "input": f"line {number}"},
        }
        for number in range(5)
    ]
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    file = client.files.create(file=("batch.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    deadline = time.monotonic() + BATCH_SECONDS_MAX
    while batch.status not in {"completed", "failed", "expired", "cancelled"}:
        assert time.monotonic() < deadline, batch
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch
    assert batch.output_file_id is not None
    done = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert {one["custom_id"] for one in done} == {line["custom_id"] for line in lines}
    assert {one["response"]["status_code"] for one in done} == {200}


def test_anthropic_s_client_is_answered_by_the_same_models(platform) -> None:
    with anthropic.Anthropic(base_url=platform.gateway_url, api_key=platform.api_key, max_retries=0) as client:
        order: Any = {"model": CHAT, "max_tokens": 16, "messages": [{"role": "user", "content": "Say hello."}]}
        whole = client.messages.create(**order)
        assert whole.content[0].type == "text"
        assert whole.usage.output_tokens > 0
        with client.messages.stream(**order) as stream:
            text = "".join(stream.text_stream)
        assert text
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**{**order, "model": "nothing"})


def test_a_client_that_hits_its_limit_comes_back_by_itself(platform) -> None:
    with platform.control_plane(platform.admin_key) as admin:
        made = admin.post(
            f"/organisations/{platform.organisation}/api-keys",
            json={"name": "limited", "project_id": platform.project, "limits": {"requests_per_minute": BURST}},
        )
        assert made.status_code == httpx.codes.CREATED, made.text
    with OpenAI(base_url=f"{platform.gateway_url}/v1", api_key=made.json()["key"], max_retries=3) as client:
        retries = 0
        for _ in range(BURST + 2):
            answer = client.embeddings.with_raw_response.create(model=EMBEDDER, input="a")
            retries += answer.retries_taken
    assert retries > 0
