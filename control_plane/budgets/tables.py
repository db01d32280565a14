"""Tables: budgets, and the windows in which one was used up."""

from sqlalchemy import ForeignKeyConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped
from control_plane.tenancy import TenantOwned


class BudgetRow(TenantOwned, Stamped, Base):
    """A ``models.budgets.Budget``. ``target_id``: of the project, user or key, or of the organisation itself.

    ``by_operator``: the operator set it, and nobody else changes it.
    """

    __tablename__ = "budgets"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        UniqueConstraint("organisation_id", "scope", "target_id", "period", "hard", "by_operator"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str]
    target_id: Mapped[str]
    period: Mapped[str]
    limit_micro: Mapped[int]
    hard: Mapped[bool]
    by_operator: Mapped[bool]


class BudgetAlert(TenantOwned, Stamped, Base):
    """That a budget was reached in a window: once each."""

    __tablename__ = "budget_alerts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["organisation_id", "budget_id"], ["budgets.organisation_id", "budgets.id"], ondelete="CASCADE"
        ),
    )

    budget_id: Mapped[str] = mapped_column(primary_key=True)
    window: Mapped[str] = mapped_column(primary_key=True)
    limit_micro: Mapped[int]
    spent_micro: Mapped[int]
