"""The adapter's ASGI application: a LangChain chat model as one more upstream that speaks OpenAI's dialect."""

import asyncio
import logging

from pydantic import SecretStr

from models.channels import UPSTREAM_KEY_HEADER
from models.errors import PlatformError
from serve.asgi import Receive, Scope, Send, header, read_body
from serve.edge import Edge, Route, parse, unless_disconnected
from serve.hosted.answer import Answer
from serve.hosted.call import Call, prepared
from serve.hosted.classes import ModelClass
from serve.hosted.config import HostedConfig
from serve.hosted.failures import provider_error
from serve.hosted.request import ChatRequest
from serve.hosted.wire import Reply, StreamedReply, WholeReply

UPSTREAM_KEY = UPSTREAM_KEY_HEADER.encode()

logger = logging.getLogger(__name__)


class HostedApp:
    """ASGI application: ``POST /v1/chat/completions`` and ``GET /health``. It knows no caller, so it must stand behind
    ``serve.guard.Guard``. ``model`` in a request is the provider's own name."""

    def __init__(self, config: HostedConfig) -> None:
        """Raises ValueError where the configured class cannot be used."""
        self._config = config
        self._kind = ModelClass(config)
        self._edge = Edge({"/v1/chat/completions": Route("POST", self._chat)}, self.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        await self._edge(scope, receive, send)

    async def close(self) -> None:
        """End every connection; also done at the end of ASGI's lifespan."""
        await self._kind.close()

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = parse(ChatRequest, await read_body(receive, scope, self._config.body_bytes_max))
        given = header(scope, UPSTREAM_KEY)
        key = None if given is None else SecretStr(given.decode("latin-1"))
        call = prepared(self._kind, request, key)
        reply = (
            StreamedReply(request.model, send, include_usage=request.include_usage)
            if request.stream
            else WholeReply(request.model, send)
        )
        theirs = None if key is None else self._config.name
        await unless_disconnected(receive, self._answer(call, reply, theirs))

    async def _answer(self, call: Call, reply: Reply, theirs: str | None) -> None:
        answer = Answer(call, reply)
        try:
            async with asyncio.timeout(self._config.seconds_max):
                end = await answer.run()
        except PlatformError as error:
            await reply.fail(error)
        except Exception as error:
            # A class by import path may raise anything. Its text may hold the key or the prompt: neither is logged.
            param = "response_format" if call.json else None
            failure = provider_error(error, started=answer.started, param=param, theirs=theirs)
            logger.warning("%s failed with %s: %d", self._config.name, type(error).__qualname__, failure.status)
            await reply.fail(failure)
        else:
            await reply.end(end)
