"""Answers: usage events and their summary."""

from datetime import UTC, date, datetime
from typing import Literal, Self

from pydantic import BaseModel, Field

from control_plane.database import unix_seconds
from control_plane.pages import ListOf
from control_plane.usage.tables import UsageRow
from models.usage import BUCKETS, TokenUsage, UsageEvent

GroupBy = Literal["model", "project", "api_key", "day"]
TEXT_LENGTH_MAX = 500
NUMBER_MAX = 10**15
YEAR_9999_MS = 253_402_300_799_999
TOKENS = {name: f"{name}_tokens" for name in BUCKETS}


def parse_event(text: bytes) -> UsageEvent:
    """An event that the ledger can hold. Raises ValueError that says what is wrong with it."""
    event = UsageEvent.model_validate_json(text)
    for name, value in columns_of(event).items():
        if isinstance(value, str) and (len(value) > TEXT_LENGTH_MAX or "\0" in value):
            raise ValueError(f"{name} is too long or holds a NUL")
        if isinstance(value, int) and abs(value) > NUMBER_MAX:
            raise ValueError(f"{name} is absurd")
    if not 0 <= event.started_at_ms <= YEAR_9999_MS:
        raise ValueError("started_at_ms is no time")
    return event


def columns_of(event: UsageEvent) -> dict[str, str | int | bool | None]:
    """The event as a row of ``usage_events``."""
    row = dict(event)
    usage: TokenUsage = row.pop("usage")
    return row | {column: getattr(usage, name) for name, column in TOKENS.items()}


def day_of(event: UsageEvent) -> date:
    """The day (UTC) in which the call started."""
    return datetime.fromtimestamp(event.started_at_ms / 1_000, UTC).date()


class UsageEventView(UsageEvent):
    """One metered call."""

    object: Literal["usage.event"] = "usage.event"
    received_at: int = Field(description="Unix seconds; when the ledger took it in")

    @classmethod
    def of(cls, row: UsageRow) -> Self:
        """As the API shows it."""
        fields = {name: getattr(row, name) for name in UsageEvent.model_fields if name != "usage"}
        usage = TokenUsage(**{bucket: getattr(row, column) for bucket, column in TOKENS.items()})
        return cls.model_validate({**fields, "usage": usage, "received_at": unix_seconds(row.received_at)})


class Sums(BaseModel):
    """Sums over calls. Tokens exclude stored answers, and agents, whose inner calls are events of their own."""

    calls: int = Field(description="All calls, those of agents too")
    agent_calls: int = Field(description="Of these, calls of agents")
    failed_calls: int = Field(description="Of these, calls that did not end well")
    cached_calls: int = Field(description="Of these, calls that a stored answer answered")
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cache_write_tokens: int = Field(description="Written to a provider's cache")
    audio_prompt_tokens: int
    audio_completion_tokens: int
    cost_micro: int = Field(description="Micro-units of the price book's currency")


class UsageGroup(Sums):
    """Sums of one model, project, API key or day."""

    object: Literal["usage.group"] = "usage.group"
    key: str = Field(description="The model, the id, or the day (UTC)")


class UpstreamDay(BaseModel):
    """What one upstream did on one day (UTC) as one model, without calls of agents and stored answers."""

    object: Literal["usage.upstream_day"] = "usage.upstream_day"
    day: str
    upstream: str
    model: str = Field(description="The model's name at the upstream")
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cache_write_tokens: int
    audio_prompt_tokens: int
    audio_completion_tokens: int
    cost_micro: int = Field(description="Micro-units of the price book's currency")

    @property
    def key(self) -> str:
        """Its place in the list."""
        return f"{self.day}/{self.upstream}/{self.model}"


class UsageSummary(ListOf[UsageGroup]):
    """Sums by group, and over all groups."""

    group_by: GroupBy
    since: str | None
    until: str | None
    total: Sums
