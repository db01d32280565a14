"""Who calls: the principal, as the control plane answers it and the gateway caches it."""

import base64
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.budgets import Budget
from models.privacy import Guards

Permission = Literal["prompts"]
"""What a key may do beside what its role lets it: ``prompts``, read and erase kept prompts."""

Role = Literal["admin", "member"]


class Limits(BaseModel):
    """Admission limits of one scope; ``None`` is unlimited. ``weight`` limits nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    concurrent_requests: int | None = Field(default=None, ge=1)
    weight: int | None = Field(
        default=None, ge=1, le=1_000, description="An organisation's share of a saturated upstream; that of others is 1"
    )

    @property
    def limiting(self) -> bool:
        """Whether anything is limited."""
        return bool(self.requests_per_minute or self.tokens_per_minute or self.concurrent_requests)


UNLIMITED = Limits()


class AgentRoute(BaseModel):
    """A published agent this principal may call as the model ``agent/<slug>``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent_id: str
    slug: str
    version: int
    published_at: int = Field(description="Unix seconds")

    @property
    def model_id(self) -> str:
        """The id on ``/v1/models``."""
        return f"agent/{self.slug}"


class Principal(BaseModel):
    """An authenticated caller: an API key (of a user or a service) inside one project of one organisation.

    ``allowed_models`` is ``None`` for all; otherwise exact model ids. Agents are listed by the control plane, so
    the request path never asks for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    organisation_id: str
    project_id: str
    api_key_id: str
    user_id: str | None = None
    role: Role = "member"
    permissions: tuple[Permission, ...] = ()
    expires_at: int | None = Field(default=None, description="Unix seconds; the key's expiry")
    allowed_models: tuple[str, ...] | None = None
    agents: tuple[AgentRoute, ...] = ()
    organisation_limits: Limits = UNLIMITED
    project_limits: Limits = UNLIMITED
    user_limits: Limits = UNLIMITED
    key_limits: Limits = UNLIMITED
    budgets: tuple[Budget, ...] = ()
    guards: Guards | None = None

    @property
    def limited(self) -> bool:
        """Whether any limit or budget counts its calls."""
        return bool(
            self.budgets
            or self.organisation_limits.limiting
            or self.project_limits.limiting
            or self.user_limits.limiting
            or self.key_limits.limiting
        )

    @property
    def under_hard_budget(self) -> bool:
        """Whether a budget may refuse its calls."""
        return any(budget.hard for budget in self.budgets)

    def may_use(self, model_id: str) -> bool:
        """Whether the key's model list admits ``model_id``."""
        return self.allowed_models is None or model_id in self.allowed_models

    def agent(self, model_id: str) -> AgentRoute | None:
        """The published agent behind a model id, if this principal has it."""
        return next((agent for agent in self.agents if agent.model_id == model_id), None)

    def to_header(self) -> str:
        """The value of ``PRINCIPAL_HEADER``, which counts only beside the cluster secret: base64url of the JSON."""
        return base64.urlsafe_b64encode(self.model_dump_json(exclude_defaults=True).encode()).decode()

    @classmethod
    def from_header(cls, value: str) -> "Principal":
        """The inverse of ``to_header``. Raises ValueError where the value is not one."""
        return cls.model_validate_json(base64.urlsafe_b64decode(value))
