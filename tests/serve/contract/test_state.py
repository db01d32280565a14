"""Promises about what is stored: headers, lists, purposes, and what is not there yet."""

import tempfile
from typing import Any

import pytest

from models.batches import INPUT_BYTES_MAX
from serve.batches.lines import Input

HEADERS = {"x-request-id", "openai-version", "openai-organization", "openai-processing-ms"}
CHAT = "smollm2-135m-instruct"
LIST = {"object", "data", "first_id", "last_id", "has_more"}


async def made(at: Any, path: str, **body: Any) -> Any:
    answer = await at.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer


async def uploaded(endpoint: Any, purpose: str) -> Any:
    return await endpoint.http.post("/v1/files", data={"purpose": purpose}, files={"file": ("a.jsonl", b"{}\n")})


@pytest.mark.contract("headers.openai")
async def test_what_is_stored_bears_openai_s_headers(endpoint: Any) -> None:
    file = await uploaded(endpoint, "batch")
    response = await made(endpoint, "/v1/responses", model=CHAT, input="hi")
    background = await made(endpoint, "/v1/responses", model=CHAT, input="hi", background=True)
    conversation = await made(endpoint, "/v1/conversations")
    order = {"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = await made(endpoint, "/v1/batches", **order)
    answers = [file, response, background, conversation, batch]
    paths = (
        "/v1/files",
        f"/v1/files/{file.json()['id']}",
        f"/v1/files/{file.json()['id']}/content",
        "/v1/batches",
        f"/v1/batches/{batch.json()['id']}",
        f"/v1/responses/{response.json()['id']}",
        f"/v1/responses/{response.json()['id']}/input_items",
        f"/v1/conversations/{conversation.json()['id']}/items",
    )
    answers += [await endpoint.http.get(path) for path in paths]
    answers.append(await endpoint.http.delete(f"/v1/files/{file.json()['id']}"))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert set(answer.headers) >= HEADERS, answer.url
        assert int(answer.headers["openai-processing-ms"]) >= 0


@pytest.mark.contract("lists.object")
async def test_lists_of_what_is_stored_are_openai_s_list_object(endpoint: Any) -> None:
    files = [(await uploaded(endpoint, "user_data")).json()["id"] for _ in range(3)]
    response = (await made(endpoint, "/v1/responses", model=CHAT, input="hi")).json()["id"]
    conversation = (await made(endpoint, "/v1/conversations")).json()["id"]
    page = (await endpoint.http.get("/v1/files", params={"limit": 2})).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (files[2], files[1], True)
    for path in (
        "/v1/files",
        "/v1/batches",
        f"/v1/responses/{response}/input_items",
        f"/v1/conversations/{conversation}/items",
    ):
        listed = (await endpoint.http.get(path)).json()
        assert set(listed) == LIST, path
        assert (listed["object"], listed["has_more"]) == ("list", False)
        ids = [item["id"] for item in listed["data"]]
        assert (listed["first_id"], listed["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.contract("files.purposes")
@pytest.mark.parametrize("purpose", ["assistants", "batch", "user_data"])
async def test_a_file_is_kept_for_each_purpose(endpoint: Any, purpose: str) -> None:
    file = (await uploaded(endpoint, purpose)).json()
    assert (file["object"], file["purpose"]) == ("file", purpose)
    assert (await endpoint.http.get(f"/v1/files/{file['id']}")).json()["purpose"] == purpose


@pytest.mark.contract("responses.file-search")
async def test_file_search_is_refused_by_its_name(endpoint: Any) -> None:
    tools = [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
    answer = await endpoint.http.post("/v1/responses", json={"model": CHAT, "input": "hi", "tools": tools})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "unsupported_tool")
    assert "file_search" in error["message"]


@pytest.mark.contract("batches.input")
def test_a_batch_s_file_has_200_mb_at_most() -> None:
    assert INPUT_BYTES_MAX == 200 * 1024 * 1024
    with tempfile.TemporaryFile() as sparse:
        sparse.truncate(INPUT_BYTES_MAX + 1)
        sparse.seek(0)
        found = Input(sparse, "/v1/embeddings")
    assert [error.code for error in found.errors] == ["file_too_large"]
