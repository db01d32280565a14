"""A stream that breaks is begun anew: the client is told, and pays for what was made."""

from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from models.doubles.scripted_engine import Script, ScriptedEngine
from serve.config import ModelRoute, Upstream

Start = Callable[..., Awaitable[Any]]
RESTART = {"x-objecta-mid-stream": "restart"}
HI: Any = [{"role": "user", "content": "hi there"}]
TEXT = " ".join(f"word{number}" for number in range(8))


@pytest.mark.parametrize("policy", ["error", "restart"])
async def test_another_target_begins_anew_and_the_client_is_told(authors: Start, policy: str) -> None:
    them = await authors(mid_stream=policy)
    them.first.breaks = [3]
    frames = await them.frames(headers=RESTART if policy == "error" else None, stream_options={"include_usage": True})
    places = [place for place, (name, _) in enumerate(frames) if name == "objecta.replace"]
    assert len(places) == 1
    before, event, after = frames[: places[0]], frames[places[0]][1], frames[places[0] + 1 :]
    assert them.said(before) == "word0 word1 word2"
    assert them.said(after) == TEXT
    assert frames[-1] == ("message", "[DONE]")
    facts = {"attempt": 2, "model": "second", "upstream": "two", "reason": "upstream_error"}
    assert event["objecta"] == {"replace": facts}
    assert event["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}]
    chunks = [data for _, data in frames if isinstance(data, dict)]
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {("chatcmpl-first-1", 1, "first")}
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    roles = [choice["delta"].get("role") for chunk in chunks for choice in chunk["choices"]]
    assert [role for role in roles if role] == ["assistant"]


async def test_every_attempt_is_billed_at_its_own_price_in_one_event(authors: Start) -> None:
    them = await authors(mid_stream="restart")
    them.first.breaks = [3]
    frames = await them.frames(stream_options={"include_usage": True})
    (event,) = await them.stage.events()
    prompt = 4
    assert (event.status, event.http_status, event.source) == ("ok", 200, "provider")
    assert (event.model, event.upstream) == ("second", "two")
    assert event.usage.completion == 3 + 8
    assert event.usage.prompt == 2 * prompt
    assert event.cost_micro == prompt * 1 + 3 * 2 + prompt * 50 + 8 * 90
    last = frames[-2][1]
    assert last["usage"]["prompt_tokens"] == event.usage.prompt
    assert last["usage"]["completion_tokens"] == event.usage.completion
    assert last["usage"]["total_tokens"] == event.usage.total
    assert last["objecta"] == {"cost_micro": event.cost_micro}
    assert event.first_token_ms is not None


async def test_an_official_client_reads_on_and_can_tell(authors: Start) -> None:
    them = await authors(mid_stream="restart")
    them.first.breaks = [3]
    stream = await them.stage.client().chat.completions.create(model="first", messages=HI, stream=True)
    text = ""
    state = ChatCompletionStreamState()
    async for chunk in stream:
        assert chunk.choices[0].index == 0
        state.handle_chunk(chunk)
        if "replace" in (getattr(chunk, "objecta", None) or {}):
            text = ""
        text += chunk.choices[0].delta.content or ""
    assert text == TEXT
    final = state.get_final_completion()
    assert (final.choices[0].message.role, final.choices[0].finish_reason) == ("assistant", "stop")
    them.first.breaks = [3]
    async with them.stage.client().chat.completions.stream(model="first", messages=HI) as helper:
        final = await helper.get_final_completion()
    assert final.choices[0].message.role == "assistant"
    assert (final.choices[0].message.content or "").endswith(TEXT)


async def test_the_only_upstream_is_asked_again(authors: Start) -> None:
    them = await authors(alone=True, mid_stream="restart")
    them.first.breaks = [2]
    frames = await them.frames()
    assert them.said(frames) == "word0 word1" + TEXT
    assert len(them.first.asked) == 2
    assert all("usage" not in data for _, data in frames if isinstance(data, dict))
    (event,) = await them.stage.events()
    assert (event.model, event.usage.completion) == ("first", 2 + 8)


async def test_a_target_that_does_not_begin_replaces_nothing(authors: Start) -> None:
    them = await authors(mid_stream="restart")
    them.first.breaks = [2]
    them.second.status = 500
    frames = await them.frames()
    assert [name for name, _ in frames].count("objecta.replace") == 1
    assert them.said(frames) == "word0 word1" + TEXT
    assert (len(them.first.asked), len(them.second.asked)) == (2, 1)
    (event,) = await them.stage.events()
    assert (event.model, event.upstream, event.status) == ("first", "one", "ok")


async def test_where_nobody_begins_the_stream_fails_as_ever(authors: Start) -> None:
    them = await authors(mid_stream="restart")
    them.first.breaks = [2]
    them.second.breaks = [4]
    frames = await them.frames()
    assert frames[-1][1]["error"]["code"] == "upstream_error"
    assert [name for name, _ in frames].count("objecta.replace") == 1
    (event,) = await them.stage.events()
    assert (event.status, event.http_status) == ("upstream_lost", 200)
    assert event.usage.completion == 2 + 4


async def test_a_call_that_nobody_went_on_with_is_the_one_s_that_was_read(authors: Start) -> None:
    them = await authors(mid_stream="restart")
    them.first.breaks, them.second.status = [2, 0], 500
    them.first.prologue = False
    frames = await them.frames()
    assert frames[-1][1]["error"]["code"] == "upstream_error"
    assert [name for name, _ in frames].count("objecta.replace") == 0
    (event,) = await them.stage.events()
    assert (event.status, event.model, event.upstream) == ("upstream_lost", "first", "one")
    assert (event.usage.completion, event.cost_micro) == (2, 4 + 2 * 2)


async def test_as_often_as_the_route_says(authors: Start) -> None:
    them = await authors(alone=True, mid_stream="restart", resumes_max=2)
    them.first.breaks = [1, 2]
    frames = await them.frames()
    assert [name for name, _ in frames].count("objecta.replace") == 2
    assert them.said(frames) == "word0" + "word0 word1" + TEXT
    (event,) = await them.stage.events()
    assert event.usage.completion == 1 + 2 + 8


async def test_a_caller_may_wish_for_an_error(authors: Start) -> None:
    them = await authors(mid_stream="restart")
    them.first.breaks = [2]
    frames = await them.frames(headers={"x-objecta-mid-stream": "error"})
    assert "error" in frames[-1][1]
    assert them.second.asked == []
    refused = await them.stage.chat(model="first", stream=True, headers={"x-objecta-mid-stream": "pray"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "x-objecta-mid-stream")


async def test_a_client_of_another_wire_gets_an_error_and_never_two_answers(authors: Start) -> None:
    them = await authors(mid_stream="restart")
    them.first.breaks = [2, 2]
    body = {"model": "first", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answer = await them.stage.http.post("/v1/messages", json=body, headers={"x-api-key": "good", **RESTART})
    assert answer.text.count("word0") == 1
    assert "event: error" in answer.text
    assert them.second.asked == []


async def test_an_upstream_that_stalls_is_lost_too(authors: Start) -> None:
    them = await authors(mid_stream="restart", timeouts={"idle_seconds": 0.1})
    them.first.breaks, them.first.stalls = [2], True
    frames = await them.frames()
    (event,) = [data for name, data in frames if name == "objecta.replace"]
    assert event["objecta"]["replace"]["reason"] == "upstream_timeout"
    assert frames[-1] == ("message", "[DONE]")


async def test_an_agents_stream_is_never_begun_anew(authors: Start) -> None:
    them = await authors(mid_stream="restart")
    them.stage.agents.script = Script(fail_after=2)
    answer = await them.stage.chat(model="agent/handbook", stream=True, headers=RESTART)
    assert '"error"' in answer.text
    assert len(them.stage.agents.requests) == 1


async def test_a_hard_budget_holds_what_all_attempts_can_cost(authors: Start) -> None:
    them = await authors(mid_stream="restart", alone=True)
    budget = {"id": "bud_1", "scope": "api_key", "period": "total", "hard": True}
    one = 1_024 + 400 + 10 * 2
    them.stage.admit("poor", budgets=({**budget, "limit_micro": one + 200},))
    body = {"max_tokens": 10, "stream": True, "model": "first"}
    refused = await them.stage.chat("poor", **body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    taken = await them.stage.chat("poor", headers={"x-objecta-mid-stream": "error"}, **body)
    assert taken.status_code == 200


async def test_a_completions_stream_is_begun_anew_as_well(platform: Any, serve_app: Any, catalogue_entry: Any) -> None:
    first, second = ScriptedEngine(script=Script(fail_after=2)), ScriptedEngine()
    routes = [
        ModelRoute(
            entry=catalogue_entry(name),
            upstream=Upstream(name=name, base_url=await serve_app(app), internal=True),
            fallbacks=others,
        )
        for name, app, others in (("first", first, ("second",)), ("second", second, ()))
    ]
    stage = await platform(routes=tuple(routes))
    client: openai.AsyncOpenAI = stage.client()
    stream = await client.completions.create(model="first", prompt="hi", stream=True, extra_headers=RESTART)
    text = ""
    async for chunk in stream:
        if "replace" in (getattr(chunk, "objecta", None) or {}):
            assert chunk.choices[0].text == ""
            text = ""
        text += chunk.choices[0].text
    assert text == "w0 w1 w2 w3 "
