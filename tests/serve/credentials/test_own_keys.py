"""Under whose key a provider is called: over real sockets, with rotation, an absent control plane, and money."""

import asyncio
import logging
from typing import Any

import openai
import pytest

from models.doubles.scripted_engine import Script
from serve.config import KeyCache

PLATFORM = "Bearer sk-platform-0123456789"
ACME_KEY = "sk-acme-secret-AAAA-0123456789"
RIVAL_KEY = "sk-rival-secret-BBBB-9876543210"
NEW_KEY = "sk-acme-rotated-CCCC-0123456789"
INSUFFICIENT = b'{"error":{"message":"You exceeded","type":"insufficient_quota","code":"insufficient_quota"}}'


async def ask(stage: Any, tenant: Any, model: str = "hosted", **body: Any) -> Any:
    return await stage.chat(tenant.key, model=model, **body)


async def test_each_organisation_calls_under_its_own_key_and_the_others_under_the_platforms(
    state: Any, start: Any, acme: Any, rival: Any
) -> None:
    await acme.bring(ACME_KEY)
    await rival.bring(RIVAL_KEY)
    stage = await start(state.route())
    third = await state.tenant("Third")
    for tenant, stream in ((acme, False), (rival, True), (third, False), (acme, True)):
        assert (await ask(stage, tenant, stream=stream)).status_code == 200
    assert state.keys() == [f"Bearer {ACME_KEY}", f"Bearer {RIVAL_KEY}", PLATFORM, f"Bearer {ACME_KEY}"]
    # What names the platform's account goes with the platform's key alone.
    accounts = [headers.get("openai-organization") for _, headers, _ in state.provider.requests]
    assert accounts == [None, None, "org-of-the-platform", None]
    events = await stage.events(4)
    assert [(event.own_key, event.cost_micro > 0) for event in events] == [
        *((True, False), (True, False), (False, True), (True, False))
    ]
    assert {event.usage.total > 0 for event in events} == {True}
    assert {event.upstream for event in events} == {"provider"}


async def test_a_projects_own_credential_is_used_for_its_calls(state: Any, start: Any, acme: Any) -> None:
    project = await acme.call("POST", "/projects", {"name": "Research"})
    made = await acme.call("POST", "/api-keys", {"name": "app", "project_id": project["id"]})
    await acme.bring(ACME_KEY)
    await acme.bring(NEW_KEY, project_id=project["id"])
    stage = await start(state.route())
    for key in (made["key"], acme.key):
        assert (await stage.chat(key, model="hosted")).status_code == 200
    assert state.keys() == [f"Bearer {NEW_KEY}", f"Bearer {ACME_KEY}"]


async def test_a_rotated_key_and_a_deleted_one_take_effect_without_a_restart(state: Any, start: Any, acme: Any) -> None:
    credential = await acme.bring(ACME_KEY)
    stage = await start(state.route())
    assert (await ask(stage, acme)).status_code == 200

    async def called_with(key: str) -> bool:
        assert (await ask(stage, acme)).status_code == 200
        return state.keys()[-1] == key

    await acme.call("PATCH", f"/credentials/{credential}", {"api_key": NEW_KEY})
    await stage.until(lambda: called_with(f"Bearer {NEW_KEY}"))
    await acme.call("DELETE", f"/credentials/{credential}")
    await stage.until(lambda: called_with(PLATFORM))
    await acme.bring(ACME_KEY)
    await stage.until(lambda: called_with(f"Bearer {ACME_KEY}"))


async def test_who_has_no_key_at_all_is_told_which_upstream_lacks_it(state: Any, start: Any, acme: Any) -> None:
    stage = await start(state.route(api_key=None, headers={}, shared=False))
    client = stage.client(acme.key)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await client.chat.completions.create(model="hosted", messages=[{"role": "user", "content": "hi"}])
    assert caught.value.code == "upstream_credential_missing"
    assert "'provider'" in caught.value.message
    assert state.provider.requests == []
    await acme.bring(ACME_KEY)

    async def answered() -> bool:
        return (await ask(stage, acme)).status_code == 200

    await stage.until(answered)
    assert state.keys() == [f"Bearer {ACME_KEY}"]


async def test_a_server_that_asks_for_no_key_gets_none(state: Any, start: Any, acme: Any) -> None:
    stage = await start(state.route(api_key=None, headers={}))
    assert (await ask(stage, acme)).status_code == 200
    assert state.keys() == [None]


async def test_a_model_without_a_key_is_passed_over_where_another_may_answer(state: Any, start: Any, acme: Any) -> None:
    closed = {"api_key": None, "headers": {}, "shared": False}
    stage = await start(
        state.route("first", ("hosted",), **{**closed, "name": "second"}),
        state.route("hosted", ("scripted",), **closed),
    )
    # Neither the first nor its fallback has a key; the second's fallback needs none.
    assert (await ask(stage, acme, "first")).json()["error"]["code"] == "upstream_credential_missing"
    answer = await ask(stage, acme, "hosted")
    assert (answer.status_code, answer.headers["x-objecta-model"]) == (200, "scripted")
    await acme.bring(ACME_KEY)

    async def by_the_fallback() -> bool:
        return (await ask(stage, acme, "first")).headers.get("x-objecta-model") == "hosted"

    await stage.until(by_the_fallback)
    assert state.keys()[-1] == f"Bearer {ACME_KEY}"


@pytest.mark.parametrize(
    ("script", "own", "platforms"),
    [
        (Script(status=401), (403, "upstream_credential_refused"), (502, "upstream_error")),
        (Script(status=403), (403, "upstream_credential_refused"), (502, "upstream_error")),
        (Script(status=402), (429, "insufficient_quota"), (502, "upstream_error")),
        (Script(status=429, error=INSUFFICIENT), (429, "insufficient_quota"), (503, "unavailable")),
        (Script(status=500), (502, "upstream_error"), (502, "upstream_error")),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_key_is_the_organisations_affair_and_the_platforms_is_not(
    state: Any, start: Any, acme: Any, rival: Any, script: Script, own: Any, platforms: Any, stream: bool
) -> None:
    await acme.bring(ACME_KEY)
    stage = await start(state.route())
    state.provider.script = script
    for tenant, (status, code) in ((acme, own), (rival, platforms)):
        answer = await ask(stage, tenant, stream=stream)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code)
        assert ("your organisation's" in error["message"].lower()) == (tenant is acme and code != "upstream_error")
        assert "AAAA" not in answer.text
    events = await stage.events(2)
    assert [(event.status, event.http_status, event.cost_micro) for event in events] == [
        ("error", own[0], 0),
        ("error", platforms[0], 0),
    ]


async def test_an_address_of_its_own_gets_the_key_and_no_other(state: Any, start: Any, acme: Any) -> None:
    await acme.bring(ACME_KEY, base_url=f"{state.own_address}/v1")
    stage = await start(state.route())
    assert (await ask(stage, acme)).status_code == 200
    assert state.provider.requests == []
    ((path, headers, _),) = state.elsewhere.requests
    assert (path, headers["authorization"]) == ("/v1/chat/completions", f"Bearer {ACME_KEY}")
    assert "openai-organization" not in headers
    assert "x-objecta-cluster-secret" not in headers


async def test_the_control_plane_is_asked_once_however_many_calls_wait(state: Any, start: Any, acme: Any) -> None:
    await acme.bring(ACME_KEY)
    stage = await start(state.route())
    assert (await ask(stage, acme, "scripted")).status_code == 200
    assert state.door.asked == []
    answers = await asyncio.gather(*(ask(stage, acme) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(state.door.asked) == 1
    assert set(state.keys()) == {f"Bearer {ACME_KEY}"}


async def test_the_control_plane_away_known_keys_serve_on_and_nobody_is_moved_to_the_platforms_account(
    state: Any, start: Any, acme: Any, rival: Any
) -> None:
    await acme.bring(ACME_KEY)
    await rival.bring(RIVAL_KEY)
    stage = await start(state.route(), keys=KeyCache(age_seconds_max=0.05, unheard_seconds_max=0.05))
    assert (await ask(stage, acme)).status_code == 200
    # The rival's API key is known, its credential is not.
    assert (await ask(stage, rival, "scripted")).status_code == 200
    state.door.shut = True
    asked = len(state.door.asked)

    async def asked_in_vain() -> bool:
        assert (await ask(stage, acme)).status_code == 200
        return len(state.door.asked) > asked

    await stage.until(asked_in_vain)
    answer = await ask(stage, rival)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    assert set(state.keys()) == {f"Bearer {ACME_KEY}"}
    state.door.shut = False

    async def answered() -> bool:
        return (await ask(stage, rival)).status_code == 200

    await stage.until(answered)
    assert state.keys()[-1] == f"Bearer {RIVAL_KEY}"


async def test_an_answer_too_old_serves_no_longer(state: Any, start: Any, acme: Any) -> None:
    await acme.bring(ACME_KEY)
    limits = KeyCache(age_seconds_max=0.01, unheard_seconds_max=0.01, stale_seconds_max=0.0)
    stage = await start(state.route(), keys=limits)
    assert (await ask(stage, acme)).status_code == 200
    state.door.shut = True

    async def refused() -> bool:
        return (await ask(stage, acme)).status_code == 503

    await stage.until(refused)


async def test_a_call_under_an_own_key_costs_its_share_of_the_price_book(
    state: Any, start: Any, acme: Any, rival: Any
) -> None:
    await acme.bring(ACME_KEY)
    stage = await start(state.route(), byok_price_percent=50)
    for tenant in (acme, rival):
        assert (await ask(stage, tenant)).status_code == 200
    own, platforms = await stage.events(2)
    assert (own.usage, own.price_since) == (platforms.usage, platforms.price_since)
    assert own.cost_micro == -(-platforms.cost_micro // 2) > 0


async def test_an_empty_budget_refuses_what_the_platform_pays_for_and_not_what_it_does_not(
    state: Any, start: Any, acme: Any, rival: Any
) -> None:
    await acme.bring(ACME_KEY)
    for tenant in (acme, rival):
        await tenant.call("POST", "/budgets", {"scope": "organisation", "period": "month", "limit_micro": 1})
    stage = await start(state.route())
    answers = [await ask(stage, tenant) for tenant in (rival, acme)]
    assert [answer.status_code for answer in answers] == [429, 200]
    assert answers[0].json()["error"]["code"] == "insufficient_quota"


async def test_a_planted_key_is_in_no_log_no_answer_and_not_in_redis(
    state: Any, start: Any, acme: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await acme.bring(ACME_KEY)
    stage = await start(state.route())
    answers = [await ask(stage, acme), await ask(stage, acme, stream=True)]
    for script in (Script(status=401, error=ACME_KEY.encode()), Script(fail_after=1), Script(error_after=1)):
        state.provider.script = script
        answers.append(await ask(stage, acme, stream=script.status == 200))
    assert state.keys() == [f"Bearer {ACME_KEY}"] * 5
    await stage.events(5)
    stored = [await stage.redis.dump(key) for key in await stage.redis.keys("*")]
    assert stored
    shown = [answer.text + repr(answer.headers) for answer in answers]
    haystack = "\n".join([*shown, caplog.text, repr(stored), repr(vars(stage.gateway))])
    assert ACME_KEY not in haystack
