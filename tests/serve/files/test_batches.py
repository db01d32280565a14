"""``/v1/batches``: taken by the gateway for the official client, done by the job's runner over the same gateway.

The runner is the job's own, in this process; ``killed`` breaks it off as a kill would, with its calls under way.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psycopg
import pytest
from pydantic import SecretStr

from control_plane.usage.repository import record
from models.doubles.scripted_engine import Script
from serve.batches.config import RunnerConfig
from serve.batches.runner import Runner

CHAT = "/v1/chat/completions"


def request(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": "scripted", "messages": [{"role": "user", "content": f"say {number}"}], **changes.pop("body", {})}
    return {"custom_id": f"r{number}", "method": "POST", "url": CHAT, "body": body, **changes}


def jsonl(*lines: Any) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines) + b"\n"


class Bench:
    """Batches of the stage's project."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.client: openai.AsyncOpenAI = stage.client()
        self.engine = stage.stage.engine

    async def create(self, content: bytes, **options: Any) -> Any:
        file = await self.client.files.create(file=("in.jsonl", content), purpose="batch")
        settings = {"endpoint": CHAT, "completion_window": "24h", **options}
        return await self.client.batches.create(input_file_id=file.id, **settings)

    async def run(self, batch_id: str, attempt: int = 1, **changes: Any) -> None:
        config = RunnerConfig(
            gateway_url=self.stage.stage.url,
            control_plane_url=self.stage.door.url,
            cluster_secret=SecretStr("test-cluster-secret"),
            object_store=str(self.stage.folder),
            **{"pause_seconds": 0.01, "patience_seconds": 2.0, **changes},
        )
        async with aiohttp.ClientSession() as http:
            await Runner(config, http, batch_id, attempt).run()

    async def killed(self, running: "asyncio.Task[None]", batch_id: str) -> None:
        """The job dies; its calls end in the ledger; the watcher has another attempt made."""
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await self.stage.stage.until(lambda: not self.engine.running)
        await self.ledger()
        self.stage.sql(f"UPDATE batches SET attempt = attempt + 1 WHERE id = '{batch_id}'")

    async def ledger(self) -> Counter[str]:
        """Calls that may have been charged, by request id; the ledger has them all on return."""

        async def settled() -> bool:
            return not await self.stage.stage.redis.hlen("objecta:calls:open")

        await self.stage.stage.until(settled)
        events = await self.stage.stage.stored()
        sessions = self.stage.door.app.state.context.sessions
        async with sessions() as session:
            await record(session, events)
            await session.commit()
        return Counter(event.request_id for event in events if event.status != "error")

    async def lines(self, file_id: str | None) -> dict[str, Any]:
        """A file's lines by custom id."""
        if file_id is None:
            return {}
        text = (await self.client.files.content(file_id)).text
        found = [json.loads(line) for line in text.splitlines()]
        assert len({line["id"] for line in found}) == len(found)
        return {line["custom_id"]: line for line in found}


@pytest.fixture
async def bench(files) -> Bench:
    return Bench(await files())


async def test_a_batch_is_done_and_each_line_is_charged_once(bench: Bench) -> None:
    made = await bench.create(jsonl(*(request(n) for n in range(1, 31))), metadata={"job": "nightly"})
    assert (made.status, made.object, made.endpoint, made.completion_window) == ("validating", "batch", CHAT, "24h")
    assert made.expires_at == made.created_at + 86_400
    await bench.run(made.id)
    done = await bench.client.batches.retrieve(made.id)
    assert (done.status, done.errors, done.error_file_id) == ("completed", None, None)
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (30, 30, 0)
    assert done.metadata == {"job": "nightly"}
    assert done.in_progress_at <= done.finalizing_at <= done.completed_at
    output = await bench.lines(done.output_file_id)
    assert list(output) == [f"r{n}" for n in range(1, 31)]
    one = output["r7"]
    assert (one["error"], one["response"]["status_code"]) == (None, 200)
    assert one["response"]["body"]["choices"][0]["message"]["content"]
    assert await bench.ledger() == {f"{made.id}-{n}": 1 for n in range(1, 31)}
    assert {event.api_key_id for event in await bench.stage.stage.stored()} == {bench_key(bench)}
    file = await bench.client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{made.id}_output.jsonl")
    assert [one.id async for one in bench.client.batches.list()] == [made.id]


def bench_key(bench: Bench) -> str:
    with psycopg.connect(bench.stage.database) as connection:
        (found,) = connection.execute("SELECT id FROM api_keys").fetchall()
        return found[0]


async def test_a_line_that_fails_is_in_the_error_file_and_the_others_go_on(bench: Bench) -> None:
    made = await bench.create(jsonl(request(1), request(2, body={"temperature": "hot"}), request(3)))
    await bench.run(made.id)
    done = await bench.client.batches.retrieve(made.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 2, 1)
    assert list(await bench.lines(done.output_file_id)) == ["r1", "r3"]
    failed = (await bench.lines(done.error_file_id))["r2"]
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["param"] == "temperature"


WRONG = [
    (b"", "empty_file", None, None),
    (b"\n \n", "empty_file", None, None),
    (jsonl(request(1)) + b"{", "invalid_json_line", 2, None),
    (b"[]\n", "invalid_json_line", 1, None),
    (jsonl(request(1, custom_id="")), "invalid_custom_id", 1, "custom_id"),
    (jsonl(request(1), request(1)), "duplicate_custom_id", 2, "custom_id"),
    (jsonl(request(1, method="GET")), "invalid_method", 1, "method"),
    (jsonl(request(1, url="/v1/embeddings")), "invalid_url", 1, "url"),
    (jsonl(request(1) | {"body": []}), "invalid_body", 1, "body"),
    (jsonl(request(1, body={"model": ""})), "invalid_model", 1, "body.model"),
    (jsonl(request(1), request(2, body={"model": "other"})), "mismatched_model", 2, "body.model"),
    (jsonl(request(1, body={"stream": True})), "invalid_stream", 1, "body.stream"),
    (jsonl(request(1, priority=1)), "unknown_parameter", 1, "priority"),
    (jsonl(request(1, **{"a\0b": 1})), "unknown_parameter", 1, "ab"),
    (jsonl(request(1, body={"model": "m\0"})), "invalid_model", 1, "body.model"),
    (b"\n" + jsonl(*(request(n) for n in range(50_001))), "too_many_lines", None, None),
]


async def test_a_file_that_is_no_batch_fails_before_a_line_is_sent(bench: Bench) -> None:
    for content, code, line, param in WRONG:
        made = await bench.create(content or b" ")
        await bench.run(made.id)
        done = await bench.client.batches.retrieve(made.id)
        assert done.status == "failed", code
        (error,) = done.errors.data
        assert (error.code, error.line, error.param) == (code, line, param)
        assert done.failed_at
    assert bench.engine.requests == []


async def test_a_job_that_is_killed_is_gone_on_with_and_no_line_is_sent_twice(bench: Bench) -> None:
    made = await bench.create(jsonl(*(request(n) for n in range(1, 41))))
    attempt = 1
    for kill_at in (6, 17):
        bench.engine.gate = None
        seen = len(bench.engine.requests)
        running = asyncio.ensure_future(bench.run(made.id, attempt))
        await bench.stage.stage.until(lambda seen=seen, at=kill_at: len(bench.engine.requests) >= seen + at)
        bench.engine.gate = asyncio.Event()
        await bench.stage.stage.until(lambda: bench.engine.running == 4)
        await bench.killed(running, made.id)
        attempt += 1
    bench.engine.gate = None
    await bench.run(made.id, attempt)
    done = await bench.client.batches.retrieve(made.id)
    output, errors = await bench.lines(done.output_file_id), await bench.lines(done.error_file_id)
    assert done.status == "completed"
    assert output.keys() | errors.keys() == {f"r{n}" for n in range(1, 41)}
    assert not output.keys() & errors.keys()
    assert 0 < len(errors) <= 8
    assert {line["error"]["code"] for line in errors.values()} == {"answer_lost"}
    assert (done.request_counts.completed, done.request_counts.failed) == (len(output), len(errors))
    assert set((await bench.ledger()).values()) == {1}


async def test_a_job_that_another_one_replaced_sends_nothing(bench: Bench) -> None:
    made = await bench.create(jsonl(request(1)))
    await bench.run(made.id, attempt=2)
    assert (await bench.client.batches.retrieve(made.id)).status == "validating"
    assert bench.engine.requests == []
    await bench.run(made.id)
    await bench.run(made.id)
    assert len(bench.engine.requests) == 1


async def test_a_batch_is_cancelled_once_its_lines_under_way_are_done(bench: Bench) -> None:
    made = await bench.create(jsonl(*(request(n) for n in range(1, 31))))
    bench.engine.gate = asyncio.Event()
    running = asyncio.ensure_future(bench.run(made.id))
    await bench.stage.stage.until(lambda: bench.engine.running == 4)
    bench.stage.sql("UPDATE batches SET submitted_at = now()")
    assert (await bench.client.batches.cancel(made.id)).status == "cancelling"
    bench.engine.gate.set()
    await running
    done = await bench.client.batches.retrieve(made.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("cancelled", 4, 26)
    assert len(await bench.lines(done.output_file_id)) == 4
    errors = await bench.lines(done.error_file_id)
    assert {line["error"]["code"] for line in errors.values()} == {"batch_cancelled"}
    assert (await bench.client.batches.cancel(made.id)).status == "cancelled"


@pytest.mark.parametrize(
    ("statement", "status", "code"),
    [
        ("UPDATE batches SET expires_at = now()", "expired", "batch_expired"),
        ("UPDATE api_keys SET revoked_at = now()", "cancelled", "invalid_api_key"),
    ],
)
async def test_lines_that_may_not_be_sent_any_more_are_in_the_error_file(
    bench: Bench, statement: str, status: str, code: str
) -> None:
    made = await bench.create(jsonl(*(request(n) for n in range(1, 21))))
    bench.engine.gate = asyncio.Event()
    running = asyncio.ensure_future(bench.run(made.id))
    await bench.stage.stage.until(lambda: bench.engine.running == 4)
    bench.stage.sql(statement)
    bench.engine.gate.set()
    await running
    with_key = Bench(bench.stage)
    bench.stage.sql("UPDATE api_keys SET revoked_at = NULL")
    done = await with_key.client.batches.retrieve(made.id)
    assert done.status == status
    errors = await with_key.lines(done.error_file_id)
    assert {line["error"]["code"] for line in errors.values()} == {code}
    assert done.request_counts.completed + len(errors) == 20
    assert len(errors) >= 20 - 4 * 8


async def test_a_line_that_an_upstream_failed_is_sent_again(bench: Bench) -> None:
    made = await bench.create(jsonl(request(1), request(2)))
    bench.engine.script = Script(status=500)
    running = asyncio.ensure_future(bench.run(made.id, attempts_max=1_000))
    await bench.stage.stage.until(lambda: len(bench.engine.requests) > 6)
    bench.engine.script = Script()
    await running
    done = await bench.client.batches.retrieve(made.id)
    assert (done.status, done.request_counts.completed) == ("completed", 2)
    assert set((await bench.ledger()).values()) == {1}


async def test_a_control_plane_that_is_away_for_a_while_costs_nothing_but_time(bench: Bench) -> None:
    made = await bench.create(jsonl(*(request(n) for n in range(1, 11))))
    bench.engine.gate = asyncio.Event()
    running = asyncio.ensure_future(bench.run(made.id, patience_seconds=20.0))
    await bench.stage.stage.until(lambda: bench.engine.running == 4)
    bench.stage.door.broken = {"PUT outcomes", "POST begin"}
    bench.engine.gate.set()
    await bench.stage.stage.until(lambda: bench.engine.running == 0)
    bench.stage.door.broken, bench.stage.door.unheard = set(), {"PUT outcomes"}

    async def recorded() -> bool:
        return (await bench.client.batches.retrieve(made.id)).request_counts.completed == 4

    await bench.stage.stage.until(recorded)
    bench.stage.door.unheard = set()
    await running
    done = await bench.client.batches.retrieve(made.id)
    assert (done.status, done.request_counts.completed, done.request_counts.failed) == ("completed", 10, 0)
    assert await bench.ledger() == {f"{made.id}-{n}": 1 for n in range(1, 11)}


async def test_an_end_that_was_not_heard_is_told_again_and_stays(bench: Bench) -> None:
    made = await bench.create(jsonl(request(1)))
    bench.stage.door.unheard = {"POST finish"}
    running = asyncio.ensure_future(bench.run(made.id, patience_seconds=20.0))

    async def ended() -> bool:
        return (await bench.client.batches.retrieve(made.id)).status == "completed"

    await bench.stage.stage.until(ended)
    bench.stage.door.unheard = set()
    await running
    done = await bench.client.batches.retrieve(made.id)
    assert list(await bench.lines(done.output_file_id)) == ["r1"]


async def test_wrong_orders_are_refused_naming_the_field(bench: Bench) -> None:
    other = await bench.client.files.create(file=("a", b"x"), purpose="user_data")
    for changes, param in (
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": other.id}, "input_file_id"),
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"k": "v" * 600}}, "metadata"),
        ({"extra_body": {"colour": "red"}}, "colour"),
    ):
        settings: Any = {"input_file_id": other.id, "endpoint": CHAT, "completion_window": "24h", **changes}
        with pytest.raises(openai.BadRequestError) as caught:
            await bench.client.batches.create(**settings)
        assert (caught.value.param or "").split(".")[0] == param


async def test_another_project_and_another_organisation_see_nothing(bench: Bench) -> None:
    made = await bench.create(jsonl(request(1)))
    for same_organisation in (True, False):
        client = bench.stage.client(await bench.stage.other_key(same_organisation=same_organisation))
        assert [one async for one in client.batches.list()] == []
        for call in (client.batches.retrieve, client.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await call(made.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await client.batches.create(input_file_id=made.input_file_id, endpoint=CHAT, completion_window="24h")
        assert caught.value.param == "input_file_id"
    assert (await bench.client.batches.retrieve(made.id)).status == "validating"


async def test_a_batch_that_no_job_has_begun_is_cancelled_at_once(bench: Bench) -> None:
    made = await bench.create(jsonl(request(1)))
    assert (await bench.client.batches.cancel(made.id)).status == "cancelled"
    await bench.run(made.id)
    assert bench.engine.requests == []
    with pytest.raises(openai.NotFoundError):
        await bench.client.batches.retrieve("batch_none")


async def test_the_job_is_a_process_of_its_own_that_may_be_killed(bench: Bench, tmp_path: Path) -> None:
    secrets = dict.fromkeys(("operator_key", "key_pepper", "ray_token", "database_url"), "withheld")
    values = {
        **{name: str(tmp_path) for name in ("home", "model_store", "knowledge_store")},
        "object_store": str(bench.stage.folder),
        "gateway_url": bench.stage.stage.url,
        "control_plane_url": bench.stage.door.url,
        "cluster_secret": "test-cluster-secret",
        "redis_url": "withheld",
        **secrets,
    }
    (tmp_path / "platform.yaml").write_text(json.dumps(values))
    environment = {**os.environ, "OBJECTA_CONFIG": str(tmp_path / "platform.yaml")}

    async def job(attempt: int) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "deployments.batch", made.id, str(attempt))
        return await asyncio.create_subprocess_exec(*command, env=environment)

    made = await bench.create(jsonl(*(request(n) for n in range(1, 21))))
    bench.engine.gate = asyncio.Event()
    first = await job(1)
    await bench.stage.stage.until(lambda: bench.engine.running == 4, seconds=60)
    first.kill()
    assert await first.wait() == -signal.SIGKILL
    await bench.stage.stage.until(lambda: not bench.engine.running)
    await bench.ledger()
    bench.stage.sql("UPDATE batches SET attempt = 2")
    bench.engine.gate = None
    assert await (await job(2)).wait() == 0
    done = await bench.client.batches.retrieve(made.id)
    assert done.status == "completed"
    assert done.request_counts.completed + done.request_counts.failed == 20
    assert done.request_counts.failed <= 4
    assert set((await bench.ledger()).values()) == {1}
