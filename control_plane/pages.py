"""Lists as the API shows them: the newest first, ``limit`` at a time, ``after`` the last id of the page before."""

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from control_plane.database import BIGINT_MAX
from models.errors import InvalidRequest

LIMIT_MAX = 100
LIMIT_DEFAULT = 20
CURSOR_LENGTH_MAX = 4_000


class Page(BaseModel):
    """Which part of a list."""

    model_config = ConfigDict(frozen=True)

    limit: int = LIMIT_DEFAULT
    after: str | None = None


def page_query(
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX, description="Entries a page")] = LIMIT_DEFAULT,
    after: Annotated[
        str | None, Query(min_length=1, max_length=CURSOR_LENGTH_MAX, description="`last_id` of the page before")
    ] = None,
) -> Page:
    """The page a request asks for."""
    return Page(limit=limit, after=after)


PageQuery = Annotated[Page, Depends(page_query)]


def number_cursor(page: Page) -> int | None:
    """``page.after`` of a list whose entries are numbered. Raises InvalidRequest where it is no number."""
    if page.after is None:
        return None
    if not page.after.isascii() or not page.after.isdecimal() or int(page.after) > BIGINT_MAX:
        raise InvalidRequest("'after' must be the last_id of a page of this list.", param="after")
    return int(page.after)


Entry = TypeVar("Entry", bound=BaseModel)


class ListOf(BaseModel, Generic[Entry]):
    """One page of a list, in OpenAI's shape."""

    object: Literal["list"] = "list"
    data: list[Entry]
    first_id: str | None = Field(description="Null where the page is empty")
    last_id: str | None = Field(description="Give it as `after` for the next page")
    has_more: bool


def listed(entries: Sequence[Entry], cursor: Callable[[Entry], str], *, has_more: bool) -> ListOf[Entry]:
    """A page of ``entries``, each known by its ``cursor``."""
    first, last = (cursor(entries[0]), cursor(entries[-1])) if entries else (None, None)
    return ListOf(data=list(entries), first_id=first, last_id=last, has_more=has_more)
