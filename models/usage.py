"""Metering nouns: token counts in disjoint buckets, and the one immutable record of one metered call.

Invariants
1. ``event_id`` is unique per call and made by the gateway: the ledger's uniqueness rests on it alone.
2. Money is integer micro-units of the price book's currency; a fraction of a micro-unit rounds up, once a call.
3. ``source`` says how the tokens are known: ``provider`` (the upstream's own figure), ``counted`` (we counted the
   stream), ``estimated`` (neither was possible, or the upstream's figures contradict one another).
4. A token is in one bucket: a provider's details are parts of its sums, here they are apart.
"""

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

UsageSource = Literal["provider", "counted", "estimated"]
CallStatus = Literal["ok", "error", "client_gone", "upstream_lost", "gateway_lost"]
CallKind = Literal["chat", "completion", "embedding", "rerank", "agent"]

TOKENS_PER_PRICE = 1_000_000


class Parts(NamedTuple):
    """What a provider says that the sums of its usage hold."""

    cached: int = 0
    cache_write: int = 0
    audio_prompt: int = 0
    reasoning: int = 0
    audio_completion: int = 0


NO_PARTS = Parts()


class TokenUsage(BaseModel):
    """Disjoint token buckets: the first, third and fourth are what is left of the prompt and of the completion.

    ``prompt``: fresh text; ``cached``: read from the provider's cache; ``cache_write``: written to it. ``reasoning``:
    thought, not said. ``doubtful`` is no bucket: the upstream's figures contradict one another, these are our reading.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: int = Field(default=0, ge=0)
    cached: int = Field(default=0, ge=0)
    completion: int = Field(default=0, ge=0)
    reasoning: int = Field(default=0, ge=0)
    cache_write: int = Field(default=0, ge=0)
    audio_prompt: int = Field(default=0, ge=0)
    audio_completion: int = Field(default=0, ge=0)
    doubtful: bool = Field(default=False, exclude=True)

    @property
    def sent(self) -> int:
        """All tokens of the prompt."""
        return self.prompt + self.cached + self.cache_write + self.audio_prompt

    @property
    def made(self) -> int:
        """All tokens of the completion."""
        return self.completion + self.reasoning + self.audio_completion

    @property
    def total(self) -> int:
        """All tokens of the call."""
        return self.sent + self.made


def disjoint(prompt: int, completion: int, parts: Parts, total: int | None = None) -> TokenUsage:
    """A provider's sums and what it says they hold, as buckets whose sum is its ``total``.

    Reasoning is part of the completion, or beside it where only then the total is right. Where neither gives the total,
    or parts exceed their sum, the sums stand, the parts are cut to fit, and the usage is doubtful.
    """
    if total is not None and parts.reasoning and total == prompt + completion + parts.reasoning:
        completion += parts.reasoning
    cached = min(parts.cached, prompt)
    written = min(parts.cache_write, prompt - cached)
    heard = min(parts.audio_prompt, prompt - cached - written)
    thought = min(parts.reasoning, completion)
    spoken = min(parts.audio_completion, completion - thought)
    kept = (cached, written, heard, thought, spoken)
    return TokenUsage(
        prompt=prompt - cached - written - heard,
        cached=cached,
        completion=completion - thought - spoken,
        reasoning=thought,
        cache_write=written,
        audio_prompt=heard,
        audio_completion=spoken,
        doubtful=kept != parts or total not in {None, prompt + completion},
    )


SENT = ("prompt", "cached", "cache_write", "audio_prompt")
MADE = ("completion", "reasoning", "audio_completion")
BUCKETS = (*SENT, *MADE)


def _as_prompt(given: dict[str, Any]) -> int:
    return given["prompt_micro"]


def _as_completion(given: dict[str, Any]) -> int:
    return given["completion_micro"]


class Price(BaseModel):
    """Micro-units a million tokens, from a date on (UTC, ISO 8601).

    Where they are not set, a cache write and audio heard cost what fresh text costs, reasoning and audio made what the
    completion costs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    prompt_micro: int = Field(ge=0)
    cached_micro: int = Field(ge=0)
    completion_micro: int = Field(ge=0)
    cache_write_micro: int = Field(default_factory=_as_prompt, ge=0)
    audio_prompt_micro: int = Field(default_factory=_as_prompt, ge=0)
    reasoning_micro: int = Field(default_factory=_as_completion, ge=0)
    audio_completion_micro: int = Field(default_factory=_as_completion, ge=0)

    def cost_micro(self, usage: TokenUsage) -> int:
        """The call's cost, rounded up to a whole micro-unit."""
        scaled = (
            usage.prompt * self.prompt_micro
            + usage.cached * self.cached_micro
            + usage.cache_write * self.cache_write_micro
            + usage.audio_prompt * self.audio_prompt_micro
            + usage.completion * self.completion_micro
            + usage.reasoning * self.reasoning_micro
            + usage.audio_completion * self.audio_completion_micro
        )
        return -(-scaled // TOKENS_PER_PRICE)

    def part(self, millionths: int) -> "Price":
        """The price of what costs only a part; each figure rounded up."""
        figures = {name: getattr(self, name) for name in type(self).model_fields if name != "since"}
        return self.model_copy(update={name: -(-micro * millionths // 1_000_000) for name, micro in figures.items()})

    def most_micro(self, sent: int, made: int) -> int:
        """What that many tokens cost at most, whichever buckets they fall into."""
        dearest_sent = max(self.prompt_micro, self.cached_micro, self.cache_write_micro, self.audio_prompt_micro)
        dearest_made = max(self.completion_micro, self.reasoning_micro, self.audio_completion_micro)
        return -(-(sent * dearest_sent + made * dearest_made) // TOKENS_PER_PRICE)


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
    upstream_model: str | None = Field(default=None, description="The model's name there")
    from_cache: bool = Field(default=False, description="A stored answer: no upstream was asked")
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
