"""What the gateway is told: where its neighbours are, what it serves, and every limit it keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from models.catalogue import CatalogueEntry
from serve.cache.config import CacheConfig, ModelCache
from serve.privacy.config import PrivacyConfig


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Upstream(_Frozen):
    """An OpenAI-dialect HTTP server. ``internal`` ones are ours: they get the cluster secret and vLLM's extras.

    ``own``: no engine but an application of ours: it renders our error tree and takes none of vLLM's extras.

    ``hosted``: a provider's, called under an organisation's own key where it has one; see ``serve.credentials``.
    ``shared``: calls of organisations without one may go on the platform's account. ``headers`` go with that alone.
    """

    name: str = Field(min_length=1)
    base_url: str = Field(description="Up to and without /v1")
    api_key: SecretStr | None = None
    headers: Mapping[str, SecretStr] = {}
    internal: bool = False
    own: bool = False
    hosted: bool = False
    shared: bool = True
    concurrency: int | None = Field(default=None, ge=1, description="Calls at once of a replica; others wait here")


class Place(_Frozen):
    """A further place where a model answers. ``weight``: against the model's own upstream, which has 1."""

    upstream: Upstream
    upstream_model: str | None = Field(default=None, min_length=1, description="Its name there, where it differs")
    weight: float = Field(default=1.0, ge=0.01, le=100)


MidStream = Literal["error", "restart", "continue"]
MID_STREAM: tuple[MidStream, ...] = ("error", "restart", "continue")


class RouteTimeouts(_Frozen):
    """A served model's own ``Timeouts``; None: the gateway's."""

    connect_seconds: float | None = Field(default=None, gt=0)
    first_byte_seconds: float | None = Field(default=None, gt=0)
    idle_seconds: float | None = Field(default=None, gt=0)
    total_seconds: float | None = Field(default=None, gt=0)


class RoutePolicy(_Frozen):
    """How the calls of a served model are treated; see ``serve.policies``.

    ``mid_stream``: what becomes of a stream that breaks after its client has read of it. ``continue`` where it is
    sound, elsewhere ``mid_stream_else``. ``restart`` is for routes whose clients know the event ``objecta.replace``.
    """

    mid_stream: MidStream = "error"
    mid_stream_else: Literal["error", "restart"] = "error"
    resumes_max: int = Field(default=1, ge=0, le=5, description="Broken streams resumed in one call")
    client_gone: Literal["abort", "drain"] = "abort"
    drain_seconds_max: float = Field(default=60.0, gt=0, description="Reading for a client that has left")
    timeouts: RouteTimeouts = RouteTimeouts()


class ModelRoute(_Frozen):
    """A served model and who answers for it; ``fallbacks`` are the served models that may answer in its place.

    ``others`` are further places of the same model. ``choose`` says how one is chosen; see ``serve.balance``.
    """

    entry: CatalogueEntry
    upstream: Upstream
    fallbacks: tuple[str, ...] = ()
    others: tuple[Place, ...] = ()
    cache: ModelCache | None = Field(default=None, description="Its answers are kept without being asked")
    choose: Literal["latency", "prefix"] = "latency"
    policy: RoutePolicy = RoutePolicy()

    @model_validator(mode="after")
    def _places_differ(self) -> Self:
        named = [(self.upstream.name, self.entry.upstream_model)]
        named += [(place.upstream.name, place.upstream_model or self.entry.upstream_model) for place in self.others]
        if len(set(named)) < len(named):
            raise ValueError(f"places of {self.entry.id!r}: one is named twice")
        return self


class RetryPolicy(_Frozen):
    """How many calls that failed elsewhere an upstream is asked to answer; see ``serve.retries``."""

    share: float = Field(default=0.2, ge=0, le=10, description="Of the calls that it is asked first")
    per_second: float = Field(default=5.0, ge=0, description="Beside them")
    seconds: float = Field(default=10.0, ge=1, le=60, description="How long either is remembered")


class CircuitPolicy(_Frozen):
    """When an upstream that is not ours is left alone; see ``serve.circuit``."""

    failures: int = Field(default=5, ge=1, description="In a row")
    rest_seconds: float = Field(default=1.0, gt=0, description="The first time; it doubles with each failed probe")
    rest_seconds_max: float = Field(default=30.0, gt=0)


class Timeouts(_Frozen):
    """Seconds to wait for an upstream. A whole answer comes with its first byte, so that wait is long."""

    connect_seconds: float = Field(default=5.0, gt=0)
    first_byte_seconds: float = Field(default=600.0, gt=0)
    idle_seconds: float = Field(default=120.0, gt=0, description="Between two reads of an answer")
    total_seconds: float = Field(default=3_600.0, gt=0)
    doubt_seconds: float = Field(default=2.0, gt=0, description="Wait for a first byte until our upstream is asked")
    probe_seconds: float = Field(default=2.0, gt=0, description="For an upstream to say how it is")


class Queueing(_Frozen):
    """What waits for an upstream that takes a bounded number of calls at once; see ``serve.queueing``."""

    waiting_max: int = Field(default=1_000, ge=1, description="Calls of one class at one upstream, in a replica")
    live_seconds_max: float = Field(default=120.0, gt=0, description="A wait that is too long")
    patient_seconds_max: float = Field(default=600.0, gt=0, description="The same for flex calls and batch lines")
    low_share: float = Field(default=0.05, ge=0, le=1, description="Tokens a waiting class earns by one above it")
    batch_beside: int = Field(default=8, ge=1, description="Other calls that one batch line may run beside")
    batch_alone: float = Field(default=0.5, gt=0, le=1, description="Share of the places batch lines may take alone")


class KeyCache(_Frozen):
    """How long an authenticated key is believed; invalidation shortens it, an absent control plane stretches it."""

    entries_max: int = Field(default=10_000, ge=1)
    age_seconds_max: float = Field(default=60.0, gt=0)
    unheard_seconds_max: float = Field(default=1.0, gt=0, description="Age while invalidations cannot be heard")
    refused_seconds_max: float = Field(default=2.0, ge=0, description="How long a wrong key is remembered")
    stale_seconds_max: float = Field(default=3_600.0, ge=0, description="Age while the control plane is away")
    ask_seconds_max: float = Field(default=2.0, gt=0)
    asks_max: int = Field(default=32, ge=1, description="Questions to the control plane at once")


class Bounds(_Frozen):
    """How a call is bounded that does not bound itself."""

    completion_tokens: int = Field(default=4_096, ge=1, description="Of a call under a hard budget without a maximum")
    template_tokens: int = Field(default=1_024, ge=0, description="What a chat template may add to the request's words")


class RedisAwayPolicy(_Frozen):
    """What becomes of calls that Redis cannot admit: those with a hard budget, and the rest, in this replica alone."""

    hard_budgets: Literal["refuse", "pass"] = "refuse"
    requests_per_minute: int | None = Field(default=600, ge=1, description="Of one API key; None limits nothing")


class FileLimits(_Frozen):
    """What ``/v1/files`` takes."""

    bytes_max: int = Field(default=512 * 1024 * 1024, ge=1, description="Of one file")
    uploads_max: int = Field(default=32, ge=1, description="At once a replica; each holds a megabyte or two")
    threads: int = Field(default=16, ge=1, description="Calls of the object store at once a replica")
    upload_seconds_max: float = Field(default=3_600.0, gt=0)
    idle_seconds: float = Field(default=60.0, gt=0, description="Without a byte, coming or going")
    ask_seconds_max: float = Field(default=10.0, gt=0, description="For the control plane to say")
    sweep_seconds: float = Field(default=60.0, gt=0, description="Between two looks for bytes that must go")


class ResponsesConfig(_Frozen):
    """How responses are kept: a replica's word that it runs them, and its patience with the control plane."""

    lease_seconds: float = Field(default=15.0, gt=0, description="A response not heard of for so long is failed")
    beat_seconds: float = Field(default=2.0, gt=0, description="Between two words; a cancellation is noticed by then")
    ask_seconds_max: float = Field(default=5.0, gt=0)
    asks_max: int = Field(default=64, ge=1, description="Questions to the control plane at once")
    finish_seconds_max: float = Field(default=10.0, gt=0, description="Until an end not recorded is given up")
    background_max: int = Field(default=1_000, ge=1, description="Responses in the background of a replica")


class GatewayConfig(_Frozen):
    """Everything a gateway replica needs. Agents answer as the model ``agent/<slug>`` through ``agents``."""

    control_plane_url: str
    cluster_secret: SecretStr
    redis_url: SecretStr
    spool_folder: Path = Field(description="Usage events wait here while Redis is away; shared by a node's replicas")
    routes: tuple[ModelRoute, ...]
    aliases: Mapping[str, str] = Field(default={}, description="Further names of served models")
    agents: Upstream
    timeouts: Timeouts = Timeouts()
    retries: RetryPolicy = RetryPolicy()
    circuit: CircuitPolicy = CircuitPolicy()
    keys: KeyCache = KeyCache()
    responses: ResponsesConfig = ResponsesConfig()
    object_store: str | None = Field(default=None, description="A folder or s3://…; None: there are no files")
    files: FileLimits = FileLimits()
    bounds: Bounds = Bounds()
    byok_price_percent: int = Field(default=0, ge=0, le=100, description="Of a call under an organisation's own key")
    cache: CacheConfig | None = Field(default=CacheConfig(), description="Stored answers; None: there are none")
    privacy: PrivacyConfig = PrivacyConfig()
    redis_away: RedisAwayPolicy = RedisAwayPolicy()
    queueing: Queueing = Queueing()
    body_bytes_max: int = Field(default=10 * 1024 * 1024, ge=1)
    answer_bytes_max: int = Field(default=256 * 1024 * 1024, ge=1, description="Of an answer that is not streamed")
    redis_seconds_max: float = Field(default=0.5, gt=0, description="Longest wait of a call for Redis")
    redis_rest_seconds: float = Field(default=1.0, ge=0, description="How long Redis is left alone after it failed")
    drain_seconds: float = Field(default=1.0, gt=0, description="Between two tries to empty the spool")
