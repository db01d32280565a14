"""The roll-up by upstream through the API, and ``objecta usage reconcile`` against a control plane on a socket."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from control_plane.database import begin
from control_plane.usage import repository
from deployments.cli.main import app as objecta
from models.usage import TokenUsage, UsageEvent

NOVEMBER_1 = 1_793_491_200_000
DAY = 86_400_000
OPERATOR = "test-operator-key-0"
NOVEMBER = {"since": "2026-11-01", "until": "2026-11-30"}


def event(name: str, tenant: Any, **changes: Any) -> UsageEvent:
    fields = {
        "event_id": name,
        "request_id": name,
        "organisation_id": tenant.id,
        "project_id": tenant.project_id,
        "api_key_id": tenant.key_id,
        "kind": "chat",
        "model": "ours",
        "upstream": "openai",
        "upstream_model": "gpt-5",
        "status": "ok",
        "http_status": 200,
        "streamed": False,
        "usage": TokenUsage(prompt=60, cached=40, completion=15, reasoning=5),
        "source": "provider",
        "cost_micro": 1_000,
        "started_at_ms": NOVEMBER_1,
        "duration_ms": 1,
    }
    return UsageEvent.model_validate(fields | changes)


@pytest.fixture
async def ledger(app: FastAPI, acme: Any, rival: Any) -> None:
    events = [
        event("e1", acme),
        event("e2", rival),
        event("e3", acme, own_key=True),
        event("e4", acme, from_cache=True),
        event("e5", acme, kind="agent", upstream="agents"),
        event("e6", acme, upstream="engine", upstream_model="smollm"),
        event("e7", rival, started_at_ms=NOVEMBER_1 + DAY, upstream_model="gpt-5-mini"),
    ]
    async with begin(app.state.context.sessions) as transaction:
        await repository.record(transaction.session, events)


@pytest.fixture
async def url(app: FastAPI) -> AsyncIterator[str]:
    """The control plane on a socket, without its background tasks."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error", ws="none"))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    await serving
    listening.close()


async def reconcile(file: Path, text: str, *options: str) -> Any:
    await asyncio.to_thread(file.write_text, text)
    return await asyncio.to_thread(CliRunner().invoke, objecta, ["usage", "reconcile", str(file), *options])


@pytest.mark.usefixtures("ledger")
async def test_an_organisation_sees_its_own_days_by_upstream(acme: Any, rival: Any) -> None:
    found = (await acme.client.get(acme.path("/usage/upstreams"), params=NOVEMBER)).json()
    rows = {(row["day"], row["upstream"], row["model"]): row for row in found["data"]}
    assert set(rows) == {("2026-11-01", "openai", "gpt-5"), ("2026-11-01", "engine", "smollm")}
    both = rows["2026-11-01", "openai", "gpt-5"]
    assert (both["calls"], both["prompt_tokens"], both["reasoning_tokens"], both["cost_micro"]) == (2, 120, 10, 2_000)
    own = (await acme.client.get(acme.path("/usage/upstreams"), params={**NOVEMBER, "own_key": "true"})).json()
    assert [row["calls"] for row in own["data"]] == [1]
    assert (await rival.client.get(acme.path("/usage/upstreams"), params=NOVEMBER)).status_code == 404


@pytest.mark.usefixtures("ledger")
async def test_the_operator_sees_all_organisations_page_by_page(acme: Any, operator: Any) -> None:
    seen: list[tuple[str, int]] = []
    query = {**NOVEMBER, "limit": "1", "own_key": "false"}
    while True:
        page = (await operator.get("/api/v1/usage/upstreams", params=query)).json()
        seen += [(row["model"], row["calls"]) for row in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert seen == [("gpt-5-mini", 1), ("gpt-5", 2), ("smollm", 1)]
    wrong = await operator.get("/api/v1/usage/upstreams", params={**NOVEMBER, "after": "x"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")
    assert (await acme.client.get("/api/v1/usage/upstreams", params=NOVEMBER)).status_code == 403


@pytest.mark.usefixtures("ledger")
async def test_an_invoice_that_agrees_ends_well(url: str, tmp_path: Path) -> None:
    text = (
        "day,model,input tokens,cached,output,cost\n"
        "2026-11-01,gpt-5-2026-08-07,200,80,40,0.002\n2026-11-02,gpt-5-mini,100,40,20,0.001\n"
    )
    found = await reconcile(tmp_path / "a.csv", text, "--url", url, "--key", OPERATOR, "--json", "--tolerance", "0")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["since"], told["until"], told["upstreams"], told["within"]) == (
        "2026-11-01",
        "2026-11-02",
        ["openai"],
        True,
    )
    assert {one["by"] for one in told["differences"]} == {0}


@pytest.mark.usefixtures("ledger")
async def test_differences_are_shown_and_end_with_one(url: str, tmp_path: Path) -> None:
    text = "day,model,output,cost\n2026-11-01,gpt-5,50,0.0021\n2026-11-02,other,1,0.5\n"
    found = await reconcile(tmp_path / "a.csv", text, "--url", url, "--key", OPERATOR)
    assert found.exit_code == 1, found.output
    for part in ("gpt-5-mini", "other", "0.002000", "0.002100", "-0.000100", "-10", "6 of 6 figures differ"):
        assert part in found.output


@pytest.mark.usefixtures("ledger")
async def test_an_organisation_s_own_keys_are_its_own_invoice(url: str, acme: Any, tmp_path: Path) -> None:
    text = "day,model,output\n2026-11-01,theirs,20\n"
    options = ("--url", url, "--key", acme.key, "--organisation", acme.id, "--alias", "theirs=gpt-5")
    assert (await reconcile(tmp_path / "a.csv", text, *options)).exit_code == 0


@pytest.mark.parametrize(
    ("text", "options", "part"),
    [
        ("day,model,output\n2026-11-01,m,x\n", (), "line 2, column 3 (output): 'x' is no number of tokens"),
        ("day,model,output\n", (), "has no line with any use"),
        ("day,model,output\n2026-11-01,m,1\n", ("--tolerance", "x"), "--tolerance"),
        ("day,model,output\n2026-11-01,m,1\n", ("--alias", "x"), "--alias"),
        ("day,model,output\n2026-11-01,m,1\n", ("--key", "wrong-key"), "refused"),
    ],
)
async def test_what_cannot_be_compared_ends_with_two(
    url: str, tmp_path: Path, text: str, options: tuple[str, ...], part: str
) -> None:
    found = await reconcile(tmp_path / "a.csv", text, "--url", url, "--key", OPERATOR, *options)
    assert found.exit_code == 2
    assert part in found.output
