"""Bodies and answers: organisations, projects, users."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from control_plane.database import unix_seconds
from control_plane.fields import Body, BoundedLimits, Email, Name, OrganisationLimits
from control_plane.tenants.tables import Organisation, Project, User
from models.identity import Limits


class OrganisationCreate(Body):
    """A new tenant; it comes with a first project and an admin key."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": "Acme", "limits": {"requests_per_minute": 600}}})

    name: Name
    limits: OrganisationLimits = Limits()


class OrganisationChange(Body):
    """What to change; fields left out stay. ``limits`` and ``archived`` are the operator's."""

    name: Name | None = None
    limits: OrganisationLimits | None = None
    archived: bool | None = Field(default=None, description="An archived organisation's keys are disabled")


class OrganisationView(BaseModel):
    """A tenant."""

    object: Literal["organisation"] = "organisation"
    id: str
    name: str
    limits: Limits
    archived_at: int | None
    created_at: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: Organisation) -> Self:
        """As the API shows it."""
        return cls(
            id=row.id,
            name=row.name,
            limits=Limits.model_validate(row.limits),
            archived_at=unix_seconds(row.archived_at) if row.archived_at else None,
            created_at=unix_seconds(row.created_at),
        )


class ProjectCreate(Body):
    """A new project."""

    model_config = ConfigDict(json_schema_extra={"example": {"name": "Support"}})

    name: Name
    limits: BoundedLimits = Limits()


class ProjectChange(Body):
    """What to change; fields left out stay."""

    name: Name | None = None
    limits: BoundedLimits | None = None
    archived: bool | None = Field(default=None, description="An archived project's keys are disabled")


class ProjectView(BaseModel):
    """A project."""

    object: Literal["project"] = "project"
    id: str
    organisation_id: str
    name: str
    limits: Limits
    archived_at: int | None
    created_at: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: Project) -> Self:
        """As the API shows it."""
        return cls(
            id=row.id,
            organisation_id=row.organisation_id,
            name=row.name,
            limits=Limits.model_validate(row.limits),
            archived_at=unix_seconds(row.archived_at) if row.archived_at else None,
            created_at=unix_seconds(row.created_at),
        )


class UserCreate(Body):
    """A new user."""

    model_config = ConfigDict(json_schema_extra={"example": {"email": "ada@acme.example", "name": "Ada"}})

    email: Email
    name: Name
    limits: BoundedLimits = Limits()


class UserChange(Body):
    """What to change; fields left out stay."""

    name: Name | None = None
    limits: BoundedLimits | None = Field(default=None, description="Of all the user's keys together")
    archived: bool | None = Field(default=None, description="An archived user's keys are disabled")


class UserView(BaseModel):
    """A user."""

    object: Literal["user"] = "user"
    id: str
    organisation_id: str
    email: str
    name: str
    limits: Limits
    archived_at: int | None
    created_at: int = Field(description="Unix seconds")

    @classmethod
    def of(cls, row: User) -> Self:
        """As the API shows it."""
        return cls(
            id=row.id,
            organisation_id=row.organisation_id,
            email=row.email,
            name=row.name,
            limits=Limits.model_validate(row.limits),
            archived_at=unix_seconds(row.archived_at) if row.archived_at else None,
            created_at=unix_seconds(row.created_at),
        )
