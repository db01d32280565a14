"""Chat completions, completions, embeddings and rerank. Parameters and bounds are those of ``serve.checks``."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serve.cache.wishes import OUTCOME, TTL, WISHES
from serve.checks import CHAT_CHECKS, COMPLETION_CHECKS, EMBEDDING_CHECKS, RERANK_CHECKS, TOKENS_MAX, Schema
from serve.config import MID_STREAM
from serve.ignored import IGNORED
from serve.openapi import words
from serve.openapi.errors import AGENTS, CALLING, refusals
from serve.openapi.parts import (
    ANYTHING,
    COUNT,
    EVENTS,
    INTEGER,
    JSON,
    OWN_HEADERS,
    STRING,
    TIME,
    Object,
    answers,
    array,
    events,
    in_header,
    nullable,
    one_of,
    parameters,
    record,
    ref,
    said,
    takes,
)
from serve.policies import MID_STREAM_HEADER
from serve.tools.request import NAME, TOOLS_MAX
from serve.validation import INPUTS_MAX, MESSAGES_MAX, ROLES

CALL_HEADERS = (
    *OWN_HEADERS,
    *("x-objecta-model", "x-objecta-upstream", "x-objecta-attempts", "x-objecta-cost", OUTCOME.decode()),
    *(f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
)
MODEL: Schema = {"type": "string", "minLength": 1, "description": "A model's or an agent's id, of `/v1/models`"}
TOKEN_IDS = array({"type": "integer", "minimum": 0, "maximum": TOKENS_MAX}, minItems=1)
TEXTS: Object = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        array({"type": "string", "minLength": 1}, minItems=1, maxItems=INPUTS_MAX),
        TOKEN_IDS,
        array(TOKEN_IDS, minItems=1, maxItems=INPUTS_MAX),
    ]
}
TOOL = record(
    {
        "type": {"const": "function"},
        "function": record(
            {
                "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
                "description": nullable(STRING),
                "parameters": said(nullable(ANYTHING), "The JSON Schema of the arguments, held to the letter"),
                "strict": {"type": ["boolean", "null"]},
            },
            ("name",),
        ),
    },
    ("type", "function"),
)
FORMAT = {"properties": {"type": one_of(("text", "json_object", "json_schema")), "json_schema": ANYTHING}}
MORE: Mapping[str, Object] = {"tools": {"items": TOOL, "maxItems": TOOLS_MAX}, "response_format": FORMAT}
# Known, though only to the hosted providers that have them.
HOSTED: Object = {
    "functions": {"type": ["array", "null"], "deprecated": True, "description": "What `tools` were once"},
    "function_call": {"deprecated": True, "description": "What `tool_choice` was once"},
    "web_search_options": {"type": ["object", "null"], "description": "For hosted models that search the web"},
}


def schemas() -> Object:
    """Requests and answers by name."""
    return {**_requests(), **_answers()}


def _honest(given: Mapping[str, str]) -> dict[str, str]:
    """The words, and of which parameters our own engines take no other than a neutral value."""
    return {name: f"{text}. {_limits(IGNORED[name])}" if name in IGNORED else text for name, text in given.items()}


def _limits(neutral: Sequence[Any]) -> str:
    taken = " and ".join(f"`{json.dumps(value)}`" for value in neutral)
    return f"A self-hosted model takes {taken} only" if taken else "A self-hosted model refuses it"


def _requests() -> Object:
    part = record({"type": {"type": "string", "description": "`text`, `image_url`, `input_audio` or `refusal`"}})
    message = record(
        {
            "role": one_of(sorted(ROLES)),
            "content": {"type": ["string", "array", "null"], "items": part},
            "name": nullable(STRING),
            "tool_calls": nullable(array(ref("ToolCall"))),
            "tool_call_id": nullable(STRING),
        },
        ("role",),
    )
    messages = array(ref("ChatMessage"), minItems=1, maxItems=MESSAGES_MAX)
    document: Object = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            record({"text": {"type": "string", "minLength": 1}}, ("text",)),
        ]
    }
    return {
        "ChatMessage": message,
        "ToolCall": record(
            {
                "id": STRING,
                "type": {"const": "function"},
                "function": record({"name": STRING, "arguments": STRING}, ("name", "arguments")),
            },
            ("id", "type", "function"),
        ),
        "ChatRequest": record(
            {"model": MODEL, "messages": messages, **parameters(CHAT_CHECKS, _honest(words.CHAT), MORE), **HOSTED},
            ("model", "messages"),
        ),
        "CompletionRequest": record(
            {"model": MODEL, "prompt": TEXTS, **parameters(COMPLETION_CHECKS, _honest(words.COMPLETION), {})},
            ("model", "prompt"),
        ),
        "EmbeddingRequest": record(
            {"model": MODEL, "input": TEXTS, **parameters(EMBEDDING_CHECKS, words.EMBEDDING, {})},
            ("model", "input"),
        ),
        "RerankRequest": record(
            {
                "model": MODEL,
                "query": {"type": "string", "minLength": 1},
                "documents": array(document, minItems=1, maxItems=INPUTS_MAX),
                **parameters(RERANK_CHECKS, words.RERANK, {}),
            },
            ("model", "query", "documents"),
        ),
    }


def _answers() -> Object:
    reason = nullable(said(STRING, "`stop`, `length`, `tool_calls` or `content_filter`"))
    said_message = record(
        {"role": {"const": "assistant"}, "content": nullable(STRING), "tool_calls": array(ref("ToolCall"))}, ("role",)
    )
    vector: Object = {"anyOf": [array({"type": "number"}), {"type": "string", "description": "In base64"}]}
    embedding = record(
        {"object": {"const": "embedding"}, "index": COUNT, "embedding": vector}, ("object", "index", "embedding")
    )
    result = record(
        {"index": COUNT, "relevance_score": {"type": "number"}, "document": record({"text": STRING}, ("text",))},
        ("index", "relevance_score"),
    )
    head: Object = {"id": STRING, "created": TIME, "model": STRING, "usage": ref("Usage")}
    return {
        "Usage": record(
            {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT},
            ("prompt_tokens", "total_tokens"),
            description="Details by kind of token may stand beside the sums",
        ),
        "ChatCompletion": record(
            {
                **head,
                "object": {"const": "chat.completion"},
                "choices": array(
                    record({"index": INTEGER, "message": said_message, "finish_reason": reason}, ("index", "message"))
                ),
            },
            ("id", "object", "created", "model", "choices"),
        ),
        "Completion": record(
            {
                **head,
                "object": {"const": "text_completion"},
                "choices": array(
                    record({"index": INTEGER, "text": STRING, "finish_reason": reason}, ("index", "text"))
                ),
            },
            ("id", "object", "created", "model", "choices"),
        ),
        "Embeddings": record(
            {"object": {"const": "list"}, "data": array(embedding), "model": STRING, "usage": ref("Usage")},
            ("object", "data", "model", "usage"),
        ),
        "Ranking": record(
            {"object": {"const": "list"}, "model": STRING, "results": array(result), "usage": ref("Usage")},
            ("model", "results", "usage"),
        ),
    }


def _call(name: str, tag: str, summary: str, request: str, answer: str, example: Object, **more: Any) -> Object:
    content: Object = {JSON: {"schema": ref(answer)}}
    broken: list[Object] = []
    if more.pop("streams", False):
        content[EVENTS] = events("Each holds a chunk; the data of the last one is `[DONE]`")
        name_of = MID_STREAM_HEADER.decode()
        broken.append(in_header(name_of, "What becomes of a stream that breaks in the middle", one_of([*MID_STREAM])))
    caching = in_header(
        OUTCOME.decode(), "Whether the answer may be a stored one", one_of([*map(bytes.decode, WISHES)])
    )
    ttl = in_header(TTL.decode(), "For how many seconds the answer is kept", {"type": "integer", "minimum": 1})
    off = in_header("x-objecta-fallbacks", "`off`: no other model may answer in place of the one asked for", STRING)
    success = answers("The model's answer", content, CALL_HEADERS)
    return {
        "post": {
            "operationId": name,
            "tags": [tag],
            "summary": summary,
            "parameters": [off, caching, ttl, *broken],
            "requestBody": takes(ref(request), example),
            "responses": {"200": success, **refusals(*CALLING, *AGENTS)},
            **more,
        }
    }


def paths() -> Object:
    """The four addresses."""
    extras = "A self-hosted model takes its engine's own parameters as well; a hosted one refuses what is not listed."
    question = {"role": "user", "content": "Name three rivers."}
    return {
        "/v1/chat/completions": _call(
            "createChatCompletion",
            "inference",
            "An answer to a conversation",
            "ChatRequest",
            "ChatCompletion",
            {"model": "smollm2-135m-instruct", "messages": [question]},
            streams=True,
            description=extras,
        ),
        "/v1/completions": _call(
            "createCompletion",
            "inference",
            "What comes after a text",
            "CompletionRequest",
            "Completion",
            {"model": "smollm2-135m-instruct", "prompt": "Three rivers:", "max_tokens": 16},
            streams=True,
            description=extras,
        ),
        "/v1/embeddings": _call(
            "createEmbedding",
            "inference",
            "Texts as vectors",
            "EmbeddingRequest",
            "Embeddings",
            {"model": "all-minilm-l6-v2", "input": ["a river", "a street"]},
        ),
        "/v1/rerank": _call(
            "rerank",
            "inference",
            "Documents by how well they answer a query",
            "RerankRequest",
            "Ranking",
            {"model": "reranker", "query": "rain", "documents": ["It rained.", "It snowed."]},
        ),
    }
