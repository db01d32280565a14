"""Prompts that are kept: what of a call, for whom, and what happens where they cannot be."""

import asyncio
import json
from typing import Any

import pytest

from models.privacy import Guards, PiiPolicy
from serve.asgi import ASGIApp, Receive, Scope, Send, send_json
from serve.privacy.config import PrivacyConfig
from serve.privacy.records import Cut, KeptCall, assembled, record

MAIL = "ada.lovelace@acme.example"
POLICY = {"action": "mask_logs", "entities": ["email"]}
TOOLS = [{"type": "function", "function": {"name": "save", "parameters": {"type": "object"}}}]


class Door:
    """The control plane behind an address that may be ``shut`` for kept prompts, or refuse them with ``status``."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.shut = True
        self.status = 503
        self.asked = 0

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def front(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] != "/internal/prompts":
                await app(scope, receive, send)
                return
            self.asked += 1
            if self.shut:
                error = {"message": "no", "type": "server_error", "param": None, "code": None}
                await send_json(send, self.status, {"error": error})
            else:
                await app(scope, receive, send)

        return front


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_is_kept_as_it_was_masked_by_the_policy(private, *, streamed: bool) -> None:
    stage = await private()
    await stage.policy(POLICY, keep_days=30)
    stage.echo.size = 4
    answer = await stage.chat(f"I am {MAIL}", stream=streamed, tools=TOOLS)
    assert MAIL in stage.echo.seen[-1].decode()
    (kept,) = await stage.prompts()
    assert kept["request"]["messages"] == [{"role": "user", "content": "I am <EMAIL_1>"}]
    (choice,) = kept["answer"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I am <EMAIL_1>", "stop")
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"text": "I am <EMAIL_1>"}
    assert (kept["request_id"], kept["model"]) == (answer.headers["x-request-id"], "hosted")
    assert (kept["endpoint"], kept["status"], kept["cut"]) == ("/v1/chat/completions", "ok", False)
    assert kept["started_at_ms"] > 1_700_000_000_000
    assert await stage.metric('objecta_gateway_prompts_total{outcome="kept"}') == 1


async def test_nothing_is_kept_where_nobody_asked_for_it(private) -> None:
    stage = await private()
    await stage.policy({**POLICY, "action": "mask_hosted"})
    await stage.chat("hi")
    await stage.policy(None, keep_days=1)

    async def kept() -> bool:
        await stage.chat("kept")
        return bool((await stage.admin.get(f"{stage.project}/prompts")).json()["data"])

    await stage.stage.until(kept)
    rows = (await stage.admin.get(f"{stage.project}/prompts")).json()["data"]
    whole = [(await stage.admin.get(f"{stage.project}/prompts/{row['id']}")).json() for row in rows]
    assert {one["request"]["messages"][0]["content"] for one in whole} == {"kept"}


async def test_without_a_policy_it_is_kept_as_it_was(private) -> None:
    stage = await private()
    await stage.policy(None, keep_days=1)
    await stage.chat(f"I am {MAIL}")
    (kept,) = await stage.prompts()
    assert kept["request"]["messages"][0]["content"] == f"I am {MAIL}"


async def test_a_client_that_leaves_has_its_part_kept(private) -> None:
    stage = await private()
    await stage.policy(POLICY, keep_days=1)
    stage.echo.size = 1
    stage.echo.gate = asyncio.Event()
    body = {"model": "hosted", "messages": [{"role": "user", "content": f"I am {MAIL}"}], "stream": True}
    async with stage.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if '"I"' in line:
                break
    (kept,) = await stage.prompts()
    assert kept["status"] == "client_gone"
    assert kept["answer"]["choices"][0]["message"]["content"].startswith("I")
    assert MAIL not in json.dumps(kept)


async def test_a_stream_that_broke_is_kept_as_an_error(private) -> None:
    stage = await private()
    await stage.policy(POLICY, keep_days=1)
    stage.echo.size, stage.echo.fail_after = 1, 5
    await stage.chat("hello there", stream=True)
    (kept,) = await stage.prompts()
    assert (kept["status"], kept["answer"]["choices"][0]["message"]["content"]) == ("error", "hell")


async def test_vectors_are_not_kept(private) -> None:
    stage = await private()
    await stage.policy(POLICY, keep_days=1)
    await stage.http.post("/v1/embeddings", json={"model": "vectors", "input": f"I am {MAIL}"})
    (kept,) = await stage.prompts()
    assert kept["request"]["input"] == "I am <EMAIL_1>"
    assert "data" not in kept["answer"]


async def test_while_the_control_plane_is_away_prompts_wait_and_calls_do_not(private) -> None:
    door = Door()
    stage = await private(front=door, privacy=PrivacyConfig(pause_seconds=0.02, queue_records_max=3))
    await stage.policy(POLICY, keep_days=1)
    for number in range(5):
        assert (await stage.chat(f"number {number}")).status_code == 200
    assert await stage.metric('objecta_gateway_prompts_total{outcome="dropped"}') == 2
    await stage.stage.until(lambda: door.asked > 1)
    door.shut = False
    kept = await stage.prompts(3)
    assert [one["request"]["messages"][0]["content"] for one in kept] == ["number 2", "number 1", "number 0"]
    assert await stage.metric('objecta_gateway_prompts_total{outcome="kept"}') == 3


async def test_what_the_control_plane_refuses_is_dropped_and_the_rest_goes_on(private) -> None:
    door = Door()
    door.status = 400
    stage = await private(front=door)
    await stage.policy(POLICY, keep_days=1)
    await stage.chat("refused")

    async def dropped() -> bool:
        return await stage.metric('objecta_gateway_prompts_total{outcome="dropped"}') == 1

    await stage.stage.until(dropped)
    door.shut = False
    await stage.chat("kept")
    assert len(await stage.prompts()) == 1


async def test_a_queue_in_bytes_is_bounded_too(private) -> None:
    door = Door()
    stage = await private(front=door, privacy=PrivacyConfig(queue_bytes_max=3_000))
    await stage.policy(POLICY, keep_days=1)
    for _ in range(2):
        assert (await stage.chat("x" * 1_200)).status_code == 200
    assert await stage.metric('objecta_gateway_prompts_total{outcome="dropped"}') == 1


async def test_a_gateway_that_stops_hands_over_what_it_has_and_waits_no_longer_than_told(private) -> None:
    door = Door()
    stage = await private(front=door, privacy=PrivacyConfig(close_seconds_max=0.1, pause_seconds=0.01))
    await stage.policy(POLICY, keep_days=1)
    await stage.chat("lost")
    await stage.stage.gateway.close()
    assert (await stage.admin.get(f"{stage.project}/prompts")).json()["data"] == []
    door.shut = False
    patient = await private()
    await patient.policy(POLICY, keep_days=1)
    await patient.chat("kept")
    await patient.stage.gateway.close()
    assert len(await patient.prompts()) == 1


def kept_call(body: dict[str, Any], parts: list[bytes], principal: Any, **more: Any) -> KeptCall:
    async def nowhere(message: Any) -> None:
        raise AssertionError(message)

    return KeptCall(principal, "req_1", None, "/v1/chat/completions", body, 10, nowhere, 1_000, parts=parts, **more)


def principal_of(pii: PiiPolicy | None) -> Any:
    class Who:
        organisation_id, project_id, api_key_id = "org", "proj", "key"
        guards = Guards(pii=pii, keep_prompts=True)

    return Who()


def test_a_placeholder_means_the_same_in_the_request_and_in_the_answer() -> None:
    policy = PiiPolicy(action="mask_logs", entities=("email",))
    body = {"messages": [{"role": "user", "content": "a@b.example"}]}
    said = b'{"choices":[{"message":{"content":"c@d.example, a@b.example"}}]}'
    kept = record(kept_call(body, [said], principal_of(policy)), PrivacyConfig())
    assert kept.request["messages"][0]["content"] == "<EMAIL_1>"
    assert kept.answer == {"choices": [{"message": {"content": "<EMAIL_2>, <EMAIL_1>"}}]}


def test_what_is_too_long_is_cut_and_what_postgresql_refuses_replaced() -> None:
    cut = Cut(20)
    assert cut.of({"a": "0123456789", "b": "0123456789", "c": [1]}) == {"a": "0123456789", "b": "01234…"}
    assert cut.cut
    whole = Cut(100)
    assert whole.of({"a\x00": ["b\x00", None, 1.5]}) == {"a\ufffd": ["b\ufffd", None, 1.5]}
    assert not whole.cut
    image = Cut(100)
    assert image.of({"url": "data:image/png;base64,AAAA"}) == {"url": "data:…"}
    assert image.cut
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    assert json.dumps(Cut(10_000).of(deep)).count("[") == 64


def test_a_whole_answer_that_was_cut_short_in_memory_is_told_to_be_unreadable() -> None:
    kept = record(kept_call({}, [b'{"choices":['], principal_of(None), cut=True), PrivacyConfig())
    assert (kept.status, kept.cut, kept.answer) == ("error", True, {"error": "The answer cannot be read."})


def test_a_streams_pieces_are_put_together_whatever_it_holds() -> None:
    frames = [
        {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "reasoning": "Hm"}}]},
        {"id": "c", "choices": [{"index": 1, "text": "B"}, {"index": 0, "delta": {"reasoning": "m.", "content": "A"}}]},
        {
            "id": "c",
            "choices": [
                {"index": 0, "delta": {"tool_calls": [{"index": 1, "id": "t", "function": {"arguments": "{"}}]}}
            ],
        },
        {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [{"index": 1, "function": {"arguments": "}"}}]}}]},
        {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None},
        {"id": "c", "choices": [], "usage": {"total_tokens": 3}},
    ]
    odd = [["x"], {"choices": ["x", {"index": "y", "delta": "z"}]}, {"choices": [{"delta": {"tool_calls": ["t"]}}]}]
    wire = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in [*frames, *odd]) + b"data: [DONE]\n\n"
    answer = assembled(wire)
    assert (answer["id"], answer["usage"]) == ("c", {"total_tokens": 3})
    first, second = answer["choices"]
    assert first["message"]["reasoning"] == "Hmm."
    assert first["message"]["tool_calls"][1] == {"index": 1, "id": "t", "function": {"arguments": "{}"}}
    assert (first["finish_reason"], second["text"]) == ("stop", "B")


def test_what_a_stream_took_back_is_not_kept() -> None:
    said = b'data: {"choices":[{"delta":{"content":"wrong"}}]}\n\n'
    back = b'event: objecta.replace\ndata: {"choices":[{"delta":{}}]}\n\n'
    right = b'data: {"choices":[{"delta":{"content":"right"}}]}\n\n'
    assert assembled(said + back + right)["choices"] == [{"message": {"content": "right"}}]
