"""The one place that renders errors: every answer that is not a success is OpenAI's error object."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg.errors import DataError as PostgresDataError
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from control_plane.edge import nothing_here
from models.errors import InvalidRequest, MethodNotAllowed, PlatformError, Unavailable


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = Field(description="The field at fault")
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    error: ErrorDetail


Responses = dict[int | str, dict[str, Any]]

CONFLICT: Responses = {409: {"model": ErrorBody, "description": "The change collides with the present state"}}
"""Of a route that may answer so; see ``control_plane.description`` for the other statuses."""

DESCRIPTIONS = {
    400: "What was sent is wrong; `param` names the field at fault",
    401: "No key, or one that is unknown, expired or revoked",
    403: "The key is known and may not do this",
    404: "There is no such thing, or it is another organisation's",
    413: "The request body is too large",
    503: "The database does not answer; try again",
}

CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "json_invalid": "invalid_json",
}
MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "json_invalid": "The request body is not valid JSON.",
    "model_attributes_type": "The request body must be a JSON object, sent as application/json.",
    "dict_type": "must be an object",
}
BODY = "body"
MESSAGE_LENGTH_MAX = 300
RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


def described(kind: type[PlatformError]) -> dict[str, Any]:
    """An error as OpenAPI describes an answer."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {"description": DESCRIPTIONS[kind.status], "content": content}


def install(app: FastAPI) -> None:
    """Have ``app`` answer every error as an error object."""
    app.add_exception_handler(PlatformError, _platform_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    for kind in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(kind, _database_away)
    app.add_exception_handler(DataError, _unstorable)


def render(error: PlatformError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer for an error."""
    extra = dict(headers or {})
    if error.retry_after_seconds is not None:
        extra["retry-after"] = str(max(1, round(error.retry_after_seconds)))
    return JSONResponse(error.body(), status_code=error.status, headers=extra)


def invalid_request(errors: Sequence[Any]) -> InvalidRequest:
    """The first of pydantic's errors, in the words of the API: ``param`` is the field's dotted path."""
    first = cast("dict[str, Any]", errors[0])
    kind = str(first["type"])
    location = [str(part) for part in first["loc"] if kind != "json_invalid"]
    param = ".".join(location[1:]) or None
    text = MESSAGES.get(kind) or str(first["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    message = f"'{param}' {text}." if param else text
    if location == [BODY] and kind == "missing":
        message = MESSAGES["model_attributes_type"]
    return InvalidRequest(message[:MESSAGE_LENGTH_MAX], param=param, code=CODES.get(kind, "invalid_value"))


async def _platform_error(_: Request, error: Exception) -> JSONResponse:
    return render(cast("PlatformError", error))


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    return render(invalid_request(cast("RequestValidationError", error).errors()))


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    known = cast("HTTPException", error)
    if known.status_code == nothing_here().status:
        return render(nothing_here())
    if known.status_code == MethodNotAllowed.status:
        return render(MethodNotAllowed("This address does not take that method."), known.headers)
    return render(InvalidRequest("The request body cannot be read.", code="invalid_json"))


async def _database_away(_: Request, error: Exception) -> JSONResponse:
    log.warning("database: %s", error)
    return render(Unavailable("The database does not answer; try again.", retry_after_seconds=RETRY_SECONDS))


async def _unstorable(_: Request, error: Exception) -> JSONResponse:
    cause = cast("DataError", error).orig
    name = type(cause).__name__ if isinstance(cause, PostgresDataError) else "DataError"
    log.warning("database refused a value: %s", name)
    return render(InvalidRequest("A value is out of range."))
