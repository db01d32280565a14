"""``/organisations`` and, below each, ``/projects`` and ``/users``."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from control_plane.access import AnyCaller, Operator, Tenant
from control_plane.context import Ctx, Tx
from control_plane.errors import CONFLICT
from control_plane.keys import service as keys
from control_plane.keys.schemas import ApiKeyCreate
from control_plane.pages import ListOf, PageQuery, listed
from control_plane.tenancy import Scope
from control_plane.tenants import repository, service
from control_plane.tenants.schemas import (
    OrganisationChange,
    OrganisationCreate,
    OrganisationView,
    ProjectChange,
    ProjectCreate,
    ProjectView,
    UserChange,
    UserCreate,
    UserView,
)
from control_plane.tenants.tables import Project, User
from models.errors import PermissionDenied

FIRST_KEY = "First admin key"

organisations = APIRouter(prefix="/organisations", tags=["organisations"])
router = APIRouter(prefix="/organisations/{organisation_id}", tags=["tenants"])


class AdminKey(BaseModel):
    """The first key of a new organisation."""

    id: str
    prefix: str
    key: str = Field(description="Shown once; it cannot be had again")


class OrganisationCreated(BaseModel):
    """A new organisation with what is needed to use it."""

    organisation: OrganisationView
    project: ProjectView
    admin_key: AdminKey


@organisations.post("", status_code=201)
async def create_organisation(
    _: Operator, context: Ctx, transaction: Tx, body: OrganisationCreate
) -> OrganisationCreated:
    """A new organisation, its first project and an admin key, which is shown once. The operator's."""
    organisation, project = await service.create_organisation(transaction, body)
    order = ApiKeyCreate(name=FIRST_KEY, project_id=project.id, role="admin")
    row, key = await keys.create(Scope(transaction, organisation.id), order, context.config.key_pepper)
    return OrganisationCreated(
        organisation=OrganisationView.of(organisation),
        project=ProjectView.of(project),
        admin_key=AdminKey(id=row.id, prefix=row.prefix, key=key),
    )


@organisations.get("")
async def list_organisations(_: Operator, transaction: Tx, page: PageQuery) -> ListOf[OrganisationView]:
    """All organisations, the newest first. The operator's."""
    rows, more = await repository.organisations(transaction.session, page)
    return listed([OrganisationView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.get("", tags=["organisations"])
async def get_organisation(scope: Tenant) -> OrganisationView:
    """One organisation."""
    return OrganisationView.of(await repository.organisation(scope.session, scope.organisation_id))


@router.patch("", tags=["organisations"])
async def change_organisation(
    who: AnyCaller, scope: Tenant, context: Ctx, body: OrganisationChange
) -> OrganisationView:
    """Rename; limits and archiving are the operator's. Gateways follow at once."""
    if not who.is_operator and body.model_fields_set & {"limits", "archived"}:
        raise PermissionDenied("Only the operator may change limits or archive an organisation.")
    row = await service.change_organisation(scope, body)
    context.invalidations.organisation(scope.transaction, row.id)
    return OrganisationView.of(row)


@router.post("/projects", status_code=201, responses=CONFLICT)
async def create_project(scope: Tenant, body: ProjectCreate) -> ProjectView:
    """A new project; its name is unique within the organisation (409)."""
    return ProjectView.of(await service.create_project(scope, body))


@router.get("/projects")
async def list_projects(scope: Tenant, page: PageQuery) -> ListOf[ProjectView]:
    """The organisation's projects, the newest first."""
    rows, more = await scope.page(scope.select(Project), Project.id, page)
    return listed([ProjectView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.get("/projects/{project_id}")
async def get_project(scope: Tenant, project_id: str) -> ProjectView:
    """One project."""
    return ProjectView.of(await scope.get(Project, project_id, "project"))


@router.patch("/projects/{project_id}", responses=CONFLICT)
async def change_project(scope: Tenant, context: Ctx, project_id: str, body: ProjectChange) -> ProjectView:
    """Rename, limit, archive or restore. Gateways follow at once."""
    row = await service.change_project(scope, project_id, body)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return ProjectView.of(row)


@router.post("/users", status_code=201, responses=CONFLICT)
async def create_user(scope: Tenant, body: UserCreate) -> UserView:
    """A new user; the address is unique within the organisation (409)."""
    return UserView.of(await service.create_user(scope, body))


@router.get("/users")
async def list_users(scope: Tenant, page: PageQuery) -> ListOf[UserView]:
    """The organisation's users, the newest first."""
    rows, more = await scope.page(scope.select(User), User.id, page)
    return listed([UserView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.get("/users/{user_id}")
async def get_user(scope: Tenant, user_id: str) -> UserView:
    """One user."""
    return UserView.of(await scope.get(User, user_id, "user"))


@router.patch("/users/{user_id}")
async def change_user(scope: Tenant, context: Ctx, user_id: str, body: UserChange) -> UserView:
    """Rename, limit, archive or restore. Gateways follow at once."""
    row = await service.change_user(scope, user_id, body)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return UserView.of(row)
