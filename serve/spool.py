"""Lines on local disk that wait for Redis: durable when ``append`` returns, drained by whichever replica is alive.

Invariants
1. A file has one owner, who holds its lock; the lock ends with the process, so the dead's files are anyone's to drain.
2. A file disappears only after all its lines were taken. Being taken twice is possible: the taker must not mind.
3. A last line without its end was never promised to anyone and is passed over.
"""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

SUFFIX = ".jsonl"
FILE_MODE = 0o600
FOLDER_MODE = 0o700


class Spool:
    """One replica's spool in a folder that the node's replicas share. One task at a time uses it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[Path, int] | None = None
        self.bytes = 0
        self.measure()

    def measure(self) -> int:
        """Bytes in the folder, of all its replicas; 0 where there is no folder yet."""
        sizes = 0
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                sizes += path.stat().st_size
        self.bytes = sizes
        return sizes

    def append(self, lines: Iterable[bytes]) -> None:
        """Durable on return. Raises OSError where the disk does not take it; nothing of it counts then."""
        path, descriptor = self._own or self._create()
        data = b"".join(line + b"\n" for line in lines)
        before = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, data)
            if written != len(data):
                raise OSError(f"{path.name}: {written} of {len(data)} bytes written")
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
        self.bytes += len(data)

    async def drain(self, take: Callable[[list[bytes]], Awaitable[None]]) -> None:
        """Give every unowned file's lines to ``take``; what it raises ends the draining and keeps the file."""
        self.release()
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            descriptor = _lock(path)
            if descriptor is None:
                continue
            try:
                whole, _, _ = path.read_bytes().rpartition(b"\n")
                if whole:
                    await take(whole.split(b"\n"))
                path.unlink()
            finally:
                os.close(descriptor)
        self.measure()

    def release(self) -> None:
        """Give this replica's own file up to whoever drains next."""
        if self._own is not None:
            os.close(self._own[1])
            self._own = None

    def _create(self) -> tuple[Path, int]:
        self._folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        while True:
            path = self._folder / f"{uuid.uuid4().hex}{SUFFIX}"
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
            # Between the two a drainer may take the empty file away; then there is another name to try.
            descriptor = _lock(path)
            if descriptor is not None:
                self._own = (path, descriptor)
                _sync_folder(self._folder)
                return self._own


def _lock(path: Path) -> int | None:
    """An open, locked descriptor; None where another process holds the file or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
