"""What can be done with responses and conversations.

A response's life: ``in_progress`` → ``completed`` | ``incomplete`` | ``failed`` | ``cancelled``. Its gateway makes the
row before the model is called and reports the end; a cancellation ends it here at once, and the gateway hears of it
with its next beat; the reaper speaks for a gateway that died. The first end stays.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson

from control_plane.database import utc_now
from control_plane.responses import repository
from control_plane.responses.schemas import ContextOrder, ConversationCreate, ResponseBegin, ResponseFinish
from control_plane.responses.tables import RUNNING, Conversation, Item, StoredResponse
from control_plane.tenancy import ProjectScope
from models.errors import InvalidRequest, NotFound

Context = dict[str, list[dict[str, Any]]]
APPENDED = frozenset({"completed", "incomplete"})
LOST = "The response was lost: the server that ran it stopped. Create it again."


async def context(scope: ProjectScope, order: ContextOrder) -> Context:
    """``history``: what came before, in order; ``items``: those referred to, in no order.

    Raises NotFound, InvalidRequest.
    """
    history: list[dict[str, Any]] = []
    if order.previous_response_id is not None:
        history = await _history(scope, order.previous_response_id)
    if order.conversation_id is not None:
        row = await repository.conversation(scope, order.conversation_id)
        history = await repository.items_before(scope, row.id, row.next_place)
    items = await repository.items(scope, order.references) if order.references else []
    missing = set(order.references) - {item["id"] for item in items}
    if missing:
        raise NotFound(f"Item with id '{min(missing)}' not found.", param="input")
    return {"history": history, "items": items}


async def _history(scope: ProjectScope, last_id: str) -> list[dict[str, Any]]:
    links = await repository.chain(scope, last_id)
    if not links:
        raise _no_previous(f"Previous response with id '{last_id}' not found.")
    oldest = links[0]
    if oldest["previous_response_id"] is not None:
        raise _no_previous(f"A response that '{last_id}' builds on was deleted, or the chain is too long.")
    if links[-1]["status"] == RUNNING:
        raise InvalidRequest("The previous response is still in progress.", param="previous_response_id")
    before: list[dict[str, Any]] = []
    if oldest["conversation_id"] is not None:
        before = await repository.items_before(scope, oldest["conversation_id"], oldest["place"])
    return before + await repository.items_of_responses(scope, [link["id"] for link in links])


def _no_previous(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="previous_response_id", code="previous_response_not_found")


async def begin(scope: ProjectScope, order: ResponseBegin) -> Context:
    """Record a response before it runs; what it builds on. Raises NotFound, InvalidRequest."""
    found = await context(scope, order.context)
    place = None
    if order.context.conversation_id is not None:
        place = (await repository.conversation(scope, order.context.conversation_id)).next_place
    row = StoredResponse(
        id=order.id,
        status=RUNNING,
        background=order.background,
        previous_response_id=order.context.previous_response_id,
        conversation_id=order.context.conversation_id,
        place=place,
        body=order.body,
        lease_until=utc_now() + timedelta(seconds=order.lease_seconds),
    )
    scope.add(row)
    await scope.session.flush()
    _add_items(scope, row, order.input, first=0, output=False)
    return found


def _add_items(
    scope: ProjectScope, row: StoredResponse, items: Sequence[dict[str, Any]], *, first: int, output: bool
) -> None:
    for number, item in enumerate(items):
        made = Item(
            id=item["id"], response_id=row.id, position=first + number, output=output, bytes=_bytes(item), item=item
        )
        scope.add(made)


def _bytes(item: dict[str, Any]) -> int:
    return len(orjson.dumps(item))


async def finish(scope: ProjectScope, response_id: str, order: ResponseFinish) -> str:
    """Report the end of a response, and append it to its conversation; the state it is in. Raises NotFound."""
    row = await repository.response(scope, response_id, lock=True)
    if row.status != RUNNING:
        return row.status
    end(row, order.status, order.body)
    _add_items(scope, row, order.output, first=await repository.items_of(scope, row.id), output=True)
    if row.conversation_id is not None and order.status in APPENDED:
        await scope.session.flush()
        conversation = await repository.conversation(scope, row.conversation_id, lock=True)
        await repository.join(scope, row.id, conversation)
    return row.status


def end(row: StoredResponse, status: str, body: dict[str, Any]) -> None:
    """Give a running response its final state."""
    row.status = status
    row.body = body
    row.finished_at = utc_now()


async def _append(scope: ProjectScope, conversation: Conversation, items: Sequence[Item]) -> None:
    for item in items:
        item.conversation_id = conversation.id
        item.place = conversation.next_place
        conversation.next_place += 1
    await scope.session.flush()


async def view(scope: ProjectScope, row: StoredResponse) -> dict[str, Any]:
    """OpenAI's response object."""
    return {**row.body, "output": await repository.output(scope, row.id)}


async def cancel(scope: ProjectScope, response_id: str) -> StoredResponse:
    """End a background response; one that has ended stays as it is. Raises NotFound, InvalidRequest."""
    row = await repository.response(scope, response_id, lock=True)
    if not row.background:
        raise InvalidRequest("Only a response that was created with 'background' can be cancelled.")
    if row.status == RUNNING:
        end(row, "cancelled", {**row.body, "status": "cancelled"})
    return row


def fail(row: StoredResponse) -> None:
    """End a response whose gateway is gone."""
    end(row, "failed", {**row.body, "status": "failed", "error": {"code": "server_error", "message": LOST}})


async def delete(scope: ProjectScope, response_id: str) -> None:
    """Delete a response; what is in a conversation stays there. Raises NotFound."""
    row = await repository.response(scope, response_id, lock=True)
    await repository.leave_response(scope.session, [row.id])
    await scope.session.delete(row)


async def create_conversation(scope: ProjectScope, order: ConversationCreate) -> Conversation:
    """A new conversation."""
    row = Conversation(id=order.id, labels=order.metadata, next_place=0)
    scope.add(row)
    await scope.session.flush()
    await _append(scope, row, _loose(scope, order.items))
    return row


def _loose(scope: ProjectScope, items: Sequence[dict[str, Any]]) -> list[Item]:
    made = [Item(id=item["id"], bytes=_bytes(item), item=item) for item in items]
    for item in made:
        scope.add(item)
    return made


async def append(scope: ProjectScope, conversation_id: str, items: Sequence[dict[str, Any]]) -> None:
    """Add items at the conversation's end, all of them next to one another. Raises NotFound."""
    row = await repository.conversation(scope, conversation_id, lock=True)
    await _append(scope, row, _loose(scope, items))


async def change_conversation(scope: ProjectScope, conversation_id: str, metadata: dict[str, str]) -> Conversation:
    """Replace the metadata. Raises NotFound."""
    row = await repository.conversation(scope, conversation_id, lock=True)
    row.labels = metadata
    return row


async def delete_conversation(scope: ProjectScope, conversation_id: str) -> None:
    """Delete a conversation; what belongs to a response stays with it. Raises NotFound."""
    row = await repository.conversation(scope, conversation_id, lock=True)
    await repository.leave_conversation(scope.session, row.id)
    await scope.session.delete(row)


async def item(scope: ProjectScope, conversation_id: str, item_id: str) -> Item:
    """One item of a conversation. Raises NotFound."""
    await repository.conversation(scope, conversation_id)
    row = await repository.conversation_item(scope, conversation_id, item_id)
    if row is None:
        raise NotFound("There is no item with this id in this conversation.")
    return row


async def delete_item(scope: ProjectScope, conversation_id: str, item_id: str) -> Conversation:
    """Take an item out of a conversation; a response's item stays with the response. Raises NotFound."""
    conversation = await repository.conversation(scope, conversation_id, lock=True)
    row = await item(scope, conversation_id, item_id)
    if row.response_id is None:
        await scope.session.delete(row)
    else:
        row.conversation_id = row.place = None
    return conversation
