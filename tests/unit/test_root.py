"""The root directory: who gets in, and what is deleted from it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lxcwrap.storage.root import RootDir


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_others_pass_only_where_containers_must(tmp_path: Path, umask: int) -> None:
    """Whatever the umask of who makes it; the records are the owner's alone."""
    before = os.umask(umask)
    try:
        root = RootDir(tmp_path / "root")
        root.prepare()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.path.iterdir()}
    assert stat.S_IMODE(root.path.stat().st_mode) == 0o711
    assert {name for name, mode in modes.items() if mode & 0o077} == {"cache", "containers", "volumes"}
    assert modes["containers"] == 0o711 and modes["state.db"] == 0o600


def test_what_is_there_stays(tmp_path: Path) -> None:
    """Also the records, which other threads may have open."""
    root = RootDir(tmp_path / "root")
    root.prepare()
    root.state_db.write_text("records")
    root.prepare()
    assert root.state_db.read_text() == "records"


def test_trees_of_any_depth_are_deleted_and_no_link_followed(tmp_path: Path) -> None:
    """Also what a process that was killed left in the trash."""
    root = RootDir(tmp_path / "root")
    root.prepare()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    for place in (root.containers / "one", root.trash / "two"):
        place.mkdir()
        (place / "link").symlink_to(tmp_path / "kept")
        fd = os.open(place, os.O_DIRECTORY)
        for _ in range(1500):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
    (root.trash / "three").symlink_to(tmp_path / "kept")
    root.discard(root.containers / "one")
    root.discard(root.containers / "none")
    root.empty_trash()
    assert [*root.trash.iterdir(), *root.containers.iterdir()] == []
    assert (tmp_path / "kept" / "file").exists()
