"""What an agent is: the immutable specification of one published version."""

from pydantic import BaseModel, ConfigDict, Field

SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$"


class AgentSpec(BaseModel):
    """One version's definition. Immutable: a change is a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instructions: str = Field(min_length=1, max_length=20_000)
    model: str = Field(min_length=1, max_length=200, description="A chat model's id in the catalogue")
    knowledge_base_id: str | None = None
    retrieve_limit: int = Field(default=4, ge=1, le=50, description="Passages given to the model")
    score_threshold: float = Field(default=0.3, ge=0.0, le=1.0, description="Least cosine similarity that counts")
    no_answer: str = Field(default="The knowledge base has no answer to that.", min_length=1, max_length=1_000)
    temperature: float = Field(default=0.0, ge=0.0, le=2.0)
    max_completion_tokens: int = Field(default=256, ge=1, le=32_768)


class PublishedAgent(BaseModel):
    """A version as the runtime fetches it; (``agent_id``, ``version``) identifies it for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent_id: str
    organisation_id: str
    slug: str
    version: int
    spec: AgentSpec
    embedding_model: str | None = Field(default=None, description="Of the knowledge base; embeds the query")
