"""The application with a description that is true of its errors: each operation names the statuses it can answer.

1. Whom an operation takes says 401 and 403, what its path names says 404; both are read off its dependencies, so that
   no route can forget them.
2. Everywhere what is sent is bounded (400, 413), and what reads the database is told when it is away (503).
3. A conflict is an operation's own affair: it is declared beside the route (``errors.CONFLICT``).
"""

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from control_plane import access
from control_plane.context import request_transaction
from control_plane.errors import ErrorBody, described
from models.errors import (
    BodyTooLarge,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    PlatformError,
    Unauthenticated,
    Unavailable,
)

SCHEMAS = "#/components/schemas/{model}"
# FastAPI describes its own answer to an invalid request, which this API never gives.
NEVER = "422"
NEVER_SCHEMAS = ("HTTPValidationError", "ValidationError")
FOLLOWS: dict[Callable[..., Any], tuple[type[PlatformError], ...]] = {
    access.caller: (Unauthenticated,),
    access.operator: (PermissionDenied,),
    access.tenant: (PermissionDenied, NotFound),
    request_transaction: (Unavailable,),
}
EVERYWHERE = (InvalidRequest, BodyTooLarge)


class Described(FastAPI):
    """FastAPI, but for what it says of errors."""

    def openapi(self) -> dict[str, Any]:
        """The description, made once."""
        if self.openapi_schema is None:
            made = super().openapi()
            for route in self.routes:
                if isinstance(route, APIRoute) and route.include_in_schema:
                    for method in route.methods:
                        _complete(made["paths"][route.path_format][method.lower()], route)
            schemas = made["components"]["schemas"]
            for name in NEVER_SCHEMAS:
                schemas.pop(name, None)
            error = ErrorBody.model_json_schema(ref_template=SCHEMAS)
            schemas |= error.pop("$defs") | {ErrorBody.__name__: error}
        return super().openapi()


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    responses: dict[str, Any] = operation["responses"]
    responses.pop(NEVER, None)
    kinds = {*EVERYWHERE, *(kind for call in _calls(route.dependant) for kind in FOLLOWS.get(call, ()))}
    if route.dependant.path_params:
        kinds.add(NotFound)
    for kind in sorted(kinds, key=lambda kind: kind.status):
        responses.setdefault(str(kind.status), described(kind))


def _calls(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    """Every dependency's function, however deep."""
    for below in dependant.dependencies:
        if below.call is not None:
            yield below.call
        yield from _calls(below)
