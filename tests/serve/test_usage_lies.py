"""Upstreams whose figures contradict one another: what they say within their sums is billed, and marked."""

import logging
from typing import Any

import orjson
import pytest

from models.usage import TokenUsage
from serve.asgi import ASGIApp, Receive, Scope, Send, read_body, send_bytes


def upstream(usage: dict[str, Any]) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        body = orjson.loads(await read_body(receive, scope, 10_000))
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        head = {"id": "chatcmpl-1", "created": 1, "model": body["model"], "usage": usage}
        if not body.get("stream"):
            choice["message"] = {"role": "assistant", "content": "Hi."}
            whole = {**head, "object": "chat.completion", "choices": [choice]}
            await send_bytes(send, 200, orjson.dumps(whole), b"application/json")
            return
        choice["delta"] = {"role": "assistant", "content": "Hi."}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        await send_bytes(send, 200, b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps(chunk), b"text/event-stream")

    return answer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("usage", "metered"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 99}, TokenUsage(prompt=9, completion=4)),
        (
            {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 900}},
            TokenUsage(cached=9, completion=4),
        ),
        ({"prompt_tokens": 9, "completion_tokens": -4, "total_tokens": 5}, TokenUsage(prompt=9)),
    ],
)
async def test_figures_that_contradict_one_another_are_no_provider_s_figures(
    platform: Any, caplog: Any, usage: dict[str, Any], metered: TokenUsage, stream: bool
) -> None:
    stage = await platform(engine=upstream(usage))
    with caplog.at_level(logging.WARNING, "serve.records"):
        assert (await stage.chat(stream=stream)).status_code == 200
        (event,) = await stage.events()
    assert (event.usage, event.source, event.status) == (metered, "estimated", "ok")
    assert [event.event_id in record.message for record in caplog.records] == [True]
