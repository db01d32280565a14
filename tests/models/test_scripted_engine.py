"""The scripted engine speaks OpenAI's dialect and fails as told."""

import json
from typing import Any

import httpx
import pytest

from models.doubles.scripted_engine import Script, ScriptedEngine, UpstreamBroken

HI = [{"role": "user", "content": "hi"}]


def http(engine: ScriptedEngine) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(engine), base_url="http://x")


async def chat(engine: ScriptedEngine, **body: Any) -> httpx.Response:
    async with http(engine) as client:
        return await client.post("/v1/chat/completions", json={"model": "m", "messages": HI, **body})


async def test_it_lists_its_models_and_is_well() -> None:
    async with http(ScriptedEngine(models=("a", "b"))) as client:
        assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["a", "b"]
        assert (await client.get("/health")).status_code == 200
    assert await ScriptedEngine()({"type": "lifespan"}, None, None) is None  # type: ignore


async def test_a_model_s_name_scripts_one_call() -> None:
    engine = ScriptedEngine()
    answer = (await chat(engine, model="m:chunks=2,delay=0.001")).json()
    assert answer["choices"][0]["message"]["content"] == "w0 w1 "
    assert (await chat(engine, model="m:status=418")).status_code == 418
    assert engine.script == Script()
    assert [body["model"] for _, _, body in engine.requests] == ["m:chunks=2,delay=0.001", "m:status=418"]


@pytest.mark.parametrize(
    ("options", "usages"),
    [
        ({}, [None, None]),
        ({"include_usage": True}, [None, None, 2]),
        ({"include_usage": True, "continuous_usage_stats": True}, [1, 2, 2]),
    ],
)
async def test_a_stream_reports_usage_as_asked(options: dict[str, bool], usages: list[int | None]) -> None:
    answer = await chat(ScriptedEngine(), max_tokens=2, stream=True, stream_options=options)
    *frames, done = answer.text.strip().split("\n\n")
    chunks = [json.loads(frame[6:]) for frame in frames]
    assert done == "data: [DONE]"
    assert [chunk["usage"]["completion_tokens"] if "usage" in chunk else None for chunk in chunks] == usages
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"


async def test_it_breaks_and_errs_as_told() -> None:
    with pytest.raises(UpstreamBroken):
        await chat(ScriptedEngine(script=Script(fail_after=1)), stream=True)
    text = (await chat(ScriptedEngine(script=Script(error_after=1)), stream=True)).text
    assert text.count('data: {"error"') == 1
    assert "usage" not in (await chat(ScriptedEngine(script=Script(usage=False)))).json()


async def test_embeddings_as_numbers_and_as_base64() -> None:
    async with http(ScriptedEngine()) as client:
        plain = await client.post("/v1/embeddings", json={"model": "e", "input": "two words"})
        tokens = await client.post("/v1/embeddings", json={"model": "e", "input": [1, 2, 3]})
        packed = await client.post("/v1/embeddings", json={"model": "e", "input": [[1]], "encoding_format": "base64"})
    assert plain.json()["data"][0]["embedding"][0] == 2.0
    assert tokens.json()["usage"]["prompt_tokens"] == 3
    assert isinstance(packed.json()["data"][0]["embedding"], str)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_may_hold_reasoning_and_calls(stream: bool) -> None:
    script = Script(chunks=1, reasoning="hm", calls=(("f", '{"a":1}'),), finish="tool_calls", matched="w1")
    answer = await chat(ScriptedEngine(script=script), stream=stream)
    if not stream:
        choice = answer.json()["choices"][0]
        said = choice["message"]
        assert (said["reasoning"], said["content"]) == ("hm", "w0 ")
        (call,) = said["tool_calls"]
        assert call == {
            "index": 0,
            "id": "call_0",
            "type": "function",
            "function": {"name": "f", "arguments": '{"a":1}'},
        }
    else:
        frames = [json.loads(frame[6:]) for frame in answer.text.strip().split("\n\n")[:-1]]
        choice = frames[-1]["choices"][0]
        deltas = [frame["choices"][0]["delta"] for frame in frames]
        assert [delta.get("reasoning") or delta.get("content") for delta in deltas[:2]] == ["hm", "w0 "]
        functions = [delta["tool_calls"][0]["function"] for delta in deltas[2:]]
        assert (functions[0]["name"], "".join(function["arguments"] for function in functions)) == ("f", '{"a":1}')
    assert (choice["finish_reason"], choice["stop_reason"]) == ("tool_calls", "w1")


async def test_it_counts_a_prompt_as_it_bills_it() -> None:
    engine = ScriptedEngine()
    async with http(engine) as client:
        counted = (await client.post("/tokenize", json={"model": "m", "messages": HI})).json()
    assert counted["count"] == len(counted["tokens"]) == (await chat(engine)).json()["usage"]["prompt_tokens"]
