"""Agents' queries that more than one service asks."""

from control_plane.agents.tables import Agent
from control_plane.database import unix_seconds
from control_plane.tenancy import Scope
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
