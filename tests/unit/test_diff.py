from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from lxcwrap.ids import IdMap
from lxcwrap.storage.upperdiff import changes
from tests.fakeroot import snapshot

WHITEOUT = object()
Tree = Mapping[str, object]


def layer(directory: Path, tree: Tree) -> Path:
    """A layer with these paths: text is a file, None a directory, WHITEOUT deletes."""
    directory.mkdir()
    for name, content in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif content is WHITEOUT:
            os.mknod(path, stat.S_IFCHR, 0)  # the kernel lets everyone make this device
        else:
            path.write_text(str(content))
    return directory


def difference(tmp_path: Path, upper: Tree, *lowers: Tree, ignore: tuple[str, ...] = ()) -> dict[str, str]:
    paths = [layer(tmp_path / f"lower{number}", tree) for number, tree in enumerate(lowers)]
    found = changes(layer(tmp_path / "upper", upper), paths, ignore=ignore)
    assert [change.path for change in found] == sorted(change.path for change in found)
    return {change.path: change.kind for change in found}


def test_nothing_changed_is_nothing_told(tmp_path: Path) -> None:
    assert difference(tmp_path, {}, {"etc/passwd": "x"}) == {}


def test_new_changed_and_deleted_paths_are_told(tmp_path: Path) -> None:
    """The directory of a change counts as modified; a deleted directory is told once."""
    upper = {"etc/conf": "2", "etc/new": "", "etc/old": WHITEOUT, "srv": WHITEOUT, "new/dir/file": "x"}
    lower = {"etc/conf": "1", "etc/old": "1", "etc/same": "", "srv/a/b": ""}
    assert difference(tmp_path, upper, lower) == {
        "/etc": "modified",
        "/etc/conf": "modified",
        "/etc/new": "added",
        "/etc/old": "deleted",
        "/new": "added",
        "/new/dir": "added",
        "/new/dir/file": "added",
        "/srv": "deleted",
    }


def test_lowers_are_seen_as_one_tree(tmp_path: Path) -> None:
    """What a higher lower deleted or replaced does not exist in the lower ones."""
    upper = {"a/gone": "x", "a/kept": WHITEOUT, "b/below": "x", "never": WHITEOUT}
    top = {"a/gone": WHITEOUT, "b": "a file now"}
    bottom = {"a/gone": "1", "a/kept": "1", "b/below": "1"}
    assert difference(tmp_path, upper, top, bottom) == {
        "/a": "modified",
        "/a/gone": "added",
        "/a/kept": "deleted",
        "/b": "modified",
        "/b/below": "added",
    }


def test_a_file_that_becomes_a_directory_is_modified(tmp_path: Path) -> None:
    """And the other way round; links count as files."""
    found = difference(tmp_path, {"x/in": "", "y": "file"}, {"x": "file", "y/in": ""})
    assert found == {"/x": "modified", "/x/in": "added", "/y": "modified"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link in any layer is an entry, whatever it leads to; nothing outside is looked at."""
    outside = layer(tmp_path / "outside", {"passwd": "x"})
    upper = layer(tmp_path / "upper", {"etc/passwd": "x"})
    (upper / "link").symlink_to(outside)
    lower = layer(tmp_path / "lower", {})
    (lower / "etc").symlink_to(outside)
    before = snapshot(outside)
    found = {change.path: change.kind for change in changes(upper, [lower])}
    assert found == {"/etc": "modified", "/etc/passwd": "added", "/link": "added"}
    assert snapshot(outside) == before


def test_own_mount_points_are_left_out(tmp_path: Path) -> None:
    """Empty ones, with the directories that are in the upper on their account alone."""
    upper = {
        "dev/.lxcwrap": None,
        "etc/hosts": "",
        "etc/resolv.conf": "filled by the user",
        "srv/data": None,
        "mnt/used": None,
        "mnt/used/file": "",
        "run/only": "",
    }
    lower = {"dev": None, "etc/x": "", "srv/x": "", "mnt": None, "run/x": ""}
    ignore = (
        "/dev/.lxcwrap",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/srv/data",
        "/mnt/used",
        "/run/only",
        "/proc",
    )
    assert difference(tmp_path, upper, lower, ignore=ignore) == {
        "/etc": "modified",
        "/etc/resolv.conf": "added",
        "/mnt": "modified",
        "/mnt/used": "added",
        "/mnt/used/file": "added",
    }


def test_a_changed_mode_is_told_beside_a_mount_point(tmp_path: Path) -> None:
    """A directory that was changed itself is not there on the mount point's account alone."""
    lower = layer(tmp_path / "lower", {"srv/x": ""})
    upper = layer(tmp_path / "upper", {"srv/data": None})
    (upper / "srv").chmod(0o700)
    (lower / "srv").chmod(0o755)
    assert [change.path for change in changes(upper, [lower], ignore=["/srv/data"])] == ["/srv"]


@pytest.mark.parametrize("name", ["new\nline", "\udcff", "é", "a" * 255])
def test_any_name_is_told(tmp_path: Path, name: str) -> None:
    assert difference(tmp_path, {f"d/{name}": ""}, {"d": None}) == {"/d": "modified", f"/d/{name}": "added"}


def test_a_deep_tree_is_told(tmp_path: Path) -> None:
    """Deeper than descriptors and Python's stack would go."""
    (tmp_path / "upper").mkdir()
    fd = os.open(tmp_path / "upper", os.O_DIRECTORY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert len(changes(tmp_path / "upper", [])) == 1200
    subprocess.run(["rm", "-r", tmp_path / "upper"], check=True)  # pytest could not


def test_an_owner_that_was_changed_is_more_than_a_mount_point(tmp_path: Path) -> None:
    """A directory on the way to one counts, if it belongs to another now. Ids in the upper are shifted."""
    upper, lower = layer(tmp_path / "upper", {"a/b/mounted": None}), layer(tmp_path / "lower", {"a/b": None})
    points = ("/", "/a", "/a/b", "/a/b/mounted")
    assert changes(upper, [lower], ignore=points) == ()
    shifted = changes(upper, [lower], ids=IdMap(1 << 30), ignore=points)
    assert [change.path for change in shifted] == ["/a", "/a/b"]
