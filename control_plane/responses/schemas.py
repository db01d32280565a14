"""What gateways send, and what they are answered."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from control_plane.database import unix_seconds
from control_plane.responses.tables import Conversation

ITEMS_MAX = 10_000
LEASE_SECONDS_MAX = 600.0

FinalStatus = Literal["completed", "incomplete", "failed", "cancelled"]


def _with_id(item: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(item.get("id"), str):
        raise ValueError("must have an id")
    return item


StoredItem = Annotated[dict[str, Any], AfterValidator(_with_id)]
Items = Annotated[list[StoredItem], Field(max_length=ITEMS_MAX)]
Id = Annotated[str, Field(min_length=1, max_length=128)]
Lease = Annotated[float, Field(gt=0, le=LEASE_SECONDS_MAX)]
Metadata = Annotated[dict[str, str], Field(max_length=16)]


class Order(BaseModel):
    """A body from a gateway; unlike a person's, its texts are kept to the letter."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ContextOrder(Order):
    """What a response builds on: an earlier response or a conversation, and single items by id."""

    previous_response_id: str | None = None
    conversation_id: str | None = None
    references: list[str] = Field(default=[], max_length=ITEMS_MAX)


class ResponseBegin(Order):
    """A response about to run. ``body``: the response object, without its output."""

    id: Id
    body: dict[str, Any]
    background: bool
    lease_seconds: Lease
    context: ContextOrder
    input: Items


class ResponseFinish(Order):
    """A response that has run."""

    status: FinalStatus
    body: dict[str, Any]
    output: Items


class Beat(Order):
    """The responses that a gateway runs."""

    ids: list[Id] = Field(max_length=ITEMS_MAX)
    lease_seconds: Lease


class BeatAnswer(BaseModel):
    """Those of them that are not to run any more: cancelled, deleted, or given up."""

    lost: list[str]


class Finished(BaseModel):
    """The state a response is in; not the one reported, where it had ended before."""

    status: str


class ConversationCreate(Order):
    """A new conversation."""

    id: Id
    metadata: Metadata = {}
    items: Items = []


class ConversationChange(Order):
    """New metadata, in place of the old."""

    metadata: Metadata


class ItemsAppend(Order):
    """Items for a conversation."""

    items: Items


class ConversationView(BaseModel):
    """OpenAI's conversation object."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]

    @classmethod
    def of(cls, row: Conversation) -> Self:
        """As the API shows it."""
        return cls(id=row.id, created_at=unix_seconds(row.created_at), metadata=row.labels)
