"""What the documentation says of the code, held against the code: names, codes, files, and the form of decisions."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, SecretStr

from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from deployments.config import PlatformConfig
from models.agents import AgentSpec
from models.catalogue import CatalogueEntry, EngineArguments, Scaling
from models.errors import PlatformError
from models.usage import CallStatus, UsageSource

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))
DECISION_LINES_MAX = 50
SECTIONS = ["Context", "Decision", "Consequences", "Alternatives"]
SECRET = SecretStr("f" * 32)
FOLDERS = "models|serve|pipelines|control_plane|cluster|deployments|kuberay|docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def code_words(text: str) -> set[str]:
    """Everything between back-ticks, split at commas and spaces."""
    return {word for span in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"[\s,]+", span)}


def error_kinds(kind: type[PlatformError] = PlatformError) -> Iterator[type[PlatformError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from error_kinds(below)


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_is_short_and_has_its_parts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= DECISION_LINES_MAX
    assert re.match(rf"# {path.stem[:4]}: \S", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    (decision,) = re.findall(r"^## Decision\n\n(.+?)\n\n##", text, re.MULTILINE | re.DOTALL)
    assert decision.startswith("**")
    assert decision.endswith(".**")


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [path.stem[:4] for path in DECISIONS] == [f"{number:04}" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.stem)
def test_files_that_a_page_names_exist(path: Path) -> None:
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("operations.md", PlatformConfig),
        ("models.md", CatalogueEntry),
        ("models.md", EngineArguments),
        ("models.md", Scaling),
        ("agents.md", AgentSpec),
    ],
)
def test_a_page_names_every_field(name: str, model: type[BaseModel]) -> None:
    words = {part for word in code_words(page(name)) for part in word.split(".")}
    assert set(model.model_fields) - words == set()


def test_the_configuration_table_names_no_field_that_is_not_there() -> None:
    (table,) = re.findall(r"\| field \| default.*?\n\n", page("operations.md"), re.DOTALL)
    first_cells = [line.split("|")[1] for line in table.splitlines()[2:] if line]
    assert {name for cell in first_cells for name in code_words(cell)} == set(PlatformConfig.model_fields)


def test_defaults_of_an_agent_are_the_ones_told() -> None:
    told = dict(re.findall(r"^\| `(\w+)` \|[^|]+\| (.+) \|$", page("agents.md"), re.MULTILINE))
    defaults = {name: field.default for name, field in AgentSpec.model_fields.items() if not field.is_required()}
    assert {name: told[name].strip('"') for name in defaults if defaults[name] is not None} == {
        name: str(value) for name, value in defaults.items() if value is not None
    }


def test_the_api_page_names_every_error_a_caller_may_see() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.*?) \|", page("api.md"), re.MULTILINE)
    told = {(int(status), code) for status, codes in rows for code in code_words(codes) or {None}}
    kinds = {(kind.status, kind.default_code) for kind in error_kinds()}
    assert {kind for kind in kinds if kind[1]} - told == set()
    assert {status for status, _ in kinds} == {status for status, _ in told}


def test_the_api_page_names_every_way_a_call_may_end() -> None:
    assert {*get_args(CallStatus), *get_args(UsageSource)} <= code_words(page("api.md"))


def test_the_api_page_names_every_route_of_the_control_plane() -> None:
    # Nothing connects before it is asked.
    config = ControlPlaneConfig(
        database_url=SecretStr("postgresql://nowhere/none"),
        redis_url=SecretStr("redis://nowhere"),
        cluster_secret=SECRET,
        operator_key=SECRET,
        key_pepper=SECRET,
        jobs_url="http://nowhere",
        ingest_entrypoint="none",
        chat_models=(),
        embedding_models=(),
    )
    words = code_words(page("api.md"))
    missing: list[str] = []
    for path, methods in create_app(config).openapi()["paths"].items():
        short = path.removeprefix("/api/v1/organisations/{organisation_id}")
        tails = {f"…{short[index:]}" for index, letter in enumerate(short) if letter == "/"} | {path}
        if not tails & words:
            missing.append(path)
        assert {method.upper() for method in methods} <= words
    assert missing == []
