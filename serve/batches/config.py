"""What the job of a batch is told."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class RunnerConfig(BaseModel):
    """Where the gateway, the control plane and the object store are, and how hard the job works."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateway_url: str
    control_plane_url: str
    cluster_secret: SecretStr
    object_store: str
    concurrency: int = Field(default=4, ge=1, description="Lines sent at once: few, for live calls come first")
    lines_a_begin: int = Field(default=8, ge=1, description="Lines begun together, sent one after the other")
    attempts_max: int = Field(default=6, ge=1, description="Of a line that upstreams fail")
    pause_seconds: float = Field(default=1.0, gt=0, description="Before the second attempt; doubles")
    pause_seconds_max: float = Field(default=30.0, gt=0)
    answer_seconds_max: float = Field(default=3_700.0, gt=0, description="For one line")
    ask_seconds_max: float = Field(default=30.0, gt=0, description="For the control plane to say")
    patience_seconds: float = Field(default=300.0, gt=0, description="With a control plane that is away")
    lease_seconds: float = Field(default=3_600.0, gt=0, description="To write the output files")
