"""Promises of chat and text completions: each parameter reaches its upstream as it was given, or is refused by name."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from models.doubles.scripted_engine import Script
from models.errors import InvalidRequest
from serve.hosted.parameters import NEUTRAL
from serve.ignored import IGNORED, LABELS
from serve.routing import ENDPOINTS
from serve.tools.request import plan_of

Platform = Callable[..., Awaitable[Any]]
KEY = {"authorization": "Bearer good"}
HI = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
# A value of each parameter that asks for something.
VALUES: dict[str, Any] = {
    "model": "scripted",
    "messages": [HI],
    "tools": [TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": SCHEMA}},
    "stream": False,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 7,
    "max_tokens": 7,
    "n": 2,
    "seed": 7,
    "stop": ["a", "b", "c", "d"],
    "temperature": 0.5,
    "top_p": 0.5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {"7": 1},
    "logprobs": True,
    "top_logprobs": 2,
    "reasoning_effort": "low",
    "verbosity": "low",
    "prediction": {"type": "content", "content": "hi"},
    "store": True,
    "metadata": {"name": "value"},
    "service_tier": "default",
    "safety_identifier": "someone",
    "prompt_cache_key": "somewhere",
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "wav"},
    "user": "someone",
    "functions": [{"name": "f"}],
    "function_call": "auto",
    "web_search_options": {},
}
NEEDED = {
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [TOOL]},
    "parallel_tool_calls": {"tools": [TOOL]},
}
ALONE = sorted(set(VALUES) - {"model", "stream", "stream_options"})
# The gateway honours it: what an engine hears of it is not the caller's business.
GATEWAY = frozenset({"service_tier"})
# vLLM's server refuses them behind the gateway: ``serve.tools``.
REFUSED_BY_THE_ENGINE = frozenset({"functions", "function_call"})


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [HI], **changes}


async def post(stage: Any, path: str = "chat/completions", **body: Any) -> httpx.Response:
    return await stage.http.post(f"/v1/{path}", json=body, headers=KEY)


def refusal_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


@pytest.mark.contract("chat.parameters")
def test_there_is_a_value_of_every_parameter() -> None:
    assert set(VALUES) == ENDPOINTS["/v1/chat/completions"].known


@pytest.mark.contract("chat.parameters")
@pytest.mark.contract("chat.never-dropped")
async def test_an_engine_is_given_a_parameter_or_it_is_refused_by_name(platform: Platform) -> None:
    stage = await platform()
    for name in ALONE:
        stage.engine.requests.clear()
        answer = await post(stage, **chat(**NEEDED.get(name, {}), **{name: VALUES[name]}))
        if name in IGNORED:
            assert refusal_of(answer) == (400, "unsupported_parameter", name)
            assert stage.engine.requests == []
        else:
            assert answer.status_code == 200, name
            assert name in GATEWAY or stage.engine.requests[0][2][name] == VALUES[name]


@pytest.mark.contract("chat.never-dropped")
@pytest.mark.parametrize("name", sorted(REFUSED_BY_THE_ENGINE))
def test_what_tools_replaced_is_refused_before_vllm(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        plan_of({name: VALUES[name]})
    assert (refused.value.param, refused.value.code) == (name, "unsupported_parameter")


@pytest.mark.contract("chat.never-dropped")
async def test_a_value_that_asks_for_nothing_is_taken(platform: Platform) -> None:
    stage = await platform()
    for name, neutral in IGNORED.items():
        for value in (None, *neutral):
            assert name not in VALUES or (await post(stage, **chat(**{name: value}))).status_code == 200, name


@pytest.mark.contract("chat.parameters")
async def test_a_provider_of_openai_s_dialect_is_given_every_parameter(platform: Platform) -> None:
    stage = await platform()
    for name in ALONE:
        stage.engine.requests.clear()
        answer = await post(stage, **chat(model="hosted/model", **NEEDED.get(name, {}), **{name: VALUES[name]}))
        assert answer.status_code == 200, name
        assert stage.engine.requests[0][2][name] == VALUES[name]


@pytest.mark.contract("chat.never-dropped")
async def test_padding_of_a_stream_is_refused_of_an_engine_and_asked_of_a_provider(platform: Platform) -> None:
    stage = await platform()
    padded = {"stream": True, "stream_options": {"include_obfuscation": True}}
    refused = await post(stage, **chat(**padded))
    assert refusal_of(refused) == (400, "unsupported_parameter", "stream_options.include_obfuscation")
    assert (await post(stage, **chat(**{**padded, "model": "hosted/model"}))).status_code == 200
    assert stage.engine.requests[0][2]["stream_options"]["include_obfuscation"] is True
    assert (await post(stage, **chat(stream=True, stream_options={"include_obfuscation": False}))).status_code == 200


def test_labels_ask_nothing_of_any_upstream() -> None:
    assert not LABELS & set(IGNORED)
    assert not LABELS & set(NEUTRAL)


@pytest.mark.contract("chat.bounds")
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("stop", ["a"] * 4, ["a"] * 5),
        ("metadata", {str(n): "v" for n in range(16)}, {str(n): "v" for n in range(17)}),
        ("metadata", {"k" * 64: "v" * 512}, {"k" * 65: "v"}),
        ("metadata", {"k": "v" * 512}, {"k": "v" * 513}),
        ("n", 128, 129),
        ("temperature", 2, 2.01),
        ("top_p", 1, 1.01),
        ("frequency_penalty", -2, -2.01),
        ("presence_penalty", 2, 2.01),
        ("logit_bias", {"1": -100}, {"1": -101}),
    ],
)
async def test_a_bound_is_openai_s(platform: Platform, name: str, good: Any, bad: Any) -> None:
    stage = await platform()
    assert (await post(stage, **chat(**{name: good}))).status_code == 200
    assert refusal_of(await post(stage, **chat(**{name: bad}))) == (400, "invalid_value", name)
    assert len(stage.engine.requests) == 1


@pytest.mark.contract("chat.messages")
@pytest.mark.parametrize("model", ["scripted", "hosted/model"])
async def test_every_kind_of_message_reaches_the_model_as_it_was_written(platform: Platform, model: str) -> None:
    stage = await platform()
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "c"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
            ],
        },
        {"role": "assistant", "content": None, "refusal": "no"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "d"},
        HI,
    ]
    assert (await post(stage, model=model, messages=messages)).status_code == 200
    assert stage.engine.requests[0][2]["messages"] == messages


@pytest.mark.contract("chat.finish-reason")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
async def test_why_it_ended_is_said(platform: Platform, reason: str, stream: bool) -> None:
    stage = await platform()
    stage.engine.script = Script(finish=reason)
    body = await post(stage, **chat(stream=stream))
    frames = [body.text] if not stream else [part.removeprefix("data: ") for part in body.text.split("\n\n")[:-2]]
    reasons = [choice["finish_reason"] for frame in frames for choice in json.loads(frame)["choices"]]
    assert reasons == [*[None] * (len(frames) - 1), reason]


@pytest.mark.contract("chat.usage")
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_has_openai_s_parts_and_is_metered_in_them(platform: Platform, stream: bool) -> None:
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 7,
        "total_tokens": 19,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    choice = {"index": 0, "finish_reason": "stop"}
    whole = {"model": "m", "choices": [{**choice, "message": {"role": "assistant", "content": "x"}}], "usage": usage}
    chunks = [{"model": "m", "choices": [{**choice, "delta": {"content": "x"}}]}, {"model": "m", "choices": []}]
    frames = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in (chunks[0], {**chunks[1], "usage": usage}))
    body = (frames + "data: [DONE]\n\n" if stream else json.dumps(whole)).encode()
    kind = b"text/event-stream" if stream else b"application/json"

    async def upstream(_: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": body})

    stage = await platform(engine=upstream)
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = await post(stage, **chat(**options))
    last = json.loads(answer.text.split("\n\n")[-3].removeprefix("data: ")) if stream else answer.json()
    assert last["usage"] == usage
    (event,) = await stage.events()
    counted = event.usage
    assert (counted.prompt, counted.cached, counted.completion, counted.reasoning) == (4, 8, 4, 3)


@pytest.mark.contract("chat.stream")
@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("model", ["scripted", "hosted/model", "agent/handbook"])
async def test_a_stream_is_openai_s_to_the_letter(platform: Platform, model: str, usage: bool) -> None:
    stage = await platform()
    options = {"stream_options": {"include_usage": True}} if usage else {}
    answer = await post(stage, **chat(model=model, stream=True, **options))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *frames, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(frame.startswith("data: {") for frame in frames)
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert {(chunk["object"], chunk["model"]) for chunk in chunks} == {("chat.completion.chunk", model)}
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    if usage:
        *texts, last = chunks
        assert [chunk["usage"] for chunk in texts] == [None] * len(texts)
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)
    else:
        assert not any("usage" in chunk for chunk in chunks)
        (event,) = await stage.events()
        assert event.usage.completion == 4


@pytest.mark.contract("completions.prompt")
@pytest.mark.parametrize("prompt", ["Say", ["Say", "more"], [1, 2, 3], [[1, 2], [3]]])
@pytest.mark.parametrize("model", ["scripted", "hosted/model"])
async def test_a_prompt_has_any_of_openai_s_forms(platform: Platform, model: str, prompt: Any) -> None:
    stage = await platform()
    answer = await post(stage, "completions", model=model, prompt=prompt, max_tokens=2)
    assert (answer.status_code, answer.json()["object"]) == (200, "text_completion")
    assert stage.engine.requests[0][2]["prompt"] == prompt


@pytest.mark.contract("completions.parameters")
@pytest.mark.parametrize(
    ("name", "value", "engine"),
    [("echo", True, True), ("logprobs", 2, True), ("best_of", 3, False), ("suffix", "the end", False)],
)
async def test_what_an_engine_cannot_do_to_a_completion_is_refused(
    platform: Platform, name: str, value: Any, engine: bool
) -> None:
    stage = await platform()
    answer = await post(stage, "completions", model="scripted", prompt="Say", **{name: value})
    if engine:
        assert stage.engine.requests.pop()[2][name] == value
    else:
        assert refusal_of(answer) == (400, "unsupported_parameter", name)
    assert (await post(stage, "completions", model="hosted/model", prompt="Say", **{name: value})).status_code == 200
    assert stage.engine.requests[0][2][name] == value


@pytest.mark.contract("embeddings.input")
@pytest.mark.parametrize("given", ["one", ["one", "two"], [1, 2, 3], [[1, 2], [3]]])
async def test_an_input_has_any_of_openai_s_forms(platform: Platform, given: Any) -> None:
    stage = await platform()
    answer = await post(stage, "embeddings", model="embedder", input=given)
    assert answer.status_code == 200
    assert stage.engine.requests[0][2]["input"] == given
