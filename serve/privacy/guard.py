"""A guarded project's call: looked through before it is made, restored and noted on its way back.

1. ``refuse``: personal data ends the call with 400 and the place where it stands. An agent's call, too.
2. ``mask_hosted``, ``mask_all``: the request gets placeholders, once for all who may answer it; ``mask_hosted`` where a
   hosted model is among them. An agent's call is not masked; the calls that it makes are.
3. The client gets the answer with the placeholders turned back, whole or streamed.
4. The call is kept if the project keeps prompts: masked, beside the call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import orjson
from prometheus_client import Counter

from models.errors import InvalidRequest, PlatformError, Unavailable
from models.identity import Principal
from models.privacy import PiiPolicy
from serve.asgi import ClientDisconnected, Send
from serve.privacy.answer import Restored
from serve.privacy.body import token_ids
from serve.privacy.config import PrivacyConfig
from serve.privacy.log import PromptLog
from serve.privacy.masking import mask, refuse
from serve.privacy.records import KeptCall
from serve.privacy.vault import Vault
from serve.routing import Target
from serve.validation import Body

JSON_FORMATS = frozenset({"json_object", "json_schema"})

Result = TypeVar("Result")
Make = Callable[[Body, bytes, Send], Awaitable[None]]
"""Makes the call: the request, the same as JSON, and where its answer goes."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """What is asked, by whom, and who may answer; ``raw`` is ``body`` as JSON."""

    principal: Principal
    request_id: str
    parent_request_id: str | None
    endpoint: str
    chain: Sequence[Target]
    body: Body
    raw: bytes


class Privacy:
    """One replica's. ``masked`` counts requests with personal data, by the action taken."""

    def __init__(self, config: PrivacyConfig, log: PromptLog, pool: Executor, masked: Counter) -> None:
        self._config = config
        self._log = log
        self._pool = pool
        self._masked = masked
        self._scans = 0

    async def run(self, asked: Guarded, make: Make, send: Send) -> None:
        """One call. Raises InvalidRequest before it is made; Unavailable where too many wait; what ``make`` raises."""
        guards = asked.principal.guards
        kept = self._noted(asked, send) if guards is not None and guards.keep_prompts else None
        body, raw, restored = asked.body, asked.raw, kept.send if kept else send
        if guards is not None and guards.pii is not None:
            body, raw, restored = await self._guarded(asked, guards.pii, restored)
        if kept is None:
            await make(body, raw, restored)
            return
        try:
            await make(body, raw, restored)
            kept.end("ok")
        except PlatformError:
            kept.end("error")
            raise
        except (ClientDisconnected, asyncio.CancelledError):
            kept.end("client_gone")
            raise
        finally:
            if kept.began:
                self._log.put(kept)

    def _noted(self, asked: Guarded, send: Send) -> KeptCall:
        return KeptCall(
            principal=asked.principal,
            request_id=asked.request_id,
            parent_request_id=asked.parent_request_id,
            endpoint=asked.endpoint,
            body=asked.body,
            body_bytes=len(asked.raw),
            forward=send,
            answer_bytes_max=self._config.answer_bytes_max,
        )

    async def seen(self, principal: Principal, chain: Sequence[Target], body: Body, size: int) -> Body:
        """A request of ``size`` bytes as ``chain`` may see it, where no text comes back. Raises like ``run``."""
        guards = principal.guards
        if guards is None or guards.pii is None or not looked_at(guards.pii, chain):
            return body
        fresh, _ = await self._looked_through(guards.pii, body, size)
        return fresh

    async def _guarded(self, asked: Guarded, policy: PiiPolicy, send: Send) -> tuple[Body, bytes, Send]:
        body, raw = asked.body, asked.raw
        if not looked_at(policy, asked.chain):
            return body, raw, send
        fresh, vault = await self._looked_through(policy, body, len(raw))
        if vault.empty:
            return body, raw, send
        self._masked.labels(policy.action).inc()
        return fresh, orjson.dumps(fresh), Restored(send, vault, json=answers_json(body))

    async def _looked_through(self, policy: PiiPolicy, body: Body, size: int) -> tuple[Body, Vault]:
        if (param := token_ids(body)) is not None:
            raise InvalidRequest(
                f"'{param}' holds token ids, which cannot be looked through for personal data. Send text.",
                param=param,
                code="pii_not_checkable",
            )
        if policy.action == "refuse":
            await self._aside(size, lambda: refuse(body, policy, self._config))
            return body, Vault()
        return await self._aside(size, lambda: mask(body, policy, self._config))

    async def _aside(self, size: int, work: Callable[[], Result]) -> Result:
        """The outcome of ``work``, in a thread where it may take long. Raises Unavailable, what ``work`` raises."""
        if size <= self._config.inline_bytes_max:
            return work()
        if self._scans >= self._config.scans_max:
            raise Unavailable("Too many requests wait to be looked through.", retry_after_seconds=1.0)
        self._scans += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._scans -= 1


def looked_at(policy: PiiPolicy, chain: Sequence[Target]) -> bool:
    """Whether a request that ``chain`` may answer is looked through before it is made."""
    if policy.action == "mask_hosted":
        return any(hosted(target) for target in chain)
    return policy.action == "refuse" or (policy.action == "mask_all" and chain[0].entry is not None)


def hosted(target: Target) -> bool:
    """Whether someone else runs the model: by our adapter or not. Agents are ours."""
    return target.entry is not None and (target.upstream.own or not target.upstream.internal)


def answers_json(body: Body) -> bool:
    """Whether the answer's text is JSON by order."""
    wanted: object = body.get("response_format")
    return isinstance(wanted, dict) and cast("dict[str, Any]", wanted).get("type") in JSON_FORMATS
