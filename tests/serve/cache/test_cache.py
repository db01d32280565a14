"""The response cache as callers meet it: a gateway on a socket, a scripted engine, the real Redis."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import httpx
import orjson
import pytest

from models.answers import ANSWER_ENDS, ANSWER_PREFIX, ANSWER_TOTALS
from models.budgets import Budget, budget_key
from models.doubles.scripted_engine import Script, ScriptedEngine
from models.identity import Limits
from serve.cache.config import CacheConfig, ModelCache
from serve.config import ModelRoute, Upstream

ON = {"x-objecta-cache": "on"}
OFF = {"x-objecta-cache": "off"}
REFRESH = {"x-objecta-cache": "refresh"}

Platform = Callable[..., Awaitable[Any]]


BEARER = {"authorization": "Bearer good"}
Start = Callable[..., Awaitable[Any]]


@pytest.fixture
def start(platform: Platform, serve_app: Any, catalogue_entry: Any) -> Start:
    """A stage of the models that are named, with options of their routes, all at one scripted engine."""

    async def begin(names: dict[str, dict[str, Any]], **changes: Any) -> Any:
        engine = ScriptedEngine()
        ours = Upstream(name="engine", base_url=await serve_app(engine), internal=True)
        routes = tuple(
            ModelRoute(entry=catalogue_entry(name), **{"upstream": ours, **more}) for name, more in names.items()
        )
        stage = await platform(routes=routes, **changes)
        stage.engine = engine
        return stage

    return begin


async def kept(stage: Any, count: int = 1) -> None:
    """Wait until ``count`` answers are stored."""

    async def stored() -> bool:
        return await stage.redis.zcard(ANSWER_ENDS) == count

    await stage.until(stored)


async def first(stage: Any, headers: dict[str, str] = ON, **body: Any) -> httpx.Response:
    """A call whose answer is stored when this returns."""
    answer = await stage.chat(headers=headers, **body)
    assert (answer.status_code, answer.headers["x-objecta-cache"]) == (200, "miss")
    await kept(stage)
    return answer


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    frames = answer.text.split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [orjson.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def outcomes(page: str) -> dict[str, float]:
    lines = [line for line in page.splitlines() if line.startswith("objecta_gateway_cache_total")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


async def test_who_does_not_ask_for_it_never_meets_it(platform: Platform) -> None:
    stage = await platform()
    before = (await stage.redis.info("commandstats")).get("cmdstat_get", {"calls": 0})["calls"]
    for _ in range(2):
        assert "x-objecta-cache" not in (await stage.chat()).headers
    assert len(stage.engine.requests) == 2
    assert (await stage.redis.info("commandstats")).get("cmdstat_get", {"calls": 0})["calls"] == before
    assert not await stage.redis.keys(f"{ANSWER_PREFIX}*")


async def test_the_same_request_again_is_a_hit_that_costs_nothing(platform: Platform) -> None:
    stage = await platform()
    one = await first(stage)
    two = await stage.chat(headers=ON)
    assert (two.status_code, two.headers["x-objecta-cache"], two.headers["content-type"]) == (
        200,
        "hit",
        "application/json",
    )
    assert 0 <= int(two.headers["age"]) <= 10
    assert "age" not in one.headers
    assert (two.headers["x-objecta-model"], two.headers["x-objecta-attempts"]) == ("scripted", "0")
    assert len(stage.engine.requests) == 1
    whole, again = one.json(), two.json()
    assert whole.pop("id") != again["id"]
    assert again.pop("id").startswith("scripted-")
    assert again == whole
    made, hit = await stage.events(2)
    assert (made.from_cache, hit.from_cache) == (False, True)
    assert (hit.status, hit.http_status, hit.source, hit.usage) == ("ok", 200, "provider", made.usage)
    assert (hit.cost_micro, made.cost_micro) == (0, made.usage.prompt + 2 * 4)
    assert hit.upstream_model == "scripted"
    assert outcomes((await stage.http.get("/metrics")).text) == {"miss": 1, "hit": 1, "kept": 1}


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("stored_from", ["whole", "stream"])
async def test_a_stored_answer_is_streamed_as_chunks(platform: Platform, stored_from: str, usage: bool) -> None:
    stage = await platform()
    await first(stage, stream=stored_from == "stream")
    options = {"stream_options": {"include_usage": True}} if usage else {}
    found = await stage.chat(headers=ON, stream=True, **options)
    assert found.headers["x-objecta-cache"] == "hit"
    assert found.headers["content-type"].startswith("text/event-stream")
    sent = chunks(found)
    assert {chunk["object"] for chunk in sent} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in sent}) == 1
    assert {chunk["model"] for chunk in sent} == {"scripted"}
    pieces = [chunk["choices"][0] for chunk in sent if chunk["choices"]]
    assert pieces[0]["delta"]["role"] == "assistant"
    assert "".join(piece["delta"].get("content", "") for piece in pieces) == "w0 w1 w2 w3 "
    assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    if usage:
        assert [chunk["usage"] for chunk in sent[:-1]] == [None] * len(pieces)
        assert (sent[-1]["choices"], sent[-1]["usage"]["completion_tokens"]) == ([], 4)
        assert sent[-1]["objecta"] == {"cost_micro": 0}
    else:
        assert all("usage" not in chunk for chunk in sent)
    assert len(stage.engine.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_and_reasoning_come_back_whole(platform: Platform, stream: bool) -> None:
    calls = (("weather", '{"city":"Lyon"}'), ("time", "{}"))
    script = Script(chunks=1, reasoning="Hm.", calls=calls, finish="tool_calls")
    stage = await platform(engine=ScriptedEngine(script=script))
    client = stage.client(default_headers=ON)
    messages = [{"role": "user", "content": "hi"}]
    if stream:
        async for _ in await client.chat.completions.create(model="scripted", messages=messages, stream=True):
            pass
    else:
        await client.chat.completions.create(model="scripted", messages=messages)
    await kept(stage)
    whole = await client.chat.completions.with_raw_response.create(model="scripted", messages=messages)
    assert whole.headers["x-objecta-cache"] == "hit"
    (choice,) = whole.parse().choices
    assert choice.finish_reason == "tool_calls"
    assert [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        (f"call_{number}", *call) for number, call in enumerate(calls)
    ]
    assert choice.message.reasoning == "Hm."
    pieces = [
        chunk.choices[0].delta
        async for chunk in await client.chat.completions.create(model="scripted", messages=messages, stream=True)
    ]
    told = [call for piece in pieces for call in piece.tool_calls or ()]
    assert [(call.index, call.function.name, call.function.arguments) for call in told] == [
        (number, *call) for number, call in enumerate(calls)
    ]


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"model": "other-name"}, "hit"),
        ({"stream": True}, "hit"),
        ({"user": "u", "metadata": {"a": "b"}, "stop": None}, "hit"),
        ({"messages": [{"content": "hi", "role": "user"}]}, "hit"),
        ({"messages": [{"content": "hi ", "role": "user"}]}, "miss"),
        ({"temperature": 0.5}, "miss"),
        ({"seed": 8}, "miss"),
        ({"top_k": 3}, "miss"),
        ({"response_format": {"type": "json_object"}}, "miss"),
        ({"model": "twin"}, "miss"),
    ],
)
async def test_what_changes_an_answer_makes_another_question(start: Start, body: Any, outcome: str) -> None:
    stage = await start({"scripted": {}, "twin": {}}, aliases={"other-name": "scripted"})
    await first(stage, seed=7)
    answer = await stage.chat(headers=ON, **{"seed": 7, **body})
    assert (answer.status_code, answer.headers["x-objecta-cache"]) == (200, outcome)


async def test_an_alias_is_told_its_own_name(start: Start) -> None:
    stage = await start({"scripted": {}}, aliases={"other-name": "scripted"})
    await first(stage)
    assert (await stage.chat(headers=ON, model="other-name")).json()["model"] == "other-name"
    assert {chunk["model"] for chunk in chunks(await stage.chat(headers=ON, model="other-name", stream=True))} == {
        "other-name"
    }


async def test_an_organisation_shares_its_answers_and_no_other_sees_them(platform: Platform) -> None:
    stage = await platform()
    stage.admit("colleague", project_id="prj_b", api_key_id="key_b")
    stage.admit("stranger", organisation_id="org_b", api_key_id="key_c")
    await first(stage)
    assert (await stage.chat("colleague", headers=ON)).headers["x-objecta-cache"] == "hit"
    assert (await stage.chat("stranger", headers=ON)).headers["x-objecta-cache"] == "miss"
    await kept(stage, 2)
    names = {key.decode().split(":")[2] for key in await stage.redis.keys(f"{ANSWER_PREFIX}*")}
    assert names == {"org_a", "org_b"}


async def test_a_model_not_allowed_is_not_found_whatever_is_stored(platform: Platform) -> None:
    stage = await platform()
    stage.admit("narrow", allowed_models=("embedder",))
    await first(stage)
    assert (await stage.chat("narrow", headers=ON)).status_code == 404


async def test_refresh_makes_the_answer_anew_and_off_leaves_the_cache_alone(platform: Platform) -> None:
    stage = await platform()
    await first(stage)
    stage.engine.script = Script(chunks=2)
    assert (await stage.chat(headers=OFF)).headers["x-objecta-cache"] == "bypass"
    assert (await stage.chat(headers=ON)).json()["usage"]["completion_tokens"] == 4
    assert (await stage.chat(headers=REFRESH)).headers["x-objecta-cache"] == "miss"

    async def renewed() -> bool:
        return (await stage.chat(headers=ON)).json()["usage"]["completion_tokens"] == 2

    await stage.until(renewed)
    assert len(stage.engine.requests) == 3


async def test_an_answer_lives_as_long_as_was_asked(platform: Platform) -> None:
    stage = await platform(cache=CacheConfig(ttl_seconds=50, ttl_seconds_max=100))
    await first(stage)
    await stage.chat(headers=ON | {"x-objecta-cache-ttl": "100"}, seed=1)
    await kept(stage, 2)
    lives = [await stage.redis.pttl(key) for key in await stage.redis.keys(f"{ANSWER_PREFIX}*")]
    short, long = sorted(lives)
    assert 0 < short <= 50_000 < long <= 100_000
    await stage.chat(headers=ON | {"x-objecta-cache-ttl": "1"}, seed=2)
    await kept(stage, 3)

    async def gone() -> bool:
        return (await stage.chat(headers=ON, seed=2)).headers["x-objecta-cache"] == "miss"

    await stage.until(gone)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-objecta-cache": "yes"},
        {"x-objecta-cache": ""},
        *(
            {"x-objecta-cache": "on", "x-objecta-cache-ttl": ttl}
            for ttl in ("0", "-1", "1.5", "x", "", "604801", "9" * 30)
        ),
    ],
)
async def test_a_wrong_header_is_refused_by_name(platform: Platform, headers: dict[str, str]) -> None:
    stage = await platform()
    answer = await stage.chat(headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, list(headers)[-1])
    assert not stage.engine.requests


WHOLE_OR_NOT = (
    Script(finish="length"),
    Script(finish="content_filter"),
    Script(usage=False),
    Script(status=400),
    Script(chunks=400),
)


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        *((script, stream) for script in WHOLE_OR_NOT for stream in (False, True)),
        (Script(fail_after=2), True),
        (Script(error_after=2), True),
    ],
)
async def test_only_a_whole_answer_of_known_usage_is_kept(platform: Platform, script: Script, stream: bool) -> None:
    stage = await platform(engine=ScriptedEngine(script=script), cache=CacheConfig(answer_bytes_max=2_000))
    for _ in range(2):
        answer = await stage.chat(headers=ON, stream=stream)
        assert answer.headers.get("x-objecta-cache", "miss") == "miss"
    await stage.events(2)
    found = outcomes((await stage.http.get("/metrics")).text)
    assert (found["miss"], found.get("hit"), found.get("kept")) == (2, None, None)
    assert not await stage.redis.keys(f"{ANSWER_PREFIX}*")


async def test_the_answer_of_a_fallback_is_not_kept(start: Start, serve_app: Any) -> None:
    broken = Upstream(name="broken", base_url=await serve_app(ScriptedEngine(script=Script(status=503))), internal=True)
    stage = await start({"scripted": {"fallbacks": ("twin",), "upstream": broken}, "twin": {}})
    for _ in range(2):
        answer = await stage.chat(headers=ON)
        told = (answer.headers["x-objecta-model"], answer.headers["x-objecta-cache"])
        assert (answer.status_code, *told) == (200, "twin", "miss")
    await stage.events(2)
    assert not await stage.redis.keys(f"{ANSWER_PREFIX}*")


async def test_a_client_that_leaves_leaves_nothing(platform: Platform) -> None:
    stage = await platform(engine=ScriptedEngine(script=Script(chunks=20, delay=0.05)))
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with stage.http.stream("POST", "/v1/chat/completions", json=body, headers=ON | BEARER) as answer:
        async for _ in answer.aiter_bytes():
            break
    (event,) = await stage.events()
    assert event.status == "client_gone"
    assert not await stage.redis.keys(f"{ANSWER_PREFIX}*")


async def test_agents_answer_for_themselves(platform: Platform) -> None:
    stage = await platform()
    for _ in range(2):
        answer = await stage.chat(headers=ON, model="agent/handbook")
        assert (answer.status_code, answer.headers["x-objecta-cache"]) == (200, "bypass")
    assert len(stage.agents.requests) == 2


async def test_without_redis_calls_go_on_as_if_there_were_no_cache(platform: Platform) -> None:
    stage = await platform(redis="redis://127.0.0.1:1/0")
    for _ in range(2):
        answer = await stage.chat(headers=ON)
        assert (answer.status_code, answer.headers["x-objecta-cache"]) == (200, "bypass")
    assert len(stage.engine.requests) == 2
    assert outcomes((await stage.http.get("/metrics")).text) == {"away": 2, "bypass": 2}


async def test_without_a_cache_every_wish_is_a_bypass(platform: Platform) -> None:
    stage = await platform(cache=None)
    for headers in (ON, OFF, REFRESH):
        assert (await stage.chat(headers=headers)).headers["x-objecta-cache"] == "bypass"
    assert len(stage.engine.requests) == 3


async def test_a_model_may_be_kept_unasked(start: Start) -> None:
    stage = await start({"scripted": {"cache": ModelCache(ttl_seconds=60)}, "twin": {}})
    await first(stage, {})
    assert (await stage.chat()).headers["x-objecta-cache"] == "hit"
    assert (await stage.chat(headers=OFF)).headers["x-objecta-cache"] == "bypass"
    assert "x-objecta-cache" not in (await stage.chat(model="twin")).headers


@pytest.mark.parametrize("value", [b"", b"{}", b'{"format":2}\n{}', b"\x80"])
async def test_what_another_version_stored_is_no_answer(platform: Platform, value: bytes) -> None:
    stage = await platform()
    await first(stage)
    (key,) = await stage.redis.keys(f"{ANSWER_PREFIX}*")
    await stage.redis.set(key, value)
    assert (await stage.chat(headers=ON)).headers["x-objecta-cache"] == "miss"


async def test_anthropic_s_wire_is_answered_from_the_same_store(platform: Platform) -> None:
    stage = await platform()
    body = {"model": "scripted", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"x-api-key": "good", **ON}
    one = await stage.http.post("/v1/messages", json=body, headers=headers)
    await kept(stage)
    two = await stage.http.post("/v1/messages", json=body, headers=headers)
    assert (one.headers["x-objecta-cache"], two.headers["x-objecta-cache"]) == ("miss", "hit")
    assert one.json()["content"] == two.json()["content"]
    streamed = await stage.http.post("/v1/messages", json={**body, "stream": True}, headers=headers)
    assert streamed.headers["x-objecta-cache"] == "hit"
    assert "message_stop" in streamed.text
    assert len(stage.engine.requests) == 1


async def test_embeddings_and_completions_are_kept_too(platform: Platform) -> None:
    stage = await platform()
    asks = [
        ("/v1/embeddings", {"model": "embedder", "input": "a b"}),
        ("/v1/embeddings", {"model": "embedder", "input": "a b", "encoding_format": "base64"}),
        ("/v1/completions", {"model": "scripted", "prompt": "a b"}),
    ]
    for count, (path, body) in enumerate(asks, 1):
        one = await stage.http.post(path, json=body, headers=ON | BEARER)
        await kept(stage, count)
        two = await stage.http.post(path, json=body, headers=ON | BEARER)
        assert (one.headers["x-objecta-cache"], two.headers["x-objecta-cache"]) == ("miss", "hit")
        assert one.json() | {"id": None} == two.json() | {"id": None}
        assert ("id" in one.json()) == ("id" in two.json())
    stream = await stage.http.post(asks[2][0], json={**asks[2][1], "stream": True}, headers=ON | BEARER)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks(stream)) == "w0 w1 w2 w3 "
    assert [event.kind for event in await stage.events(7)] == ["embedding"] * 4 + ["completion"] * 3


async def test_a_hit_costs_the_share_that_is_set(start: Start) -> None:
    names = {"scripted": {}, "twin": {"cache": ModelCache(ttl_seconds=9, hit_price_ratio=Decimal("0.25"))}}
    stage = await start(names, cache=CacheConfig(hit_price_ratio=Decimal(1)))
    for count, model in enumerate(("scripted", "twin"), 1):
        await stage.chat(headers=ON, model=model)
        await kept(stage, count)
        assert (await stage.chat(headers=ON, model=model)).headers["x-objecta-cache"] == "hit"
    costs = [event.cost_micro for event in await stage.events(4)]
    assert (costs[1], costs[3]) == (costs[0], -(-costs[2] // 4))


async def test_budgets_hold_what_a_hit_costs(start: Start) -> None:
    stage = await start({"scripted": {}}, cache=CacheConfig(hit_price_ratio=Decimal("0.5")))
    await first(stage, max_completion_tokens=4)
    (event,) = await stage.events()
    half = -(-event.cost_micro // 2)
    limit = Budget(id="b1", scope="api_key", period="total", limit_micro=2 * half, hard=True)
    stage.admit("tight", budgets=(limit,))
    answers = [await stage.chat("tight", headers=ON, max_completion_tokens=4) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["code"] == "insufficient_quota"
    await stage.events(3)
    assert await stage.redis.hget(budget_key("b1", "total"), "spent") == b"%d" % (2 * half)
    assert await stage.redis.hget(budget_key("b1", "total"), "held") == b"0"


async def test_hits_count_as_requests_and_not_as_tokens(platform: Platform) -> None:
    stage = await platform()
    await first(stage)
    stage.admit("limited", api_key_id="key_l", key_limits=Limits(requests_per_minute=3, tokens_per_minute=8_300))
    answers = [await stage.chat("limited", headers=ON) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert {answer.headers["x-ratelimit-remaining-tokens"] for answer in answers[:3]} == {"8300"}


async def test_an_organisation_s_room_is_its_own(platform: Platform) -> None:
    stage = await platform(cache=CacheConfig(organisation_bytes_max=3_500))
    stage.admit("stranger", organisation_id="org_b", api_key_id="key_c")
    await stage.chat("stranger", headers=ON)
    await kept(stage)
    for seed in range(6):
        await stage.chat(headers=ON | {"x-objecta-cache-ttl": str(100 + seed)}, seed=seed)

        async def stored() -> bool:
            return outcomes((await stage.http.get("/metrics")).text).get("kept") == seed + 2  # noqa: B023 - awaited

        await stage.until(stored)
    totals = {name: int(size) for name, size in (await stage.redis.hgetall(ANSWER_TOTALS)).items()}
    assert totals[b"org_a"] <= 3_500
    assert totals[b"*"] == totals[b"org_a"] + totals[b"org_b"]
    # What ends soonest went first.
    assert (await stage.chat(headers=ON, seed=5)).headers["x-objecta-cache"] == "hit"
    assert (await stage.chat("stranger", headers=ON)).headers["x-objecta-cache"] == "hit"
    assert (await stage.chat(headers=ON, seed=0)).headers["x-objecta-cache"] == "miss"
