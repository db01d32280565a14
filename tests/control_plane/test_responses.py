"""Responses and conversations as gateways keep them: first ends, leases, histories, tenants, concurrency."""

import asyncio
import uuid
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from control_plane.config import ControlPlaneConfig
from control_plane.responses import repository
from control_plane.responses.reaper import ResponseReaper


def said(text: str, role: str = "user") -> dict[str, Any]:
    part = {"type": "output_text" if role == "assistant" else "input_text", "text": text}
    return {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": role, "content": [part]}


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["content"][0]["text"] for item in items]


class Desk:
    """One project's side of the internal routes."""

    def __init__(self, client: httpx.AsyncClient, tenant: Any, project_id: str | None = None) -> None:
        self._client = client
        self._root = f"/internal/organisations/{tenant.id}/projects/{project_id or tenant.project_id}"

    async def call(self, method: str, path: str, body: Any = None, status: int = 200, **params: Any) -> Any:
        answer = await self._client.request(method, self._root + path, json=body, params=params)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def begin(self, text: str, status: int = 200, background: bool = False, lease: float = 60, **context: Any):
        response_id = f"resp_{uuid.uuid4().hex}"
        order = {
            "id": response_id,
            "background": background,
            "lease_seconds": lease,
            "context": context,
            "body": {"id": response_id, "status": "in_progress"},
            "input": [said(text)],
        }
        return response_id, await self.call("POST", "/responses", order, status)

    async def finish(self, response_id: str, *texts: str, state: str = "completed") -> str:
        body = {"id": response_id, "status": state}
        order = {"status": state, "body": body, "output": [said(text, "assistant") for text in texts]}
        return (await self.call("POST", f"/responses/{response_id}/finish", order))["status"]

    async def turn(self, text: str, answer: str, **context: Any) -> tuple[str, list[str]]:
        """A whole response; its id and the texts of its history."""
        response_id, found = await self.begin(text, **context)
        await self.finish(response_id, answer)
        return response_id, texts(found["history"])

    async def conversation(self, *items: str) -> str:
        order = {"id": f"conv_{uuid.uuid4().hex}", "items": [said(text) for text in items]}
        return (await self.call("POST", "/conversations", order))["id"]

    async def in_conversation(self, conversation_id: str) -> list[str]:
        path = f"/conversations/{conversation_id}/items"
        return texts((await self.call("GET", path, order="asc", limit=100))["data"])


@pytest.fixture
def desk(internal: httpx.AsyncClient, acme: Any) -> Desk:
    return Desk(internal, acme)


async def test_a_chain_of_responses_is_rebuilt_in_order(desk: Desk) -> None:
    first, history = await desk.turn("a", "A")
    assert history == []
    second, history = await desk.turn("b", "B", previous_response_id=first)
    assert history == ["a", "A"]
    third, history = await desk.turn("c", "C", previous_response_id=second)
    assert history == ["a", "A", "b", "B"]
    _, fork = await desk.turn("d", "D", previous_response_id=first)
    assert fork == ["a", "A"]
    assert texts((await desk.call("GET", f"/responses/{third}"))["output"]) == ["C"]


async def test_a_link_that_was_deleted_is_named_and_not_passed_over(desk: Desk) -> None:
    first, _ = await desk.turn("a", "A")
    second, _ = await desk.turn("b", "B", previous_response_id=first)
    await desk.call("DELETE", f"/responses/{first}")
    for missing in (first, second):
        _, answer = await desk.begin("c", status=400, previous_response_id=missing)
        error = answer["error"]
        assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")


async def test_what_still_runs_cannot_be_built_on(desk: Desk) -> None:
    first, _ = await desk.begin("a")
    _, answer = await desk.begin("b", status=400, previous_response_id=first)
    assert answer["error"]["param"] == "previous_response_id"


async def test_a_conversation_takes_input_and_output_of_what_completed(desk: Desk) -> None:
    conversation = await desk.conversation("seed")
    first, history = await desk.turn("a", "A", conversation_id=conversation)
    failed, _ = await desk.begin("lost", conversation_id=conversation)
    await desk.finish(failed, "never", state="failed")
    _, later = await desk.turn("b", "B", conversation_id=conversation)
    assert (history, later) == (["seed"], ["seed", "a", "A"])
    assert await desk.in_conversation(conversation) == ["seed", "a", "A", "b", "B"]
    # A chain that begins in a conversation has seen what the conversation held then.
    _, branch = await desk.turn("c", "C", previous_response_id=first)
    assert branch == ["seed", "a", "A"]


async def test_appends_at_once_lie_each_in_one_piece(desk: Desk) -> None:
    conversation = await desk.conversation()
    begun = [await desk.begin(f"q{number}", conversation_id=conversation) for number in range(8)]
    appends = [
        desk.call("POST", f"/conversations/{conversation}/items", {"items": [said(f"p{n}"), said(f"P{n}")]})
        for n in range(8)
    ]
    ends = [desk.finish(response_id, f"Q{n}") for n, (response_id, _) in enumerate(begun)]
    await asyncio.gather(*[task for pair in zip(appends, ends, strict=True) for task in pair])
    found = await desk.in_conversation(conversation)
    assert len(found) == 32
    pairs = list(zip(found[::2], found[1::2], strict=True))
    assert sorted(pairs) == sorted([(f"{x}{n}", f"{x.upper()}{n}") for x in "pq" for n in range(8)])


async def test_the_first_end_stays(desk: Desk) -> None:
    response_id, _ = await desk.begin("a", background=True)
    cancelled = await desk.call("POST", f"/responses/{response_id}/cancel")
    assert cancelled["status"] == "cancelled"
    assert await desk.finish(response_id, "late") == "cancelled"
    again = await desk.call("POST", f"/responses/{response_id}/cancel")
    assert (again["status"], again["output"]) == ("cancelled", [])
    done, _ = await desk.turn("b", "B")
    assert await desk.finish(done, "twice") == "completed"
    assert texts((await desk.call("GET", f"/responses/{done}"))["output"]) == ["B"]


async def test_only_what_runs_in_the_background_can_be_cancelled(desk: Desk) -> None:
    response_id, _ = await desk.begin("a")
    answer = await desk.call("POST", f"/responses/{response_id}/cancel", status=400)
    assert answer["error"]["type"] == "invalid_request_error"


async def test_a_beat_renews_leases_and_names_what_is_lost(desk: Desk, internal: httpx.AsyncClient, app) -> None:
    runs, _ = await desk.begin("a", background=True, lease=0.001)
    cancelled, _ = await desk.begin("b", background=True)
    await desk.call("POST", f"/responses/{cancelled}/cancel")
    order = {"ids": [runs, cancelled, "resp_unknown"], "lease_seconds": 60}
    answer = await internal.post("/internal/responses/beat", json=order)
    assert answer.json() == {"lost": [cancelled, "resp_unknown"]}
    assert await reaper(app).look() == 0
    assert (await desk.call("GET", f"/responses/{runs}"))["status"] == "in_progress"


def reaper(app: FastAPI) -> ResponseReaper:
    context = app.state.context
    return ResponseReaper(context.sessions, context.config)


async def test_a_lapsed_lease_ends_in_failed_and_the_late_end_changes_nothing(desk: Desk, app: FastAPI) -> None:
    lapsed, _ = await desk.begin("a", background=True, lease=0.001)
    alive, _ = await desk.begin("b", background=True)
    assert await reaper(app).look() == 1
    found = await desk.call("GET", f"/responses/{lapsed}")
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    assert await desk.finish(lapsed, "late") == "failed"
    assert await desk.finish(alive, "in time") == "completed"


async def test_the_application_s_own_reaper_fails_what_its_gateway_lost(
    desk: Desk, app: FastAPI, running, eventually, config: ControlPlaneConfig
) -> None:
    config = config.model_copy(update={"response_grace_seconds": 0.01})
    lapsed, _ = await desk.begin("a", background=True, lease=0.001)
    app.state.context = app.state.context.__class__(**{**vars(app.state.context), "config": config})
    async with running(app):

        async def failed() -> bool:
            return (await desk.call("GET", f"/responses/{lapsed}"))["status"] == "failed"

        await eventually(failed)


async def test_old_responses_go_and_what_is_in_a_conversation_stays(desk: Desk, app, config) -> None:
    conversation = await desk.conversation()
    kept, _ = await desk.turn("a", "A", conversation_id=conversation)
    old, _ = await desk.turn("b", "B")
    fresh, _ = await desk.turn("c", "C")
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        past = "UPDATE responses SET created_at = now() - interval '31 days' WHERE id = ANY(%s)"
        connection.execute(past, [[kept, old]])
    assert await reaper(app).prune() == 2
    for gone in (kept, old):
        await desk.call("GET", f"/responses/{gone}", status=404)
    await desk.call("GET", f"/responses/{fresh}")
    assert await desk.in_conversation(conversation) == ["a", "A"]


async def test_deleting_a_conversation_leaves_its_responses_theirs(desk: Desk) -> None:
    conversation = await desk.conversation("seed")
    response_id, _ = await desk.turn("a", "A", conversation_id=conversation)
    running_one, _ = await desk.begin("b", conversation_id=conversation)
    assert (await desk.call("DELETE", f"/conversations/{conversation}"))["object"] == "conversation.deleted"
    await desk.call("GET", f"/conversations/{conversation}", status=404)
    assert texts((await desk.call("GET", f"/responses/{response_id}"))["output"]) == ["A"]
    assert await desk.finish(running_one, "B") == "completed"


async def test_items_are_paged_both_ways(desk: Desk) -> None:
    conversation = await desk.conversation(*"abcde")
    path = f"/conversations/{conversation}/items"
    page = await desk.call("GET", path, limit=2, order="asc")
    assert (texts(page["data"]), page["has_more"]) == (["a", "b"], True)
    page = await desk.call("GET", path, limit=3, order="asc", after=page["last_id"])
    assert (texts(page["data"]), page["has_more"], page["last_id"]) == (["c", "d", "e"], False, page["data"][-1]["id"])
    newest = await desk.call("GET", path, limit=1)
    assert (texts(newest["data"]), newest["has_more"]) == (["e"], True)
    answer = await desk.call("GET", path, status=400, after="msg_unknown")
    assert answer["error"]["param"] == "after"


async def test_an_item_leaves_its_conversation_and_not_its_response(desk: Desk) -> None:
    conversation = await desk.conversation("seed")
    response_id, _ = await desk.turn("a", "A", conversation_id=conversation)
    items = (await desk.call("GET", f"/conversations/{conversation}/items", order="asc"))["data"]
    for item in items[:2]:
        path = f"/conversations/{conversation}/items/{item['id']}"
        assert (await desk.call("GET", path))["id"] == item["id"]
        assert (await desk.call("DELETE", path))["object"] == "conversation"
        await desk.call("GET", path, status=404)
    assert await desk.in_conversation(conversation) == ["A"]
    assert texts((await desk.call("GET", f"/responses/{response_id}/input_items"))["data"]) == ["a"]


async def test_references_are_found_and_the_missing_one_is_named(desk: Desk) -> None:
    response_id, _ = await desk.turn("a", "A")
    (item,) = (await desk.call("GET", f"/responses/{response_id}"))["output"]
    found = await desk.call("POST", "/responses/context", {"references": [item["id"]]})
    assert texts(found["items"]) == ["A"]
    answer = await desk.call("POST", "/responses/context", {"references": [item["id"], "msg_no"]}, status=404)
    assert "msg_no" in answer["error"]["message"]


async def test_a_history_has_bounds(desk: Desk, config) -> None:
    conversation = await desk.conversation("a")
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        connection.execute("UPDATE response_items SET bytes = %s", [repository.HISTORY_BYTES_MAX + 1])
    _, answer = await desk.begin("b", status=400, conversation_id=conversation)
    assert answer["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("whose", ["another organisation", "another project"])
async def test_nothing_of_another_tenant_is_there(desk: Desk, internal, acme, rival, whose: str) -> None:
    conversation = await desk.conversation("secret")
    response_id, _ = await desk.begin("secret", background=True)
    (item,) = (await desk.call("GET", f"/conversations/{conversation}/items"))["data"]
    if whose == "another project":
        other = Desk(internal, acme, (await acme.make("/projects", {"name": "Other"}))["id"])
    else:
        other = Desk(internal, rival)
    own = await other.conversation()
    finish = {"status": "completed", "body": {}, "output": []}
    for method, path, body in (
        *(("GET", f"/responses/{response_id}{rest}", None) for rest in ("", "/input_items")),
        *(("POST", f"/responses/{response_id}{rest}", finish) for rest in ("/cancel", "/finish")),
        ("DELETE", f"/responses/{response_id}", None),
        *(("GET", f"/conversations/{conversation}{rest}", None) for rest in ("", "/items", f"/items/{item['id']}")),
        ("GET", f"/conversations/{own}/items/{item['id']}", None),
        ("POST", f"/conversations/{conversation}", {"metadata": {}}),
        ("POST", f"/conversations/{conversation}/items", {"items": [said("intruder")]}),
        *(("DELETE", f"/conversations/{conversation}{rest}", None) for rest in ("", f"/items/{item['id']}")),
        ("POST", "/responses/context", {"conversation_id": conversation}),
        ("POST", "/responses/context", {"references": [item["id"]]}),
    ):
        answer = await other.call(method, path, body, status=404)
        assert "secret" not in str(answer)
    _, answer = await other.begin("x", status=400, previous_response_id=response_id)
    assert answer["error"]["code"] == "previous_response_not_found"
    assert await desk.in_conversation(conversation) == ["secret"]
    assert (await desk.call("GET", f"/responses/{response_id}"))["status"] == "in_progress"


async def test_without_the_cluster_s_secret_there_is_nothing(anonymous, acme) -> None:
    path = f"/internal/organisations/{acme.id}/projects/{acme.project_id}/responses/context"
    assert (await anonymous.post(path, json={})).status_code == 404
