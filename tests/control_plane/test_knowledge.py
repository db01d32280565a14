"""Knowledge bases, ingestions as a tenant sees them, and the job's side of both."""

from pathlib import Path

import pytest

from control_plane.config import ControlPlaneConfig
from models.documents import DocumentRecord

EMBEDDING = "all-minilm-l6-v2"


@pytest.fixture
async def base(acme) -> dict:
    return await acme.make("/knowledge-bases", {"name": "docs", "embedding_model": EMBEDDING})


@pytest.fixture
def root(config: ControlPlaneConfig) -> Path:
    return config.ingestion_roots[0]


@pytest.fixture
async def ingestion(acme, base, root) -> dict:
    return await acme.make(f"/knowledge-bases/{base['id']}/ingestions", {"path": str(root)}, status=202)


def record(document: str, **fields) -> dict:
    return DocumentRecord.model_validate({"document": document, "state": "indexed", **fields}).model_dump()


async def test_a_knowledge_base_is_made_found_by_name_and_read(acme, base) -> None:
    other = await acme.make("/knowledge-bases", {"name": "other", "embedding_model": EMBEDDING})
    place = acme.path("/knowledge-bases")
    assert (await acme.client.get(place)).json()["data"] == [other, base]
    assert (await acme.client.get(place, params={"name": "docs"})).json()["data"] == [base]
    assert (await acme.client.get(place, params={"name": "none"})).json()["data"] == []
    assert (await acme.client.get(f"{place}/{base['id']}")).json() == base


@pytest.mark.usefixtures("base")
async def test_a_knowledge_base_needs_a_free_name_and_a_model_that_is_served(acme, rival) -> None:
    again = await acme.client.post(acme.path("/knowledge-bases"), json={"name": "docs", "embedding_model": EMBEDDING})
    assert (again.status_code, again.json()["error"]["param"]) == (409, "name")
    await rival.make("/knowledge-bases", {"name": "docs", "embedding_model": EMBEDDING})
    unknown = await acme.client.post(acme.path("/knowledge-bases"), json={"name": "x", "embedding_model": "none"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "embedding_model")


async def test_an_ingestion_is_queued_listed_and_read(acme, base, ingestion, root) -> None:
    assert (ingestion["state"], ingestion["path"]) == ("queued", str(root.resolve()))
    place = acme.path(f"/knowledge-bases/{base['id']}/ingestions")
    assert (await acme.client.get(place)).json()["data"] == [ingestion]
    assert (await acme.client.get(f"{place}/{ingestion['id']}")).json() == ingestion


async def test_one_ingestion_runs_at_a_time_a_knowledge_base(acme, base, ingestion, root) -> None:
    place = acme.path(f"/knowledge-bases/{base['id']}/ingestions")
    second = await acme.client.post(place, json={"path": str(root)})
    assert (second.status_code, second.json()["error"]["code"]) == (409, "conflict")
    other = await acme.make("/knowledge-bases", {"name": "other", "embedding_model": EMBEDDING})
    await acme.make(f"/knowledge-bases/{other['id']}/ingestions", {"path": str(root)}, status=202)
    cancelled = (await acme.client.post(f"{place}/{ingestion['id']}/cancel")).json()
    assert (cancelled["state"], cancelled["cancel_requested"]) == ("cancelled", True)
    await acme.make(f"/knowledge-bases/{base['id']}/ingestions", {"path": str(root)}, status=202)


async def test_an_ingestion_is_found_below_its_own_knowledge_base_only(acme, ingestion) -> None:
    other = await acme.make("/knowledge-bases", {"name": "other", "embedding_model": EMBEDDING})
    answer = await acme.client.get(acme.path(f"/knowledge-bases/{other['id']}/ingestions/{ingestion['id']}"))
    assert answer.status_code == 404


async def test_the_job_learns_what_to_ingest(acme, base, ingestion, internal) -> None:
    assert (await internal.get(f"/internal/ingestions/{ingestion['id']}")).json() == {
        "organisation_id": acme.id,
        "knowledge_base_id": base["id"],
        "path": ingestion["path"],
        "embedding_model": EMBEDDING,
    }
    assert (await internal.get("/internal/ingestions/ing_none")).status_code == 404


async def test_the_manifest_is_written_by_document_and_shown(acme, base, ingestion, internal) -> None:
    place = f"/internal/ingestions/{ingestion['id']}/documents"
    first = [record("a.md", chunks=3, tokens=90), record("b/c.pdf", state="failed", code="encrypted", reason="locked")]
    assert (await internal.put(place, json={"records": first})).json() == {"saved": 2}
    assert (await internal.get(place)).json()["data"] == first
    # Of two records of one document the last counts.
    second = [record("a.md", chunks=1), record("a.md", chunks=5, content_hash="ab", bytes=7)]
    await internal.put(place, json={"records": second})
    await internal.put(place, json={"records": []})
    kept = {row["document"]: row for row in (await internal.get(place)).json()["data"]}
    assert kept == {"a.md": second[1], "b/c.pdf": first[1]}
    shown = acme.path(f"/knowledge-bases/{base['id']}/documents")
    page = (await acme.client.get(shown, params={"limit": 1})).json()
    assert (page["data"][0]["document"], page["has_more"]) == ("b/c.pdf", True)
    rest = (await acme.client.get(shown, params={"after": page["last_id"]})).json()
    assert [row["document"] for row in rest["data"]] == ["a.md"]
    failed = (await acme.client.get(shown, params={"state": "failed"})).json()["data"]
    assert [(row["document"], row["reason"]) for row in failed] == [("b/c.pdf", "locked")]
    assert (await acme.client.get(shown, params={"state": "odd"})).json()["error"]["param"] == "state"


async def test_a_manifest_takes_a_thousand_records_at_once(ingestion, internal) -> None:
    place = f"/internal/ingestions/{ingestion['id']}/documents"
    records = [record(f"folder/{number}.md") for number in range(1_000)]
    assert (await internal.put(place, json={"records": records})).status_code == 200
    assert len((await internal.get(place)).json()["data"]) == 1_000
    assert (await internal.put(place, json={"records": [*records, record("x")]})).status_code == 400


@pytest.mark.parametrize("bad", [{"document": "x" * 2_001}, {"state": "odd"}, {"bytes": -1}, {"bytes": 10**30}])
async def test_a_bad_record_is_refused(ingestion, internal, bad: dict) -> None:
    body = {"records": [record("a.md") | bad]}
    answer = await internal.put(f"/internal/ingestions/{ingestion['id']}/documents", json=body)
    assert answer.status_code == 400


async def test_progress_runs_from_queued_to_succeeded(acme, base, ingestion, internal) -> None:
    place = f"/internal/ingestions/{ingestion['id']}/progress"
    counts = {"documents_total": 9, "documents_done": 4, "documents_failed": 1, "chunks_done": 40, "tokens_done": 900}
    assert (await internal.post(place, json={"state": "running", **counts})).json() == {"cancel": False}
    shown = acme.path(f"/knowledge-bases/{base['id']}/ingestions/{ingestion['id']}")
    running = (await acme.client.get(shown)).json()
    assert running["state"] == "running"
    assert running["started_at"] is not None
    assert {name: running[name] for name in counts} == counts
    for _ in range(2):
        answer = await internal.post(place, json={"state": "succeeded", "error": None})
        assert answer.json() == {"cancel": False}
    ended = (await acme.client.get(shown)).json()
    assert (ended["state"], ended["documents_done"]) == ("succeeded", 4)
    assert ended["finished_at"] is not None
    late = await internal.post(place, json={"state": "running"})
    assert late.json() == {"cancel": True}


async def test_a_job_that_fails_says_why(acme, base, ingestion, internal) -> None:
    place = f"/internal/ingestions/{ingestion['id']}/progress"
    await internal.post(place, json={"state": "failed", "error": "no memory"})
    shown = (await acme.client.get(acme.path(f"/knowledge-bases/{base['id']}/ingestions/{ingestion['id']}"))).json()
    assert (shown["state"], shown["error"]) == ("failed", "no memory")


async def test_a_running_ingestion_is_told_to_stop_and_writes_until_then(acme, base, ingestion, internal) -> None:
    place = f"/internal/ingestions/{ingestion['id']}"
    shown = acme.path(f"/knowledge-bases/{base['id']}/ingestions/{ingestion['id']}")
    await internal.post(f"{place}/progress", json={"state": "running"})
    asked = (await acme.client.post(f"{shown}/cancel")).json()
    assert (asked["state"], asked["cancel_requested"]) == ("running", True)
    assert (await internal.post(f"{place}/progress", json={"state": "running"})).json() == {"cancel": True}
    assert (await internal.put(f"{place}/documents", json={"records": [record("a.md")]})).status_code == 200
    await internal.post(f"{place}/progress", json={"state": "failed", "error": "stopped"})
    ended = (await acme.client.post(f"{shown}/cancel")).json()
    assert (ended["state"], ended["error"]) == ("cancelled", None)
    assert (await internal.put(f"{place}/documents", json={"records": [record("b.md")]})).status_code == 409


@pytest.mark.parametrize("path", ["", "relative", "../up", "/none/such", "/etc", "/", "x" * 5_000, None])
async def test_a_path_outside_the_roots_is_refused(acme, base, path: object) -> None:
    answer = await acme.client.post(acme.path(f"/knowledge-bases/{base['id']}/ingestions"), json={"path": path})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "path")


async def test_whether_a_path_outside_the_roots_exists_is_not_told(acme, base) -> None:
    place = acme.path(f"/knowledge-bases/{base['id']}/ingestions")
    answers = [(await acme.client.post(place, json={"path": path})).json() for path in ("/etc/passwd", "/none/such")]
    assert answers[0] == answers[1]


async def test_links_are_followed_before_the_roots_are_asked(acme, base, root: Path, tmp_path: Path) -> None:
    real = str(root.resolve())  # noqa: ASYNC240 - a test may block
    (root / "out").symlink_to("/etc")
    (root / "loop").symlink_to(root / "loop")
    (root / "in").symlink_to(root)
    outside = tmp_path / "way-in"
    outside.symlink_to(root)
    (root / "pipe").symlink_to("/dev/null")
    place = acme.path(f"/knowledge-bases/{base['id']}/ingestions")
    for bad in (root / "out", root / "loop", root / "pipe", root / "absent", root / "in/../../x", f"{root}-sibling"):
        answer = await acme.client.post(place, json={"path": str(bad)})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "path"), bad
    answer = await acme.client.post(place, json={"path": str(outside)})
    assert (answer.status_code, answer.json()["path"]) == (202, real)


async def test_the_operator_may_ingest_from_anywhere_that_exists(acme, base, operator, tmp_path: Path) -> None:
    place = acme.path(f"/knowledge-bases/{base['id']}/ingestions")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for bad in (tmp_path / "absent", tmp_path / "loop", "/dev/null"):
        assert (await operator.post(place, json={"path": str(bad)})).status_code == 400
    (tmp_path / "note.md").write_text("# Note")
    answer = await operator.post(place, json={"path": str(tmp_path / "note.md")})
    assert (answer.status_code, answer.json()["path"]) == (202, str((tmp_path / "note.md").resolve()))
