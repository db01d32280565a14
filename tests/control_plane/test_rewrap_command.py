"""``objecta secrets rewrap`` against a control plane on a socket, and the key that a home gets at its first start."""

import asyncio
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import uvicorn
import yaml

from cluster.home import Home
from cluster.processes import ProcessId
from cluster.status import ClusterStatus, write_status
from control_plane.app import create_app
from control_plane.config import ControlPlaneConfig
from control_plane.credentials.sealing import key_id_of
from deployments.local import local_config

NEW_KEY = "cd" * 32
SECRET = "sk-very-secret-0123456789-WXYZ"


def test_a_home_gets_a_key_of_its_own_that_nobody_else_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OBJECTA_HOME", "OBJECTA_CONFIG"):
        # Both are set by what follows; so they are put back.
        monkeypatch.setenv(name, "")
    home = Home(tmp_path / "home")
    key = local_config(home).credential_key
    assert key is not None
    kept = home.folder / "config.yaml"
    assert yaml.safe_load(kept.read_text())["credential_key"] == key.get_secret_value()
    assert (kept.stat().st_mode & 0o777, home.folder.stat().st_mode & 0o777) == (0o600, 0o700)
    monkeypatch.setenv("OBJECTA_CONFIG", "")
    assert local_config(home).credential_key == key
    other = Home(tmp_path / "other")
    monkeypatch.setenv("OBJECTA_CONFIG", "")
    assert local_config(other).credential_key != key
    for one in (home, other):
        shutil.rmtree(one.runtime)


async def test_the_command_rewraps_and_says_what_is_left(acme: Any, config: ControlPlaneConfig, tmp_path: Path) -> None:
    await acme.make("/credentials", {"upstream": "openai", "api_key": SECRET})
    former = config.credential_key
    assert former is not None
    for formers, code, said in (
        ((), 3, "0 re-wrapped under {id}, 1 left"),
        ((former,), 0, "1 re-wrapped under {id}, 0 left"),
        ((), 0, "0 re-wrapped under {id}, 0 left"),
    ):
        changes = {"credential_key": NEW_KEY, "credential_keys_former": formers}
        app = create_app(ControlPlaneConfig.model_validate({**config.model_dump(), **changes}))
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="error", ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        port = listening.getsockname()[1]
        answer = await command(home_of(tmp_path, f"http://127.0.0.1:{port}", config))
        assert answer == (code, said.format(id=key_id_of(bytes.fromhex(NEW_KEY))))
        server.should_exit = True
        await serving
        listening.close()
        await app.state.context.redis.aclose()
        await app.state.context.engine.dispose()
    shutil.rmtree(Home(tmp_path / "running").runtime)
    with psycopg.connect(config.database_url.get_secret_value()) as connection:
        found = connection.execute("SELECT key_id FROM data_keys").fetchall()
    assert found == [(key_id_of(bytes.fromhex(NEW_KEY)),)]


def home_of(folder: Path, url: str, config: ControlPlaneConfig) -> Path:
    """A home as a running platform leaves it, whose supervisor is this process."""
    home = Home(folder / "running")
    home.prepare()
    myself = ProcessId(pid=os.getpid(), started=psutil.Process().create_time())
    status = ClusterStatus(run="test", supervisor=myself, parts=(), processes=())
    write_status(home, status)
    home.write_json("state.json", {"control_plane_url": url})
    values = {
        **dict.fromkeys(("home", "model_store", "knowledge_store", "object_store"), str(home.folder)),
        **dict.fromkeys(("database_url", "redis_url", "cluster_secret", "key_pepper", "ray_token"), "withheld-here"),
        "operator_key": config.operator_key.get_secret_value(),
    }
    (home.folder / "platform.yaml").write_text(json.dumps(values))
    return home.folder


async def command(home: Path) -> tuple[int | None, str]:
    """Its exit code, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deployments.cli.main", "secrets", "rewrap"),
        env={**os.environ, "OBJECTA_HOME": str(home), "OBJECTA_CONFIG": "", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        said, errors = await process.communicate()
    assert SECRET.encode() not in said + errors
    return process.returncode, (said or errors).decode().strip()
