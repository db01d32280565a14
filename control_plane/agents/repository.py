"""Agents' queries that more than one service asks."""

from sqlalchemy import func, select

from control_plane.agents.tables import Agent, AgentVersion
from control_plane.database import unix_seconds
from control_plane.tenancy import Scope
from models.errors import NotFound
from models.identity import AgentRoute


async def routes(scope: Scope) -> list[AgentRoute]:
    """The organisation's published agents, by slug."""
    query = scope.select(Agent).where(Agent.published_version.is_not(None)).order_by(Agent.slug)
    return [
        AgentRoute(
            agent_id=row.id, slug=row.slug, version=row.published_version, published_at=unix_seconds(row.published_at)
        )
        for row in await scope.session.scalars(query)
        if row.published_version is not None and row.published_at is not None
    ]


async def version(scope: Scope, agent_id: str, number: int) -> AgentVersion:
    """Raises NotFound."""
    query = scope.select(AgentVersion).where(AgentVersion.agent_id == agent_id, AgentVersion.number == number)
    row = await scope.session.scalar(query)
    if row is None:
        raise NotFound("There is no such version of this agent.")
    return row


async def count(scope: Scope) -> int:
    """How many agents the organisation has."""
    return await scope.session.scalar(scope.restrict(select(func.count(Agent.id)), Agent)) or 0
