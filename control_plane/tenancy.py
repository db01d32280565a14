"""The one place that filters by organisation: whoever holds a ``Scope`` reads and writes that tenant's rows only.

Invariants
1. No other module compares an ``organisation_id`` column (a test reads the sources).
2. Foreign keys between tenants' tables hold the organisation too, so the database refuses what a bug might join.
3. A row of another organisation and a row that does not exist are the same: NotFound.
"""

from typing import Any, TypeVar, TypeVarTuple, cast

from sqlalchemy import ForeignKey, ForeignKeyConstraint, Select, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, Mapped, mapped_column

from control_plane.database import Transaction
from control_plane.pages import Page
from models.errors import InvalidRequest, NotFound


class TenantMarked:
    """Mixin of every table whose rows belong to an organisation, though it may be gone."""

    organisation_id: Mapped[str]


class TenantOwned(TenantMarked):
    """Mixin of every table whose rows belong to an organisation that exists."""

    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))


Row = TypeVar("Row", bound=TenantMarked)
Columns = TypeVarTuple("Columns")


def same_tenant(column: str, table: str) -> ForeignKeyConstraint:
    """A foreign key to ``table.id`` that cannot leave the organisation."""
    return ForeignKeyConstraint(["organisation_id", column], [f"{table}.organisation_id", f"{table}.id"])


class Scope:
    """One organisation's rows within one transaction."""

    def __init__(self, transaction: Transaction, organisation_id: str) -> None:
        self.transaction = transaction
        self.organisation_id = organisation_id

    @property
    def session(self) -> AsyncSession:
        """The transaction's session."""
        return self.transaction.session

    def select(self, table: type[Row]) -> Select[Row]:
        """A query over this organisation's rows of ``table``."""
        return self.restrict(select(table), table)

    def restrict(self, query: Select[*Columns], table: type[TenantMarked]) -> Select[*Columns]:
        """``query`` (which reads ``table``), restricted to this organisation."""
        return query.where(table.organisation_id == self.organisation_id)

    async def get(self, table: type[Row], row_id: str, noun: str, *, lock: bool = False) -> Row:
        """The row with this id, locked until the commit if asked. Raises NotFound."""
        key = cast("InstrumentedAttribute[str]", getattr(table, "id"))  # noqa: B009 - every such table has an id
        query = self.select(table).where(key == row_id)
        row = await self.session.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise NotFound(f"There is no {noun} with this id.")
        return row

    async def reference(self, table: type[Row], row_id: str, noun: str, param: str) -> Row:
        """The row that a field of the body names. Raises InvalidRequest that names the field."""
        try:
            return await self.get(table, row_id, noun)
        except NotFound as error:
            raise InvalidRequest(error.message, param=param) from error

    def add(self, row: TenantMarked) -> None:
        """Make ``row`` this organisation's."""
        row.organisation_id = self.organisation_id
        self.session.add(row)

    async def page(
        self, query: Select[Row], cursor: InstrumentedAttribute[Any], page: Page, after: object = None
    ) -> tuple[list[Row], bool]:
        """The rows of one page, in falling order of ``cursor``, and whether there are more.

        ``after``: the value of ``cursor`` that ``page.after`` stands for, where it is not the value itself.
        """
        start = page.after if after is None else after
        if start is not None:
            query = query.where(cursor < start)
        rows = list((await self.session.scalars(query.order_by(cursor.desc()).limit(page.limit + 1))).all())
        return rows[: page.limit], len(rows) > page.limit


class ProjectScope(Scope):
    """One project's rows within one transaction, of tables that have a ``project_id``."""

    def __init__(self, transaction: Transaction, organisation_id: str, project_id: str) -> None:
        super().__init__(transaction, organisation_id)
        self.project_id = project_id

    def restrict(self, query: Select[*Columns], table: type[TenantMarked]) -> Select[*Columns]:
        """``query`` (which reads ``table``), restricted to this project."""
        column = cast("InstrumentedAttribute[str]", getattr(table, "project_id"))  # noqa: B009 - such a table has one
        return super().restrict(query, table).where(column == self.project_id)

    def add(self, row: TenantMarked) -> None:
        """Make ``row`` this project's."""
        setattr(row, "project_id", self.project_id)  # noqa: B010 - such a table has one
        super().add(row)
