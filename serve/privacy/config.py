"""What guarding may cost a replica."""

from pydantic import BaseModel, ConfigDict, Field


class PrivacyConfig(BaseModel):
    """Bounds of looking for personal data, and of keeping prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inline_bytes_max: int = Field(default=2_048, ge=0, description="A longer request is looked through in a thread")
    threads: int = Field(default=2, ge=1)
    scans_max: int = Field(default=256, ge=1, description="Requests in a thread, or waiting for one")
    scan_seconds_max: float = Field(default=5.0, gt=0, description="To look through one request")
    pattern_seconds_max: float = Field(default=0.1, gt=0, description="Of a project's own pattern in one text")

    queue_records_max: int = Field(default=2_000, ge=1, description="Prompts that wait to be kept; more are dropped")
    queue_bytes_max: int = Field(default=64 * 1024 * 1024, ge=1)
    answer_bytes_max: int = Field(default=1024 * 1024, ge=1, description="Of one answer, as it was streamed")
    record_characters_max: int = Field(default=65_536, ge=1, description="Kept of one request, and of one answer")
    post_seconds_max: float = Field(default=10.0, gt=0, description="For the control plane to keep what it is given")
    pause_seconds: float = Field(default=0.5, gt=0, description="Until it is asked again after it did not answer")
    close_seconds_max: float = Field(default=2.0, gt=0, description="For a replica that stops to hand over the rest")
