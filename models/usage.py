"""Metering nouns: token counts in disjoint buckets, and the one immutable record of one metered call.

Invariants
1. ``event_id`` is unique per call and made by the gateway: the ledger's uniqueness rests on it alone.
2. Money is integer micro-units of the price book's currency; a fraction of a micro-unit rounds up, once a call.
3. ``source`` says how the tokens are known: ``provider`` (the upstream's own figure), ``counted`` (we counted the
   stream), ``estimated`` (neither was possible).
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

UsageSource = Literal["provider", "counted", "estimated"]
CallStatus = Literal["ok", "error", "client_gone", "upstream_lost", "gateway_lost"]
CallKind = Literal["chat", "completion", "embedding", "rerank", "agent"]

TOKENS_PER_PRICE = 1_000_000


class TokenUsage(BaseModel):
    """Disjoint token buckets; ``prompt`` excludes ``cached``, ``completion`` excludes ``reasoning``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: int = Field(default=0, ge=0)
    cached: int = Field(default=0, ge=0)
    completion: int = Field(default=0, ge=0)
    reasoning: int = Field(default=0, ge=0)

    @property
    def total(self) -> int:
        """All tokens of the call."""
        return self.prompt + self.cached + self.completion + self.reasoning


class Price(BaseModel):
    """Micro-units a million tokens, from a date on (UTC, ISO 8601)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    prompt_micro: int = Field(ge=0)
    cached_micro: int = Field(ge=0)
    completion_micro: int = Field(ge=0)

    def cost_micro(self, usage: TokenUsage) -> int:
        """The call's cost, rounded up to a whole micro-unit."""
        scaled = (
            usage.prompt * self.prompt_micro
            + usage.cached * self.cached_micro
            + (usage.completion + usage.reasoning) * self.completion_micro
        )
        return -(-scaled // TOKENS_PER_PRICE)


class UsageEvent(BaseModel):
    """One metered call. Times are Unix milliseconds, UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: str
    request_id: str
    parent_request_id: str | None = None
    organisation_id: str
    project_id: str
    api_key_id: str
    kind: CallKind
    model: str
    upstream: str
    own_key: bool = Field(default=False, description="Called under the organisation's own key at the upstream")
    status: CallStatus
    http_status: int
    streamed: bool
    usage: TokenUsage
    source: UsageSource
    cost_micro: int = Field(ge=0)
    price_since: str | None = None
    started_at_ms: int
    first_token_ms: int | None = Field(default=None, description="Milliseconds from the start to the first token")
    duration_ms: int = Field(ge=0)
