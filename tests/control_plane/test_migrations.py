"""Migrations: they make what the models say, can be taken back, and wait for one another."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.exc import ArgumentError

from control_plane.database import DRIVER, database_url
from control_plane.migrations import FOLDER, LOCK_ID, migrate
from control_plane.schema import METADATA, TABLES

HEAD = ScriptDirectory(str(FOLDER)).get_current_head()
TABLE_QUERY = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {name for (name,) in connection.execute(TABLE_QUERY)}


def test_models_and_migrations_agree(postgres_url: str) -> None:
    migrate(postgres_url)
    engine = create_engine(database_url(postgres_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_migrating_up_again_changes_nothing_and_down_takes_all_back(postgres_url: str) -> None:
    wanted = {table.__tablename__ for table in TABLES} | {"alembic_version"}
    for _ in range(2):
        migrate(postgres_url)
        assert tables(postgres_url) == wanted
    migrate(postgres_url, "base", "down")
    assert tables(postgres_url) == {"alembic_version"}
    migrate(postgres_url)
    assert tables(postgres_url) == wanted


def test_replicas_that_start_together_migrate_once(postgres_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [postgres_url] * 4))
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]


def test_a_migration_waits_for_the_one_that_runs(postgres_url: str) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = %s"
    with psycopg.connect(postgres_url, autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK_ID])
        migrating = pool.submit(migrate, postgres_url)
        while connection.execute(waiting, [LOCK_ID]).fetchone() != (1,):
            assert not migrating.done()
        assert tables(postgres_url) == set()
        connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK_ID])
        migrating.result(timeout=30)
    assert "organisations" in tables(postgres_url)


@pytest.mark.parametrize(
    "url", ["postgresql://u:p@h:5/d", "postgresql+psycopg://u:p@h:5/d", "postgresql://u@/d?host=/run/pg"]
)
def test_libpq_and_sqlalchemy_urls_are_taken(url: str) -> None:
    made = database_url(url)
    assert (made.drivername, made.database, made.username) == (DRIVER, "d", "u")


def test_another_database_is_refused() -> None:
    with pytest.raises(ValueError, match="must be PostgreSQL"):
        database_url("sqlite:///x")
    with pytest.raises(ArgumentError):
        database_url("nothing")
