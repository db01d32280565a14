"""Running agents: find the version, run its graph, pass on the words as they come, and tell how it ended.

Invariants
1. An inner call carries a principal that may use the agent's models and nothing else of the caller's: a key that is
   allowed an agent need not be allowed its parts, and an agent cannot call agents.
2. A version never changes, so neither it nor its graph is ever fetched or built twice while it is kept.
3. No tracer runs: nothing of a conversation leaves for a third party, whatever the environment says.
4. Every run is bounded in time and steps.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import httpx2
import openai
from langchain_core.messages import AIMessage, AIMessageChunk, AnyMessage, HumanMessage
from langgraph.errors import GraphRecursionError
from langsmith import run_helpers

from models.agents import PublishedAgent
from models.channels import PARENT_REQUEST_HEADER, PRINCIPAL_HEADER
from models.documents import Passage
from models.errors import UpstreamError, UpstreamTimeout
from models.identity import AgentRoute, Principal
from serve.agents.citations import Citation, cite
from serve.agents.config import AgentRuntimeConfig
from serve.agents.graph import Call, build
from serve.agents.platform import Platform
from serve.agents.relay import from_client
from serve.agents.request import ChatRequest
from serve.sums import Sums

Emit = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a run ended. ``usage`` sums the calls of chat models; ``knowledge_base_id`` is of the citations."""

    text: str
    finish_reason: str
    usage: Sums
    citations: Sequence[Citation]
    knowledge_base_id: str | None


class AgentRuntime:
    """Runs published agents."""

    def __init__(self, config: AgentRuntimeConfig) -> None:
        self._config = config
        self._platform = Platform(config)
        self._versions: OrderedDict[tuple[str, int], tuple[PublishedAgent, Any]] = OrderedDict()

    async def close(self) -> None:
        """End every connection."""
        await self._platform.close()

    async def run(
        self, principal: Principal, route: AgentRoute, request: ChatRequest, request_id: str, emit: Emit
    ) -> Answer:
        """One answer; ``emit`` is awaited with each piece of it as it comes.

        Raises PlatformError: what an inner call answered, UpstreamTimeout after ``seconds_max``, UpstreamError after
        ``steps_max``.
        """
        question = request.question()
        try:
            async with asyncio.timeout(self._config.seconds_max):
                agent, graph = await self._version(principal, route)
                call = Call(
                    headers={
                        PRINCIPAL_HEADER: _delegate(principal, agent).to_header(),
                        PARENT_REQUEST_HEADER: request_id,
                    },
                    question=question,
                    system=tuple(item.text for item in request.messages if item.role in {"system", "developer"}),
                    settings=request.settings(agent.spec),
                )
                run = _Run(emit)
                with cast("Any", run_helpers).tracing_context(enabled=False):
                    await self._stream(graph, call, history(request), run)
                return run.answer(agent)
        except TimeoutError as error:
            raise UpstreamTimeout(f"The agent did not finish within {self._config.seconds_max:g} seconds.") from error
        except GraphRecursionError as error:
            raise UpstreamError(f"The agent did not finish within {self._config.steps_max} steps.") from error
        except (openai.APIError, httpx2.HTTPError) as error:
            raise from_client(error) from error

    async def _version(self, principal: Principal, route: AgentRoute) -> tuple[PublishedAgent, Any]:
        key = (route.agent_id, route.version)
        found = self._versions.get(key)
        if found is None:
            agent = await self._platform.published_agent(principal.organisation_id, *key)
            found = (agent, build(agent, self._platform, self._config))
            self._versions[key] = found
            if len(self._versions) > self._config.versions_max:
                self._versions.popitem(last=False)
        if found[0].organisation_id != principal.organisation_id:
            raise UpstreamError("The agent's definition is another organisation's.")
        self._versions.move_to_end(key)
        return found

    async def _stream(self, graph: Any, call: Call, messages: list[AnyMessage], run: "_Run") -> None:
        events = graph.astream(
            {"messages": messages},
            config={"recursion_limit": self._config.steps_max},
            context=call,
            stream_mode=["messages", "updates"],
        )
        async with aclosing(events):
            async for mode, event in events:
                if mode == "messages":
                    await run.message(event[0])
                else:
                    await run.update(event)


class _Run:
    """Collects what a run says."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._parts: list[str] = []
        self._passages: Sequence[Passage] = ()
        self._usage = Sums()
        self._finish_reason: str | None = None

    async def message(self, chunk: object) -> None:
        """A piece of the model's answer. Whole messages are none: they come again as updates."""
        if not isinstance(chunk, AIMessageChunk):
            return
        if chunk.usage_metadata is not None:
            self._usage = self._usage.plus(chunk.usage_metadata)
        self._finish_reason = chunk.response_metadata.get("finish_reason") or self._finish_reason
        await self._say(str(chunk.text))

    async def update(self, event: dict[str, Any]) -> None:
        """What a node of the graph returned: of interest are the passages, and an answer that no model gave."""
        for change in event.values():
            if change and "passages" in change:
                self._passages = change["passages"]
                for message in change.get("messages", ()):
                    self._finish_reason = "stop"
                    await self._say(str(message.text))

    async def _say(self, text: str) -> None:
        if text:
            self._parts.append(text)
            await self._emit(text)

    def answer(self, agent: PublishedAgent) -> Answer:
        """Raises UpstreamError where the model stopped without saying why: it was cut off."""
        if self._finish_reason is None:
            raise UpstreamError("The agent's model broke off its answer.")
        text = "".join(self._parts)
        declined = text.strip() == agent.spec.no_answer.strip()
        citations = () if declined else cite(text, self._passages)
        return Answer(text, self._finish_reason, self._usage, citations, agent.spec.knowledge_base_id)


def history(request: ChatRequest) -> list[AnyMessage]:
    """The conversation as LangChain messages; system messages travel apart."""
    messages: list[AnyMessage] = []
    for item in request.messages:
        if item.role == "user":
            messages.append(HumanMessage(item.text))
        elif item.role == "assistant":
            messages.append(AIMessage(item.text))
    return messages


def _delegate(principal: Principal, agent: PublishedAgent) -> Principal:
    models = [agent.spec.model] if agent.embedding_model is None else [agent.spec.model, agent.embedding_model]
    return principal.model_copy(update={"allowed_models": tuple(models), "agents": ()})
