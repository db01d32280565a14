import json
import stat
from pathlib import Path

import pytest

from cluster.errors import AlreadyRunning, ClusterError, NotEnough
from cluster.home import Home
from cluster.preflight import check_machine


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_is_private_and_its_files_are_replaced_whole(home: Home) -> None:
    home.prepare()
    assert mode(home.folder) == 0o700
    home.write_json("state.json", {"gateway_url": "http://127.0.0.1:8000"})
    home.write_json("state.json", {"pids": [1]})
    assert mode(home.folder / "state.json") == 0o600
    assert json.loads((home.folder / "state.json").read_text()) == {"pids": [1]} == home.read_json("state.json")
    assert home.read_json("demo.json") is None
    assert sorted(path.name for path in home.folder.iterdir()) == ["logs", "state.json"]


def test_a_home_may_lie_deeper_than_a_socket_path_is_long(tmp_path: Path) -> None:
    deep = Home(tmp_path / "/".join(["deep" * 10] * 5))
    longest_of_haproxy = f"{deep.runtime}/h/{'0' * 56}/admin.sock"
    assert len(longest_of_haproxy) <= 97
    assert deep.runtime != Home(tmp_path).runtime


def test_a_home_is_held_once_and_free_again_afterwards(home: Home) -> None:
    refused = pytest.raises(AlreadyRunning, match=r"already up \(supervisor pid \d+\).*objecta down")
    with home.held(), refused, home.held():
        pass
    with home.held():
        assert mode(home.lock_path) == 0o600


def test_a_runtime_folder_that_is_a_link_is_refused(home: Home, tmp_path: Path) -> None:
    home.runtime.symlink_to(tmp_path)
    try:
        with pytest.raises(ClusterError, match="belongs to somebody else"):
            home.prepare()
    finally:
        home.runtime.unlink()


def test_too_little_memory_is_refused_with_the_numbers(home: Home) -> None:
    home.prepare()
    with pytest.raises(NotEnough, match=r"GiB of memory are available, 1048576 are needed"):
        check_machine(home.folder, memory_bytes_min=1024**5)
    assert all("shm" in warning for warning in check_machine(home.folder, memory_bytes_min=1))
