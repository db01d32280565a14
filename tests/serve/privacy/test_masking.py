"""Personal data on its way through the gateway: what a provider, the client and the store see of it."""

import json
import logging
from typing import Any

import anthropic
import pytest

from serve.privacy.config import PrivacyConfig

MAIL, CARD, PHONE, IBAN = "ada.lovelace@acme.example", "4111 1111 1111 1111", "+49 30 901820", "DE89370400440532013000"
TEXT = f"Write to {MAIL} or {PHONE}; pay {CARD} from {IBAN}, again {MAIL}."
MASKED = "Write to <EMAIL_1> or <PHONE_1>; pay <CREDIT_CARD_1> from <IBAN_1>, again <EMAIL_1>."
PLANTED = (MAIL, CARD, PHONE, IBAN)
ALL = ["email", "phone", "credit_card", "iban", "us_ssn", "ip_address"]
TOOLS = [{"type": "function", "function": {"name": "save", "parameters": {"type": "object"}}}]


def policy(action: str, **more: Any) -> dict[str, Any]:
    return {"action": action, "entities": ALL, **more}


def absent(where: str) -> bool:
    return not [value for value in PLANTED if value in where]


async def test_a_provider_sees_placeholders_and_the_client_what_they_stand_for(private) -> None:
    stage = await private()
    await stage.policy(policy("mask_hosted"))
    answer = await stage.chat(TEXT)
    assert stage.echo.asked()["messages"][0]["content"] == MASKED
    assert absent(stage.echo.seen[-1].decode())
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert answer.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
async def test_a_stream_is_restored_however_it_is_cut(private, size: int) -> None:
    stage = await private()
    await stage.policy(policy("mask_hosted"))
    stage.echo.size = size
    client = stage.stage.client(stage.key)
    said = {"role": "user", "content": TEXT}
    stream = await client.chat.completions.create(model="hosted", messages=[said], tools=TOOLS, stream=True)
    content, arguments = "", ""
    async for chunk in stream:
        delta = chunk.choices[0].delta
        content += delta.content or ""
        arguments += "".join(call.function.arguments or "" for call in delta.tool_calls or ())
    assert content == TEXT
    assert json.loads(arguments) == {"text": TEXT}
    assert absent(stage.echo.seen[-1].decode())


async def test_every_place_of_a_chat_is_masked(private) -> None:
    stage = await private()
    await stage.policy(policy("mask_hosted"))
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "save", "arguments": json.dumps({"to": MAIL, MAIL: 1, "card": 4111111111111111})},
    }
    messages = [
        {"role": "system", "content": f"You serve {MAIL}."},
        {"role": "user", "name": "ada", "content": [{"type": "text", "text": f"I am {MAIL}."}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": f'{{"saved": "{CARD}"}}'},
        {"role": "user", "content": f"Call {PHONE}"},
    ]
    tools = [
        {
            "type": "function",
            "function": {
                "name": "save",
                "description": f"of {IBAN}",
                "parameters": {"type": "object", "properties": {"id": {"description": MAIL}}},
            },
        }
    ]
    body = {"model": "hosted", "messages": messages, "tools": tools, "user": MAIL, "metadata": {"id": CARD}}
    answer = await stage.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert absent(stage.echo.seen[-1].decode().replace("4111111111111111", CARD))
    asked = stage.echo.asked()
    arguments = json.loads(asked["messages"][2]["tool_calls"][0]["function"]["arguments"])
    assert arguments == {"to": "<EMAIL_1>", "<EMAIL_1>": 1, "card": "<CREDIT_CARD_1>"}
    assert (asked["user"], asked["metadata"]) == ("<EMAIL_1>", {"id": "<CREDIT_CARD_2>"})
    assert asked["messages"][3]["tool_call_id"] == "call_1"
    said = answer.json()["choices"][0]["message"]
    assert said["content"] == f"Call {PHONE}"
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"text": f"Call {PHONE}"}


async def test_prompts_inputs_and_documents_are_masked(private) -> None:
    stage = await private()
    await stage.policy(policy("mask_hosted"))
    done = await stage.http.post("/v1/completions", json={"model": "hosted", "prompt": TEXT})
    assert done.json()["choices"][0]["text"] == TEXT
    assert (await stage.http.post("/v1/embeddings", json={"model": "vectors", "input": ["x", TEXT]})).status_code == 200
    assert stage.echo.asked()["input"] == ["x", MASKED]
    ranked = {
        "model": "ranker",
        "query": MAIL,
        "documents": [TEXT, {"text": MAIL, "id": MAIL}],
        "return_documents": True,
    }
    answer = await stage.http.post("/v1/rerank", json=ranked)
    assert answer.json()["results"][0]["document"]["text"] == TEXT
    assert stage.echo.asked()["query"] == "<EMAIL_1>"
    assert all(absent(raw.decode()) for raw in stage.echo.seen)


async def test_other_wires_are_guarded_as_well(private) -> None:
    stage = await private()
    await stage.policy(policy("mask_hosted"))
    stage.echo.size = 3
    client = stage.stage.client(stage.key)
    assert (await client.responses.create(model="hosted", input=TEXT, store=False)).output_text == TEXT
    async with anthropic.AsyncAnthropic(base_url=stage.stage.url, api_key=stage.key) as claude:
        said = {"role": "user", "content": TEXT}
        message = await claude.messages.create(model="hosted", max_tokens=99, messages=[said])
        assert message.content[0].text == TEXT
        async with claude.messages.stream(model="hosted", max_tokens=99, messages=[said]) as stream:
            assert await stream.get_final_text() == TEXT
    assert all(absent(raw.decode()) for raw in stage.echo.seen)


async def test_what_is_counted_is_what_a_model_would_see(private) -> None:
    stage = await private()
    async with anthropic.AsyncAnthropic(base_url=stage.stage.url, api_key=stage.key, max_retries=0) as claude:

        async def count() -> int:
            messages = [{"role": "user", "content": TEXT}]
            return (await claude.messages.count_tokens(model="own", messages=messages)).input_tokens

        await stage.policy(policy("mask_all"))
        assert await count() == len(MASKED)
        assert absent(stage.echo.seen[-1].decode())
        await stage.policy(policy("refuse"))
        with pytest.raises(anthropic.BadRequestError, match=r"'messages\.0\.content' holds personal data \(email\)"):
            await stage.stage.until(count_until_refused(count))


def count_until_refused(count: Any) -> Any:
    """The policy of before may be believed for a moment."""

    async def again() -> bool:
        await count()
        return False

    return again


@pytest.mark.parametrize(
    ("action", "model", "masked"),
    [
        ("mask_logs", "hosted", False),
        ("mask_hosted", "own", False),
        ("mask_hosted", "hosted", True),
        ("mask_hosted", "chained", True),
        ("mask_all", "own", True),
    ],
)
async def test_the_action_says_before_whom_a_request_is_masked(
    private, action: str, model: str, *, masked: bool
) -> None:
    stage = await private()
    await stage.policy(policy(action))
    answer = await stage.chat(TEXT, model)
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert stage.echo.asked()["messages"][0]["content"] == (MASKED if masked else TEXT)
    assert await stage.metric("objecta_gateway_masked_total") == int(masked)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": TEXT}]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": "a"}], "user": MAIL}, "user"),
        ({"messages": [{"role": "user", "content": "a"}], "metadata": {"note": IBAN}}, "metadata.note"),
    ],
)
async def test_refused_is_the_place_and_never_the_value(private, body: dict[str, Any], param: str) -> None:
    stage = await private()
    await stage.policy(policy("refuse"), keep_days=1)
    answer = await stage.http.post("/v1/chat/completions", json={"model": "own", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "pii_detected")
    assert error["param"] == param
    assert absent(answer.text)
    assert stage.echo.seen == []
    assert (await stage.chat("Nothing to see.", "own")).status_code == 200
    assert len(await stage.prompts()) == 1


async def test_token_ids_cannot_be_looked_through(private) -> None:
    stage = await private()
    body = {"model": "vectors", "input": [[1, 2], [3]]}
    for action, status in (("mask_hosted", 400), ("refuse", 400), ("mask_logs", 200)):
        await stage.policy(policy(action))
        answer = await stage.http.post("/v1/embeddings", json=body)
        assert answer.status_code == status
        if status == 400:
            assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("pii_not_checkable", "input")


async def test_a_pattern_that_takes_too_long_refuses_the_call(private) -> None:
    stage = await private(privacy=PrivacyConfig(pattern_seconds_max=0.02))
    slow = {"name": "slow", "pattern": r"[a-z]+[a-z]+[a-z]+[a-z]+\d"}
    await stage.policy({"action": "mask_all", "patterns": [slow]})
    answer = await stage.chat("a" * 4_000, "own")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "pii_not_checkable")
    assert answer.json()["error"]["param"] == "messages.0.content"
    assert stage.echo.seen == []


async def test_a_pattern_of_the_projects_own_is_masked_and_escaped_where_the_answer_is_json(private) -> None:
    stage = await private()
    await stage.policy({"action": "mask_hosted", "patterns": [{"name": "quoted", "pattern": r'"secret \w+"'}]})
    text = 'It is "secret plan" today.'
    answer = await stage.chat(text, tools=TOOLS)
    assert stage.echo.asked()["messages"][0]["content"] == "It is <QUOTED_1> today."
    said = answer.json()["choices"][0]["message"]
    assert said["content"] == text
    assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == {"text": text}
    # What the model would make of it: JSON, with the placeholder in a string.
    answer = await stage.chat(f'{{"a": "{text}"}}', response_format={"type": "json_object"})
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"a": text}


async def test_what_the_caller_wrote_as_a_placeholder_stays_its_own(private) -> None:
    stage = await private()
    await stage.policy(policy("mask_hosted"))
    text = f"<EMAIL_1> is not {MAIL}, nor <EMAIL_3>"
    assert (await stage.chat(text)).json()["choices"][0]["message"]["content"] == text
    assert stage.echo.asked()["messages"][0]["content"] == "<EMAIL_1> is not <EMAIL_2>, nor <EMAIL_3>"


async def test_what_waits_is_not_lost_when_a_stream_breaks(private) -> None:
    stage = await private()
    await stage.policy(policy("mask_hosted"))
    stage.echo.size, stage.echo.fail_after = 1, 1 + len("to <EMA")
    answer = await stage.chat(f"to {MAIL}", stream=True)
    frames = [frame for frame in answer.text.split("\n\n") if frame]
    chunks = [json.loads(frame[6:]) for frame in frames]
    assert "error" in chunks[-1]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "to <EMA"


async def test_long_requests_are_looked_through_in_a_thread_and_the_calls_that_wait_are_bounded(private) -> None:
    stage = await private(privacy=PrivacyConfig(inline_bytes_max=0))
    await stage.policy(policy("mask_hosted"))
    long = "word " * 20_000 + TEXT
    assert (await stage.chat(long)).json()["choices"][0]["message"]["content"] == long
    assert absent(stage.echo.seen[-1].decode())
    full = await private(privacy=PrivacyConfig(inline_bytes_max=0, scans_max=1))
    await full.policy(policy("mask_hosted"))
    assert (await full.chat(TEXT)).status_code == 200


async def test_a_policy_holds_at_once_and_ends_at_once(private) -> None:
    stage = await private()
    seen = []
    for pii in (None, policy("mask_hosted"), None):
        await stage.policy(pii)

        async def followed(pii: Any = pii) -> bool:
            await stage.chat(TEXT)
            return (stage.echo.asked()["messages"][0]["content"] == MASKED) == (pii is not None)

        await stage.stage.until(followed)
        seen.append(stage.echo.asked()["messages"][0]["content"])
    assert seen == [TEXT, MASKED, TEXT]


async def test_nothing_of_it_is_in_logs_or_in_what_is_stored(private, caplog) -> None:
    stage = await private()
    caplog.set_level(logging.DEBUG)
    await stage.policy(policy("mask_hosted"), keep_days=1)
    for stream in (False, True):
        assert (await stage.chat(TEXT, stream=stream)).status_code == 200
    await stage.prompts(2)
    assert absent(stage.everything_stored())
    assert absent(caplog.text)
    assert absent(b"".join(stage.echo.seen).decode())
