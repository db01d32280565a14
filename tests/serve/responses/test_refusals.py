"""What cannot be honoured is refused by name, before anything is recorded, admitted or asked of a model."""

from collections.abc import Awaitable, Callable
from typing import Any

import openai
import psycopg
import pytest

FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
PART = {"type": "input_text", "text": "x"}


def said(*parts: Any, role: str = "user") -> list[Any]:
    return [{"role": role, "content": list(parts)}]


BODIES: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": 3}, "input"),
    ({"input": ["x"]}, "input[0]"),
    ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
    ({"input": [{"type": "message", "role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": said({"type": "input_file", "file_id": "file-1"})}, "input[0].content[0].type"),
    ({"input": said({"type": "output_text", "text": "x"})}, "input[0].content[0].type"),
    ({"input": said({"type": "input_image", "file_id": "file-1"})}, "input[0].content[0].file_id"),
    ({"input": said({**PART, "mood": "good"})}, "input[0].content[0].mood"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input[0].encrypted_content"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
    ({"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]}, "input"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
    ({"instructions": 3}, "instructions"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": True}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [FUNCTION, {"type": "file_search", "vector_store_ids": ["vs"]}]}, "tools[1].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": "always"}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
    ({"text": {"verbosity": "loud"}}, "text.verbosity"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"metadata": {"k": 1}}, "metadata"),
    ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"truncation": "auto"}, "truncation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"max_tool_calls": 0}, "max_tool_calls"),
    ({"service_tier": "gold"}, "service_tier"),
    ({"background": True, "store": False}, "background"),
    ({"conversation": "conv_1", "store": False}, "conversation"),
    ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": {"id": 1}}, "conversation.id"),
    ({"messages": []}, "messages"),
    ({"top_k": 5}, "top_k"),
    ({"previous_response_id": "resp_unknown"}, "previous_response_id"),
]


async def test_a_bad_parameter_is_named(
    post: Callable[..., Awaitable[Any]], stage: Any, speaker: Any, acme: Any, state: Any
) -> None:
    for body, param in BODIES:
        answer = await post(**body)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), body
    assert (speaker.requests, await stage.stored()) == ([], [])
    with psycopg.connect(state.database_url) as connection:
        rows = connection.execute("SELECT id FROM responses WHERE organisation_id = %s", [acme["id"]])
        assert rows.fetchall() == []


async def test_a_built_in_tool_is_refused_by_name(post: Callable[..., Awaitable[Any]]) -> None:
    error = (await post(tools=[{"type": "code_interpreter", "container": "c"}])).json()["error"]
    assert (error["code"], "code_interpreter" in error["message"]) == ("unsupported_tool", True)


async def test_unknown_models_and_references_are_not_found(client: Any, speaker: Any) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.responses.create(model="nothing", input="x")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as reference:
        await client.responses.create(model="scripted", input=[{"type": "item_reference", "id": "msg_no"}])
    assert reference.value.param == "input"
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="scripted", input="x", conversation="conv_no")
    with pytest.raises(openai.BadRequestError) as embedder:
        await client.responses.create(model="embedder", input="x")
    assert embedder.value.param == "model"
    assert speaker.requests == []


ADDRESSES = [
    ("GET", "/v1/responses", 405),
    ("PUT", "/v1/responses/resp_1", 405),
    ("GET", "/v1/responses/resp_1/cancel", 405),
    ("GET", "/v1/responses/resp_1", 404),
    ("DELETE", "/v1/responses/resp_1", 404),
    ("POST", "/v1/responses/resp_1/cancel", 404),
    ("GET", "/v1/responses/resp_1/input_items", 404),
    ("GET", "/v1/responses/resp_1/other", 404),
    ("GET", "/v1/responses/..%2Fsecret", 404),
    ("GET", "/v1/responses/", 404),
    ("GET", "/v1/responses/resp_1?stream=true", 400),
    ("GET", "/v1/responses/resp_1?starting_after=3", 400),
    ("GET", "/v1/responses/resp_1?limit=3", 400),
    ("GET", "/v1/responses/resp_1/input_items?limit=0", 400),
    ("GET", "/v1/responses/resp_1/input_items?limit=101", 400),
    ("GET", "/v1/responses/resp_1/input_items?order=up", 400),
    ("GET", "/v1/conversations", 405),
    ("GET", "/v1/conversations/conv_1", 404),
    ("PATCH", "/v1/conversations/conv_1", 405),
    ("GET", "/v1/conversations/conv_1/items/msg_1/x", 404),
]


async def test_wrong_addresses_and_queries_get_the_error_object(stage: Any, acme: Any) -> None:
    for method, path, status in ADDRESSES:
        answer = await stage.http.request(method, path, headers={"authorization": f"Bearer {acme['key']}"})
        assert answer.status_code == status, (method, path)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/conversations", "/v1/responses/resp_1"])
async def test_without_a_key_there_is_nothing(stage: Any, path: str) -> None:
    method = "GET" if path.endswith("_1") else "POST"
    answer = await stage.http.request(method, path, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


async def test_a_limit_is_a_429(platform: Any, speaker: Any) -> None:
    stage = await platform(speaker)
    stage.admit("limited", key_limits={"requests_per_minute": 1})
    client = stage.client("limited")
    await client.responses.create(model="scripted", input="x", store=False)
    with pytest.raises(openai.RateLimitError) as error:
        await client.responses.create(model="scripted", input="x", store=False)
    assert error.value.response.headers["retry-after"]
