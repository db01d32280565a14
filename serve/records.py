"""One call's record, from its admission to the usage event; written as JSON without a model's validation in between.

``models.usage.UsageEvent`` is the shape; the tests hold the two together.
"""

import logging
import time
from dataclasses import dataclass, field

import orjson
from uuid_utils import uuid7

from models.identity import Principal
from models.usage import BUCKETS, CallKind, CallStatus, Price, TokenUsage, UsageSource
from serve.cache.replay import Replay
from serve.claims import NOTHING, Claim
from serve.policies import Stance
from serve.queueing_tiers import LIVE, Turn
from serve.routing import Target
from serve.usage import cost, estimated_prompt

CLIENT_GONE_STATUS = 499
LOST_STATUS = 503

logger = logging.getLogger(__name__)


# The less is known, the further on.
SOURCES: tuple[UsageSource, ...] = ("provider", "counted", "estimated")
NOTHING_USED = TokenUsage()


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the attempts that broke off in the middle of an answer came to, each at its own price."""

    usage: TokenUsage = NOTHING_USED
    source: UsageSource = "provider"
    cost_micro: int = 0


@dataclass(slots=True)
class Call:
    """``asked`` is the client's name for the model, ``model`` the one that answers, after ``attempts`` targets.

    ``price`` None: the call bears no price of its own (an agent's inner calls are billed as themselves).
    ``replay``: the stored answer that answers it; no upstream is asked then.

    ``stance``: what becomes of its stream if that breaks. ``earlier``: what the attempts before the present one came
    to; then ``usage`` and ``micro``, its cost, are sums over several prices, and the price noted is the present one's.
    """

    request_id: str
    parent_request_id: str | None
    principal: Principal
    kind: CallKind
    asked: str
    model: str
    upstream: str
    streamed: bool
    price: Price | None
    body_bytes: int
    context_window: int | None
    claim: Claim = NOTHING
    turn: Turn = LIVE
    attempts: int = 1
    upstream_model: str | None = None
    replay: Replay | None = None
    started: float = field(default_factory=time.monotonic)
    started_at_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    event_id: str = field(default_factory=lambda: f"evt_{uuid7().hex}")
    status: CallStatus = "error"
    http_status: int = 500
    usage: TokenUsage = field(default_factory=TokenUsage)
    source: UsageSource = "provider"
    first_token_ms: int | None = None
    reported: TokenUsage | None = None
    texts: int = 0
    own_key: bool = False
    micro: int = 0
    counted: bool = False
    stance: Stance | None = None
    earlier: Earlier | None = None

    def attempt(self, number: int, target: Target, body_bytes: int) -> None:
        """Note that another target answers from now on, at its own price."""
        self.attempts, self.body_bytes = number, body_bytes
        self.reported, self.texts, self.first_token_ms, self.counted = None, 0, None, False
        self.point(target)

    def point(self, target: Target) -> None:
        """Note whom the call is billed as."""
        self.model, self.upstream = target.name or self.asked, target.upstream.name
        self.upstream_model = target.model_there(self.asked)
        self.price, self.context_window = target.price(), target.context_window
        self.own_key = target.own_key is not None

    def bank(self) -> Earlier:
        """The present attempt has broken off: keep what it came to. Until there is another, that is the call's sum."""
        self.count()
        self.earlier = Earlier(self.usage, self.source, self.micro)
        self.reported, self.texts = None, 0
        return self.earlier

    def again(self, target: Target, body_bytes: int) -> None:
        """Another attempt follows one that was banked; the client has had its first token."""
        first = self.first_token_ms
        self.attempt(self.attempts + 1, target, body_bytes)
        self.first_token_ms = first

    def elapsed_ms(self) -> int:
        """Milliseconds since the start."""
        return int((time.monotonic() - self.started) * 1_000)

    def first_token(self, at: float | None) -> None:
        """Note when the first token came, in monotonic seconds."""
        if at is not None and self.first_token_ms is None:
            self.first_token_ms = int((at - self.started) * 1_000)

    def end(self, status: CallStatus, http_status: int) -> None:
        """Note how it ended."""
        self.status = status
        self.http_status = http_status

    def count(self) -> None:
        """Settle the usage: as reported, else a token for each chunk with text and an estimated prompt.

        A call that failed without a token costs nothing. A second time does nothing.
        """
        if self.counted:
            return
        self.counted = True
        if self.reported is not None:
            self.usage = self.reported
            self.source = "estimated" if self.reported.doubtful else "provider"
            if self.reported.doubtful:
                logger.warning("%s: upstream %s contradicts itself about its usage", self.event_id, self.upstream)
        elif self.texts or self.status in {"ok", "client_gone"}:
            prompt = estimated_prompt(self.body_bytes, self.context_window)
            self.usage = TokenUsage(prompt=prompt, completion=self.texts)
            self.source = "counted" if self.texts else "estimated"
        else:
            self.usage, self.source = NOTHING_USED, "provider"
        self.micro = cost(self.price, self.usage)
        if self.earlier is not None:
            self._with(self.earlier)

    def tokens(self) -> int:
        """What counts against tokens a minute: a stored answer takes none."""
        return self.usage.total if self.replay is None else 0

    def cost_micro(self) -> int:
        """What it cost, once it is counted."""
        return self.micro

    def _with(self, earlier: Earlier) -> None:
        self.usage = added(earlier.usage, self.usage)
        self.micro += earlier.cost_micro
        self.source = SOURCES[max(SOURCES.index(earlier.source), SOURCES.index(self.source))]

    def opening(self) -> bytes:
        """What is known at admission: the event of a call whose gateway dies, its prompt estimated."""
        prompt = TokenUsage(prompt=estimated_prompt(self.body_bytes, self.context_window))
        return self._dump("gateway_lost", LOST_STATUS, prompt, "estimated", 0, cost(self.price, prompt))

    def event(self) -> bytes:
        """The UsageEvent as JSON."""
        return self._dump(self.status, self.http_status, self.usage, self.source, self.elapsed_ms(), self.micro)

    def _dump(
        self,
        status: CallStatus,
        http_status: int,
        usage: TokenUsage,
        source: UsageSource,
        duration_ms: int,
        cost_micro: int,
    ) -> bytes:
        principal = self.principal
        return orjson.dumps(
            {
                "event_id": self.event_id,
                "request_id": self.request_id,
                "parent_request_id": self.parent_request_id,
                "organisation_id": principal.organisation_id,
                "project_id": principal.project_id,
                "api_key_id": principal.api_key_id,
                "kind": self.kind,
                "model": self.model,
                "upstream": self.upstream,
                "own_key": self.own_key,
                "upstream_model": self.upstream_model,
                "from_cache": self.replay is not None,
                "status": status,
                "http_status": http_status,
                "streamed": self.streamed,
                "usage": {
                    "prompt": usage.prompt,
                    "cached": usage.cached,
                    "completion": usage.completion,
                    "reasoning": usage.reasoning,
                    "cache_write": usage.cache_write,
                    "audio_prompt": usage.audio_prompt,
                    "audio_completion": usage.audio_completion,
                },
                "source": source,
                "cost_micro": cost_micro,
                "price_since": self.price.since if self.price else None,
                "started_at_ms": self.started_at_ms,
                "first_token_ms": self.first_token_ms,
                "duration_ms": duration_ms,
            }
        )


def added(one: TokenUsage, other: TokenUsage) -> TokenUsage:
    """Bucket by bucket."""
    return TokenUsage(**{name: getattr(one, name) + getattr(other, name) for name in BUCKETS})
