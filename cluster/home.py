"""The home folder of one local cluster, and the short runtime folder beside it.

Invariants
1. ``folder`` is 0700, its JSON files are 0600 and replaced in one step: a reader sees the old one or the new one.
2. One supervisor a home: a file lock that ends with its process, with the holder's pid inside.
3. ``runtime`` holds the sockets. A unix socket's path has at most 107 bytes (HAProxy: 97, of which Serve takes 68), so
   it lies in ``/tmp`` under a short name made from the home's path and the user. Nobody else may own it.
"""

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import AlreadyRunning, ClusterError

FOLDER_MODE = 0o700
# Passed through, not listed: an unprivileged part reaches its own folder below.
RUNTIME_MODE = 0o711
FILE_MODE = 0o600
SHORT_PLACE = Path("/tmp")


class Home:
    """One local cluster's files. Creating the object touches nothing; ``prepare`` makes the folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        digest = hashlib.sha256(f"{os.geteuid()}:{self.folder}".encode()).hexdigest()[:10]
        self.runtime = SHORT_PLACE / f"objecta-{digest}"
        self.logs = self.folder / "logs"
        self.status_path = self.folder / "status.json"
        self.lock_path = self.folder / "lock"

    def prepare(self) -> None:
        """Make the folders. Raises ClusterError where the runtime folder is somebody else's."""
        self.folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self.folder.chmod(FOLDER_MODE)
        self.logs.mkdir(mode=FOLDER_MODE, exist_ok=True)
        self.runtime.mkdir(mode=RUNTIME_MODE, exist_ok=True)
        found = self.runtime.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ClusterError(f"{self.runtime} belongs to somebody else: remove it")
        self.runtime.chmod(RUNTIME_MODE)

    @contextmanager
    def held(self) -> Generator[None]:
        """Be the one supervisor of this home. Raises AlreadyRunning that names the other's pid."""
        self.prepare()
        with self.lock_path.open("a+", encoding="ascii") as file:
            self.lock_path.chmod(FILE_MODE)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise AlreadyRunning(
                    f"the home {self.folder} is already up (supervisor pid {holder}): "
                    "use it (objecta status), end it (objecta down), or set OBJECTA_HOME to another folder"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
            file.truncate(0)

    def write_json(self, name: str, content: Any) -> None:
        """Replace ``<home>/<name>``, readable by the owner alone."""
        write_private(self.folder / name, json.dumps(content, indent=2) + "\n")

    def read_json(self, name: str) -> Any:
        """The content of ``<home>/<name>``, None where there is none."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, mode 0600."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).replace(path)
