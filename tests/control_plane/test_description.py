"""The description names the statuses that each operation can answer, and no other."""

from typing import Any

import pytest
from fastapi import FastAPI

from control_plane.errors import DESCRIPTIONS

ORGANISATION = "/api/v1/organisations/{organisation_id}"
ALWAYS = {"400", "413"}


def refusals(operation: dict[str, Any]) -> set[str]:
    return {status for status in operation["responses"] if not status.startswith("2")}


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("get", "/health/live", set()),
        ("get", "/health/ready", {"503"}),
        ("get", "/api/v1/me", {"401", "503"}),
        ("post", "/api/v1/organisations", {"401", "403", "503"}),
        ("get", ORGANISATION, {"401", "403", "404", "503"}),
        ("post", f"{ORGANISATION}/projects", {"401", "403", "404", "409", "503"}),
        ("delete", ORGANISATION + "/api-keys/{api_key_id}", {"401", "403", "404", "503"}),
    ],
)
def test_an_operation_says_what_it_may_refuse_with(app: FastAPI, method: str, path: str, statuses: set[str]) -> None:
    assert refusals(app.openapi()["paths"][path][method]) == statuses | ALWAYS


def test_no_operation_says_default_or_422_and_each_refusal_is_the_error_object(app: FastAPI) -> None:
    described = app.openapi()
    assert app.openapi() is described
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            statuses = refusals(operation)
            assert statuses <= {str(status) for status in DESCRIPTIONS} | {"409"}, (method, path)
            for status in statuses - {"503"}:
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (method, path, status)
    schemas = described["components"]["schemas"]
    assert {"ErrorBody", "ErrorDetail"} <= set(schemas)
    assert "HTTPValidationError" not in schemas


def test_whoever_words_a_conflict_declares_it(app: FastAPI) -> None:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            assert ("409" in operation["description"]) <= ("409" in operation["responses"]), (method, path)


async def test_what_is_described_as_closed_is_closed(app: FastAPI, anonymous: Any) -> None:
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            answer = await anonymous.request(method, path.replace("{", "").replace("}", ""))
            assert (answer.status_code == 401) == ("401" in operation["responses"]), (method, path, answer.text)
