"""What can be done with agents."""

from control_plane.agents import repository
from control_plane.agents.schemas import AgentCreate
from control_plane.agents.tables import Agent, AgentVersion
from control_plane.database import utc_now
from control_plane.identifiers import new_id
from control_plane.knowledge.tables import KnowledgeBase
from control_plane.tenancy import Scope
from models.agents import AgentSpec, PublishedAgent
from models.errors import Conflict, InvalidRequest, NotFound

# The list of agents travels with every principal.
AGENTS_MAX = 100


async def create(scope: Scope, body: AgentCreate) -> Agent:
    """Raises Conflict where the slug is taken or there are too many."""
    if await repository.count(scope) >= AGENTS_MAX:
        raise Conflict(f"An organisation has at most {AGENTS_MAX} agents.")
    row = Agent(id=new_id("agent"), slug=body.slug, name=body.name)
    scope.add(row)
    await scope.transaction.flush("There is an agent with this slug.", "slug")
    return row


async def add_version(scope: Scope, agent_id: str, spec: AgentSpec, chat_models: tuple[str, ...]) -> AgentVersion:
    """The next version. Raises NotFound, InvalidRequest where the model or the knowledge base cannot be had."""
    if spec.model not in chat_models:
        raise InvalidRequest(f"There is no chat model '{spec.model}'.", param="model", code="model_not_found")
    if spec.knowledge_base_id is not None:
        await scope.reference(KnowledgeBase, spec.knowledge_base_id, "knowledge base", "knowledge_base_id")
    agent = await scope.get(Agent, agent_id, "agent", lock=True)
    agent.latest_version += 1
    row = AgentVersion(
        agent_id=agent.id,
        number=agent.latest_version,
        knowledge_base_id=spec.knowledge_base_id,
        spec=spec.model_dump(mode="json"),
    )
    scope.add(row)
    await scope.session.flush()
    return row


async def publish(scope: Scope, agent_id: str, number: int) -> Agent:
    """Point at a version; the same again changes nothing. Raises NotFound, InvalidRequest without that version."""
    agent = await scope.get(Agent, agent_id, "agent", lock=True)
    try:
        await repository.version(scope, agent_id, number)
    except NotFound as error:
        raise InvalidRequest(error.message, param="version") from error
    if agent.published_version != number:
        agent.published_version = number
        agent.published_at = utc_now()
    return agent


async def withdraw(scope: Scope, agent_id: str) -> Agent:
    """Point at nothing; the agent answers no more. Raises NotFound."""
    agent = await scope.get(Agent, agent_id, "agent", lock=True)
    agent.published_version = agent.published_at = None
    return agent


async def published(scope: Scope, agent_id: str, number: int) -> PublishedAgent:
    """One version as the runtime wants it. Raises NotFound."""
    agent = await scope.get(Agent, agent_id, "agent")
    row = await repository.version(scope, agent_id, number)
    model = None
    if row.knowledge_base_id is not None:
        model = (await scope.get(KnowledgeBase, row.knowledge_base_id, "knowledge base")).embedding_model
    return PublishedAgent(
        agent_id=agent.id,
        organisation_id=agent.organisation_id,
        slug=agent.slug,
        version=row.number,
        spec=AgentSpec.model_validate(row.spec),
        embedding_model=model,
    )
