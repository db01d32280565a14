"""What no description could ask for: bytes that are no text, numbers that no column holds, encodings, broken forms.

Each is put into every field, query parameter and path of every operation that gateway and control plane describe; in CI
each of them gets some, in turn, so that all are tried somewhere.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import httpx

LITERALS = {
    "a lone surrogate": b'"\\ud800"',
    "a NUL": b'"a\\u0000b"',
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "a number beyond a double": b"1e999",
    "an integer of 400 digits": b"9" * 400,
    "an integer of 5,000 digits": b"9" * 5_000,
    "an integer beyond 64 bits": b"18446744073709551616",
    "an array of 2,000 levels": b"[" * 2_000 + b"]" * 2_000,
    "bytes that are no UTF-8": b'"\xff\xfe"',
    "an empty object": b"{}",
    "an array": b"[[]]",
    "true": b"true",
}
WHOLE = {
    "nothing": b"",
    "no JSON": b"{",
    "an array": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "a key that is a lone surrogate": b'{"\\ud800": 1}',
    "a key with a NUL": b'{"a\\u0000": 1}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"name": "a\\u0000"}'.encode("utf-16"),
    "UTF-32": '{"name": "é"}'.encode("utf-32"),
}
TYPES = ("text/plain", "application/json; charset=utf-16", "application/xml", "multipart/form-data", "a/b/c;;", "")
T = TypeVar("T")
TEXTS = (
    "%00",
    "%ff%fe",
    "%ed%a0%80",
    "a%2Fb",
    "%2e%2e",
    "'%22%3B--",
    "9" * 400,
    "-1",
    "1e9",
    "%F0%9F%98%80",
    "x" * 3_000,
)
HEADERS = {
    "x-objecta-cache": b"\xff",
    "x-objecta-cache-ttl": b"9" * 5_000,
    "x-objecta-fallbacks": b"\xe9",
    "x-objecta-principal": b"e30=",
    "x-request-id": b"\xff" * 200,
    "content-length": b"0",
    "range": b"bytes=9-1,-",
    "idempotency-key": b"\xc3\x28",
    "accept": b"\xff",
}
MARK = "@@"
ALL = "FUZZ_CASES" in os.environ
MODELS = {"/v1/embeddings": {"model": "embedder"}, "/v1/rerank": {"model": "ranker"}}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], list[dict[str, Any]]]]:
    for path, entry in document["paths"].items():
        for method in ("get", "post", "put", "patch", "delete"):
            if method in entry:
                given = [*entry.get("parameters", ()), *entry[method].get("parameters", ())]
                yield path, method, entry[method], given


def some(things: Sequence[T], turn: int, count: int = 3) -> list[T]:
    """``count`` of them, others with each turn; at length all."""
    return list(things) if ALL else [things[(turn * count + number) % len(things)] for number in range(count)]


def sample(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """Some value of a schema, plain and small."""
    if "$ref" in schema:
        return sample(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    for name in ("const", "example", "default"):
        if name in schema:
            return schema[name]
    for name in ("anyOf", "oneOf", "enum"):
        if name in schema:
            return schema[name][0] if name == "enum" else sample(schema[name][0], document)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: sample(fields[name], document) for name in schema.get("required", ())}
    if kind == "array":
        return [sample(schema.get("items", {}), document)] if schema.get("minItems") else []
    return {"string": "x", "integer": schema.get("minimum", 1), "number": 1, "boolean": True, "null": None}[kind]


def bodies(operation: dict[str, Any], document: dict[str, Any], there: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Hostile bodies of an operation, and what is wrong with each; ``there``: what there is, by the field's name."""
    yield from WHOLE.items()
    content = operation["requestBody"]["content"].get("application/json")
    if content is None:
        return
    schema = content["schema"]
    named = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    base = {
        **sample(schema, document),
        **content.get("example", {}),
        **{k: v for k, v in there.items() if k in named["properties"]},
    }
    yield (
        "an unknown key that is a lone surrogate",
        json.dumps({**base, MARK: 1}).encode().replace(MARK.encode(), b"\\ud800"),
    )
    for turn, field in enumerate(named["properties"]):
        text = json.dumps({**base, field: MARK}).encode()
        for why, literal in some([*LITERALS.items()], turn):
            yield f"{field}: {why}", text.replace(f'"{MARK}"'.encode(), literal)


class Judge:
    """Whether answers are as described."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.faults: list[str] = []
        self.asked = 0

    async def ask(self, why: str, method: str, path: str, operation: dict[str, Any] | None, **request: Any) -> None:
        self.asked += 1
        answer = await self.http.request(method, path, **request)
        described = answer.status_code < 500 if operation is None else str(answer.status_code) in operation["responses"]
        kind = answer.headers.get("content-type", "")
        told = answer.status_code < 400 or (kind == "application/json" and "error" in answer.json())
        if answer.status_code >= 500 or not described or not told:
            self.faults.append(f"{method} {path}, {why}: {answer.status_code} {kind} {answer.text[:200]}")


async def judged(http: httpx.AsyncClient, document: dict[str, Any], known: dict[str, Any]) -> int:
    judge = Judge(http)
    for turn, (path, method, operation, given) in enumerate(operations(document)):
        there = {**known, **MODELS.get(path, {})}
        ids = {parameter["name"]: there.get(parameter["name"], "x") for parameter in given if parameter["in"] == "path"}
        plain = path.format(**ids)
        if "requestBody" in operation:
            for why, body in bodies(operation, document, there):
                sent = {"content": body, "headers": {"content-type": "application/json"}}
                await judge.ask(why, method, plain, operation, **sent)
            for kind in some(TYPES, turn, 2):
                await judge.ask(kind, method, plain, operation, content=b"{}", headers={"content-type": kind})
        for name, value in HEADERS.items():
            await judge.ask(name, method, plain, operation, headers={name: value})
        for text in some(TEXTS, turn):
            names = [parameter["name"] for parameter in given if parameter["in"] == "query"]
            query = "&".join(f"{name}={text}" for name in names) or f"x={text}"
            await judge.ask("query", method, f"{plain}?{query}&{query}", operation)
            if ids and text != "%2e%2e":
                last = {**ids, list(ids)[-1]: text}
                await judge.ask("path", method, path.format(**last), None)
    assert not judge.faults, "\n".join(judge.faults)
    return judge.asked


async def test_the_gateway_refuses_hostile_bytes_as_described(world: Any) -> None:
    conversation = (await world.caller.post("/v1/conversations", json={})).json()
    response = (await world.caller.post("/v1/responses", json={"model": "talker", "input": "hi"})).json()
    known = {"model": "talker", "conversation_id": conversation["id"], "response_id": response["id"]}
    described = (await world.caller.get("/openapi.json")).json()
    assert await judged(world.caller, described, known) > 300


async def test_the_control_plane_refuses_hostile_bytes_as_described(world: Any) -> None:
    base = await world.make("/knowledge-bases", name="handbook", embedding_model="embedder")
    agents = await world.operator.get(f"/api/v1/organisations/{world.organisation}/agents")
    user = await world.make("/users", email="ada@acme.example", name="Ada")
    known = {
        "organisation_id": world.organisation,
        "project_id": world.project,
        "user_id": user["id"],
        "agent_id": agents.json()["data"][0]["id"],
        "knowledge_base_id": base["id"],
        "model": "talker",
        "embedding_model": "embedder",
        "email": "eve@acme.example",
        "slug": "other",
        "path": str(world.documents),
    }
    described = (await world.operator.get("/openapi.json")).json()
    assert await judged(world.operator, described, known) > 300
