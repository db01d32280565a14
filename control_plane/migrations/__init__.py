"""The schema's history. Replicas that start together wait for one another, and the first one migrates."""

from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, NullPool, create_engine, text

from control_plane.database import KEEPALIVE, database_url

FOLDER = Path(__file__).parent
LOCK_ID = 0x0B3EC7A
CONNECT_SECONDS_MAX = 10

Direction = Literal["up", "down"]


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration, bound to an open connection."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def migrate(url: str, revision: str = "head", direction: Direction = "up") -> None:
    """Bring the database at ``url`` to ``revision``; waits while another process migrates it.

    Raises sqlalchemy.exc.OperationalError where the database does not answer.
    """
    engine = create_engine(
        database_url(url), poolclass=NullPool, connect_args={**KEEPALIVE, "connect_timeout": CONNECT_SECONDS_MAX}
    )
    with engine.connect() as connection:
        # A session's lock, for it must outlive the transactions of the migrations; the connection's end frees it.
        connection.execute(text("SELECT pg_advisory_lock(:id)"), {"id": LOCK_ID})
        connection.commit()
        move = command.upgrade if direction == "up" else command.downgrade
        move(alembic_config(connection), revision)
        connection.commit()
        connection.execute(text("SELECT pg_advisory_unlock(:id)"), {"id": LOCK_ID})
        connection.commit()
    engine.dispose()
