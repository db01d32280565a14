"""Bodies and answers: agents and their versions."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from control_plane.agents.tables import Agent, AgentVersion
from control_plane.database import BIGINT_MAX, unix_seconds
from control_plane.fields import Body, Name
from models.agents import SLUG_PATTERN, AgentSpec

Version = Annotated[int, Field(ge=1, le=BIGINT_MAX)]
SPEC_EXAMPLE = {
    "instructions": "Answer from the handbook, briefly.",
    "model": "smollm2-135m-instruct",
    "knowledge_base_id": "kb_0199…",
}


class AgentCreate(Body):
    """A new agent, without versions. It will answer as the model ``agent/<slug>``."""

    model_config = ConfigDict(json_schema_extra={"example": {"slug": "handbook", "name": "Handbook"}})

    slug: str = Field(pattern=SLUG_PATTERN)
    name: Name


class Publish(Body):
    """Which version answers from now on: a later one, or an earlier one to roll back."""

    version: Version


class AgentView(BaseModel):
    """An agent."""

    object: Literal["agent"] = "agent"
    id: str
    organisation_id: str
    slug: str
    name: str
    model: str = Field(description="Its id on /v1/models, once published")
    latest_version: int = Field(description="0 before the first version")
    published_version: int | None
    published_at: int | None
    created_at: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: Agent) -> Self:
        """As the API shows it."""
        return cls(
            id=row.id,
            organisation_id=row.organisation_id,
            slug=row.slug,
            name=row.name,
            model=f"agent/{row.slug}",
            latest_version=row.latest_version,
            published_version=row.published_version,
            published_at=unix_seconds(row.published_at) if row.published_at else None,
            created_at=unix_seconds(row.created_at),
        )


class AgentVersionView(BaseModel):
    """One version; it never changes."""

    object: Literal["agent_version"] = "agent_version"
    agent_id: str
    version: int
    spec: AgentSpec
    created_at: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: AgentVersion) -> Self:
        """As the API shows it."""
        return cls(
            agent_id=row.agent_id,
            version=row.number,
            spec=AgentSpec.model_validate(row.spec),
            created_at=unix_seconds(row.created_at),
        )
