"""``/v1/files`` and ``/v1/batches``: their objects are the models that gateway and control plane share."""

from typing import get_args

from models.batches import LIST_MAX as BATCHES_MAX
from models.batches import WINDOW, BatchCreate
from models.errors import BodyTooLarge, Conflict, InvalidRequest, NotFound, RateLimited, UnsupportedMedia
from models.files import EXPIRY_SECONDS_MAX, EXPIRY_SECONDS_MIN, LIST_MAX, FileObject, StoredPurpose
from serve.batches.app import BATCH_ID
from serve.files.app import FILE_ID
from serve.files.fields import ANCHOR, FILE, PURPOSE, PURPOSES, SECONDS
from serve.files.form import FORM_TYPE
from serve.openapi.errors import ALWAYS, Kind, refusals
from serve.openapi.parts import (
    ANYTHING,
    COUNT,
    INTEGER,
    OWN_HEADERS,
    STRING,
    TIME,
    Object,
    answers,
    array,
    bounded,
    deleted,
    gives,
    in_header,
    in_path,
    in_query,
    list_of,
    nullable,
    one_of,
    record,
    ref,
    said,
    takes,
)

BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
BATCH_TIMES = ("in_progress_at", "finalizing_at", "completed_at", "failed_at")
BATCH_ENDS = ("expired_at", "cancelling_at", "cancelled_at")
BATCH_STATES = (
    *("validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"),
)
TAGS = ("files", "batches")


def schemas() -> Object:
    """Requests and answers by name."""
    error = record({"code": STRING, "message": STRING, "param": nullable(STRING), "line": nullable(INTEGER)})
    return {
        "FileForm": record(
            {
                FILE: {"type": "string", "format": "binary", "description": "The bytes, sent with a filename"},
                PURPOSE: one_of(PURPOSES),
                ANCHOR: said(one_of(("created_at",)), "From when the seconds count. Only with them"),
                SECONDS: said(bounded(EXPIRY_SECONDS_MIN, EXPIRY_SECONDS_MAX), "After which the file is deleted"),
            },
            (FILE, PURPOSE),
            closed=True,
        ),
        "File": FileObject.model_json_schema(mode="serialization"),
        "BatchRequest": BatchCreate.model_json_schema(),
        "Batch": record(
            {
                "id": STRING,
                "object": {"const": "batch"},
                "endpoint": STRING,
                "model": nullable(STRING),
                "errors": nullable(record({"object": {"const": "list"}, "data": array(error)})),
                "input_file_id": STRING,
                "completion_window": STRING,
                "status": one_of(BATCH_STATES),
                "output_file_id": nullable(STRING),
                "error_file_id": nullable(STRING),
                "created_at": TIME,
                "expires_at": TIME,
                **{name: nullable(TIME) for name in (*BATCH_TIMES, *BATCH_ENDS)},
                "request_counts": record({"total": COUNT, "completed": COUNT, "failed": COUNT}, closed=True),
                "metadata": nullable(ANYTHING),
            },
            (
                "id",
                "object",
                "endpoint",
                "input_file_id",
                "completion_window",
                "status",
                "created_at",
                "request_counts",
            ),
        ),
    }


def _operation(name: str, tag: str, summary: str, success: Object, *kinds: Kind) -> Object:
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "responses": {"200": success, **refusals(*ALWAYS, *kinds)},
    }


def _pages(limit_max: int) -> list[Object]:
    return [
        in_query("limit", "How many at a time", bounded(1, limit_max)),
        in_query("after", "`last_id` of the part before", {"type": "string", "minLength": 1}),
    ]


def files() -> Object:
    """The addresses of files."""
    upload = _operation(
        "createFile",
        "files",
        "Send a file",
        gives("The file", ref("File"), OWN_HEADERS),
        *(InvalidRequest, Conflict, BodyTooLarge, UnsupportedMedia, RateLimited),
    )
    listing = _operation(
        "listFiles", "files", "A project's files", gives("A part", list_of(ref("File")), OWN_HEADERS), InvalidRequest
    )
    narrower = [
        in_query("order", "By creation; `desc` where it is not said", one_of(("asc", "desc"))),
        in_query("purpose", "Only files of this purpose", one_of(get_args(StoredPurpose))),
    ]
    one = gives("The file", ref("File"), OWN_HEADERS)
    content = _operation("readFile", "files", "A file's bytes", answers("All of them", BYTES, OWN_HEADERS), NotFound)
    content["parameters"] = [in_header("range", "One range of bytes, such as `bytes=0-99`", STRING)]
    content["responses"]["206"] = answers("The range", BYTES, OWN_HEADERS)
    path = [in_path("file_id", "A file's id", pattern=f"^{FILE_ID.pattern}$")]
    return {
        "/v1/files": {
            "get": {**listing, "parameters": [*_pages(LIST_MAX), *narrower]},
            "post": {**upload, "requestBody": takes(ref("FileForm"), kind=FORM_TYPE.decode())},
        },
        "/v1/files/{file_id}": {
            "parameters": path,
            "get": _operation("retrieveFile", "files", "What is known of a file", one, NotFound),
            "delete": _operation(
                "deleteFile", "files", "Delete a file", gives("Done", deleted("file"), OWN_HEADERS), NotFound
            ),
        },
        "/v1/files/{file_id}/content": {"parameters": path, "get": content},
    }


def batches() -> Object:
    """The addresses of batches."""
    one = gives("The batch", ref("Batch"), OWN_HEADERS)
    every = gives("A part", list_of(ref("Batch")), OWN_HEADERS)
    path = [in_path("batch_id", "A batch's id", pattern=f"^{BATCH_ID.pattern}$")]
    example = {"input_file_id": "file-0199…", "endpoint": "/v1/chat/completions", "completion_window": WINDOW}
    create = _operation("createBatch", "batches", "Have a file of requests done", one, InvalidRequest, BodyTooLarge)
    return {
        "/v1/batches": {
            "get": {
                **_operation("listBatches", "batches", "A project's batches, the newest first", every, InvalidRequest),
                "parameters": _pages(BATCHES_MAX),
            },
            "post": {**create, "requestBody": takes(ref("BatchRequest"), example)},
        },
        "/v1/batches/{batch_id}": {
            "parameters": path,
            "get": _operation("retrieveBatch", "batches", "One batch", one, NotFound),
        },
        "/v1/batches/{batch_id}/cancel": {
            "parameters": path,
            "post": _operation("cancelBatch", "batches", "End it; lines that are done stay", one, NotFound, Conflict),
        },
    }
