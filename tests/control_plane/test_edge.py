"""What every request meets: ids, headers, limits, the door of /internal, and errors in one shape."""

import json
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.edge import BODY_BYTES_MAX, INTERNAL_BODY_BYTES_MAX, SECURITY_HEADERS, Edge
from models.channels import CLUSTER_SECRET_HEADER

OPERATOR = {"authorization": "Bearer test-operator-key-0"}


def assert_error(answer: httpx.Response, status: int, code: str | None = None, param: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    if code:
        assert error["code"] == code


@pytest.mark.parametrize("path", ["/", "/api/v1", "/api/v1/none", "/api/v1/me/", "/v1/models", "/openapi", "/%2e%2e/x"])
async def test_an_unknown_address_is_a_404_in_the_error_object(anonymous, path: str) -> None:
    assert_error(await anonymous.get(path), 404, "not_found")


async def test_a_wrong_method_is_a_405_that_says_what_is_allowed(anonymous) -> None:
    answer = await anonymous.delete("/api/v1/me")
    assert_error(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 128])
async def test_a_sane_request_id_is_echoed(anonymous, given: str) -> None:
    answer = await anonymous.get("/health/live", headers={"x-request-id": given})
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é"])
async def test_another_request_id_is_replaced(anonymous, given: str | None) -> None:
    headers = [] if given is None else [(b"x-request-id", given.encode())]
    answer = await anonymous.get("/health/live", headers=headers)
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/health/live", "/none", "/internal/authenticate"])
async def test_every_answer_has_the_security_headers(anonymous, path: str) -> None:
    answer = await anonymous.get(path)
    assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


async def test_the_documentation_is_there_and_may_load_its_script(anonymous) -> None:
    answer = await anonymous.get("/docs")
    assert answer.status_code == 200
    assert "cdn.jsdelivr.net" in answer.headers["content-security-policy"]
    described = (await anonymous.get("/openapi.json")).json()
    operations = [operation for methods in described["paths"].values() for operation in methods.values()]
    assert all(operation.get("description") for operation in operations)
    assert all("422" not in operation["responses"] for operation in operations)
    assert "ErrorBody" in described["components"]["schemas"]


@pytest.mark.parametrize("secret", [None, "", "wrong", "test-cluster-secre", "é"])
@pytest.mark.parametrize("path", ["/internal", "/internal/authenticate", "/internal/none"])
async def test_internal_routes_do_not_exist_without_the_secret(anonymous, path: str, secret: str | None) -> None:
    headers = [] if secret is None else [(CLUSTER_SECRET_HEADER.encode(), secret.encode())]
    assert_error(await anonymous.post(path, json={"api_key": "x"}, headers=headers), 404, "not_found")


async def test_an_api_key_opens_no_internal_route(acme) -> None:
    assert_error(await acme.client.post("/internal/authenticate", json={"api_key": acme.key}), 404)


async def call(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """One raw ASGI call; receiving more than ``messages`` fails the test."""
    waiting, sent = list(messages), []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "query_string": b"", "headers": [], **scope}, receive, send)
    return sent


async def test_the_door_is_asked_before_a_byte_of_the_body_is_read(app: FastAPI) -> None:
    sent = await call(app, {"path": "/internal/authenticate"})
    assert sent[0]["status"] == 404


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_above_the_limit_is_a_413(app: FastAPI, declared: bool) -> None:
    headers = [(b"content-length", b"%d" % (BODY_BYTES_MAX + 1))] if declared else []
    half = {"type": "http.request", "body": bytes(BODY_BYTES_MAX // 2 + 1), "more_body": True}
    sent = await call(app, {"path": "/api/v1/me", "headers": headers}, *([] if declared else [half, half]))
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["error"]["code"] == "body_too_large"


async def test_a_body_at_the_limit_is_read_and_internal_ones_may_be_larger(anonymous, internal) -> None:
    body = json.dumps({"name": "x" * (BODY_BYTES_MAX - 12)})
    headers = {**OPERATOR, "content-type": "application/json"}
    assert len(body) == BODY_BYTES_MAX
    assert_error(await anonymous.post("/api/v1/organisations", content=body, headers=headers), 400, param="name")
    larger = json.dumps({"api_key": "x" * BODY_BYTES_MAX * 2})
    answer = await internal.post("/internal/authenticate", content=larger, headers={"content-type": "application/json"})
    assert answer.status_code == 401
    answer = await internal.post("/internal/authenticate", content=bytes(INTERNAL_BODY_BYTES_MAX + 1))
    assert answer.status_code == 413


async def test_a_client_that_hangs_up_while_sending_is_answered_nothing(app: FastAPI) -> None:
    part = {"type": "http.request", "body": b"{", "more_body": True}
    assert await call(app, {"path": "/api/v1/me"}, part, {"type": "http.disconnect"}) == []


async def test_after_the_body_the_application_sees_the_clients_end() -> None:
    seen = []

    async def inner(_: Any, receive: Any, __: Any) -> None:
        seen.extend([await receive(), await receive()])

    edge = Edge(inner, SecretStr("test-cluster-secret"))
    await call(edge, {"path": "/"}, {"type": "http.request", "body": b"x"}, {"type": "http.disconnect"})
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "missing_required_parameter", None),
        (b"{", "invalid_json", None),
        (b'{"name": "x",}', "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b'{"name": ' + b"9" * 5_000 + b"}", "invalid_json", None),
        (b"[]", "invalid_value", None),
        (b"null", "missing_required_parameter", None),
        (b"{}", "missing_required_parameter", "name"),
        (b'{"name": 7}', "invalid_value", "name"),
        (b'{"name": "   "}', "invalid_value", "name"),
        (b'{"name": "x", "nmae": 1}', "unknown_parameter", "nmae"),
        (b'{"name": "x", "limits": {"requests_per_minute": 1e400}}', "invalid_value", "limits.requests_per_minute"),
        (b'{"name": "x", "limits": {"requests_per_minute": NaN}}', "invalid_value", "limits.requests_per_minute"),
        (b'{"name": "\\ud800"}', None, None),
        (b'{"name": "a\\u0000b"}', None, None),
        (b'{"name": "\\\\\\u0000"}', None, None),
    ],
)
async def test_a_bad_body_is_a_clear_400(anonymous, body: bytes, code: str | None, param: str | None) -> None:
    headers = {**OPERATOR, "content-type": "application/json"}
    answer = await anonymous.post("/api/v1/organisations", content=body, headers=headers)
    assert_error(answer, 400, code, param)
    assert "pydantic" not in answer.text
    assert "body" not in str(answer.json()["error"]["param"])


async def test_an_escaped_backslash_before_u0000_is_no_nul(operator) -> None:
    answer = await operator.post("/api/v1/organisations", json={"name": "\\u0000"})
    assert answer.json()["organisation"]["name"] == "\\u0000"


HALVES = [b"\\ud800", b"\\uDFFF", b"\\\\ud83d\\ude00", b"\\ud83d\\ud83d\\ude00", b"\\ud83dx\\ude00", b"\xed\xa0\x80"]
WHOLES = [b"\\ud83d\\ude00", b"\\\\ud83d", b"\\\\ude00", "\U0001f600".encode(), b"\\u00e9", b"\\/\\n"]


@pytest.mark.parametrize("text", HALVES)
async def test_half_a_surrogate_pair_reaches_no_column(acme, text: bytes) -> None:
    # Found by tests/fuzz: a field without a bound on its length let it through to PostgreSQL's driver, a 500.
    agent = await acme.make("/agents", {"slug": "plain", "name": "Plain"})
    body = b'{"instructions": "x", "model": "smollm2-135m-instruct", "knowledge_base_id": "%b"}' % text
    path = acme.path(f"/agents/{agent['id']}/versions")
    assert_error(await acme.client.post(path, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize("text", WHOLES)
async def test_whole_pairs_and_other_escapes_are_text(operator, text: bytes) -> None:
    body = b'{"name": "%b"}' % text
    headers = {"content-type": "application/json"}
    answer = await operator.post("/api/v1/organisations", content=body, headers=headers)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
async def test_json_is_utf_8(operator, encoding: str) -> None:
    body = '{"name": "é"}'.encode(encoding)
    headers = {"content-type": "application/json"}
    assert_error(await operator.post("/api/v1/organisations", content=body, headers=headers), 400)


async def test_another_content_type_is_refused(operator) -> None:
    headers = {"content-type": "text/plain"}
    answer = await operator.post("/api/v1/organisations", content=b'{"name": "x"}', headers=headers)
    assert_error(answer, 400)
    assert "JSON object" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/api/v1/organisations/a%00b", "/api/v1/organisations?after=a%00b"])
async def test_a_nul_in_the_address_is_a_400(operator, path: str) -> None:
    assert_error(await operator.get(path), 400)


async def test_what_nobody_expected_is_a_500_without_internals(
    config: ControlPlaneConfig, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(config)

    @app.get("/boom")
    async def boom() -> None:
        raise LookupError("secret detail")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        answer = await client.get("/boom", headers={"x-request-id": "req-7"})
    assert_error(answer, 500)
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] == "req-7"
    assert "req-7" in caplog.text
    assert "LookupError" in caplog.text


async def test_a_failure_after_the_answer_began_adds_nothing_to_it(caplog: pytest.LogCaptureFixture) -> None:
    async def inner(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError

    edge = Edge(inner, SecretStr("test-cluster-secret"))
    with caplog.at_level(logging.ERROR):
        sent = await call(edge, {"path": "/"}, {"type": "http.request", "body": b""})
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert "LookupError" in caplog.text


async def test_a_value_that_the_database_refuses_is_a_400(config: ControlPlaneConfig) -> None:
    app = create_app(config)

    @app.get("/overflow")
    async def overflow() -> None:
        async with app.state.context.sessions() as session:
            await session.execute(text("SELECT 9223372036854775807 + 1"))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert_error(await client.get("/overflow"), 400)
    await app.state.context.engine.dispose()


async def test_a_statement_that_takes_too_long_is_a_503(config: ControlPlaneConfig) -> None:
    app = create_app(config.model_copy(update={"statement_seconds_max": 0.05}))

    @app.get("/slow")
    async def slow() -> None:
        async with app.state.context.sessions() as session:
            await session.execute(text("SELECT pg_sleep(30)"))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        answer = await client.get("/slow")
    assert_error(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    await app.state.context.engine.dispose()


@pytest.mark.parametrize("field", ["cluster_secret", "operator_key", "key_pepper"])
def test_a_short_secret_is_refused(config: ControlPlaneConfig, field: str) -> None:
    with pytest.raises(ValueError, match="at least 16"):
        ControlPlaneConfig.model_validate({**config.model_dump(), field: "short"})


def test_the_configuration_shows_no_secret(config: ControlPlaneConfig) -> None:
    for secret in ("test-operator-key-0", "test-cluster-secret", "test-pepper-test-pepper", "test-ray-token"):
        assert secret not in repr(config)
