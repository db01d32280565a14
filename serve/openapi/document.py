"""The document, put together out of its parts."""

from serve.openapi import anthropic, errors, files, inference, platform, stateful
from serve.openapi.inference import CALL_HEADERS
from serve.openapi.parts import STRING, Object, said

OPENAPI = "3.1.0"
VERSION = "1"
DESCRIPTION = """
One address for every model of the platform: self-hosted ones, hosted ones, and the organisation's own agents
(`agent/<slug>`). It speaks OpenAI's wire, and below `/v1/messages` Anthropic's; their official clients work with it.

Send `authorization: Bearer <key>`, or the key as `x-api-key`. Each answer bears `x-request-id`, which is the one that
was sent, where it is sane. Errors are the error object of the wire that was spoken, whatever went wrong.
"""
TAGS = {
    "inference": "Calls of a model, metered and billed",
    "messages": "The same on Anthropic's wire",
    "models": "What the key may use",
    "responses": "Answers that are kept",
    "conversations": "Items under one id, which responses build on and add to",
    "files": "Bytes that a project keeps",
    "batches": "Many requests in one file, done within a day at low priority",
    "platform": "How the endpoint is",
}
WORDS = {
    "x-request-id": "The call's id, to be named in a complaint",
    "openai-version": "Of the wire",
    "openai-organization": "The caller's organisation",
    "openai-processing-ms": "How long the call took",
    "x-objecta-model": "The model that answered",
    "x-objecta-upstream": "Who answered for it",
    "x-objecta-attempts": "How many were asked until one answered",
    "x-objecta-cost": "What the call cost, in micro-units",
    "x-objecta-cache": "`hit`: a stored answer; `miss`: looked for; `bypass`: not looked for",
    "retry-after": "In whole seconds",
    "retry-after-ms": "In milliseconds",
    "request-id": "The same, as Anthropic's clients know it",
    "anthropic-organization-id": "The caller's organisation",
    **{
        name: "Of the tightest limit that applies"
        for name in (*CALL_HEADERS, *anthropic.HEADERS)
        if "ratelimit" in name
    },
}


def document(*, with_files: bool) -> Object:
    """The description. ``with_files``: whether there is an object store, and so files and batches."""
    stored = {**files.files(), **files.batches()} if with_files else {}
    paths = {**inference.paths(), **anthropic.paths(), **stateful.paths(), **stored, **platform.paths()}
    more = files.schemas() if with_files else {}
    tags = {name: words for name, words in TAGS.items() if with_files or name not in files.TAGS}
    schemas = {**inference.schemas(), **anthropic.schemas(), **stateful.schemas(), **more, **platform.schemas()}
    return {
        "openapi": OPENAPI,
        "info": {"title": "ObjectaLabs inference endpoint", "version": VERSION, "description": DESCRIPTION.strip()},
        "tags": [{"name": name, "description": words} for name, words in tags.items()],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key of a project"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key"},
            },
            "headers": {name: {"schema": said(STRING, words)} for name, words in WORDS.items()},
            "schemas": {**schemas, **errors.schemas()},
            "responses": errors.components(),
        },
    }
