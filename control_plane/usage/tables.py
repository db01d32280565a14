"""Tables: the ledger of usage events and its two daily roll-ups.

None has a foreign key: a call that happened is recorded whatever became of its organisation.
"""

from datetime import date, datetime

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, numbered, utc_now
from control_plane.tenancy import TenantMarked


class UsageRow(TenantMarked, Base):
    """One ``models.usage.UsageEvent``, immutable; ``event_id`` makes it unique."""

    __tablename__ = "usage_events"
    __table_args__ = (
        Index(None, "organisation_id", "sequence"),
        Index(None, "organisation_id", "request_id"),
        Index(None, "organisation_id", "parent_request_id"),
    )

    event_id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = numbered()
    organisation_id: Mapped[str]
    project_id: Mapped[str]
    api_key_id: Mapped[str]
    request_id: Mapped[str]
    parent_request_id: Mapped[str | None]
    kind: Mapped[str]
    model: Mapped[str]
    upstream: Mapped[str]
    own_key: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    upstream_model: Mapped[str | None]
    from_cache: Mapped[bool] = mapped_column(server_default="false")
    status: Mapped[str]
    http_status: Mapped[int]
    streamed: Mapped[bool]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    cache_write_tokens: Mapped[int] = mapped_column(server_default="0")
    audio_prompt_tokens: Mapped[int] = mapped_column(server_default="0")
    audio_completion_tokens: Mapped[int] = mapped_column(server_default="0")
    source: Mapped[str]
    cost_micro: Mapped[int]
    price_since: Mapped[str | None]
    started_at_ms: Mapped[int]
    first_token_ms: Mapped[int | None]
    duration_ms: Mapped[int]
    received_at: Mapped[datetime] = mapped_column(default=utc_now)


class UsageDay(TenantMarked, Base):
    """Sums of one day (UTC, by the calls' start), written in the transaction that inserts the events."""

    __tablename__ = "usage_days"

    organisation_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    calls: Mapped[int]
    failed_calls: Mapped[int]
    cached_calls: Mapped[int] = mapped_column(server_default="0")
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    cache_write_tokens: Mapped[int] = mapped_column(server_default="0")
    audio_prompt_tokens: Mapped[int] = mapped_column(server_default="0")
    audio_completion_tokens: Mapped[int] = mapped_column(server_default="0")
    cost_micro: Mapped[int]


class UsageUpstreamDay(TenantMarked, Base):
    """Sums of one day by who answered and as which model there: what a provider's invoice is compared with.

    Without calls of agents and stored answers, which no provider bills.
    """

    __tablename__ = "usage_upstream_days"
    __table_args__ = (Index(None, "day"),)

    organisation_id: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    upstream: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    own_key: Mapped[bool] = mapped_column(primary_key=True)
    calls: Mapped[int]
    prompt_tokens: Mapped[int]
    cached_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    reasoning_tokens: Mapped[int]
    cache_write_tokens: Mapped[int]
    audio_prompt_tokens: Mapped[int]
    audio_completion_tokens: Mapped[int]
    cost_micro: Mapped[int]
