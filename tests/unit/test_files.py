from __future__ import annotations

import errno
import os
import pickle
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest

from lxcwrap.errors import (
    InvalidSpecError,
    LxcwrapError,
    PathDeniedError,
    PathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
)
from lxcwrap.files import ContainerPath
from tests.fakeroot import FakeRoot, flipping, snapshot


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that nothing inside may reach."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("secret")
    return directory


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/etc").mkdir()
    (tmp_path / "root/etc/conf").write_text("one\n")
    return FakeRoot(tmp_path / "root")


# --- names ---


def test_names_are_those_of_pathlib(root: FakeRoot) -> None:
    """The pure part answers as PurePosixPath does."""
    path = root.path("/srv/www") / "site.tar.gz"
    assert (path.name, path.stem, path.suffix, path.suffixes) == (
        "site.tar.gz",
        "site.tar",
        ".gz",
        [".tar", ".gz"],
    )
    assert path.parts == ("/", "srv", "www", "site.tar.gz")
    assert str(path.parent) == path.parent.as_posix() == "/srv/www"
    assert [str(parent) for parent in path.parents] == ["/srv/www", "/srv", "/"]
    assert str(path.with_name("a").with_suffix(".b")) == "/srv/www/a.b"
    assert path.relative_to("/srv") == PurePosixPath("www/site.tar.gz")
    assert path.is_relative_to(root.path("/srv")) and not path.is_relative_to("/etc")
    assert path.match("*.gz") and path.joinpath("..", "x") == root.path("/srv/www/site.tar.gz/../x")
    assert repr(path) == "ContainerPath('/srv/www/site.tar.gz', container='web')"


def test_a_path_is_absolute_and_begins_at_the_root(root: FakeRoot) -> None:
    """Relative and doubly rooted names mean the same place."""
    assert {root.path("etc"), root.path("/etc"), root.path("//etc")} == {root.path("/etc/")}
    assert str(root.path("/etc") / "/var") == "/var"


def test_paths_of_two_containers_differ(root: FakeRoot) -> None:
    """A path is that of its container, and cannot be mixed with another's."""
    other = ContainerPath(root.open, "/etc/conf", container="db")
    assert other != root.path("/etc/conf")
    with pytest.raises(InvalidSpecError):
        root.path("/etc/conf").rename(other)


def test_a_path_is_no_host_path(root: FakeRoot) -> None:
    """The builtin open must not take it and read the host's file."""
    with pytest.raises(TypeError):
        os.fspath(root.path("/etc/conf"))  # type: ignore[call-overload]


def test_a_nul_byte_is_refused(root: FakeRoot) -> None:
    with pytest.raises(InvalidSpecError):
        root.path("/etc\0/conf")


# --- files ---


def test_text_and_bytes_are_read_and_written(root: FakeRoot) -> None:
    """Text is UTF-8, whatever the host's locale."""
    path = root.path("/new")
    assert path.write_text("é\n") == 2
    assert path.read_bytes() == (root.dir / "new").read_bytes() == b"\xc3\xa9\n"
    assert path.read_text() == "é\n"
    assert path.write_bytes(b"abc") == 3
    assert path.read_bytes(limit=2) == b"ab"


def test_open_returns_a_real_file(root: FakeRoot) -> None:
    """Text or binary, appending, exclusive and updating, with a name and outliving the access."""
    with root.path("/log").open("x") as file:
        file.write("one\n")
    with root.path("/log").open("a") as file:
        file.write("two\n")
    with root.path("/log").open("rb+") as binary:
        assert binary.readline() == b"one\n"
        binary.write(b"TWO\n")
        assert binary.name == "/log" and os.get_inheritable(binary.fileno()) is False
    with root.path("/log").open() as file:
        assert list(file) == ["one\n", "TWO\n"]
    with pytest.raises(PathExistsError):
        root.path("/log").open("x")


def test_writing_keeps_the_file_and_its_mode(root: FakeRoot) -> None:
    """As pathlib does: in place."""
    before = (root.dir / "etc/conf").stat()
    (root.dir / "etc/conf").chmod(0o640)
    root.path("/etc/conf").write_text("two")
    after = (root.dir / "etc/conf").stat()
    assert (after.st_ino, stat.S_IMODE(after.st_mode), after.st_size) == (before.st_ino, 0o640, 3)


def test_stat_tells_what_is_there(root: FakeRoot) -> None:
    """Times are aware, and a link is told apart from what it leads to."""
    os.utime(root.dir / "etc/conf", ns=(0, 1_500_000_000))
    root.path("/link").symlink_to("etc/conf")
    found = root.path("/link").stat()
    assert (found.size, found.nlink, found.mtime_ns) == (4, 1, 1_500_000_000)
    assert found.mtime == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)
    assert stat.S_ISLNK(root.path("/link").lstat().mode)
    link, etc = root.path("/link"), root.path("/etc")
    assert (link.exists(), link.is_file(), link.is_dir(), link.is_symlink()) == (True, True, False, True)
    assert (etc.exists(), etc.is_file(), etc.is_dir(), etc.is_symlink()) == (True, False, True, False)
    assert not root.path("/nothing").exists() and not root.path("/etc/conf/x").exists()
    assert link.readlink() == PurePosixPath("etc/conf")


def test_directories_are_made_listed_and_removed(root: FakeRoot) -> None:
    root.path("/a/b/c").mkdir(parents=True)
    root.path("/a/b/c").mkdir(exist_ok=True)
    root.path("/").mkdir(exist_ok=True)
    root.path("/a/b/z").touch()
    assert list(root.path("/a/b").iterdir()) == [root.path("/a/b/c"), root.path("/a/b/z")]
    root.path("/a/b/c").rmdir()
    with pytest.raises(PathNotFoundError):
        root.path("/x/y").mkdir()
    with pytest.raises(PathExistsError):
        root.path("/etc/conf").mkdir(exist_ok=True)


def test_remove_tree_removes_links_and_not_their_targets(root: FakeRoot, outside: Path) -> None:
    root.path("/a/b/c/d").mkdir(parents=True)
    root.path("/a/b/out").symlink_to(str(outside))
    root.path("/a/b/c/file").touch()
    before = snapshot(outside)
    root.path("/a").remove_tree()
    assert not (root.dir / "a").exists() and snapshot(outside) == before
    root.path("/l").symlink_to("etc")
    with pytest.raises(OSError):
        root.path("/l").remove_tree()
    assert (root.dir / "etc/conf").exists()


def test_glob_matches_as_pathlib(root: FakeRoot) -> None:
    """The same patterns find the same files; directories that are links are not entered by ``**``."""
    for name in ("a/x.py", "a/b/y.py", "a/b/.z.py", "a/b/c/n.txt"):
        (root.dir / name).parent.mkdir(parents=True, exist_ok=True)
        (root.dir / name).touch()
    (root.dir / "a/b/loop").symlink_to("..")
    # Not "a/**", which from Python 3.13 on finds files too, there.
    for pattern in ("*", "a/*.py", "**/*.py", "**/b/*", "*/b/[!l]*", "a/b/loop/x.py", "nothing/*"):
        expected = sorted(f"/{path.relative_to(root.dir)}" for path in root.dir.glob(pattern))
        assert [str(path) for path in root.path("/").glob(pattern)] == expected, pattern
    assert list(root.path("/a").rglob("*.txt")) == [root.path("/a/b/c/n.txt")]
    for bad in ("", "/etc/*", "../*"):
        with pytest.raises(InvalidSpecError):
            root.path("/").glob(bad)


def test_files_are_renamed_linked_touched_and_unlinked(root: FakeRoot) -> None:
    moved = root.path("/etc/conf").rename("/etc/moved")
    assert moved == root.path("/etc/moved") and moved.read_text() == "one\n"
    root.path("/second").hardlink_to(moved)
    assert moved.stat().nlink == 2
    moved.replace(root.path("/second"))  # rename(2) of two names of one file does nothing
    os.utime(root.dir / "second", ns=(0, 0))
    root.path("/second").touch()
    assert root.path("/second").stat().mtime_ns > 0
    with pytest.raises(PathExistsError):
        root.path("/second").touch(exist_ok=False)
    root.path("/second").chmod(0o600)
    assert stat.S_IMODE(root.path("/second").stat().mode) == 0o600
    root.path("/second").unlink()
    root.path("/second").unlink(missing_ok=True)
    with pytest.raises(PathNotFoundError):
        root.path("/second").unlink()


@pytest.mark.parametrize("name", ["new\nline", " ", "\udcff\udcfe", "é", "-rf", "*", "a" * 255])
def test_any_name_the_kernel_takes_works(root: FakeRoot, name: str) -> None:
    """Bytes that are no UTF-8 come as surrogates, as everywhere in Python."""
    path = root.path("/names") / name
    path.parent.mkdir()
    path.write_text("x")
    path.parent.joinpath("link").symlink_to(name)
    assert path in path.parent.iterdir() and path.parent.joinpath("link").read_text() == "x"
    assert os.fsencode(name) in os.listdir(os.fsencode(root.dir / "names"))
    path.parent.remove_tree()


# --- errors ---


@pytest.mark.parametrize(
    ("act", "kind", "number"),
    [
        (lambda root: root.path("/x").read_text(), PathNotFoundError, errno.ENOENT),
        (lambda root: root.path("/etc").read_text(), PathIsDirectoryError, errno.EISDIR),
        (lambda root: root.path("/etc/conf/x").write_text(""), PathNotDirectoryError, errno.ENOTDIR),
        (lambda root: root.path("/etc/conf").iterdir(), PathNotDirectoryError, errno.ENOTDIR),
        (lambda root: root.path("/etc").mkdir(), PathExistsError, errno.EEXIST),
        (lambda root: root.path("/etc").rmdir(), PathError, errno.ENOTEMPTY),
        (lambda root: root.path("/").rmdir(), PathError, errno.EBUSY),
        (lambda root: root.path("/etc/conf").readlink(), PathError, errno.EINVAL),
    ],
)
def test_errors_carry_container_path_and_errno(
    root: FakeRoot, act: Callable[[FakeRoot], object], kind: type[OSError], number: int
) -> None:
    """They are ours and also the builtin of their errno, and survive pickling."""
    with pytest.raises(kind) as caught:
        act(root)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, LxcwrapError) and type(OSError(number, "")) in type(error).__mro__
        assert (error.errno, error.container) == (number, "web")  # type: ignore[attr-defined]
        assert error.path.startswith("/") and "web" in str(error)  # type: ignore[attr-defined]


# --- hostile roots ---


def test_links_lead_nowhere_outside(root: FakeRoot, outside: Path) -> None:
    """Absolute and climbing links end inside; what is written through them is inside too."""
    before = snapshot(outside)
    (root.dir / "abs").symlink_to(outside)
    (root.dir / "up").symlink_to("../outside")
    (root.dir / "etc/up2").symlink_to("../../../../../../../.." + str(outside))
    for link in ("/abs", "/up", "/etc/up2", "/../outside", "/etc/../../outside"):
        path = root.path(link)
        assert not path.exists() and not (path / "secret").exists()
        for act in (
            path.iterdir,
            (path / "secret").read_text,
            (path / "new").touch,
            (path / "secret").unlink,
            (path / "d").mkdir,
            (path / "secret").stat,
        ):
            with pytest.raises(PathNotFoundError):
                act()
    assert snapshot(outside) == before


def test_a_write_through_a_dangling_link_lands_inside(root: FakeRoot, outside: Path) -> None:
    """As the kernel does for a process inside: the link's target is made within the root."""
    (root.dir / "conf").symlink_to("/etc/../../../etc/made")
    root.path("/conf").write_text("x")
    assert (root.dir / "etc/made").read_text() == "x"
    (root.dir / "a").symlink_to("b")
    (root.dir / "b").symlink_to("a")
    with pytest.raises(PathError) as caught:
        root.path("/a").write_text("")
    assert caught.value.errno == errno.ELOOP
    (root.dir / "secret").symlink_to(outside / "secret2")
    with pytest.raises(PathNotFoundError):
        root.path("/secret").write_text("x")


def test_nothing_outside_is_touched_while_directories_become_links(root: FakeRoot, outside: Path) -> None:
    """A process inside that swaps a directory for a link never wins."""
    (root.dir / "d").mkdir()
    (root.dir / "d/secret").write_text("inside")
    before, reads = snapshot(outside), set()
    with flipping(root.dir / "d", outside):
        for number in range(1000):
            path = root.path(f"/d/new{number}")
            for act in (path.touch, path.mkdir, path.unlink, root.path("/d/secret").touch):
                with suppress(PathError, PathNotFoundError):
                    act()
            with suppress(PathError, PathNotFoundError):
                root.path("/d/x").symlink_to("y")
            with suppress(PathError, PathNotFoundError):
                root.path("/d/secret").rename(f"/d/moved{number}").rename("/d/secret")
            with suppress(PathError, PathNotFoundError):
                reads.add(root.path("/d/secret").read_text())
    assert snapshot(outside) == before
    assert reads <= {"inside", ""}


def test_removing_a_tree_that_becomes_a_link_stays_inside(root: FakeRoot, outside: Path) -> None:
    """A directory that is swapped for a link while the tree is removed is not followed."""
    before, directory = snapshot(outside), root.dir / "t/d"
    directory.mkdir(parents=True)
    with flipping(directory, outside):
        for _ in range(300):
            with suppress(OSError):
                root.path("/t").remove_tree()
            with suppress(OSError):
                directory.mkdir(parents=True)
                directory.with_name("link").symlink_to(outside)
    assert snapshot(outside) == before


def test_a_fifo_never_blocks(root: FakeRoot) -> None:
    """Whatever is in the file's place, the caller is not made to wait."""
    os.mkfifo(root.dir / "fifo")
    path = root.path("/fifo")
    for act in (
        path.read_bytes,
        lambda: path.write_text("x"),
        lambda: path.open("a"),
        lambda: list(path.iterdir()),
    ):
        with pytest.raises(PathError):
            act()
    assert path.exists() and not path.is_file()
    path.unlink()


def test_kernel_files_are_refused(tmp_path: Path) -> None:
    """They would answer for this process, and writing them acts on the host."""
    proc = FakeRoot(Path("/proc"))
    name = proc.path(f"/{os.getpid()}/comm")
    for act in (name.read_text, lambda: name.write_text("x"), name.touch, proc.path("/new").mkdir):
        with pytest.raises(PathDeniedError):
            act()
    assert name.is_file()
    with pytest.raises(PathError) as caught:
        proc.path(f"/{os.getpid()}/root/etc").stat()
    assert caught.value.errno == errno.ELOOP  # a magic link


def test_device_nodes_are_neither_opened_nor_changed() -> None:
    """Those of a container are bind mounts of the host's."""
    dev = FakeRoot(Path("/dev"))
    null = dev.path("/null")
    mode = stat.S_IMODE(null.stat().mode)
    for act in (null.read_bytes, lambda: null.write_text(""), lambda: null.chmod(mode), null.touch):
        with pytest.raises(PathError):
            act()


def test_a_deep_tree_neither_crashes_nor_leaks(root: FakeRoot) -> None:
    """Deeper than descriptors and Python's stack would go; within PATH_MAX it is walked and removed."""
    fd = os.open(root.dir, os.O_DIRECTORY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    assert len(list(root.path("/d").glob("**"))) == 1500
    root.path("/d").remove_tree()
    assert not (root.dir / "d").exists() and len(os.listdir("/proc/self/fd")) == before


def test_a_read_only_root_is_not_written(root: FakeRoot) -> None:
    """The root itself is refused; it can be read."""
    path = FakeRoot(root.dir, read_only=True).path("/etc/conf")
    assert path.read_text() == "one\n"
    for act in (path.unlink, path.touch, lambda: path.write_text(""), (path.parent / "d").mkdir):
        with pytest.raises(PathError) as caught:
            act()
        assert caught.value.errno == errno.EROFS
