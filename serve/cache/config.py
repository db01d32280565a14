"""What the cache may keep, for how long, and what a hit costs."""

import math
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field

MILLION = 1_000_000
DAY_SECONDS = 86_400


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelCache(_Frozen):
    """A served model whose answers are kept without being asked; ``hit_price_ratio`` is the cache's where not set."""

    ttl_seconds: int = Field(ge=1)
    hit_price_ratio: Decimal | None = Field(default=None, ge=0, le=1)


class CacheConfig(_Frozen):
    """The cache of all gateway replicas, in Redis."""

    ttl_seconds: int = Field(default=3_600, ge=1, description="Of a request that names no time")
    ttl_seconds_max: int = Field(default=7 * DAY_SECONDS, ge=1, description="That a request may name")
    hit_price_ratio: Decimal = Field(default=Decimal(0), ge=0, le=1, description="Of what the answer would cost today")
    answer_bytes_max: int = Field(default=1024 * 1024, ge=1, description="A larger answer is not kept")
    organisation_bytes_max: int = Field(default=64 * 1024 * 1024, ge=1)
    bytes_max: int = Field(default=256 * 1024 * 1024, ge=1, description="Of all organisations")
    redis_seconds_max: float = Field(default=0.5, gt=0, description="Longest wait of a call for a stored answer")


def millionths(ratio: Decimal) -> int:
    """A ratio as an integer; what is finer is rounded up."""
    return math.ceil(ratio * MILLION)
