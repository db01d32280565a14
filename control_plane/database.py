"""PostgreSQL: the engine, the tables' base, and the transaction of one request.

Invariants
1. A request, and one step of a background task, is one transaction: committed once, at the edge; below it only flushes.
2. What the world is told (invalidations, wake-ups) is told after the commit, never before.
3. A statement, a lock and an idle transaction each have a time limit, held by the server.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import ClassVar

from psycopg.errors import UniqueViolation
from sqlalchemy import URL, BigInteger, Boolean, DateTime, Identity, MetaData, Text, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from control_plane.config import ControlPlaneConfig
from models.errors import Conflict

DRIVER = "postgresql+psycopg"
CONNECTION_SECONDS_MAX = 1_800
IDLE_SECONDS_MAX = 60
KEEPALIVE = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
BIGINT_MAX = 2**63 - 1

Sessions = async_sessionmaker[AsyncSession]


class Base(DeclarativeBase):
    """Base of all tables; constraints get predictable names, for migrations name them."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        str: Text(),
        int: BigInteger(),
        bool: Boolean(),
        datetime: DateTime(timezone=True),
    }


def utc_now() -> datetime:
    """The present, with its time zone."""
    return datetime.now(UTC)


def unix_seconds(when: datetime) -> int:
    """A time as the API shows it."""
    return int(when.timestamp())


class Stamped:
    """Mixin: when the row was made."""

    created_at: Mapped[datetime] = mapped_column(default=utc_now)


def numbered() -> Mapped[int]:
    """A column that numbers rows in the order of their insertion."""
    return mapped_column(BigInteger(), Identity(always=True), unique=True)


def database_url(text: str) -> URL:
    """SQLAlchemy's URL for a libpq or SQLAlchemy URL, unix sockets (``?host=/folder``) included.

    Raises ValueError (sqlalchemy.exc.ArgumentError for what is no URL) where it is not PostgreSQL.
    """
    url = make_url(text)
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError("the database must be PostgreSQL: postgresql://…")
    return url.set(drivername=DRIVER)


def create_engine(config: ControlPlaneConfig) -> AsyncEngine:
    """An engine with limits; connects on first use."""
    limits = {
        "statement_timeout": config.statement_seconds_max,
        "lock_timeout": config.lock_seconds_max,
        "idle_in_transaction_session_timeout": IDLE_SECONDS_MAX,
    }
    options = " ".join(f"-c {name}={round(seconds * 1_000)}" for name, seconds in limits.items())
    return create_async_engine(
        database_url(config.database_url.get_secret_value()),
        pool_size=config.database_connections,
        max_overflow=config.database_connections,
        pool_timeout=config.connect_seconds_max,
        pool_recycle=CONNECTION_SECONDS_MAX,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            **KEEPALIVE,
            "connect_timeout": max(1, round(config.connect_seconds_max)),
            "options": f"{options} -c TimeZone=UTC",
            "application_name": "objecta-control-plane",
        },
    )


class Transaction:
    """One unit of work: its session, and what to do once it is committed."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session
        self._after: list[Callable[[], Awaitable[None]]] = []

    def after_commit(self, action: Callable[[], Awaitable[None]]) -> None:
        """Have ``action`` awaited after the commit; never where the transaction fails."""
        self._after.append(action)

    async def flush(self, conflict: str, param: str | None = None) -> None:
        """Send pending changes. Raises Conflict with the given message where a unique constraint refuses them."""
        try:
            await self.session.flush()
        except IntegrityError as error:
            if isinstance(error.orig, UniqueViolation):
                raise Conflict(conflict, param=param) from error
            raise

    async def commit(self) -> None:
        """Commit, then tell the world."""
        await self.session.commit()
        for action in self._after:
            await action()


@asynccontextmanager
async def begin(sessions: Sessions) -> AsyncGenerator[Transaction]:
    """A transaction that commits when the block ends, and rolls back when it raises."""
    async with sessions() as session:
        transaction = Transaction(session)
        yield transaction
        await transaction.commit()
