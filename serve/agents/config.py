"""What the agent runtime is told."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class AgentRuntimeConfig(BaseModel):
    """Addresses are without a trailing slash; the gateway's is up to and without ``/v1``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateway_url: str
    control_plane_url: str
    cluster_secret: SecretStr
    body_bytes_max: int = Field(default=10 * 1024 * 1024, ge=1)
    seconds_max: float = Field(default=300.0, gt=0, description="One call, from the first byte to the last")
    connect_seconds_max: float = Field(default=5.0, gt=0)
    lookup_seconds_max: float = Field(default=20.0, gt=0, description="A version, an embedding or a search")
    steps_max: int = Field(default=12, ge=1, description="Nodes of the graph a call may run")
    versions_max: int = Field(default=256, ge=1, description="Agent versions kept compiled")
    prompt_characters_max: int = Field(default=6_000, ge=1, description="Passages given to the model, in all")
    connections_max: int = Field(default=1_024, ge=1)
