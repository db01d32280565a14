"""The input of a batch, whatever it holds; and one line on its way to the gateway, whatever the answers."""

import io
import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from models.batches import BatchOrder, Outcome, StopReason, Validated
from models.identity import Principal
from serve.asgi import send_bytes
from serve.batches.config import RunnerConfig
from serve.batches.lines import Input, Line
from serve.batches.sender import Sender

WHO = Principal(organisation_id="org_a", project_id="prj_a", api_key_id="key_a")
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
BODY = st.fixed_dictionaries({"model": st.one_of(st.just("m"), VALUES)}, optional={"stream": VALUES, "n": VALUES})
LINE = st.fixed_dictionaries(
    {
        "custom_id": st.one_of(st.text(max_size=5), VALUES),
        "method": st.one_of(st.just("POST"), VALUES),
        "url": st.one_of(st.just("/v1/embeddings"), VALUES),
        "body": st.one_of(BODY, VALUES),
    },
    optional={"more": VALUES},
)
RAW = st.one_of(LINE.map(lambda line: json.dumps(line).encode()), VALUES.map(lambda v: json.dumps(v).encode()))
CONTENT = st.lists(st.one_of(RAW, st.binary(max_size=30)), max_size=8).map(b"\n".join)


@given(CONTENT)
@settings(max_examples=400, deadline=None)
def test_whatever_a_file_holds_it_is_a_batch_or_says_which_line_is_not(content: bytes) -> None:
    found = Input(io.BytesIO(content), "/v1/embeddings")
    told = Validated(model=found.model, total=found.total, errors=tuple(found.errors))
    assert "\\u0000" not in told.model_dump_json()
    if not found.errors:
        assert found.total == sum(bool(raw.strip()) for raw in content.split(b"\n"))
        assert len({found.line(number).custom_id for number in range(1, found.total + 1)}) == found.total
        assert {found.line(number).body["model"] for number in range(1, found.total + 1)} == {found.model}


class Answers:
    """A gateway that answers as told, one after the other; the last one again and again."""

    def __init__(self, *answers: tuple[int, str]) -> None:
        self.left = list(answers)
        self.names: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            more = (await receive()).get("more_body", False)
        self.names.append(dict(scope["headers"])[b"x-request-id"].decode())
        status, code = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if not status:
            # More is announced than comes: the server cuts the connection.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"99")]})
            return
        body = {"error": {"message": "m", "type": "t", "param": None, "code": code}} if status >= 400 else {"ok": 1}
        await send_bytes(send, status, json.dumps(body).encode(), b"application/json")


async def sent(listening: Any, answers: Answers, stops: list[StopReason | None]) -> Outcome | StopReason:
    async def ask(_: int) -> StopReason | None:
        return stops.pop(0) if stops else None

    async with listening(answers) as url, aiohttp.ClientSession() as http:
        config = RunnerConfig(
            gateway_url=url,
            control_plane_url=url,
            cluster_secret=SecretStr("secret"),
            object_store="memory://",
            pause_seconds=0.001,
            attempts_max=3,
        )
        order = BatchOrder(
            id="batch_1",
            principal=WHO,
            organisation_id="org_a",
            project_id="prj_a",
            endpoint="/v1/embeddings",
            input_file_id="file-1",
            expires_at=0,
            stop=None,
            done=(),
            lost=(),
        )
        return await Sender(http, config, order, WHO).outcome(Line(7, "c", {"model": "m"}), ask)


@pytest.mark.parametrize(
    ("answers", "calls", "status", "code"),
    [
        ([(200, "")], 1, 200, None),
        ([(400, "bad")], 1, 400, None),
        ([(429, "insufficient_quota")], 1, 429, None),
        ([(429, "rate_limit_exceeded")] * 9 + [(200, "")], 10, 200, None),
        ([(503, "unavailable")] * 9 + [(200, "")], 10, 200, None),
        ([(502, "upstream_error"), (504, "upstream_timeout"), (200, "")], 3, 200, None),
        ([(502, "upstream_error")], 3, 502, None),
        ([(503, "unavailable"), (429, "insufficient_quota")], 2, 429, None),
        ([(0, "")], 1, None, "answer_lost"),
    ],
)
async def test_a_line_is_sent_again_only_where_nothing_was_done(listening, answers, calls, status, code) -> None:
    gateway = Answers(*answers)
    found = await sent(listening, gateway, [])
    assert isinstance(found, Outcome)
    line = json.loads(found.text)
    assert gateway.names == ["batch_1-7"] * calls
    assert found.ok == (status == 200)
    if status is None:
        assert (line["response"], line["error"]["code"]) == (None, code)
    else:
        assert (line["response"]["status_code"], line["response"]["request_id"]) == (status, "batch_1-7")


async def test_a_line_that_waits_ends_with_its_batch(listening) -> None:
    gateway = Answers((503, "unavailable"))
    assert await sent(listening, gateway, [None, None, "expired"]) == "expired"
    assert len(gateway.names) == 3
