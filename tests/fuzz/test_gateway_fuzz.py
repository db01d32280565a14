"""Whatever is sent to the gateway, it answers as its description says, and never with an error of its own."""

from typing import Any

from serve.ignored import IGNORED
from serve.openapi.document import document


async def known_of(world: Any) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """What there is to ask for, and as much again to delete."""
    known: dict[str, list[Any]] = {"model": ["talker", "hosted/model", "agent/plain"]}
    known |= {"EmbeddingRequest.model": ["embedder"], "RerankRequest.model": ["ranker"]}
    doomed: dict[str, list[Any]] = {}
    message = {"role": "user", "content": "hi"}
    for found in (known, doomed):
        for number in range(4):
            response = await post(world, "/v1/responses", model="talker", input="hi", background=number % 2 == 0)
            conversation = await post(world, "/v1/conversations", items=[message] * 3)
            items = await get(world, f"/v1/conversations/{conversation['id']}/items")
            file = await upload(world)
            found.setdefault("response_id", []).append(response["id"])
            found.setdefault("conversation_id", []).append(conversation["id"])
            found.setdefault("item_id", []).extend(item["id"] for item in items["data"])
            found.setdefault("file_id", []).append(file)
    job = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batches = [await post(world, "/v1/batches", input_file_id=file, **job) for file in known["file_id"]]
    known["batch_id"] = [batch["id"] for batch in batches]
    known["input_file_id"] = known["file_id"]
    known["previous_response_id"] = known["response_id"][1::2]
    known["after"] = [*known["item_id"], *known["file_id"], *known["batch_id"]]
    return known, doomed


async def post(world: Any, path: str, **body: Any) -> dict[str, Any]:
    answer = await world.caller.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def get(world: Any, path: str) -> dict[str, Any]:
    answer = await world.caller.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def upload(world: Any) -> str:
    form = {"files": {"file": ("in.jsonl", b"{}\n")}, "data": {"purpose": "batch"}}
    answer = await world.caller.post("/v1/files", **form)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


# What a scripted engine and an agent can honour: other values of these are refused, and so is all that is beside them.
HONOURED: dict[str, list[Any]] = {
    **{name: [None] for name in (*IGNORED, "functions", "function_call", "tools", "tool_choice", "response_format")},
    **{name: [None] for name in ("top_logprobs", "logprobs", "logit_bias", "parallel_tool_calls", "reasoning_effort")},
    **{name: [None] for name in ("conversation", "background", "thinking", "output_config", "stream_options")},
    **{name: [None, 1, 16] for name in ("max_tokens", "max_completion_tokens", "max_output_tokens")},
    "MessageRequest.max_tokens": [1, 16],
    "stream": [None, False, True],
    "n": [None, 1],
    "service_tier": [None, "auto"],
    "type": ["text"],
    "role": ["user"],
    "content": ["hi", "\U0001f600", "x" * 100],
    "dimensions": [None, 8],
}
ANSWERED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/messages", "/v1/responses")


async def test_the_gateway_answers_anything_as_it_is_described(world: Any, fuzz: Any, aim: Any) -> None:
    described = await get(world, "/openapi.json")
    assert described == document(with_files=True)
    await fuzz("gateway", aim(described, *await known_of(world)), world.gateway, world.key, share=0.3, few=7)


async def test_the_gateway_answers_what_its_models_can_honour(world: Any, fuzz: Any, aim: Any) -> None:
    described = await get(world, "/openapi.json")
    known, doomed = await known_of(world)
    deep = aim(described, {**known, **HONOURED}, doomed)
    accepted = [f"POST {path}" for path in ANSWERED]
    await fuzz("models", deep, world.gateway, world.key, share=0.3, few=7, accepted=accepted)
