"""What can be done with organisations, projects and users."""

from datetime import datetime

from control_plane.database import Transaction, utc_now
from control_plane.identifiers import new_id
from control_plane.tenancy import Scope
from control_plane.tenants import repository
from control_plane.tenants.schemas import (
    OrganisationChange,
    OrganisationCreate,
    ProjectChange,
    ProjectCreate,
    UserChange,
    UserCreate,
)
from control_plane.tenants.tables import Organisation, Project, User

FIRST_PROJECT = "Default"


def archived_at(present: datetime | None, archived: bool | None) -> datetime | None:  # noqa: FBT001 - a field's value
    """When it was archived, after a change: archiving twice keeps the first time."""
    if archived is None:
        return present
    return (present or utc_now()) if archived else None


async def create_organisation(transaction: Transaction, body: OrganisationCreate) -> tuple[Organisation, Project]:
    """A new tenant and its first project."""
    row = Organisation(id=new_id("org"), name=body.name, limits=body.limits.model_dump(exclude_none=True))
    transaction.session.add(row)
    await transaction.session.flush()
    return row, await create_project(Scope(transaction, row.id), ProjectCreate(name=FIRST_PROJECT))


async def change_organisation(scope: Scope, body: OrganisationChange) -> Organisation:
    """Apply a change. Raises NotFound."""
    row = await repository.organisation(scope.session, scope.organisation_id)
    row.name = body.name or row.name
    row.archived_at = archived_at(row.archived_at, body.archived)
    if body.limits is not None:
        row.limits = body.limits.model_dump(exclude_none=True)
    return row


async def create_project(scope: Scope, body: ProjectCreate) -> Project:
    """Raises Conflict where the name is taken."""
    row = Project(id=new_id("proj"), name=body.name, limits=body.limits.model_dump(exclude_none=True))
    scope.add(row)
    await scope.transaction.flush("There is a project with this name.", "name")
    return row


async def change_project(scope: Scope, project_id: str, body: ProjectChange) -> Project:
    """Raises NotFound, Conflict where the name is taken."""
    row = await scope.get(Project, project_id, "project", lock=True)
    row.name = body.name or row.name
    row.archived_at = archived_at(row.archived_at, body.archived)
    if body.limits is not None:
        row.limits = body.limits.model_dump(exclude_none=True)
    await scope.transaction.flush("There is a project with this name.", "name")
    return row


async def create_user(scope: Scope, body: UserCreate) -> User:
    """Raises Conflict where the address is taken."""
    limits = body.limits.model_dump(exclude_none=True)
    row = User(id=new_id("user"), email=body.email.lower(), name=body.name, limits=limits)
    scope.add(row)
    await scope.transaction.flush("There is a user with this address.", "email")
    return row


async def change_user(scope: Scope, user_id: str, body: UserChange) -> User:
    """Raises NotFound."""
    row = await scope.get(User, user_id, "user", lock=True)
    row.name = body.name or row.name
    row.archived_at = archived_at(row.archived_at, body.archived)
    if body.limits is not None:
        row.limits = body.limits.model_dump(exclude_none=True)
    return row
