"""The gateway through the official client and on the bare wire."""

from collections.abc import Awaitable, Callable
from typing import Any

Platform = Callable[..., Awaitable[Any]]
HI: Any = [{"role": "user", "content": "hi there"}]


async def test_a_chat_completion_is_answered_and_metered_once(platform: Platform) -> None:
    stage = await platform()
    answer = await stage.client().chat.completions.create(model="scripted", messages=HI)
    assert answer.choices[0].message.content == "w0 w1 w2 w3 "
    (event,) = await stage.events()
    assert (event.status, event.source, event.usage.completion, event.http_status) == ("ok", "provider", 4, 200)
    assert event.cost_micro == event.usage.prompt + 2 * 4


async def test_a_stream_is_relayed_and_metered_with_the_engine_s_figures(platform: Platform) -> None:
    stage = await platform()
    stream = await stage.client().chat.completions.create(model="scripted", messages=HI, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "w0 w1 w2 w3 "
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    (event,) = await stage.events()
    assert (event.status, event.source, event.usage.completion, event.streamed) == ("ok", "provider", 4, True)
    assert event.first_token_ms is not None
