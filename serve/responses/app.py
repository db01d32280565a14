"""``/v1/responses`` and all below it. The life of a response:

1. Who calls, what is asked: everything in the request is read, or refused by name.
2. It is recorded as running, unless it is not to be stored; the record's answer is what it builds on.
3. History and input become one chat request, which is run, admitted and metered like any (``serve.calls``).
4. The model's stream becomes items and typed events (``composer``); the first token is never held.
5. Its end is recorded; then its client hears of it.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Any

from models.errors import InvalidRequest, NotFound
from serve.allowlist import local_path
from serve.asgi import Message, Receive, Scope, Send, not_allowed, read_body, send_json
from serve.callers import Caller
from serve.calls import Calls
from serve.config import GatewayConfig
from serve.edge import unless_disconnected
from serve.headers import headers_for
from serve.responses.composer import Composer
from serve.responses.items import REFERENCE, Item, new_id
from serve.responses.messages import chat_messages
from serve.responses.query import page_query, plain_query
from serve.responses.request import Order, read_order
from serve.responses.runner import CHAT, Job, Runner
from serve.responses.store import Object, ResponseStore
from serve.routing import Routes
from serve.validation import parse_body

ROOT = "/v1/responses"
SANE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Responses:
    """The family of paths below ``/v1/responses``."""

    def __init__(
        self, calls: Calls, routes: Routes, store: ResponseStore, runner: Runner, config: GatewayConfig
    ) -> None:
        self._calls = calls
        self._routes = routes
        self._store = store
        self._runner = runner
        self._lease_seconds = config.responses.lease_seconds
        self._body_bytes_max = config.body_bytes_max

    async def __call__(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """One call. Raises what the client is to be told where nothing was sent yet; ClientDisconnected."""
        parts = split(local_path(scope), ROOT)
        method = allowed(scope["method"], METHODS, parts)
        caller = await self._calls.caller(request_id, scope)
        if not parts:
            await self._create(caller, scope, receive, send)
            return
        query = page_query(scope) if parts[1:] == ["input_items"] else plain_query(scope)
        answer = await self._store.ask(method, caller.principal, "/responses/" + "/".join(parts), query=query)
        if method == "DELETE" or parts[1:] == ["cancel"]:
            self._runner.stop(parts[0])
        await send_json(send, 200, answer, headers_for(caller))

    async def _create(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        order = read_order(parse_body(scope, await read_body(receive, scope, self._body_bytes_max)))
        self._routes.find(caller.principal, order.model, CHAT, inner=caller.parent is not None)
        items = await self._resolved(caller, order)
        composer = Composer(new_response(order), listening=order.stream)
        history = await self._begun(caller, order, composer.response, items)
        job = Job(caller, composer, order.chat, stored=order.store)
        try:
            job.chat["messages"] = chat_messages(order.instructions, [*history, *items])
        except InvalidRequest:
            if job.stored:
                await self._runner.discard(job)
            raise
        if order.background:
            await self._in_background(job, order, receive, send)
            return
        intake = await self._runner.run(job, receive, send if order.stream else None)
        if order.stream:
            return
        if job.error is not None:
            raise job.error
        await send_json(send, 200, composer.snapshot(), intake.headers)

    async def _resolved(self, caller: Caller, order: Order) -> list[Item]:
        """The input, with copies of the items that it refers to. Raises NotFound."""
        if not order.references:
            return order.items
        question = {"references": order.references}
        answer = await self._store.ask("POST", caller.principal, "/responses/context", question)
        found = {item["id"]: item for item in answer["items"]}
        return [_copied(found[item["id"]]) if item["type"] == REFERENCE else item for item in order.items]

    async def _begun(self, caller: Caller, order: Order, response: Object, items: list[Item]) -> list[Item]:
        """The items before the input; the response is recorded if it is to be. Raises NotFound, InvalidRequest."""
        context = {"previous_response_id": order.previous_response_id, "conversation_id": order.conversation}
        if order.store:
            record: Object = {
                "id": response["id"],
                "body": response,
                "background": order.background,
                "lease_seconds": self._lease_seconds,
                "context": context,
                "input": items,
            }
            return (await self._store.ask("POST", caller.principal, "/responses", record))["history"]
        if order.previous_response_id is None:
            return []
        return (await self._store.ask("POST", caller.principal, "/responses/context", context))["history"]

    async def _in_background(self, job: Job, order: Order, receive: Receive, send: Send) -> None:
        headers = headers_for(job.caller)
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        task = await self._runner.start(job, queue.put if order.stream else None)
        if not order.stream:
            await send_json(send, 200, job.composer.snapshot(), headers)
            return
        task.add_done_callback(lambda _: queue.put_nowait(None))
        if not await unless_disconnected(receive, _forwarded(queue, send)):
            task.result()


async def _forwarded(queue: "asyncio.Queue[Message | None]", send: Send) -> bool:
    """Whether there was something to send."""
    some = False
    while (message := await queue.get()) is not None:
        some = True
        await send(message)
    return some


METHODS: Mapping[tuple[int, str], frozenset[str]] = {
    (0, ""): frozenset({"POST"}),
    (1, ""): frozenset({"GET", "DELETE"}),
    (2, "cancel"): frozenset({"POST"}),
    (2, "input_items"): frozenset({"GET"}),
}


def split(path: str, root: str) -> list[str]:
    """The parts of a path below ``root``. Raises NotFound where one of them could be no id of ours."""
    rest = path.removeprefix(root)
    parts = rest.split("/")[1:] if rest else []
    if not all(SANE_ID.fullmatch(part) for part in parts):
        raise NotFound("There is nothing at this address.")
    return parts


def allowed(method: str, methods: Mapping[tuple[int, str], frozenset[str]], parts: list[str]) -> str:
    """``method``, where the address takes it. Raises NotFound, MethodNotAllowed."""
    name = parts[1] if len(parts) > 1 else ""
    found = methods.get((len(parts), name))
    if found is None:
        raise NotFound("There is nothing at this address.")
    if method not in found:
        raise not_allowed(method, *sorted(found))
    return method


def new_response(order: Order) -> dict[str, Any]:
    """OpenAI's response object, without its output, of a response that has not begun."""
    return {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        **order.echo,
        "usage": None,
    }


def _copied(item: Item) -> Item:
    return {**item, "id": new_id(str(item["id"]).partition("_")[0])}
