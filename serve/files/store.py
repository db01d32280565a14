"""The object store: a folder or a bucket behind fsspec, whose blocking calls run in threads of their own.

Invariants
1. ``key`` is the only place that names an object, so tenants cannot meet.
2. Of one object being written or read at most one call runs at a time; once it is closed none starts.
3. Whatever the store does wrong is an OSError, of the kinds that Python knows.
"""

import asyncio
import hashlib
import importlib
import os
import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import fsspec.core  # pyright: ignore[reportMissingTypeStubs] - it has none
import fsspec.implementations.local as local_files  # pyright: ignore[reportMissingTypeStubs] - it has none

FOLDER = "files"
SANE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
S3 = "s3"

T = TypeVar("T")
# fsspec has no types.
FileSystem = Any
Run = Callable[..., Awaitable[Any]]


class Handle(Protocol):
    """A binary file, as fsspec opens it."""

    def read(self, size: int, /) -> bytes: ...  # noqa: D102 - Python's file protocol
    def write(self, data: bytes, /) -> int: ...  # noqa: D102
    def seek(self, offset: int, /) -> int: ...  # noqa: D102
    def flush(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


def key(organisation_id: str, file_id: str) -> str:
    """An object's path below the store's root. Raises ValueError for what is no plain id."""
    if not (SANE_ID.fullmatch(organisation_id) and SANE_ID.fullmatch(file_id)):
        raise ValueError("an id holds letters, digits, '_' and '-' only")
    return f"{FOLDER}/{organisation_id}/{file_id}"


def opened(address: str) -> tuple[FileSystem, str]:
    """The file system behind an address, and the path of its root.

    ``address``: a folder, or ``s3://bucket/prefix`` (with ``?region=…`` and ``&endpoint_override=…`` where needed;
    credentials come from AWS's usual places), or any other address that fsspec knows.
    """
    if urlsplit(address).scheme == S3:
        return bucket(address)
    files, root = cast("Callable[[str], tuple[FileSystem, str]]", cast("Any", fsspec.core).url_to_fs)(address)
    return files, root.rstrip("/")


def bucket(address: str) -> tuple[FileSystem, str]:
    """An S3 address's file system and root. Arrow's client: it is here already, for knowledge bases."""
    # Only a gateway that stores in a bucket pays for loading these.
    arrow: Any = importlib.import_module("pyarrow.fs")
    wrapper: Any = importlib.import_module("fsspec.implementations.arrow").ArrowFSWrapper
    files, root = arrow.FileSystem.from_uri(address)
    return wrapper(files), root.rstrip("/")


class ObjectStore:
    """One store for one process; at most ``threads`` of its calls run at a time, the others wait their turn."""

    def __init__(self, address: str, threads: int) -> None:
        """Nothing connects yet."""
        self._address = address
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="files")

    def close(self) -> None:
        """Start nothing more, and wait for what runs."""
        self._pool.shutdown()

    def writer(self, name: str) -> "Writer":
        """A new object, which counts only once it is finished."""
        return Writer(self.run, partial(self._open_new, name))

    def reader(self, name: str, start: int) -> "Reader":
        """An object from byte ``start`` on."""
        return Reader(self.run, partial(self._open_old, name, start))

    async def remove(self, name: str) -> None:
        """Make an object not exist, whether it does or not. Raises OSError."""
        await self.run(self._remove, name)

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """``work`` in one of the store's threads; a caller that is cancelled leaves it running."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    @cached_property
    def _place(self) -> tuple[FileSystem, str]:
        """Asked for in threads only: a bucket may be asked for its region. Raises OSError."""
        return opened(self._address)

    def _open_new(self, name: str) -> Handle:
        files, root = self._place
        path = f"{root}/{name}"
        if is_local(files):
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
        return files.open(path, "wb")

    def _open_old(self, name: str, start: int) -> Handle:
        files, root = self._place
        handle: Handle = files.open(f"{root}/{name}", "rb")
        if start:
            handle.seek(start)
        return handle

    def _remove(self, name: str) -> None:
        files, root = self._place
        with suppress(FileNotFoundError):
            if files.exists(f"{root}/{name}"):
                files.rm(f"{root}/{name}")


class _Open:
    """A file that threads use one after the other. Open it first, and close it whatever happens."""

    def __init__(self, run: Run, opening: Callable[[], Handle]) -> None:
        self._run = run
        self._opening = opening
        self._turn = threading.Lock()
        self._handle: Handle | None = None
        self._closed = False

    async def open(self) -> None:
        """Raises OSError."""
        await self._run(self._open)

    async def close(self) -> None:
        """Let go of the file, after the call that may still run. Twice does nothing. Raises OSError."""
        await self._run(self._close)

    def _open(self) -> None:
        with self._turn:
            # Whoever asked may have been cancelled, and have closed it before this thread's turn came.
            if not self._closed:
                self._handle = self._opening()

    def _held(self) -> Handle:
        if self._handle is None:
            raise OSError("the object is closed")
        return self._handle

    def _close(self) -> None:
        with self._turn:
            handle, self._handle, self._closed = self._handle, None, True
            if handle is not None:
                handle.close()


class Writer(_Open):
    """An object being written; ``size`` and ``sha256`` are of what was written so far."""

    def __init__(self, run: Run, opening: Callable[[], Handle]) -> None:
        super().__init__(run, opening)
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """Hex."""
        return self._digest.hexdigest()

    async def write(self, data: bytes) -> None:
        """Append. Raises OSError."""
        await self._run(self._write, data)

    async def finish(self) -> None:
        """Close, with every byte in the store and durable there. Raises OSError."""
        await self._run(self._finish)

    def _write(self, data: bytes) -> None:
        with self._turn:
            self._held().write(data)
            self._digest.update(data)
            self.size += len(data)

    def _finish(self) -> None:
        with self._turn:
            handle = self._held()
            make_durable(handle)
            self._handle, self._closed = None, True
            handle.close()


class Reader(_Open):
    """An object being read, front to back."""

    async def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end. Raises OSError."""
        return await self._run(self._read, size)

    def _read(self, size: int) -> bytes:
        with self._turn:
            return self._held().read(size)


def make_durable(handle: Handle) -> None:
    """Have what was written survive a loss of power. Buckets acknowledge only what does; a folder must be told."""
    if isinstance(handle, local_files.LocalFileOpener):
        handle.flush()
        os.fsync(cast("Any", handle).fileno())


def is_local(files: FileSystem) -> bool:
    """Whether the file system is this machine's."""
    return isinstance(files, local_files.LocalFileSystem)
