"""Tables: files."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped
from control_plane.tenancy import TenantOwned, same_tenant

UPLOADING, STORED, DELETED = "uploading", "stored", "deleted"
WHOLE = (
    "state <> 'stored' OR (filename IS NOT NULL AND purpose IS NOT NULL AND bytes IS NOT NULL AND sha256 IS NOT NULL)"
)


class File(TenantOwned, Stamped, Base):
    """``uploading`` → ``stored`` → ``deleted``, then the row goes; one in any other state than ``stored`` is hidden.

    ``lease_until``: until then its gateway writes, or removes, the bytes; afterwards a sweep takes over.
    """

    __tablename__ = "files"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        same_tenant("project_id", "projects"),
        CheckConstraint(WHOLE, name="ck_files_whole"),
        Index(None, "organisation_id", "project_id", "id"),
        Index("ix_files_unfinished", "lease_until", postgresql_where=text("state <> 'stored'")),
        Index("ix_files_expiring", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str]
    state: Mapped[str] = mapped_column(default=UPLOADING)
    lease_until: Mapped[datetime | None]
    filename: Mapped[str | None]
    purpose: Mapped[str | None]
    bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    expires_at: Mapped[datetime | None]
