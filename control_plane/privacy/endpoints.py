"""``…/projects/{project_id}/privacy`` and ``…/prompts``, and the internal ``/prompts`` that gateways write to."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from control_plane.access import AnyCaller, Tenant
from control_plane.context import Ctx, Tx
from control_plane.pages import ListOf, PageQuery, listed
from control_plane.privacy import repository, service
from control_plane.privacy.schemas import (
    PrivacyChange,
    PrivacyView,
    PromptDeleted,
    PromptsDeleted,
    PromptView,
    WholePromptView,
)
from control_plane.privacy.tables import KeptPrompt
from control_plane.tenancy import ProjectScope
from control_plane.tenants.tables import Project
from models.errors import PermissionDenied
from models.privacy import PromptRecords

router = APIRouter(prefix="/organisations/{organisation_id}/projects/{project_id}", tags=["privacy"])
internal = APIRouter(prefix="/prompts", tags=["internal"])

ProjectId = Annotated[str, Path(max_length=64, description="The project's id")]


async def reader(who: AnyCaller, scope: Tenant, project_id: ProjectId) -> ProjectScope:
    """The project whose prompts the caller may read. Raises NotFound, PermissionDenied."""
    await scope.get(Project, project_id, service.PROJECT)
    if who.principal is not None and "prompts" not in who.principal.permissions:
        raise PermissionDenied("This takes an API key with the permission 'prompts'.")
    return ProjectScope(scope.transaction, scope.organisation_id, project_id)


Reader = Annotated[ProjectScope, Depends(reader)]


@router.get("/privacy")
async def get_privacy(scope: Tenant, project_id: ProjectId) -> PrivacyView:
    """What personal data the project's calls are guarded against, and how long its prompts are kept."""
    await scope.get(Project, project_id, service.PROJECT)
    return PrivacyView.of(scope.organisation_id, project_id, await repository.policy(scope, project_id))


@router.put("/privacy")
async def replace_privacy(scope: Tenant, context: Ctx, project_id: ProjectId, body: PrivacyChange) -> PrivacyView:
    """Put a policy in place of the present one. Gateways follow at once."""
    row = await service.replace(scope, project_id, body)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return PrivacyView.of(scope.organisation_id, project_id, row)


@router.get("/prompts")
async def list_prompts(
    scope: Reader, page: PageQuery, request_id: Annotated[str | None, Query(max_length=128)] = None
) -> ListOf[PromptView]:
    """The kept prompts without what was said, the newest first; `request_id` finds those of one request."""
    query = repository.visible(scope)
    if request_id is not None:
        query = query.where(KeptPrompt.request_id == request_id)
    rows, more = await scope.page(query, KeptPrompt.id, page)
    return listed([PromptView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.delete("/prompts")
async def delete_prompts(scope: Reader) -> PromptsDeleted:
    """Erase all of the project's kept prompts, for ever."""
    return PromptsDeleted(deleted=await repository.forget(scope))


@router.get("/prompts/{prompt_id}")
async def get_prompt(scope: Reader, prompt_id: str) -> WholePromptView:
    """One kept prompt, with what was asked and answered."""
    return WholePromptView.of(await repository.prompt(scope, prompt_id))


@router.delete("/prompts/{prompt_id}")
async def delete_prompt(scope: Reader, prompt_id: str) -> PromptDeleted:
    """Erase one kept prompt, for ever."""
    await service.forget_one(scope, prompt_id)
    return PromptDeleted(id=prompt_id)


@internal.post("", status_code=204)
async def keep_prompts(transaction: Tx, body: PromptRecords) -> None:
    """Keep what belongs to projects that keep prompts; the rest, and what is there already, is passed over."""
    await repository.keep(transaction.session, body.data)
