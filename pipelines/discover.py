"""Which files a folder holds: in a stable order, each once, nothing outside it.

1. Hidden files and folders (a leading dot) are skipped.
2. A symbolic link is followed only to what lies inside the root and was not found without it, so a loop ends and a file
   has one name.
3. What cannot be taken is told with a reason; what is below an unreadable folder is not taken for removed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import InvalidRequest
from pipelines.parsed import DocumentFailure


@dataclass(frozen=True)
class Found:
    """A file to ingest. ``document``: its name in the knowledge base; ``path``: where it really is."""

    document: str
    path: str
    bytes: int


@dataclass
class Discovery:
    """All files, by document, and what could not be taken."""

    files: dict[str, Found] = field(default_factory=dict[str, Found])
    failures: dict[str, DocumentFailure] = field(default_factory=dict[str, DocumentFailure])
    unreadable_folders: list[str] = field(default_factory=list[str])

    def hides(self, document: str) -> bool:
        """Whether it may still exist below a folder that could not be read."""
        return any(document.startswith(f"{folder}/") for folder in self.unreadable_folders)


class _Walk:
    def __init__(self, root: Path, bytes_max: int) -> None:
        self.discovery = Discovery()
        self._root = os.path.realpath(root)
        self._bytes_max = bytes_max
        self._folders: set[str] = set()
        self._files: set[str] = set()
        self._links: list[str] = []

    def run(self) -> Discovery:
        self._folder(self._root)
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                self._follow(link)
        return self.discovery

    def _folder(self, folder: str) -> None:
        pending = [folder]
        while pending:
            current = pending.pop()
            if current in self._folders:
                continue
            self._folders.add(current)
            pending.extend(reversed([entry.path for entry in self._entries(current) if self._is_folder(entry)]))

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as scan:
                entries = sorted(
                    (entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name
                )
        except OSError as error:
            name = self._name(folder)
            self.discovery.unreadable_folders.append(name)
            self._fail(name, DocumentFailure("unreadable", f"The folder cannot be read: {error.strerror}."))
            return
        yield from entries

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        """Whether to walk into an entry; files and links are taken on the way."""
        if entry.is_symlink():
            self._links.append(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            return True
        elif entry.is_file(follow_symlinks=False):
            self._file(entry.path)
        return False

    def _follow(self, link: str) -> None:
        try:
            target = os.path.realpath(link, strict=True)
        except OSError as error:
            self._fail(self._name(link), DocumentFailure("unreadable", f"The link leads nowhere: {error.strerror}."))
            return
        if os.path.commonpath((self._root, target)) != self._root:
            self._fail(self._name(link), DocumentFailure("outside", "The link leads out of the folder to ingest."))
        elif Path(target).is_dir():
            self._folder(target)
        elif Path(target).is_file():
            self._file(target, link)

    def _file(self, path: str, link: str | None = None) -> None:
        if path in self._files:
            return
        self._files.add(path)
        document = self._name(link or path)
        try:
            size = Path(path).lstat().st_size
        except OSError as error:
            self._fail(document, DocumentFailure("unreadable", f"The file cannot be read: {error.strerror}."))
            return
        if size >= self._bytes_max:
            reason = f"The file has {size:,} bytes; the limit is {self._bytes_max:,}."
            self._fail(document, DocumentFailure("too_large", reason))
        elif size == 0:
            self._fail(document, DocumentFailure("empty", "The file has no content."))
        else:
            self.discovery.files[document] = Found(document, path, size)

    def _name(self, path: str) -> str:
        """Relative, with ``/``; bytes that are not UTF-8 are spelled as ``\\xNN``."""
        relative = os.path.relpath(path, self._root)
        return os.fsencode(relative).decode("utf-8", "backslashreplace").replace(os.sep, "/")

    def _fail(self, document: str, failure: DocumentFailure) -> None:
        self.discovery.failures[document] = failure


def discover(root: Path, bytes_max: int) -> Discovery:
    """Walk ``root``. Raises InvalidRequest where it is not a folder that can be read."""
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise InvalidRequest(f"The folder to ingest, {root}, {problem}.", param="path")
    if not os.access(root, os.R_OK | os.X_OK):
        raise InvalidRequest(f"The folder to ingest, {root}, cannot be read.", param="path")
    return _Walk(root, bytes_max).run()
