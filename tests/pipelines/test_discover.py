"""What a folder holds, whatever it holds."""

import os
from pathlib import Path

import pytest

from models.errors import InvalidRequest
from pipelines.discover import discover

BYTES_MAX = 1_000


def write(path: Path, text: str = "words") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_files_come_in_a_stable_order_with_relative_names(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.txt", "a/b/c.html", "a.md"):
        write(tmp_path / name)
    names = list(discover(tmp_path, BYTES_MAX).files)
    assert names == ["a.md", "b.md", "a/z.txt", "a/b/c.html"]
    assert names == list(discover(tmp_path, BYTES_MAX).files)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / ".git" / "config")
    write(tmp_path / ".env")
    write(tmp_path / "seen.md")
    assert list(discover(tmp_path, BYTES_MAX).files) == ["seen.md"]


def test_a_loop_of_links_ends_and_names_each_file_once(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "a.md")
    (tmp_path / "docs" / "loop").symlink_to(tmp_path)
    (tmp_path / "again.md").symlink_to(tmp_path / "docs" / "a.md")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    found = discover(tmp_path, BYTES_MAX)
    assert list(found.files) == ["docs/a.md"]
    assert {name: failure.code for name, failure in found.failures.items()} == {
        "one": "unreadable",
        "two": "unreadable",
    }


def test_links_that_lead_outside_are_refused_file_and_folder(tmp_path: Path) -> None:
    secret = write(tmp_path / "outside" / "secret.md")
    root = tmp_path / "root"
    write(root / "a.md")
    (root / "file.md").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    (root / "up").symlink_to("../outside")
    found = discover(root, BYTES_MAX)
    assert list(found.files) == ["a.md"]
    assert {name: failure.code for name, failure in found.failures.items()} == dict.fromkeys(
        ("file.md", "folder", "up"), "outside"
    )


def test_a_folder_beside_the_root_with_its_name_as_prefix_is_outside(tmp_path: Path) -> None:
    write(tmp_path / "root-private" / "secret.md")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root-private")
    assert discover(tmp_path / "root", BYTES_MAX).failures["link"].code == "outside"


def test_a_link_to_what_is_hidden_inside_is_followed_as_mounted_config_maps_need(tmp_path: Path) -> None:
    write(tmp_path / "..data" / "guide.md")
    (tmp_path / "guide.md").symlink_to("..data/guide.md")
    assert list(discover(tmp_path, BYTES_MAX).files) == ["guide.md"]


def test_empty_and_large_files_fail_with_their_reason(tmp_path: Path) -> None:
    write(tmp_path / "empty.md", "")
    write(tmp_path / "limit.md", "x" * BYTES_MAX)
    write(tmp_path / "below.md", "x" * (BYTES_MAX - 1))
    found = discover(tmp_path, BYTES_MAX)
    assert list(found.files) == ["below.md"]
    assert {name: failure.code for name, failure in found.failures.items()} == {
        "empty.md": "empty",
        "limit.md": "too_large",
    }


def test_pipes_are_no_documents(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert discover(tmp_path, BYTES_MAX).files == {}


def test_a_name_that_is_not_utf8_still_names_its_document(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("words")
    assert list(discover(tmp_path, BYTES_MAX).files) == ["caf\\xe9.md"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_what_is_below_an_unreadable_folder_is_not_taken_for_removed(tmp_path: Path) -> None:
    write(tmp_path / "locked" / "a.md")
    (tmp_path / "locked").chmod(0)
    found = discover(tmp_path, BYTES_MAX)
    (tmp_path / "locked").chmod(0o700)
    assert found.failures["locked"].code == "unreadable"
    assert found.hides("locked/a.md")
    assert not found.hides("locked-not/a.md")


@pytest.mark.parametrize("name", ["missing", "file.md"])
def test_a_root_that_is_no_folder_is_the_callers_mistake(tmp_path: Path, name: str) -> None:
    write(tmp_path / "file.md")
    with pytest.raises(InvalidRequest, match=name):
        discover(tmp_path / name, BYTES_MAX)
