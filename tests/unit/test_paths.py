"""A path in a foreign tree ends inside it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap.drivers.paths import RESOLVE_NO_SYMLINKS, open_in_root, openat2


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "secret").write_text("outside")
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "secret").write_text("inside")
    (tree / "up").symlink_to("../../..")
    (tree / "abs").symlink_to("/secret")
    (tree / "magic").symlink_to("/proc/self/root")
    fd = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def read(fd: int) -> str:
    with os.fdopen(fd) as file:
        return file.read()


@pytest.mark.parametrize(
    "path", ["secret", "/secret", "../secret", "etc/../../secret", "up/secret", "abs", b"abs"]
)
def test_every_way_ends_inside(root: int, path: str | bytes) -> None:
    """Dots, absolute names and links are resolved as in a chroot."""
    assert read(open_in_root(root, path, os.O_RDONLY)) == "inside"


def test_descriptor_is_close_on_exec(root: int) -> None:
    """No program we start inherits it."""
    fd = open_in_root(root, "secret", os.O_RDONLY)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_failure_is_an_oserror_of_its_kind(root: int) -> None:
    """errno and path are those of the call."""
    with pytest.raises(FileNotFoundError) as caught:
        open_in_root(root, "nothing", os.O_RDONLY)
    assert caught.value.filename == "nothing"
    with pytest.raises(OSError) as links:
        openat2(root, "up", os.O_PATH, resolve=RESOLVE_NO_SYMLINKS)
    assert links.value.errno == errno.ELOOP


def test_nul_is_refused(root: int) -> None:
    """The kernel would see a shorter name."""
    with pytest.raises(ValueError, match="null"):
        open_in_root(root, b"secret\0x", os.O_RDONLY)
