"""Ingestion as a whole, under a real Ray, into a real LanceDB."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lancedb
import pytest

from models.documents import DocumentRecord
from models.doubles.hash_embedder import HashEmbedder
from models.errors import Conflict, InvalidRequest
from pipelines.flow import FlowSettings
from pipelines.ingest import IngestConfig, IngestReport, run_ingestion

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    # Ray Data warns of its own settings when it copies them, and LanceDB of forks when Ray starts a process.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:lancedb fork support:RuntimeWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("ingest_driver.py")
WAIT_SECONDS_MAX = 120.0
RAY_DATA = FlowSettings(few_documents_max=0)


class Stop(Exception):
    """What a progress raises to cancel."""


class FileManifest:
    """A manifest in a file, so that a killed process leaves what it saved."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, DocumentRecord]:
        if not self.path.exists():
            return {}
        rows = [DocumentRecord.model_validate_json(line) for line in self.path.read_text().splitlines()]
        return {row.document: row for row in rows}

    def save(self, records: Iterable[DocumentRecord]) -> None:
        with self.path.open("a") as file:
            file.writelines(record.model_dump_json() + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())


class Watch:
    """A progress that keeps what it was told, and stops the ingestion at a number of documents, or of reports."""

    def __init__(self, stop_at: int | None = None, reports_max: int | None = None) -> None:
        self.told: list[dict[str, int]] = []
        self.stop_at = stop_at
        self.reports_max = reports_max

    def update(self, **counts: int) -> None:
        self.told.append(counts)
        if self.stop_at is not None and counts["documents_done"] >= self.stop_at:
            raise Stop
        if len(self.told) == self.reports_max:
            raise Stop


@dataclass
class Base:
    """A knowledge base: its folder, its store, its manifest."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "docs"

    @property
    def manifest(self) -> FileManifest:
        return FileManifest(self.folder / "manifest.jsonl")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def config(self, **changes: Any) -> IngestConfig:
        return IngestConfig(root=self.root, store=str(self.folder / "store"), table="org.kb", **changes)

    def ingest(self, watch: Watch | None = None, **changes: Any) -> IngestReport:
        return run_ingestion(self.config(**changes), self.manifest, watch or Watch(), HashEmbedder)

    def table(self) -> Any:
        return lancedb.connect(self.folder / "store").open_table("org.kb")

    def rows(self) -> list[dict[str, Any]]:
        return sorted(self.table().to_arrow().to_pylist(), key=lambda row: (row["document"], row["ordinal"]))

    def states(self) -> dict[str, str]:
        return {name: record.code or record.state for name, record in self.manifest.load().items()}

    def check(self) -> None:
        """The table holds exactly the chunks that the manifest counts, each once."""
        rows = self.rows()
        assert len({row["chunk_id"] for row in rows}) == len(rows)
        indexed = {name: r for name, r in self.manifest.load().items() if r.state == "indexed"}
        counts = {name: sum(row["document"] == name for row in rows) for name in {row["document"] for row in rows}}
        assert counts == {name: record.chunks for name, record in indexed.items()}
        assert {row["document"]: row["content_hash"] for row in rows} == {
            name: record.content_hash for name, record in indexed.items()
        }


@pytest.fixture
def base(tmp_path: Path) -> Base:
    made = Base(tmp_path)
    made.root.mkdir()
    return made


def section(number: int) -> str:
    return f"# Part {number}\n\n" + "\n\n".join(f"Sentence {line} of document {number}." for line in range(40))


@pytest.mark.parametrize("flow", [FlowSettings(), RAY_DATA], ids=["few", "ray-data"])
def test_a_folder_becomes_a_table_and_a_broken_file_hurts_no_other(
    base: Base, make_pdf: Callable[..., bytes], flow: FlowSettings
) -> None:
    base.write("guide/pay.md", "# Pay\n\n## When\n\nSalaries are paid monthly.\n")
    base.write("page.html", "<!doctype html><title>Leave</title><p>Thirty days.</p>")
    base.write("report.pdf", make_pdf("Numbers went up."))
    base.write("it's ünïcode.txt", "Plain words.")
    base.write("locked.pdf", make_pdf("secret", password="hunter2"))
    base.write("broken.pdf", b"%PDF-1.4 nonsense")
    base.write("photo.md", b"\x89PNG\r\n\x1a\n" + bytes(50))
    base.write("empty.md", "")
    base.write("large.txt", "x" * 5_000)
    (base.root / "escape.md").symlink_to("/etc/passwd")
    (base.root / "loop").symlink_to(base.root)
    watch = Watch()
    report = base.ingest(watch, flow=flow, file_bytes_max=5_000)
    assert base.states() == {
        "guide/pay.md": "indexed",
        "page.html": "indexed",
        "report.pdf": "indexed",
        "it's ünïcode.txt": "indexed",
        "locked.pdf": "encrypted",
        "broken.pdf": "broken",
        "photo.md": "unsupported",
        "empty.md": "empty",
        "large.txt": "too_large",
        "escape.md": "outside",
    }
    base.check()
    assert (report.documents, report.indexed, report.failed, report.chunks) == (10, 4, 6, 4)
    assert watch.told[-1] == {
        "documents_total": 10,
        "documents_done": 10,
        "documents_failed": 6,
        "chunks_done": 4,
        "tokens_done": report.tokens,
    }
    pay = next(row for row in base.rows() if row["document"] == "guide/pay.md")
    source = (base.root / "guide/pay.md").read_text()
    assert pay["heading"] == ["Pay", "When"]
    assert pay["text"] == source[pay["start"] : pay["end"]]
    hits = base.table().search("salaries", query_type="fts").limit(3).to_list()
    assert [hit["document"] for hit in hits] == ["guide/pay.md"]


def test_again_changes_nothing_then_changed_replaces_and_removed_goes(base: Base) -> None:
    for number in range(4):
        base.write(f"{number}.md", section(number))
    base.write("bad.pdf", b"%PDF-1.4 nonsense")
    base.ingest()
    rows, version, saved = base.rows(), base.table().version, base.manifest.load()

    report = base.ingest()
    assert (report.indexed, report.unchanged, report.failed, report.deleted) == (0, 4, 1, 0)
    assert base.table().version == version
    assert base.rows() == rows
    assert base.manifest.load() == saved

    base.write("0.md", "# New\n\nQuite different.")
    base.write("1.md", b"%PDF-1.4 turned into nonsense")
    (base.root / "2.md").unlink()
    report = base.ingest()
    assert (report.indexed, report.unchanged, report.failed, report.deleted) == (1, 1, 2, 1)
    assert base.states() == {
        "0.md": "indexed",
        "1.md": "broken",
        "2.md": "deleted",
        "3.md": "indexed",
        "bad.pdf": "broken",
    }
    base.check()
    assert [row["text"] for row in base.rows() if row["document"] == "0.md"] == ["# New\n\nQuite different."]
    assert [row for row in base.rows() if row["document"] == "3.md"] == [
        row for row in rows if row["document"] == "3.md"
    ]

    shutil.rmtree(base.root)
    base.root.mkdir()
    assert base.ingest().deleted == 4
    assert base.rows() == []
    assert set(base.states().values()) == {"deleted"}
    with pytest.raises(InvalidRequest, match="holds no documents"):
        base.ingest()
    base.write("2.md", section(2))
    assert base.ingest().indexed == 1
    base.check()


def test_other_settings_cut_every_document_anew_and_a_lost_store_is_filled_again(base: Base) -> None:
    base.write("a.md", section(1))
    base.ingest()
    before = {row["chunk_id"] for row in base.rows()}
    assert base.ingest(chunks={"tokens_max": 64, "overlap_tokens": 0}).indexed == 1
    assert before.isdisjoint(row["chunk_id"] for row in base.rows())
    base.check()
    shutil.rmtree(base.folder / "store")
    assert base.ingest().indexed == 1
    base.check()


def test_an_empty_or_missing_folder_is_the_callers_mistake(base: Base) -> None:
    with pytest.raises(InvalidRequest, match="holds no documents"):
        base.ingest()
    base.root.rmdir()
    with pytest.raises(InvalidRequest, match="does not exist"):
        base.ingest()


def test_a_table_of_another_model_is_left_alone(base: Base) -> None:
    base.write("a.md", "words")
    base.ingest()
    base.write("b.md", "more words")
    with pytest.raises(Conflict, match="keeps the model"):
        run_ingestion(base.config(), base.manifest, Watch(), lambda: HashEmbedder(dimensions=8))
    base.check()


@pytest.mark.parametrize("flow", [FlowSettings(), RAY_DATA], ids=["few", "ray-data"])
def test_cancelled_in_the_middle_it_keeps_what_it_committed_and_goes_on_from_there(
    base: Base, flow: FlowSettings
) -> None:
    for number in range(32):
        base.write(f"{number:02}.md", section(number))
    with pytest.raises(Stop):
        base.ingest(Watch(stop_at=8), flow=flow)
    kept = base.manifest.load()
    assert 8 <= len(kept) < 32
    base.check()
    report = base.ingest()
    assert (report.indexed, report.unchanged) == (32 - len(kept), len(kept))
    base.check()


def never_ready() -> HashEmbedder:
    """An encoder whose weights never arrive."""
    threading.Event().wait()
    raise AssertionError


def test_cancelled_while_the_encoder_loads_it_stops_and_the_next_run_begins_anew(base: Base) -> None:
    base.write("a.md", section(1))
    watch = Watch(reports_max=3)
    with pytest.raises(Stop):
        run_ingestion(base.config(), base.manifest, watch, never_ready)
    assert [counts["documents_done"] for counts in watch.told] == [0, 0, 0]
    assert base.states() == {}
    assert base.ingest().indexed == 1
    base.check()


@pytest.mark.parametrize("moment", ["committed", "recorded"])
def test_killed_between_commit_and_record_nothing_is_lost_or_doubled(base: Base, local_ray: str, moment: str) -> None:
    for number in range(48):
        base.write(f"{number:02}.md", section(number))
    order = {"address": local_ray, "folder": str(base.folder), "moment": moment}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(DRIVER.parent)))}
    with subprocess.Popen(
        [sys.executable, str(DRIVER), json.dumps(order)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as driver:
        assert driver.stdout is not None
        assert b"reached\n" in iter(driver.stdout.readline, b"")
        driver.send_signal(signal.SIGKILL)
        driver.wait(WAIT_SECONDS_MAX)
    recorded = base.manifest.load()
    committed = {row["document"] for row in base.rows()}
    assert 0 < len(committed) < 48
    assert set(recorded) == (committed if moment == "recorded" else set())
    (base.root / "00.md").unlink()
    report = base.ingest()
    assert report.indexed + report.unchanged == 47
    base.check()
    clean = Base(base.folder / "clean")
    shutil.copytree(base.root, clean.root)
    clean.ingest()
    assert clean.rows() == base.rows()
