"""The default model under the real vLLM, behind what an engine replica puts in front of it, by the official client.

The model is far too small to be right, and its chat template knows no tools; its calls must be valid all the same.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator

from benchmarks.processes import free_port, running, tail
from deployments.engine import engine_environment
from models.catalogue import load_catalogue
from models.channels import CLUSTER_SECRET_HEADER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SERVER = Path(__file__).with_name("engine_server.py")
MODEL = "smollm2-135m-instruct"
SECRET = {CLUSTER_SECRET_HEADER: "cluster-secret"}
START_SECONDS_MAX = 300.0
ANSWER_SECONDS_MAX = 600.0
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
    },
    "book_table": {
        "type": "object",
        "properties": {
            "day": {"type": "string", "format": "date"},
            "guests": {"type": "integer", "minimum": 1, "maximum": 12},
            "budget": {"type": "number", "exclusiveMinimum": 0, "maximum": 99.5},
            "smoking": {"type": "boolean"},
        },
        "required": ["day", "guests", "budget", "smoking"],
        "additionalProperties": False,
    },
    "send_parcel": {
        "type": "object",
        "properties": {
            "to": {"$ref": "#/$defs/address"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d{4}$"},
            "tags": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 8}, "maxItems": 2},
        },
        "required": ["to", "code"],
        "$defs": {
            "address": {
                "type": "object",
                "properties": {
                    "zip": {"type": "string", "pattern": "[0-9]{5}"},
                    "floor": {"type": ["integer", "null"]},
                },
                "required": ["zip", "floor"],
            }
        },
    },
    "write_note": {
        "type": "object",
        "properties": {
            "note": {"type": "string", "minLength": 130, "maxLength": 160},
            "about": {"anyOf": [{"const": "work"}, {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}]},
        },
        "required": ["note", "about"],
    },
    "stop_clock": {"type": "object", "properties": {}},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": name.replace("_", " "), "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
PROMPTS = (
    *("What is the weather in Rome?", "A table for two on Friday, please.", "Send this to 10115, third floor."),
    *("Note that the meeting moved to Tuesday.", "Stop the clock now!", 'Say "hello" and {brace} it.'),
)
CHOICES: tuple[Any, ...] = (
    *({"type": "function", "function": {"name": name}} for name in SCHEMAS),
    "required",
)


@pytest.fixture(scope="module")
def engine_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("engine") / "vllm.log"
    environment = engine_environment(load_catalogue().find(MODEL).engine(0), 0)
    path = os.pathsep.join(filter(None, [str(SERVER.parents[3]), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, SERVER, str(port)]
    with running(command, log, {**environment, "PYTHONPATH": path}) as process:
        deadline = time.monotonic() + START_SECONDS_MAX
        url = f"http://127.0.0.1:{port}"
        while not healthy(url):
            assert process.poll() is None, tail(log)
            assert time.monotonic() < deadline, tail(log)
        yield url


def healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/prompted/health", headers=SECRET, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


@asynccontextmanager
async def connected(engine_url: str, parser: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{engine_url}/{parser}/v1",
        api_key="none",
        max_retries=0,
        timeout=ANSWER_SECONDS_MAX,
        default_headers=SECRET,
    ) as made:
        yield made


@pytest.fixture
async def client(engine_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with connected(engine_url, "prompted") as made:
        yield made


def valid(calls: list[tuple[str, str]]) -> None:
    for name, arguments in calls:
        Draft202012Validator(SCHEMAS[name]).validate(json.loads(arguments))


async def whole(client: openai.AsyncOpenAI, **body: Any) -> tuple[str, list[tuple[str, str]], str | None]:
    """The finish reason, the calls and the text."""
    answer = await client.chat.completions.create(model=MODEL, **body)
    (choice,) = answer.choices
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    calls = choice.message.tool_calls or []
    found = [(call.function.name, call.function.arguments) for call in calls if call.type == "function"]
    return choice.finish_reason, found, choice.message.content


async def streamed(client: openai.AsyncOpenAI, **body: Any) -> tuple[str, list[tuple[str, str]], str | None]:
    """The same of a stream, whose deltas must come as OpenAI's do."""
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = await client.chat.completions.create(model=MODEL, stream=True, stream_options=options, **body)
    calls: list[tuple[str, str]] = []
    text: str | None = None
    reason: str | None = None
    written = 0
    async for chunk in stream:
        assert chunk.usage is not None
        assert chunk.usage.completion_tokens >= written
        written = chunk.usage.completion_tokens
        for choice in chunk.choices:
            assert reason is None
            reason = choice.finish_reason
            text = (text or "") + choice.delta.content if choice.delta.content else text
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                if call.index == len(calls):
                    assert call.id is not None
                    assert (call.type, call.function.arguments) == ("function", "")
                    calls.append((call.function.name or "", ""))
                else:
                    assert call.index == len(calls) - 1
                    calls[-1] = (calls[-1][0], calls[-1][1] + (call.function.arguments or ""))
    assert reason is not None
    assert written > 0
    return reason, calls, text


def asked(content: str) -> list[Any]:
    return [{"role": "user", "content": content}]


async def test_every_call_is_valid(client: openai.AsyncOpenAI) -> None:
    """Functions by name and of the model's choice, one and several, whole and streamed, at a temperature of one."""
    cases = [
        {
            "messages": asked(prompt),
            "tools": TOOLS,
            "tool_choice": choice,
            "parallel_tool_calls": row % 2 == 0,
            "temperature": 1.0,
            "seed": row * 10 + column,
            "max_tokens": 160,
        }
        for row, prompt in enumerate(PROMPTS)
        for column, choice in enumerate(CHOICES)
    ]
    ways = [whole, streamed]
    answers = await asyncio.gather(*(ways[number % 2](client, **case) for number, case in enumerate(cases)))
    finished = 0
    for case, (reason, calls, text) in zip(cases, answers, strict=True):
        named = case["tool_choice"] != "required"
        assert text is None
        assert reason in {"tool_calls", "length"}
        assert not named or [name for name, _ in calls] == [case["tool_choice"]["function"]["name"]]
        assert named or case["parallel_tool_calls"] or len(calls) <= 1
        assert len(calls) <= 8
        # A limit on tokens may have cut off the last.
        valid(calls if reason == "tool_calls" else calls[:-1])
        finished += reason == "tool_calls"
    assert len(cases) >= 20
    assert finished >= len(cases) * 3 // 4


async def test_a_model_that_may_choose_calls_or_speaks(client: openai.AsyncOpenAI) -> None:
    """Where the conversation shows how, even this model calls by itself; its text stays text."""
    history: list[Any] = []
    for number, city in enumerate(("Oslo", "Paris", "Berlin", "Madrid")):
        function = {"name": "get_weather", "arguments": json.dumps({"city": city, "unit": "celsius"})}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        history += [*asked(f"What is the weather in {city}?"), {"role": "assistant", "tool_calls": [call]}]
    body: dict[str, Any] = {"tools": TOOLS[:1], "temperature": 0, "max_tokens": 80}
    messages = [*history, *asked("What is the weather in Rome?")]
    for way in (whole, streamed):
        reason, calls, text = await way(client, messages=messages, **body)
        assert (reason, text) == ("tool_calls", None)
        assert "Rome" in calls[0][1]
        valid(calls)
        reason, calls, text = await way(client, messages=asked("Tell me of the sea."), **body)
        assert reason in {"stop", "length"}
        assert (calls, bool(text)) == ([], True)


async def test_a_conversation_with_results_goes_on(client: openai.AsyncOpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "stop_clock", "arguments": "{}"}}
    messages: list[Any] = [
        *asked("Stop the clock."),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It stands at nine."},
    ]
    for tools in ({"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"}, {}):
        reason, calls, text = await whole(client, messages=messages, temperature=0, max_tokens=24, **tools)
        assert reason in {"stop", "length"}
        assert (calls, bool(text)) == ([], True)


async def test_a_call_cut_off_is_not_reported_as_one(client: openai.AsyncOpenAI) -> None:
    choice = {"type": "function", "function": {"name": "write_note"}}
    for way in (whole, streamed):
        body: dict[str, Any] = {"messages": asked(PROMPTS[3]), "tools": TOOLS, "tool_choice": choice}
        reason, ((name, arguments),), text = await way(client, max_tokens=30, temperature=0, **body)
        assert (reason, name, text) == ("length", "write_note", None)
        assert arguments.startswith("{")


async def test_strict_json_holds(client: openai.AsyncOpenAI) -> None:
    async def answer(schema: dict[str, Any], seed: int) -> None:
        form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        way = (whole, streamed)[seed % 2]
        reason, calls, text = await way(
            client, messages=asked(PROMPTS[seed]), response_format=form, seed=seed, max_tokens=160
        )
        assert calls == []
        if reason == "stop":
            Draft202012Validator(schema).validate(json.loads(text or ""))

    await asyncio.gather(*(answer(schema, seed) for seed, schema in enumerate(SCHEMAS.values())))


async def test_a_schema_that_cannot_be_enforced_is_refused(client: openai.AsyncOpenAI) -> None:
    parameters = {"type": "object", "properties": {"n": {"type": "number", "multipleOf": 0.1}}}
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=MODEL, messages=asked("hi"), tools=[tool])
    assert refused.value.param == "tools[0].function.parameters"


async def test_a_template_that_shows_tools_leaves_the_form_to_the_grammar(engine_url: str) -> None:
    body: dict[str, Any] = {"messages": asked(PROMPTS[0]), "tools": TOOLS, "temperature": 1.0, "max_tokens": 160}
    async with connected(engine_url, "hermes") as client:
        for way in (whole, streamed):
            reason, calls, text = await way(client, tool_choice=CHOICES[2], seed=1, **body)
            assert (reason, text, [name for name, _ in calls]) == ("tool_calls", None, ["send_parcel"])
            valid(calls)


async def test_a_seed_and_a_long_prompt_leave_the_engine_alive(client: openai.AsyncOpenAI) -> None:
    """With its prefill in parts, vLLM on a CPU ended at the first request with a seed that was longer than one."""
    reason, calls, text = await whole(client, messages=asked("1 sea " * 1_300), seed=1, max_tokens=4)
    assert (reason, calls, bool(text)) == ("length", [], True)
