"""Queries and answers: batches."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from control_plane.batches.tables import Batch
from control_plane.database import unix_seconds
from control_plane.pages import CURSOR_LENGTH_MAX, LIMIT_DEFAULT
from models.batches import LIST_MAX, WINDOW

TIMES = (
    *("created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at"),
    *("failed_at", "expired_at", "cancelling_at", "cancelled_at"),
)


class BatchQuery(BaseModel):
    """Which part of a project's batches."""

    model_config = ConfigDict(frozen=True)

    limit: int = Field(default=LIMIT_DEFAULT, ge=1, le=LIST_MAX)
    after: str | None = Field(default=None, min_length=1, max_length=CURSOR_LENGTH_MAX)


def view(row: Batch) -> dict[str, Any]:
    """OpenAI's batch object."""
    times: dict[str, datetime | None] = {name: getattr(row, name) for name in TIMES}
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": row.input_file_id,
        "completion_window": WINDOW,
        "status": row.status,
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        **{name: unix_seconds(when) if when else None for name, when in times.items()},
        "request_counts": {"total": row.total, "completed": row.completed, "failed": row.failed},
        "metadata": row.labels,
    }
