"""The internal side of ``/v1/responses`` and ``/v1/conversations``: gateways speak for a project of an organisation."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Query, Response

from control_plane.context import Tx
from control_plane.responses import repository, service
from control_plane.responses.repository import Direction
from control_plane.responses.schemas import (
    Beat,
    BeatAnswer,
    ContextOrder,
    ConversationChange,
    ConversationCreate,
    ConversationView,
    Finished,
    ItemsAppend,
    ResponseBegin,
    ResponseFinish,
)
from control_plane.responses.tables import Conversation, StoredResponse
from control_plane.tenancy import ProjectScope

PAGE_MAX = 100
PAGE_DEFAULT = 20

PROJECT = "/organisations/{organisation_id}/projects/{project_id}"
internal = APIRouter(tags=["internal"])
responses = APIRouter(prefix=f"{PROJECT}/responses")
conversations = APIRouter(prefix=f"{PROJECT}/conversations")

TenantId = Annotated[str, Path(max_length=64)]


async def project(transaction: Tx, organisation_id: TenantId, project_id: TenantId) -> ProjectScope:
    """The scope of the path's project."""
    return ProjectScope(transaction, organisation_id, project_id)


class Part:
    """Which part of a list of items."""

    def __init__(
        self,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
        after: Annotated[str | None, Query(max_length=128)] = None,
        order: Direction = "desc",
    ) -> None:
        self.limit = limit
        self.after = after
        self.order: Direction = order


Project = Annotated[ProjectScope, Depends(project)]
PartQuery = Annotated[Part, Depends()]


def as_json(content: object) -> Response:
    """Straight to bytes: these are ours, and validating a long history once more would hold the event loop."""
    return Response(orjson.dumps(content), media_type="application/json")


async def _listed(scope: ProjectScope, owner: StoredResponse | Conversation, part: Part) -> Response:
    data, more = await repository.page(scope, owner, part.limit, part.after, part.order)
    return as_json(item_list(data, has_more=more))


def item_list(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list object."""
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}


@internal.post("/responses/beat")
async def beat(transaction: Tx, body: Beat) -> BeatAnswer:
    """Renew the leases of the responses that a gateway runs; the answer names those it must stop."""
    renewed = await repository.renew(transaction.session, body.ids, body.lease_seconds)
    return BeatAnswer(lost=[response_id for response_id in body.ids if response_id not in renewed])


@responses.post("")
async def begin(scope: Project, body: ResponseBegin) -> Response:
    """Record a response before its model is called; the answer holds what it builds on."""
    return as_json(await service.begin(scope, body))


@responses.post("/context")
async def context(scope: Project, body: ContextOrder) -> Response:
    """What a response builds on that is not to be stored itself."""
    return as_json(await service.context(scope, body))


@responses.post("/{response_id}/finish")
async def finish(scope: Project, response_id: str, body: ResponseFinish) -> Finished:
    """Report the end; again, or after another end, it changes nothing."""
    return Finished(status=await service.finish(scope, response_id, body))


@responses.get("/{response_id}")
async def get_response(scope: Project, response_id: str) -> Response:
    """One response."""
    return as_json(await service.view(scope, await repository.response(scope, response_id)))


@responses.delete("/{response_id}")
async def delete_response(scope: Project, response_id: str) -> dict[str, Any]:
    """Delete one; while it runs, that stops it."""
    await service.delete(scope, response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@responses.post("/{response_id}/cancel")
async def cancel_response(scope: Project, response_id: str) -> Response:
    """Cancel one that runs in the background."""
    return as_json(await service.view(scope, await service.cancel(scope, response_id)))


@responses.get("/{response_id}/input_items")
async def list_input(scope: Project, response_id: str, part: PartQuery) -> Response:
    """A response's own input."""
    return await _listed(scope, await repository.response(scope, response_id), part)


@conversations.post("")
async def create_conversation(scope: Project, body: ConversationCreate) -> ConversationView:
    """A new conversation."""
    return ConversationView.of(await service.create_conversation(scope, body))


@conversations.get("/{conversation_id}")
async def get_conversation(scope: Project, conversation_id: str) -> ConversationView:
    """One conversation."""
    return ConversationView.of(await repository.conversation(scope, conversation_id))


@conversations.post("/{conversation_id}")
async def change_conversation(scope: Project, conversation_id: str, body: ConversationChange) -> ConversationView:
    """Replace its metadata."""
    return ConversationView.of(await service.change_conversation(scope, conversation_id, body.metadata))


@conversations.delete("/{conversation_id}")
async def delete_conversation(scope: Project, conversation_id: str) -> dict[str, Any]:
    """Delete one, with the items that belong to no response."""
    await service.delete_conversation(scope, conversation_id)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@conversations.get("/{conversation_id}/items")
async def list_items(scope: Project, conversation_id: str, part: PartQuery) -> Response:
    """Its items."""
    return await _listed(scope, await repository.conversation(scope, conversation_id), part)


@conversations.post("/{conversation_id}/items")
async def append_items(scope: Project, conversation_id: str, body: ItemsAppend) -> Response:
    """Add items at its end."""
    await service.append(scope, conversation_id, body.items)
    return as_json(item_list(body.items, has_more=False))


@conversations.get("/{conversation_id}/items/{item_id}")
async def get_item(scope: Project, conversation_id: str, item_id: str) -> Response:
    """One item."""
    return as_json((await service.item(scope, conversation_id, item_id)).item)


@conversations.delete("/{conversation_id}/items/{item_id}")
async def delete_item(scope: Project, conversation_id: str, item_id: str) -> ConversationView:
    """Take one out."""
    return ConversationView.of(await service.delete_item(scope, conversation_id, item_id))


for router in (responses, conversations):
    internal.include_router(router)
