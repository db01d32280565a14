"""What can be done with a project's policy and its kept prompts."""

from control_plane.privacy import repository
from control_plane.privacy.schemas import PrivacyChange
from control_plane.privacy.tables import PrivacyPolicy
from control_plane.tenancy import ProjectScope, Scope
from control_plane.tenants.tables import Project
from models.errors import NotFound

PROJECT = "project"


async def replace(scope: Scope, project_id: str, body: PrivacyChange) -> PrivacyPolicy:
    """Put a policy in place of the present one. Kept prompts never outlive it. Raises NotFound."""
    await scope.get(Project, project_id, PROJECT, lock=True)
    row = await repository.policy(scope, project_id)
    if row is None:
        row = PrivacyPolicy(project_id=project_id)
        scope.add(row)
    row.pii = None if body.pii is None else body.pii.model_dump(mode="json")
    row.keep_days = body.keep_days
    await scope.session.flush()
    if body.keep_days is not None:
        await repository.shorten(ProjectScope(scope.transaction, scope.organisation_id, project_id), body.keep_days)
    return row


async def forget_one(scope: ProjectScope, prompt_id: str) -> None:
    """Raises NotFound."""
    if not await repository.forget(scope, prompt_id):
        raise NotFound("There is no kept prompt with this id.")
