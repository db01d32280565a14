"""The gateway's description says what the gateway does: its addresses, methods, parameters, bounds and errors."""

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from models.batches import BatchCreate
from models.errors import InvalidRequest, MethodNotAllowed, PlatformError
from serve.files.fields import FIELDS, FILE
from serve.ignored import IGNORED
from serve.messages.request import count_request, message_request
from serve.openapi.document import TAGS, document
from serve.responses import app as responses
from serve.responses import conversations
from serve.responses.request import read_order
from serve.routing import ENDPOINTS
from serve.validation import Body

Platform = Callable[..., Awaitable[Any]]
METHODS = ("get", "post", "put", "patch", "delete")
IDS = {
    "model": "scripted",
    "response_id": "resp_1",
    "conversation_id": "conv_1",
    "item_id": "msg_1",
    "file_id": "file-" + "0" * 32,
    "batch_id": "batch_" + "0" * 32,
}
DOCUMENT = document(with_files=True)
SCHEMAS = DOCUMENT["components"]["schemas"]
HI = [{"role": "user", "content": "hi"}]


def request_of(path: str, method: str = "post") -> str:
    (content,) = DOCUMENT["paths"][path][method]["requestBody"]["content"].values()
    return content["schema"]["$ref"].rpartition("/")[2]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, entry in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in entry:
                yield path, method, entry[method]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for below in node.values():
            yield from references(below)
    elif isinstance(node, list):
        for below in node:
            yield from references(below)


class Recording(dict[str, Any]):
    """A body that notes what is looked for in it."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


def test_schemas_are_schemas_and_nothing_refers_to_what_is_not_there() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    for reference in references(DOCUMENT):
        found = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    components = [
        f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in DOCUMENT["components"][kind]
    ]
    assert set(components) <= set(references(DOCUMENT))
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


def test_operations_have_names_words_and_known_tags() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    assert {tag["name"] for tag in DOCUMENT["tags"]} == set(TAGS)
    for _, _, operation in operations():
        assert operation["summary"]
        assert operation["tags"][0] in TAGS


async def test_each_described_address_takes_the_described_methods_and_no_other(
    platform: Platform, tmp_path: Path
) -> None:
    stage = await platform(object_store=str(tmp_path / "objects"))
    for path, entry in DOCUMENT["paths"].items():
        for method in METHODS:
            answer = await stage.http.request(method, path.format(**IDS), headers={"authorization": "Bearer good"})
            assert (answer.status_code == MethodNotAllowed.status) == (method not in entry), (method, path, answer.text)
            if answer.status_code == MethodNotAllowed.status:
                allowed = set(answer.headers["allow"].split(", ")) - {"HEAD"}
                assert allowed == {name.upper() for name in METHODS if name in entry}, (method, path)
            if answer.status_code == 404:
                assert "nothing at this address" not in answer.text, (method, path)


async def test_every_address_that_the_gateway_routes_is_described(platform: Platform, tmp_path: Path) -> None:
    stage = await platform(object_store=str(tmp_path / "objects"))
    gateway, paths = stage.gateway, DOCUMENT["paths"]
    assert {*ENDPOINTS, *gateway._pages} <= set(paths)
    for root in gateway._families:
        assert any(path == root or path.startswith(f"{root}/") for path in paths)
    known = (*ENDPOINTS, *gateway._pages, *gateway._families, "/v1/models/{model}")
    assert all(any(path == root or path.startswith(f"{root}/") for root in known) for path in paths)
    for table, root in ((responses.METHODS, responses.ROOT), (conversations.METHODS, conversations.ROOT)):
        for (count, name), methods in table.items():
            (found,) = [path for path in paths if shape(path, root) == (count, name)]
            assert {method.upper() for method in METHODS if method in paths[found]} == methods


def shape(path: str, root: str) -> tuple[int, str] | None:
    if path != root and not path.startswith(f"{root}/"):
        return None
    parts = path.removeprefix(root).split("/")[1:]
    return len(parts), parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_known_parameter_of_an_inference_call_is_described_in_words(path: str) -> None:
    schema = SCHEMAS[request_of(path)]
    assert set(schema["properties"]) == ENDPOINTS[path].known
    for name, described in schema["properties"].items():
        assert described.get("description") or name in {"messages", "prompt", "input", "query", "documents"}, name


VALUES: dict[str, Any] = {"boolean": "x", "string": 1, "array": "x", "object": "x", "number": "x", "integer": 1.5}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_a_description_rules_out_is_refused(path: str) -> None:
    base: dict[str, Any] = {"messages": HI, "prompt": "x", "input": "x", "query": "x", "documents": ["x"]}
    base = {name: value for name, value in base.items() if name in ENDPOINTS[path].known} | {"model": "m"}
    ENDPOINTS[path].check(base)
    tried = 0
    for name, schema in SCHEMAS[request_of(path)]["properties"].items():
        if name in {"model", "functions", "function_call", "web_search_options"}:
            continue
        bad = [schema[bound] + step for bound, step in (("minimum", -1), ("maximum", 1)) if bound in schema]
        bad += ["none such"] if "enum" in schema else []
        kinds = [kind for kind in schema.get("type", ()) if kind != "null"] if name not in base else []
        bad += [VALUES[kinds[0]]] if len(kinds) == 1 else []
        for value in bad:
            tried += 1
            with pytest.raises(InvalidRequest) as refused:
                ENDPOINTS[path].check({**base, name: value})
            assert refused.value.param == name
    assert tried


def read_conversation(body: Body) -> None:
    conversations.read_order(body, [])


def read_change(body: Body) -> None:
    conversations.read_order(body, ["conv_1"])


def read_append(body: Body) -> None:
    conversations.read_order(body, ["conv_1", "items"])


def read_message(body: Body) -> None:
    message_request(body, engine=True)


@pytest.mark.parametrize(
    ("path", "read", "least"),
    [
        ("/v1/responses", read_order, {"model": "m", "input": "x"}),
        ("/v1/messages", read_message, {"model": "m", "messages": HI, "max_tokens": 1}),
        ("/v1/messages/count_tokens", count_request, {"model": "m", "messages": HI}),
        ("/v1/conversations", read_conversation, {}),
        ("/v1/conversations/{conversation_id}", read_change, {"metadata": {}}),
        ("/v1/conversations/{conversation_id}/items", read_append, {"items": HI}),
    ],
)
def test_a_request_that_is_read_field_by_field_has_the_described_fields_and_no_other(
    path: str, read: Callable[[Body], object], least: dict[str, Any]
) -> None:
    schema = SCHEMAS[request_of(path)]
    body = Recording(least)
    read(body)
    assert body.asked == set(schema["properties"])
    assert set(schema.get("required", ())) == set(least)
    assert schema["additionalProperties"] is False
    with pytest.raises(InvalidRequest) as refused:
        read({**least, "stranger": 1})
    assert refused.value.param == "stranger"


def test_forms_and_batches_have_the_described_fields_and_no_other() -> None:
    assert set(SCHEMAS["FileForm"]["properties"]) == {FILE, *FIELDS}
    assert set(SCHEMAS["BatchRequest"]["properties"]) == set(BatchCreate.model_fields)


def tree(kind: type[PlatformError]) -> Iterator[type[PlatformError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from tree(below)


def test_every_error_a_caller_may_see_is_among_the_answers() -> None:
    statuses = {kind.status for kind in tree(PlatformError)} - {PlatformError.status, MethodNotAllowed.status}
    answers = DOCUMENT["components"]["responses"]
    assert {f"openai-{status}" for status in statuses} == {name for name in answers if name.startswith("openai")}
    assert "anthropic-529" in answers
    for path, _, operation in operations():
        if operation.get("security") != [] and not path.startswith("/v1/messages"):
            assert {"401", "503"} <= set(operation["responses"]), path


async def test_the_description_is_there_for_everyone_at_both_addresses(platform: Platform, tmp_path: Path) -> None:
    stage = await platform()
    answers = [await stage.http.get(path) for path in ("/openapi.json", "/v1/openapi.json")]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].headers["content-type"] == "application/json"
    assert answers[0].json() == answers[1].json() == document(with_files=False)
    assert not any("files" in path or "batches" in path for path in answers[0].json()["paths"])
    with_files = await platform(object_store=str(tmp_path / "objects"))
    assert (await with_files.http.get("/openapi.json")).json() == DOCUMENT


async def test_what_is_described_as_closed_is_closed(platform: Platform, tmp_path: Path) -> None:
    stage = await platform(object_store=str(tmp_path / "objects"))
    for path, method, operation in operations():
        answer = await stage.http.request(method, path.format(**IDS))
        assert (answer.status_code == 401) == (operation.get("security") != []), (method, path, answer.text)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", "/v1/chat/completions", {"model": "scripted", "messages": HI}),
        ("post", "/v1/chat/completions", {"model": "scripted", "messages": HI, "stream": True}),
        ("post", "/v1/completions", {"model": "scripted", "prompt": "x"}),
        ("post", "/v1/embeddings", {"model": "embedder", "input": "x"}),
        ("post", "/v1/messages", {"model": "scripted", "messages": HI, "max_tokens": 1}),
        ("post", "/v1/messages/count_tokens", {"model": "scripted", "messages": HI}),
        ("get", "/v1/models", None),
        ("get", "/v1/models/{model}", None),
        ("get", "/health/ready", None),
        ("get", "/metrics", None),
    ],
)
async def test_every_header_of_ours_is_described(platform: Platform, method: str, path: str, body: Any) -> None:
    stage = await platform()
    stage.admit("limited", key_limits={"requests_per_minute": 100, "tokens_per_minute": 100_000})
    headers = {"authorization": "Bearer limited"}
    cached = {**headers, "x-objecta-cache": "on"}
    answers = [
        await stage.http.request(method, path.format(**IDS), json=body, headers=given)
        for given in (headers, cached, cached)
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    ours = {
        name
        for answer in answers
        for name in answer.headers
        if name.startswith(("x-", "openai-", "anthropic-", "request-"))
    }
    described = DOCUMENT["paths"][path][method]["responses"]["200"]["headers"]
    assert ours <= set(described)
    assert "x-request-id" in ours


def test_what_our_engines_refuse_is_said() -> None:
    for name, neutral in IGNORED.items():
        for schema in ("ChatRequest", "CompletionRequest"):
            described = SCHEMAS[schema]["properties"].get(name)
            if described is not None and name != "web_search_options":
                assert "self-hosted" in described["description"]
                assert ("refuses" in described["description"]) == (not neutral)
