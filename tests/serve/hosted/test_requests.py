"""What is asked of a provider: nothing of a request is dropped; what it cannot honour is refused by name."""

from typing import Any

import pytest

FUNCTION = {"type": "function", "function": {"name": "f"}}
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


async def test_images_are_handed_on_as_data_and_as_addresses(adapter: Any) -> None:
    stage = await adapter()
    parts = ({"type": "text", "text": "What?"}, image(PIXEL), image("https://example.com/a.png", detail="auto"))
    await stage.chat(messages=user(*parts))
    assert stage.provider.asked["messages"][0]["content"] == [
        {"type": "text", "text": "What?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    ]


async def test_instructions_are_joined_at_the_beginning(adapter: Any) -> None:
    stage = await adapter()
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes"}, {"type": "refusal", "refusal": "No"}]},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "Well?"},
    ]
    await stage.chat(messages=messages)
    asked = stage.provider.asked
    assert asked["system"] == "Be brief.\n\nBe kind."
    assert [(item["role"], item["content"]) for item in asked["messages"]] == [
        ("user", "Hi"),
        ("assistant", "YesNo"),
        ("user", "Well?"),
    ]


async def test_an_answer_can_be_sent_back_as_it_came(adapter: Any) -> None:
    stage = await adapter()
    answer = await stage.chat()
    message = answer.choices[0].message.model_dump()
    await stage.chat(messages=[{"role": "user", "content": "Hi"}, message, {"role": "user", "content": "And?"}])
    assert len(stage.provider.asked["messages"]) == 3


async def test_what_asks_for_nothing_and_labels_are_taken(adapter: Any) -> None:
    stage = await adapter()
    neutral = {"n": 1, "logprobs": False, "store": False, "modalities": ["text"], "service_tier": "auto"}
    labels = {"user": "u-1", "safety_identifier": "s-1", "prompt_cache_key": "k", "metadata": {"a": "b"}}
    plain = {"response_format": {"type": "text"}, "seed": None, "tool_choice": "none"}
    await stage.chat(**neutral, **labels, **plain)
    assert set(stage.provider.asked) == {"model", "messages", "max_tokens", "stream"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"seed": 7}, "seed"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"verbosity": "low"}, "verbosity"),
        ({"reasoning_effort": "none"}, "reasoning_effort"),
        ({"model": "claude-opus-4-5", "reasoning_effort": "max"}, "reasoning_effort"),
        ({"model": "claude-fable-5", "temperature": 0.2}, "temperature"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"extra_body": {"prediction": {"type": "content", "content": "x"}}}, "prediction"),
        ({"extra_body": {"guided_json": {}}}, "guided_json"),
        ({"extra_body": {"stream_options": {}}}, "stream_options"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "tools": [FUNCTION]}, "response_format"),
        ({"messages": [{"role": "system", "content": "Only this."}]}, "messages"),
        ({"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]}, "messages[0].name"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
        ({"messages": user({"type": "input_audio", "input_audio": {}})}, "messages[0].content"),
        ({"messages": user({"type": "text"})}, "messages[0].content[0].text"),
        ({"messages": user({"type": "refusal", "refusal": "no"})}, "messages[0].content[0].type"),
        ({"messages": user(image("file:///etc/passwd"))}, "messages[0].content[0].image_url.url"),
        ({"messages": user(image("data:image/svg+xml;base64,AA=="))}, "messages[0].content[0].image_url.url"),
        ({"messages": user(image(PIXEL, detail="high"))}, "messages[0].content[0].image_url.detail"),
    ],
)
async def test_what_the_provider_cannot_honour_is_refused_by_name(adapter: Any, body: Any, param: str) -> None:
    stage = await adapter()
    error = await stage.refused(**body)
    assert (error.status_code, error.type, error.param) == (400, "invalid_request_error", param)
    assert stage.provider.requests == []


async def test_arguments_that_are_no_object_are_refused(adapter: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[]"}}
    error = await (await adapter()).refused(messages=[{"role": "assistant", "tool_calls": [call]}])
    assert error.param == "messages[0].tool_calls[0].function.arguments"


async def test_the_address_exists_for_those_who_hold_the_secret_only(adapter: Any) -> None:
    stage = await adapter()
    for path in ("/health", "/v1/chat/completions"):
        assert (await stage.http.get(path, headers={"x-objecta-cluster-secret": "wrong"})).status_code == 404
    assert (await stage.http.get("/health")).json() == {"status": "ok"}
