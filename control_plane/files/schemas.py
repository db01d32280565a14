"""Queries and answers: files."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from control_plane.database import unix_seconds
from control_plane.files.tables import File
from control_plane.pages import CURSOR_LENGTH_MAX
from models.files import LIST_MAX, FileObject


class FileQuery(BaseModel):
    """Which part of a project's files, as OpenAI's clients ask for it."""

    model_config = ConfigDict(frozen=True)

    limit: int = Field(default=LIST_MAX, ge=1, le=LIST_MAX)
    after: str | None = Field(default=None, min_length=1, max_length=CURSOR_LENGTH_MAX)
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = Field(default=None, min_length=1, max_length=64)


def view(row: File) -> dict[str, Any]:
    """The fields of a ``FileObject`` of a stored file; not validated once more, for a list may hold 10,000."""
    fields = {name: getattr(row, name, None) for name in FileObject.model_fields}
    return {
        **fields,
        "object": "file",
        "status": "processed",
        "created_at": unix_seconds(row.created_at),
        "expires_at": unix_seconds(row.expires_at) if row.expires_at else None,
    }
