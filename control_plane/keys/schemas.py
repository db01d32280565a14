"""Bodies and answers: API keys."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from control_plane.database import unix_seconds
from control_plane.fields import Body, BoundedLimits, Expiry, ModelId, Name
from control_plane.keys.tables import ApiKey
from models.identity import Limits, Permission, Role

Permissions = Annotated[tuple[Permission, ...], Field(max_length=1, description="`prompts`: read kept prompts")]
AllowedModels = Annotated[tuple[ModelId, ...], Field(max_length=500)]


class ApiKeyCreate(Body):
    """A new key. ``allowed_models``: exact ids of models (agents: ``agent/<slug>``); null for all."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"name": "staging", "project_id": "proj_0199…", "allowed_models": ["smollm2-135m-instruct"]}
        }
    )

    name: Name
    project_id: str = Field(max_length=64)
    role: Role = "member"
    permissions: Permissions = ()
    user_id: str | None = Field(default=None, max_length=64)
    expires_at: Expiry | None = None
    allowed_models: AllowedModels | None = None
    limits: BoundedLimits = Limits()


class ApiKeyChange(Body):
    """What to change; fields left out stay. ``allowed_models``: null for all."""

    name: Name | None = None
    permissions: Permissions | None = None
    allowed_models: AllowedModels | None = None
    limits: BoundedLimits | None = None


class ApiKeyView(BaseModel):
    """A key, without what authenticates it."""

    object: Literal["api_key"] = "api_key"
    id: str
    organisation_id: str
    project_id: str
    user_id: str | None
    name: str
    prefix: str = Field(description="The key's visible beginning")
    role: str
    permissions: list[str]
    allowed_models: list[str] | None
    limits: Limits
    expires_at: int | None = Field(description="Unix seconds")
    revoked_at: int | None
    created_at: int

    @classmethod
    def of(cls, row: ApiKey) -> Self:
        """As the API shows it."""
        return cls(**view_fields(row))


class ApiKeyCreated(ApiKeyView):
    """The only answer that holds the key itself."""

    key: str = Field(description="Shown once; it cannot be had again")

    @classmethod
    def with_key(cls, row: ApiKey, key: str) -> Self:
        """As the API shows it once."""
        return cls(**view_fields(row), key=key)


def view_fields(row: ApiKey) -> dict[str, Any]:
    """The fields of ``ApiKeyView``."""
    return {
        "id": row.id,
        "organisation_id": row.organisation_id,
        "project_id": row.project_id,
        "user_id": row.user_id,
        "name": row.name,
        "prefix": row.prefix,
        "role": row.role,
        "permissions": row.permissions,
        "allowed_models": row.allowed_models,
        "limits": Limits.model_validate(row.limits),
        "expires_at": unix_seconds(row.expires_at) if row.expires_at else None,
        "revoked_at": unix_seconds(row.revoked_at) if row.revoked_at else None,
        "created_at": unix_seconds(row.created_at),
    }


class Authenticate(Body):
    """What a gateway asks: whose key is this?"""

    model_config = ConfigDict(str_strip_whitespace=False)

    api_key: str
