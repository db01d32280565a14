"""A stored file: what clients see of it, and what the gateway and the control plane tell each other about it.

Invariants
1. A file is visible only in the state ``stored``, which it reaches once all its bytes are in the object store.
2. A row outlives its bytes: it is made before the first byte is written and goes after the last one is removed.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Purpose = Literal["assistants", "batch", "user_data", "vision", "evals"]
"""What a client may upload a file for."""

StoredPurpose = Literal["assistants", "batch", "user_data", "vision", "evals", "batch_output"]
"""``batch_output`` is written by the platform alone."""

FileState = Literal["uploading", "stored", "deleted"]

FILENAME_LENGTH_MAX = 255
EXPIRY_SECONDS_MIN = 3_600
EXPIRY_SECONDS_MAX = 2_592_000
LEASE_SECONDS_MAX = 7 * 86_400
LIST_MAX = 10_000
PLACES_MAX = 1_000


class FileObject(BaseModel):
    """OpenAI's file object, with the digest beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix seconds")
    expires_at: int | None = Field(description="Unix seconds; None where it is kept until it is deleted")
    filename: str
    purpose: StoredPurpose
    status: Literal["processed"] = "processed"
    sha256: str = Field(description="Of the content, hex")


class UploadStart(BaseModel):
    """A file is about to be written. Not complete after ``lease_seconds``, it is taken for abandoned."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lease_seconds: float = Field(gt=0, le=LEASE_SECONDS_MAX)


class UploadEnd(BaseModel):
    """All bytes are in the store. ``expires_after_seconds`` None: as the purpose has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filename: Annotated[str, Field(min_length=1, max_length=FILENAME_LENGTH_MAX)]
    purpose: StoredPurpose
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    expires_after_seconds: int | None = Field(default=None, ge=EXPIRY_SECONDS_MIN, le=EXPIRY_SECONDS_MAX)


class FilePlace(BaseModel):
    """Where a file's bytes are, whoever owns it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    organisation_id: str
    id: str


class SweepOrder(BaseModel):
    """Asks for files whose bytes must go; each is given to one asker for ``lease_seconds``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int = Field(ge=1, le=PLACES_MAX)
    lease_seconds: float = Field(gt=0, le=LEASE_SECONDS_MAX)


class FilePlaces(BaseModel):
    """Files of any organisation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Annotated[tuple[FilePlace, ...], Field(max_length=PLACES_MAX)]
