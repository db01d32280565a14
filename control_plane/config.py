"""What the control plane needs to know; composed by ``deployments``, read nowhere else."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from control_plane.credentials.sealing import raw_key

SECRET_LENGTH_MIN = 16


class OfferedUpstream(BaseModel):
    """A hosted upstream that organisations may bring credentials for; ``base_urls`` as in ``models.credentials``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    base_urls: tuple[str, ...] = ()


class ControlPlaneConfig(BaseModel):
    """The control plane's section. ``database_url``: libpq (``postgresql://``) or SQLAlchemy form."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: SecretStr
    redis_url: SecretStr
    cluster_secret: SecretStr
    operator_key: SecretStr
    key_pepper: SecretStr
    credential_key: SecretStr | None = Field(default=None, description="Wraps data keys; None: no credentials are kept")
    credential_keys_former: tuple[SecretStr, ...] = Field(default=(), description="Still open what they wrapped")
    upstreams: tuple[OfferedUpstream, ...] = ()

    jobs_url: str = Field(description="Ray's dashboard, which has the Jobs API; up to and without /api")
    jobs_token: SecretStr | None = None
    ingest_entrypoint: str = Field(min_length=1, description="Command that ingests; the ingestion's id is appended")
    ingest_cpus: float = Field(default=0.1, ge=0, description="CPU share reserved for the job's driver")
    ingestion_roots: tuple[Path, ...] = ()
    batch_entrypoint: str = Field(default="python -m deployments.batch", description="The batch and attempt follow")
    batch_attempts_max: int = Field(default=5, ge=1, description="Jobs of one batch that may die")
    batches_at_once: int = Field(default=2, ge=1, description="Batches that run at a time, of all organisations")

    chat_models: Annotated[tuple[str, ...], Field(description="Ids an agent may name")]
    embedding_models: Annotated[tuple[str, ...], Field(description="Ids a knowledge base may name")]

    database_connections: int = Field(default=10, ge=1, description="Kept open; as many again under load")
    statement_seconds_max: float = Field(default=10.0, gt=0)
    lock_seconds_max: float = Field(default=5.0, gt=0)
    connect_seconds_max: float = Field(default=5.0, gt=0, description="To PostgreSQL, Redis and the Jobs API")
    jobs_seconds_max: float = Field(default=15.0, gt=0, description="One call of the Jobs API")

    watch_seconds: float = Field(default=2.0, gt=0, description="Between two looks at running ingestions")
    submit_seconds_max: float = Field(default=300.0, gt=0, description="A job not submitted by then has failed")
    reap_seconds: float = Field(default=2.0, gt=0, description="Between two looks for calls of lost gateways")
    reap_grace_seconds: float = Field(default=10.0, ge=0, description="A replica stays lost so long before it counts")
    response_grace_seconds: float = Field(
        default=15.0, ge=0, description="From the start until responses of lost gateways are failed"
    )
    prompt_reap_seconds: float = Field(default=60.0, gt=0, description="Between two looks for kept prompts to erase")
    response_days: int = Field(default=30, ge=1, description="How long a response is kept")
    count_seconds: float = Field(default=30.0, gt=0, description="Between two counts of every budget in the ledger")
    claim_idle_seconds: float = Field(default=15.0, gt=0, description="An entry unacknowledged so long is taken over")
    restart_seconds_max: float = Field(default=5.0, gt=0, description="Longest pause before a crashed task restarts")

    @field_validator("cluster_secret", "operator_key", "key_pepper")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < SECRET_LENGTH_MIN:
            raise ValueError(f"must have at least {SECRET_LENGTH_MIN} characters")
        return value

    @field_validator("credential_key", "credential_keys_former")
    @classmethod
    def _are_keys(cls, value: SecretStr | tuple[SecretStr, ...] | None) -> SecretStr | tuple[SecretStr, ...] | None:
        for key in value if isinstance(value, tuple) else (value,):
            if key is not None:
                raw_key(key)
        return value
