"""Field types that request bodies share: bounded, so that nothing absurd reaches a column."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from control_plane.database import unix_seconds, utc_now
from models.identity import Limits

LIMIT_MAX = 1_000_000_000
YEAR_9999 = 253_402_300_799


class Body(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


def _bounded(limits: Limits) -> Limits:
    for name, value in limits.model_dump().items():
        if value is not None and value > LIMIT_MAX:
            raise ValueError(f"{name} must not exceed {LIMIT_MAX}")
    return limits


def _without_weight(limits: Limits) -> Limits:
    if limits.weight is not None:
        raise ValueError("weight is an organisation's")
    return limits


def _to_come(seconds: int) -> int:
    if seconds <= unix_seconds(utc_now()):
        raise ValueError("must lie in the future")
    return seconds


Name = Annotated[str, Field(min_length=1, max_length=200)]
OrganisationLimits = Annotated[Limits, AfterValidator(_bounded)]
BoundedLimits = Annotated[OrganisationLimits, AfterValidator(_without_weight)]
Expiry = Annotated[int, Field(le=YEAR_9999, description="Unix seconds"), AfterValidator(_to_come)]
ModelId = Annotated[str, Field(min_length=1, max_length=200)]
Email = Annotated[str, Field(max_length=254, pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")]
