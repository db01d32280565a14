"""A real vLLM goes on where a stream of its own was cut, behind a wire that cuts at a byte."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.engine_parity import MODEL, vllm_alone
from serve.asgi import Receive, Scope, Send, read_body, send_bytes
from serve.config import ModelRoute, RoutePolicy, Upstream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
TOKENS = 24
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Tell me of the sea."}],
    "max_tokens": TOKENS,
    "temperature": 0,
    "stream_options": {"include_usage": True},
}


class Cut(Exception):
    """Makes the server cut the connection."""


class Wire:
    """Passes requests on to ``url``, and cuts a stream where it has sent as many bytes as the next of ``cuts``."""

    def __init__(self, url: str, cuts: list[int]) -> None:
        self._url = url
        self._cuts = cuts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=300) as http:
            if scope["method"] == "GET":
                found = await http.get(scope["path"])
                await send_bytes(send, found.status_code, found.content, b"application/json")
                return
            body = await read_body(receive, scope, 1_000_000)
            kind = {"content-type": "application/json"}
            async with http.stream("POST", scope["path"], content=body, headers=kind) as answer:
                headers = [(b"content-type", answer.headers["content-type"].encode())]
                await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
                left = self._cuts.pop(0) if self._cuts else None
                async for data in answer.aiter_raw():
                    if left is not None and len(data) >= left:
                        await send({"type": "http.response.body", "body": data[:left], "more_body": True})
                        raise Cut
                    left = None if left is None else left - len(data)
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    if not (ROOT / ".objecta" / "models" / MODEL).is_dir():
        pytest.skip("the model is not pulled: objecta models pull")
    with vllm_alone() as url:
        yield url


async def test_the_rest_is_made_and_the_client_sees_one_answer(
    vllm: str, platform: Callable[..., Any], serve_app: Any, catalogue_entry: Any
) -> None:
    cuts: list[int] = []
    upstream = Upstream(name="vllm", base_url=await serve_app(Wire(vllm, cuts)), internal=True)
    entry = catalogue_entry(MODEL, context_window=2_048)
    route = ModelRoute(entry=entry, upstream=upstream, policy=RoutePolicy(mid_stream="continue"))
    stage = await platform(routes=(route,))

    async def told() -> tuple[str, list[Any]]:
        stream = await stage.client(timeout=300).chat.completions.create(model=MODEL, stream=True, **ASKED)
        chunks = [chunk async for chunk in stream]
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks

    whole, chunks = await told()
    assert chunks[-1].usage.completion_tokens == TOKENS
    # In the middle of a frame, with some of the answer read.
    cuts.append(2_500)
    joined, chunks = await told()
    assert cuts == []
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].usage.completion_tokens == TOKENS
    first, second = await stage.events(2)
    assert second.usage.completion == TOKENS
    assert second.usage.prompt + second.usage.cached > 2 * (first.usage.prompt + first.usage.cached)
    # Without chance the model says the same, but for what the join may change in how a word is cut into tokens.
    assert joined[: len(joined) // 2] == whole[: len(joined) // 2]
