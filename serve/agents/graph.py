"""One agent version as a LangChain graph: retrieve, then let the model speak.

Built once per version and shared by all calls: whatever belongs to one call is in its ``Call``, the graph's context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, cast

from langchain import agents as langchain_agents
from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ModelCallResult, hook_config
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.runtime import Runtime
from pydantic import SecretStr

from models.agents import PublishedAgent
from models.documents import Passage, SearchRequest
from models.errors import UpstreamError
from serve.agents.config import AgentRuntimeConfig
from serve.agents.platform import Platform
from serve.agents.prompt import fit, grounded, system

# The gateway takes the principal's header in place of a key; OpenAI's client insists on having one.
NO_KEY = SecretStr("none")


@dataclass(frozen=True, slots=True)
class Call:
    """What one call brings: on whose behalf, the question, the caller's system messages, the model's parameters."""

    headers: dict[str, str]
    question: str
    system: tuple[str, ...]
    settings: dict[str, Any]


class GroundedState(AgentState[Any]):
    """The graph's state: the messages, and the passages that the model is given."""

    passages: NotRequired[Sequence[Passage]]


class Grounding(AgentMiddleware[GroundedState, Call]):
    """Retrieves before the model speaks and puts what was found beside the question.

    Where the knowledge base has nothing above the version's threshold the model is not called: the version's
    ``no_answer`` is the answer.
    """

    state_schema = GroundedState

    def __init__(self, agent: PublishedAgent, platform: Platform, characters_max: int) -> None:
        super().__init__()
        self._agent = agent
        self._platform = platform
        self._characters_max = characters_max

    @hook_config(can_jump_to=["end"])
    async def abefore_agent(self, state: GroundedState, runtime: Runtime[Call]) -> dict[str, Any] | None:  # noqa: ARG002
        """Fill ``passages``, or end with ``no_answer``. Raises what embedding and search raise."""
        spec = self._agent.spec
        if spec.knowledge_base_id is None:
            return None
        if self._agent.embedding_model is None:
            raise UpstreamError("The agent's knowledge base has no embedding model.")
        call = runtime.context
        vector = await self._platform.embed(self._agent.embedding_model, call.question, call.headers)
        request = SearchRequest(
            organisation_id=self._agent.organisation_id,
            knowledge_base_id=spec.knowledge_base_id,
            text=call.question,
            vector=vector,
            limit=spec.retrieve_limit,
            score_threshold=spec.score_threshold,
        )
        passages = fit(await self._platform.search(request), self._characters_max)
        if passages:
            return {"passages": passages}
        return {"passages": [], "messages": [AIMessage(spec.no_answer)], "jump_to": "end"}

    async def awrap_model_call(self, request: ModelRequest[Call], handler: Any) -> ModelCallResult[Any]:
        """Call the model with the call's parameters and headers, and the passages in the last user turn."""
        call = request.runtime.context
        passages = cast("Sequence[Passage]", request.state.get("passages", ()))
        changed = request.override(
            system_message=SystemMessage(system(self._agent.spec.instructions, call.system)),
            messages=_with_passages(request.messages, call.question, passages),
            model_settings={**call.settings, "extra_headers": call.headers},
        )
        return cast("ModelResponse[Any]", await handler(changed))


def _with_passages(messages: list[AnyMessage], question: str, passages: Sequence[Passage]) -> list[AnyMessage]:
    if not passages:
        return messages
    last = max(index for index, message in enumerate(messages) if isinstance(message, HumanMessage))
    return [*messages[:last], HumanMessage(grounded(question, passages)), *messages[last + 1 :]]


def build(agent: PublishedAgent, platform: Platform, config: AgentRuntimeConfig) -> Any:
    """The compiled graph of a version (5 ms). Its model streams always, so that a hang-up ends it mid-answer."""
    model = ChatOpenAI(
        model=agent.spec.model,
        base_url=f"{config.gateway_url}/v1",
        api_key=NO_KEY,
        http_async_client=platform.http,
        max_retries=0,
        streaming=True,
        stream_usage=True,
        stream_chunk_timeout=None,
        use_responses_api=False,
    )
    grounding = Grounding(agent, platform, config.prompt_characters_max)
    untyped = cast("Any", langchain_agents)
    return untyped.create_agent(model, tools=[], middleware=[grounding], context_schema=Call)
