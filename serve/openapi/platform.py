"""Models, health, metrics and the description itself."""

from models.errors import ModelNotFound, Unavailable
from serve.openapi.errors import ALWAYS, refusals
from serve.openapi.parts import (
    ANYTHING,
    OWN_HEADERS,
    STRING,
    TIME,
    Object,
    answers,
    gives,
    in_path,
    list_of,
    one_of,
    record,
    ref,
)

STATE = one_of(("up", "down"))
OPEN: list[Object] = []
"""The security of an address that asks for no key."""


def schemas() -> Object:
    """Of the answers below."""
    dependencies = record(
        {"redis": STATE, "control_plane": STATE, "upstreams": {"type": "object", "additionalProperties": STATE}},
        ("redis", "control_plane", "upstreams"),
        closed=True,
    )
    return {
        "Model": record(
            {"id": STRING, "object": {"const": "model"}, "created": TIME, "owned_by": STRING},
            ("id", "object", "created", "owned_by"),
            closed=True,
        ),
        "Readiness": record(
            {"status": one_of(("ready", "degraded", "unavailable")), "dependencies": dependencies},
            ("status", "dependencies"),
            closed=True,
        ),
    }


def paths() -> Object:
    """Addresses that no body is sent to."""
    described = gives("This document", ANYTHING)
    description: Object = {"tags": ["platform"], "security": OPEN, "responses": {"200": described}}
    return {
        "/v1/models": {
            "get": {
                "operationId": "listModels",
                "tags": ["models"],
                "summary": "The models and agents that the key may use",
                "responses": {
                    "200": gives("All of them, in one part", list_of(ref("Model")), OWN_HEADERS),
                    **refusals(*ALWAYS),
                },
            }
        },
        "/v1/models/{model}": {
            "parameters": [in_path("model", "A model's id; it may hold slashes")],
            "get": {
                "operationId": "retrieveModel",
                "tags": ["models"],
                "summary": "One model",
                "responses": {"200": gives("The model", ref("Model"), OWN_HEADERS), **refusals(*ALWAYS, ModelNotFound)},
            },
        },
        "/health/live": {
            "get": {
                "operationId": "isAlive",
                "tags": ["platform"],
                "summary": "Whether the process answers",
                "security": OPEN,
                "responses": {"200": gives("It does", record({"status": {"const": "live"}}, ("status",)))},
            }
        },
        "/health/ready": {
            "get": {
                "operationId": "isReady",
                "tags": ["platform"],
                "summary": "Whether calls can be served, and which dependency is away",
                "security": OPEN,
                "responses": {
                    "200": gives("`ready`, or `degraded`: not all calls, or not as they should be", ref("Readiness")),
                    str(Unavailable.status): gives("`unavailable`: no call can be served", ref("Readiness")),
                },
            }
        },
        "/metrics": {
            "get": {
                "operationId": "readMetrics",
                "tags": ["platform"],
                "summary": "What this replica counts, for Prometheus",
                "security": OPEN,
                "responses": {"200": answers("The exposition format", {"text/plain": {"schema": STRING}})},
            }
        },
        "/openapi.json": {
            "get": {**description, "operationId": "describe", "summary": "The description of this endpoint"}
        },
        "/v1/openapi.json": {
            "get": {**description, "operationId": "describeV1", "summary": "The same, below the base of the clients"}
        },
    }
