"""``…/agents``, their versions, and the internal look-up of the agent runtime."""

from typing import Annotated

from fastapi import APIRouter, Body, Query

from control_plane.access import Tenant
from control_plane.agents import repository, service
from control_plane.agents.schemas import SPEC_EXAMPLE, AgentCreate, AgentVersionView, AgentView, Publish, Version
from control_plane.agents.tables import Agent, AgentVersion
from control_plane.context import Ctx, Tx
from control_plane.errors import CONFLICT
from control_plane.pages import ListOf, PageQuery, listed, number_cursor
from control_plane.tenancy import Scope
from models.agents import AgentSpec, PublishedAgent

router = APIRouter(prefix="/organisations/{organisation_id}/agents", tags=["agents"])
internal = APIRouter(tags=["internal"])


@router.post("", status_code=201, responses=CONFLICT)
async def create_agent(scope: Tenant, body: AgentCreate) -> AgentView:
    """A new agent; its slug is unique within the organisation (409)."""
    return AgentView.of(await service.create(scope, body))


@router.get("")
async def list_agents(
    scope: Tenant, page: PageQuery, slug: Annotated[str | None, Query(max_length=64)] = None
) -> ListOf[AgentView]:
    """The organisation's agents, the newest first."""
    query = scope.select(Agent)
    if slug is not None:
        query = query.where(Agent.slug == slug)
    rows, more = await scope.page(query, Agent.id, page)
    return listed([AgentView.of(row) for row in rows], lambda view: view.id, has_more=more)


@router.get("/{agent_id}")
async def get_agent(scope: Tenant, agent_id: str) -> AgentView:
    """One agent."""
    return AgentView.of(await scope.get(Agent, agent_id, "agent"))


@router.post("/{agent_id}/versions", status_code=201)
async def create_version(
    scope: Tenant, context: Ctx, agent_id: str, body: Annotated[AgentSpec, Body(examples=[SPEC_EXAMPLE])]
) -> AgentVersionView:
    """The next version; versions are numbered from 1 and never change. Publishing is a step of its own."""
    return AgentVersionView.of(await service.add_version(scope, agent_id, body, context.config.chat_models))


@router.get("/{agent_id}/versions")
async def list_versions(scope: Tenant, agent_id: str, page: PageQuery) -> ListOf[AgentVersionView]:
    """An agent's versions, the newest first; the cursor is the version's number."""
    await scope.get(Agent, agent_id, "agent")
    query = scope.select(AgentVersion).where(AgentVersion.agent_id == agent_id)
    rows, more = await scope.page(query, AgentVersion.number, page, number_cursor(page))
    return listed([AgentVersionView.of(row) for row in rows], lambda view: str(view.version), has_more=more)


@router.get("/{agent_id}/versions/{version}")
async def get_version(scope: Tenant, agent_id: str, version: Version) -> AgentVersionView:
    """One version."""
    return AgentVersionView.of(await repository.version(scope, agent_id, version))


@router.post("/{agent_id}/publish")
async def publish_agent(scope: Tenant, context: Ctx, agent_id: str, body: Publish) -> AgentView:
    """Have a version answer, at once; an earlier one rolls back. Idempotent."""
    row = await service.publish(scope, agent_id, body.version)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return AgentView.of(row)


@router.post("/{agent_id}/withdraw")
async def withdraw_agent(scope: Tenant, context: Ctx, agent_id: str) -> AgentView:
    """Have no version answer: the model `agent/<slug>` is gone, at once. Idempotent."""
    row = await service.withdraw(scope, agent_id)
    context.invalidations.organisation(scope.transaction, scope.organisation_id)
    return AgentView.of(row)


@internal.get("/agents/{agent_id}/versions/{version}")
async def published_agent(
    transaction: Tx, agent_id: str, version: Version, organisation_id: Annotated[str, Query(max_length=64)]
) -> PublishedAgent:
    """One version, for the agent runtime; it may keep the answer for ever."""
    return await service.published(Scope(transaction, organisation_id), agent_id, version)
