"""The adapter before a real server of Anthropic's wire: vLLM's own ``/v1/messages``, with the local model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from benchmarks.engine_parity import MODEL, vllm_alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[3]
QUESTION = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Name a colour."}]
# Anthropic's wire has no bounds of numbers: its client writes them into a description, and the model may break them.
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "dark": {"type": "boolean"}},
    "required": ["colour", "dark"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    if not (ROOT / ".objecta" / "models" / MODEL).is_dir():
        pytest.skip("the model is not pulled: objecta models pull")
    with vllm_alone() as url:
        yield url


@pytest.fixture
def start(vllm: str, adapter: Any) -> Any:
    async def begin() -> Any:
        return await adapter(base_url=vllm)

    return begin


async def test_a_real_server_answers_whole_and_as_a_stream_with_the_same_figures(start: Any, vllm: str) -> None:
    stage = await start()
    body: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    async with httpx.AsyncClient(timeout=120) as http:
        theirs = (await http.post(f"{vllm}/v1/chat/completions", json=body)).json()
    whole = await stage.chat(**body)
    assert whole.choices[0].message.content == theirs["choices"][0]["message"]["content"]
    assert whole.choices[0].finish_reason == theirs["choices"][0]["finish_reason"]
    assert whole.usage.prompt_tokens == theirs["usage"]["prompt_tokens"]
    assert whole.usage.completion_tokens == theirs["usage"]["completion_tokens"]
    stream = await stage.chat(**body, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_a_real_server_keeps_a_schema(start: Any) -> None:
    stage = await start()
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": SCHEMA, "strict": True}}
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 64, "response_format": form}
    answer = await stage.chat(**body)
    assert answer.choices[0].finish_reason == "stop"
    assert set(orjson.loads(answer.choices[0].message.content)) == {"colour", "dark"}


async def test_a_real_servers_refusal_of_a_long_prompt_is_openais(start: Any) -> None:
    stage = await start()
    long = [{"role": "user", "content": "colour " * 9_000}]
    error = await stage.refused(model=MODEL, messages=long, max_tokens=12)
    assert (error.status_code, error.code, error.param) == (400, "context_length_exceeded", "messages")
