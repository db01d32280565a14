"""Bodies and answers: budgets."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from control_plane.budgets.tables import BudgetAlert, BudgetRow
from control_plane.database import unix_seconds
from control_plane.fields import Body
from models.budgets import AMOUNT_MAX, BudgetScope, Period

Amount = Annotated[int, Field(ge=0, le=AMOUNT_MAX, description="Micro-units of the price book's currency")]
KEYS_MAX = 100


class BudgetCreate(Body):
    """A new budget. ``target_id``: the project, user or API key; null for the organisation's own."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"scope": "api_key", "target_id": "key_0199…", "period": "month", "limit_micro": 50_000_000}
        }
    )

    scope: BudgetScope
    target_id: str | None = Field(default=None, max_length=64)
    period: Period = Field(description="Days and months are UTC's; `total` counts everything the ledger holds")
    limit_micro: Amount
    hard: bool = Field(default=True, description="Calls that could exceed it are refused; a soft one only tells")

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.scope == "organisation") != (self.target_id is None):
            raise ValueError("target_id must name what the scope is, and be null for an organisation")
        return self


class BudgetChange(Body):
    """What to change; fields left out stay."""

    limit_micro: Amount | None = None


class BudgetView(BaseModel):
    """A budget and where it stands in the present period."""

    object: Literal["budget"] = "budget"
    id: str
    organisation_id: str
    scope: str
    target_id: str
    period: str
    limit_micro: int
    hard: bool
    set_by: Literal["operator", "organisation"] = Field(description="Who may change it")
    window: str = Field(description="The present period (UTC): a day, a month, or `total`")
    spent_micro: int = Field(description="Of the present period, as far as it is settled")
    held_micro: int | None = Field(description="Promised to calls that run; null while that cannot be told")
    reached_at: int | None = Field(description="Unix seconds; when the limit was seen reached in this period")
    created_at: int

    @classmethod
    def of(cls, row: BudgetRow, window: str, standing: tuple[int, int | None], alert: BudgetAlert | None) -> Self:
        """As the API shows it."""
        return cls(
            id=row.id,
            organisation_id=row.organisation_id,
            scope=row.scope,
            target_id=row.target_id,
            period=row.period,
            limit_micro=row.limit_micro,
            hard=row.hard,
            set_by="operator" if row.by_operator else "organisation",
            window=window,
            spent_micro=standing[0],
            held_micro=standing[1],
            reached_at=None if alert is None else unix_seconds(alert.created_at),
            created_at=unix_seconds(row.created_at),
        )


class BudgetDeleted(BaseModel):
    """A budget that is no more."""

    object: Literal["budget.deleted"] = "budget.deleted"
    id: str
    deleted: Literal[True] = True


class Counts(Body):
    """Windows that a gateway wants counted, by their Redis keys."""

    keys: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(min_length=1, max_length=KEYS_MAX)]
