"""What the adapter of one hosted provider is told."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class HostedConfig(BaseModel):
    """``options`` are further arguments of the model class's constructor, in its own words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    model_class: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="package.module:Class")
    base_url: str | None = None
    api_key: SecretStr | None = None
    options: Mapping[str, Any] = Field(default={}, repr=False)
    body_bytes_max: int = Field(default=10 * 1024 * 1024, ge=1)
    idle_seconds_max: float = Field(default=300.0, gt=0, description="Between two reads of the provider's answer")
    seconds_max: float = Field(default=3_600.0, gt=0, description="One call, from the first byte to the last")
    models_max: int = Field(default=128, ge=1, description="Configured models kept, one for each set of parameters")
