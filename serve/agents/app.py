"""The agent runtime's ASGI application: published agents as the models ``agent/<slug>``."""

import logging
import uuid

from models.channels import PRINCIPAL_HEADER, REQUEST_ID_HEADER
from models.errors import ModelNotFound, PlatformError, Unauthenticated
from models.identity import Principal
from serve.agents.config import AgentRuntimeConfig
from serve.agents.request import ChatRequest
from serve.agents.runtime import AgentRuntime
from serve.agents.wire import StreamedReply, WholeReply
from serve.asgi import Receive, Scope, Send, header, read_body
from serve.edge import Edge, Route, parse, unless_disconnected

logger = logging.getLogger(__name__)

PRINCIPAL = PRINCIPAL_HEADER.encode()
REQUEST_ID = REQUEST_ID_HEADER.encode()


class AgentsApp:
    """ASGI application: ``POST /v1/chat/completions`` and ``GET /health``. It trusts the principal's header, so it
    must stand behind ``serve.guard.Guard``."""

    def __init__(self, config: AgentRuntimeConfig) -> None:
        self._body_bytes_max = config.body_bytes_max
        self._runtime = AgentRuntime(config)
        self._edge = Edge({"/v1/chat/completions": Route("POST", self._chat)}, self.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        await self._edge(scope, receive, send)

    async def close(self) -> None:
        """End every connection; also done at the end of ASGI's lifespan."""
        await self._runtime.close()

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = principal(scope)
        request = parse(ChatRequest, await read_body(receive, scope, self._body_bytes_max))
        request.check()
        request_id = (header(scope, REQUEST_ID) or uuid.uuid4().hex.encode()).decode("latin-1")
        await unless_disconnected(receive, self._answer(caller, request, request_id, send))

    async def _answer(self, caller: Principal, request: ChatRequest, request_id: str, send: Send) -> None:
        route = caller.agent(request.model)
        if route is None:
            raise ModelNotFound(
                f"The model '{request.model}' does not exist or you do not have access to it.", param="model"
            )
        reply = (
            StreamedReply(request.model, send, include_usage=request.include_usage)
            if request.stream
            else WholeReply(request.model, send)
        )
        try:
            answer = await self._runtime.run(caller, route, request, request_id, reply.text)
        except PlatformError as error:
            await reply.fail(error)
        except Exception:
            logger.exception("unforeseen error in an answer of %s", request.model)
            await reply.fail(PlatformError("The server had an error while processing your request."))
        else:
            await reply.end(answer)


def principal(scope: Scope) -> Principal:
    """Whom the gateway calls for. Raises Unauthenticated where the header is missing or is none."""
    value = header(scope, PRINCIPAL)
    try:
        return Principal.from_header((value or b"").decode("latin-1"))
    except ValueError as error:
        raise Unauthenticated("The call names no principal.") from error
