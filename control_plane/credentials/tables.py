"""Tables: credentials for hosted upstreams, and the data keys that seal them."""

from datetime import datetime

from sqlalchemy import LargeBinary, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base, Stamped, utc_now
from control_plane.tenancy import TenantOwned, same_tenant


class DataKey(TenantOwned, Stamped, Base):
    """An organisation's data key, wrapped by the key-encryption key ``key_id``."""

    __tablename__ = "data_keys"
    __table_args__ = (UniqueConstraint("organisation_id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str]
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)


class CredentialRow(TenantOwned, Stamped, Base):
    """A ``models.credentials.Credential``; ``project_id`` None: for all projects that have none of their own.

    ``sealed`` is the key at the provider (``sealing``), ``last4`` what a list may show of it.
    """

    __tablename__ = "credentials"
    __table_args__ = (
        UniqueConstraint("organisation_id", "id"),
        UniqueConstraint("organisation_id", "upstream", "project_id", postgresql_nulls_not_distinct=True),
        same_tenant("project_id", "projects"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str | None]
    upstream: Mapped[str]
    name: Mapped[str]
    base_url: Mapped[str | None]
    last4: Mapped[str]
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    rotated_at: Mapped[datetime] = mapped_column(default=utc_now)
