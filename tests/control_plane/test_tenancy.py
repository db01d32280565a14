"""The tenant filter lives in one file: read from the sources, and held by the database."""

import ast
from pathlib import Path

import psycopg
import pytest

from control_plane.config import ControlPlaneConfig
from control_plane.schema import TABLES
from control_plane.tenancy import TenantMarked, TenantOwned

ROOT = Path(__file__).resolve().parent.parent.parent / "control_plane"
FILTER = ROOT / "tenancy.py"
# Who may write a query at all. Those beside the filter read for the platform, or read ``Organisation`` itself, or hand
# their query to ``Scope.restrict``.
MAY_QUERY = {
    "tenancy.py",
    "agents/repository.py",
    "batches/repository.py",
    "budgets/repository.py",
    "credentials/repository.py",
    "files/repository.py",
    "keys/repository.py",
    "knowledge/repository.py",
    "privacy/repository.py",
    "responses/repository.py",
    "tenants/repository.py",
    "usage/repository.py",
}
QUERIES = {"select", "update", "delete", "insert"}


def trees() -> dict[str, ast.Module]:
    paths = [path for path in ROOT.rglob("*.py") if "migrations" not in path.parts]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def filters(tree: ast.Module) -> list[int]:
    """Lines that compare an ``organisation_id`` of a table, or pass one to ``filter_by``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            columns = [
                side
                for side in sides
                if isinstance(side, ast.Attribute)
                and side.attr == "organisation_id"
                and (isinstance(side.value, ast.Name) and (side.value.id[0].isupper() or side.value.id == "table"))
            ]
            # A join to the organisation itself filters nothing.
            joins = "Organisation.id" in {ast.unparse(side) for side in sides}
            found += [node.lineno] if columns and not joins else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            named = {keyword.arg for keyword in node.keywords}
            membership = node.func.attr in {"in_", "is_", "any_"} and "organisation_id" in ast.unparse(node.func)
            if membership or (node.func.attr == "filter_by" and "organisation_id" in named):
                found.append(node.lineno)
    return found


def test_one_file_filters_by_organisation() -> None:
    found = {name: filters(tree) for name, tree in trees().items() if filters(tree)}
    assert list(found) == ["tenancy.py"]
    assert len(found["tenancy.py"]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "q.where(ApiKey.organisation_id == x)",
        "q.where(x == ApiKey.organisation_id)",
        "q.where(ApiKey.organisation_id != x)",
        "q.where(ApiKey.organisation_id.in_(x))",
        "q.filter_by(organisation_id=x)",
    ],
)
def test_a_stray_filter_would_be_seen(line: str) -> None:
    assert filters(ast.parse(line)) == [1]


def test_queries_are_written_in_repositories_alone() -> None:
    writers = {
        name
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("sqlalchemy")
        and any(alias.name in QUERIES for alias in node.names)
    }
    assert writers == MAY_QUERY


def test_every_table_but_organisations_is_a_tenants() -> None:
    assert [table.__tablename__ for table in TABLES if not issubclass(table, TenantMarked)] == ["organisations"]
    ledger = {table.__tablename__ for table in TABLES if not issubclass(table, TenantOwned)}
    assert ledger == {"organisations", "usage_events", "usage_days", "usage_upstream_days"}


async def test_the_database_refuses_a_reference_into_another_organisation(
    acme, rival, config: ControlPlaneConfig
) -> None:
    with (
        psycopg.connect(config.database_url.get_secret_value()) as connection,
        pytest.raises(psycopg.errors.ForeignKeyViolation),
    ):
        connection.execute("UPDATE api_keys SET project_id = %s WHERE id = %s", [acme.project_id, rival.key_id])
