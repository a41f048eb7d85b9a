from __future__ import annotations

import os
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from lxcwrap.copying import CopyResult, copy_in, copy_out
from lxcwrap.errors import (
    InvalidSpecError,
    PathDeniedError,
    PathError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
)
from tests.fakeroot import FakeRoot, flipping, snapshot


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    (tmp_path / "root/srv/www").mkdir(parents=True)
    return FakeRoot(tmp_path / "root")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the host: dist/ with two files, and out/ to copy to."""
    (tmp_path / "host/dist/sub").mkdir(parents=True)
    (tmp_path / "host/dist/a").write_text("A")
    (tmp_path / "host/dist/sub/b").write_text("BB")
    (tmp_path / "host/out").mkdir()
    return tmp_path / "host"


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# --- where things go ---


@pytest.mark.parametrize("source", ["dist", "dist/"])
@pytest.mark.parametrize("target", ["/srv/www", "/srv/www/", "srv/www"])
def test_a_directory_goes_into_an_existing_one(root: FakeRoot, host: Path, source: str, target: str) -> None:
    """With or without a slash at the end, as docker cp."""
    assert copy_in(root.open, f"{host}/{source}", target) == CopyResult(files=2, bytes=3)
    assert names(root.dir / "srv/www") == ["dist", "dist/a", "dist/sub", "dist/sub/b"]


@pytest.mark.parametrize("target", ["/srv/new", "/srv/new/"])
def test_a_directory_becomes_a_missing_target(root: FakeRoot, host: Path, target: str) -> None:
    copy_in(root.open, host / "dist", target)
    assert names(root.dir / "srv/new") == ["a", "sub", "sub/b"]


def test_a_dot_means_the_contents(root: FakeRoot, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are merged into what is there, whose own mode stays."""
    (root.dir / "srv/www/sub").mkdir(mode=0o711)
    (root.dir / "srv/www/a").write_text("old and longer")
    (root.dir / "srv/www/kept").touch()
    copy_in(root.open, f"{host}/dist/.", "/srv/www")
    monkeypatch.chdir(host / "dist")
    copy_in(root.open, ".", "/srv/www/")
    assert names(root.dir / "srv/www") == ["a", "kept", "sub", "sub/b"]
    assert (root.dir / "srv/www/a").read_text() == "A"
    assert stat.S_IMODE((root.dir / "srv/www/sub").stat().st_mode) == 0o711


def test_a_file_becomes_replaces_or_enters_its_target(root: FakeRoot, host: Path) -> None:
    copy_in(root.open, host / "dist/a", "/srv/new")
    copy_in(root.open, host / "dist/sub/b", "/srv/new")
    copy_in(root.open, host / "dist/a", "/srv/www")
    assert (root.dir / "srv/new").read_text() == "BB" and (root.dir / "srv/www/a").read_text() == "A"
    with pytest.raises(PathNotFoundError):
        copy_in(root.open, host / "dist/a", "/srv/nothing/")
    with pytest.raises(PathNotFoundError):
        copy_in(root.open, host / "dist/a", "/nothing/a")
    with pytest.raises(FileNotFoundError):
        copy_in(root.open, host / "nothing", "/srv")


def test_a_directory_never_replaces_a_file_nor_a_file_a_directory(root: FakeRoot, host: Path) -> None:
    """Nothing is lost: neither at the target, nor below it."""
    (root.dir / "srv/file").write_text("keep")
    with pytest.raises(PathNotDirectoryError):
        copy_in(root.open, host / "dist", "/srv/file")
    (root.dir / "srv/www/a").mkdir()
    with pytest.raises(PathIsDirectoryError) as caught:
        copy_in(root.open, host / "dist/a", "/srv/www")
    assert (caught.value.container, caught.value.path) == ("web", "/srv/www/a")
    (root.dir / "srv/www/sub").write_text("keep")
    (root.dir / "srv/www/a").rmdir()
    with pytest.raises(PathNotDirectoryError):
        copy_in(root.open, f"{host}/dist/.", "/srv/www")
    assert (root.dir / "srv/www/sub").read_text() == (root.dir / "srv/file").read_text() == "keep"


def test_copying_out_follows_the_same_rules(
    root: FakeRoot, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root.dir / "srv/www/index").write_text("hello")
    monkeypatch.chdir(host)
    assert copy_out(root.open, "/srv/www", "out/") == CopyResult(files=1, bytes=5)
    copy_out(root.open, "/srv/www", "new")
    copy_out(root.open, "srv/www/index", "index")
    copy_out(root.open, "/srv/www/.", ".")
    assert {"out/www/index", "new/index", "index"} <= set(names(host))
    with pytest.raises(PathNotFoundError):
        copy_out(root.open, "/nothing", "out")
    with pytest.raises(FileNotFoundError):
        copy_out(root.open, "/srv/www/index", "nothing/")


# --- what is kept ---


def test_mode_times_links_attributes_and_holes_are_kept(root: FakeRoot, host: Path) -> None:
    """There and back again the tree is the same."""
    source = host / "dist"
    (source / "a").chmod(0o750)
    os.setxattr(source / "a", "user.note", b"\0\xff")
    with (source / "sparse").open("wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
        file.truncate(1 << 32)
    (source / "link").symlink_to("/etc/passwd")
    (source / "empty").mkdir()
    (source / "empty").chmod(0o500)
    for path in (source / "a", source / "link", source / "empty", source):
        os.utime(path, ns=(1, 1_234_567_890_123_456_789), follow_symlinks=False)
    copy_in(root.open, source, "/srv/in")
    copy_out(root.open, "/srv/in", host / "back")
    for original in (source, *source.rglob("*")):
        copy = host / "back" / original.relative_to(source)
        was, now = original.lstat(), copy.lstat()
        assert (now.st_mode, now.st_size, now.st_blocks) == (was.st_mode, was.st_size, was.st_blocks), copy
        assert now.st_mtime_ns == was.st_mtime_ns, copy
    assert os.readlink(host / "back/link") == "/etc/passwd"
    assert os.getxattr(host / "back/a", "user.note") == b"\0\xff"
    assert (host / "back/a").read_text() == "A"
    with (host / "back/sparse").open("rb") as file:
        file.seek(1 << 30)
        assert file.read(4) == b"end\0"


def test_setuid_comes_in_and_never_out(root: FakeRoot, host: Path) -> None:
    (host / "dist/a").chmod(0o6755)
    copy_in(root.open, host / "dist", "/srv/in")
    assert stat.S_IMODE((root.dir / "srv/in/a").stat().st_mode) == 0o6755
    copy_out(root.open, "/srv/in", host / "back")
    assert stat.S_IMODE((host / "back/a").stat().st_mode) == 0o755


def test_what_is_no_file_is_skipped_and_told(
    root: FakeRoot, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of the rest is complete; asked for by itself it is an error."""
    monkeypatch.chdir(root.dir / "srv/www")  # the path of a socket is limited to 107 bytes
    os.mkfifo("fifo")
    Path("file").touch()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("sock")
    result = copy_out(root.open, "/srv/www", host / "out")
    assert (result.files, names(host / "out/www")) == (1, ["file"])
    assert {(item.path, item.reason) for item in result.skipped} == {
        ("/srv/www/fifo", "fifo"),
        ("/srv/www/sock", "socket"),
    }
    with pytest.raises(PathError):
        copy_out(root.open, "/srv/www/fifo", host / "out")
    assert names(host / "out") == ["www", "www/file"]


def test_kernel_files_are_not_copied(host: Path) -> None:
    with pytest.raises(PathError):
        copy_out(FakeRoot(Path("/proc")).open, "/version", host / "out")
    with pytest.raises(PathDeniedError):
        copy_in(FakeRoot(Path("/proc")).open, host / "dist/a", "/1/")
    assert names(host / "out") == []


@pytest.mark.parametrize("name", ["new\nline", "\udcff", " ", "a" * 255])
def test_any_name_is_copied(root: FakeRoot, host: Path, name: str) -> None:
    (host / "dist" / name).write_text("x")
    copy_in(root.open, host / "dist", "/srv/in")
    copy_out(root.open, f"/srv/in/{name}", host / "out")
    assert (host / "out" / name).read_text() == "x"


def test_a_failed_file_leaves_nothing(root: FakeRoot, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there before stays whole, and no temporary file is left."""
    (root.dir / "srv/a").write_text("old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lxcwrap.copying.copy_data", full)
    with pytest.raises(PathError) as caught:
        copy_in(root.open, host / "dist/a", "/srv/a")
    assert (caught.value.errno, caught.value.path) == (28, "/srv/a")
    assert names(root.dir / "srv") == ["a", "www"] and (root.dir / "srv/a").read_text() == "old"


def test_errors_name_the_side_they_arose_on(
    root: FakeRoot, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the container is its error, writing the host the host's, and the other way round."""
    (root.dir / "srv/file").touch()

    def gone(_: int) -> str:
        return "/nothing"

    monkeypatch.setattr("lxcwrap.copying.reopened", gone)
    with pytest.raises(PathNotFoundError) as inside:
        copy_out(root.open, "/srv/file", host / "out")
    assert inside.value.path == "/srv/file"
    with pytest.raises(FileNotFoundError) as outside:
        copy_in(root.open, host / "dist/a", "/srv")
    assert outside.value.filename == str(host / "dist/a")
    (host / "out/file").mkdir()
    monkeypatch.undo()
    with pytest.raises(IsADirectoryError) as written:
        copy_out(root.open, "/srv/file", host / "out")
    assert written.value.filename == str(host / "out/file")
    with pytest.raises(InvalidSpecError):
        copy_in(root.open, host / "dist/a", "/srv/\0")


def test_a_directory_is_not_copied_into_itself(root: FakeRoot) -> None:
    """As happens when the target is a bind mount of the source."""
    (root.dir / "srv/www/in").mkdir()
    with pytest.raises(PathError):
        copy_in(root.open, root.dir / "srv", "/srv/www/in")


# --- hostile trees ---


def test_links_of_the_target_are_resolved_inside(root: FakeRoot, host: Path) -> None:
    """Also those in the midst of the tree, as /bin is in most images."""
    (root.dir / "usr/bin").mkdir(parents=True)
    (root.dir / "bin").symlink_to("/usr/bin")
    (root.dir / "etc").symlink_to(host / "out")
    (host / "dist/bin").mkdir()
    (host / "dist/bin/tool").write_text("x")
    copy_in(root.open, f"{host}/dist/.", "/")
    assert (root.dir / "usr/bin/tool").read_text() == "x" and (root.dir / "bin").is_symlink()
    with pytest.raises(PathNotFoundError):
        copy_in(root.open, host / "dist/a", "/etc/")
    (root.dir / "conf").symlink_to("/srv/real")
    copy_in(root.open, host / "dist/a", "/conf")
    assert (root.dir / "srv/real").read_text() == "A" and names(host / "out") == []


def test_a_link_copied_out_leads_no_later_copy_anywhere(root: FakeRoot, host: Path, tmp_path: Path) -> None:
    """Neither as the target itself nor as a directory in the tree."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "passwd").write_text("root")
    before = snapshot(victim)
    for name, target in (("www/dir", victim), ("www/passwd", victim / "passwd"), ("top", victim)):
        (root.dir / "srv" / name).symlink_to(target)
    copy_out(root.open, "/srv/.", host / "out")
    for name in ("www/dir", "www/passwd", "top"):
        (root.dir / "srv" / name).unlink()
    (root.dir / "srv/www/dir").mkdir()
    (root.dir / "srv/www/dir/passwd").write_text("evil")
    (root.dir / "srv/www/passwd").write_text("evil")
    (root.dir / "srv/top").mkdir()
    (root.dir / "srv/top/passwd").write_text("evil")
    for source, goal in (
        ("/srv/.", "out"),
        ("/srv/www", "out"),
        ("/srv/top", "out"),
        ("/srv/top", "out/top"),
        ("/srv/top/.", "out/top"),
        ("/srv/www/passwd", "out/www/passwd"),
    ):
        with suppress(OSError):
            copy_out(root.open, source, host / goal)
    assert snapshot(victim) == before
    assert (host / "out/www/passwd").read_text() == "evil"  # the link was replaced


def test_nothing_outside_is_read_or_written_while_directories_become_links(
    root: FakeRoot, host: Path, tmp_path: Path
) -> None:
    """A process inside swaps directories for links to the host all the time."""
    victim = tmp_path / "victim"
    (victim / "sub").mkdir(parents=True)
    (victim / "secret").write_text("secret")
    (victim / "sub/b").write_text("secret")
    before, copied = snapshot(victim), 0
    with flipping(root.dir / "srv/www", victim):
        for number in range(3000):
            if number >= 150 and copied:  # it may take more rounds until one comes through
                break
            with suppress(PathError, PathNotFoundError):
                copied += copy_in(root.open, f"{host}/dist/.", "/srv/www").files
            with suppress(PathError, PathNotFoundError):
                copy_out(root.open, "/srv/www", host / f"out/{number}")
            with suppress(OSError):  # also those of links that an earlier round brought
                copy_out(root.open, "/srv", host / "out/all")
    assert copied and snapshot(victim) == before
    found = {
        path.read_text() for path in (host / "out").rglob("*") if path.is_file() and not path.is_symlink()
    }
    assert "secret" not in found


def test_a_growing_file_is_copied_as_it_was(root: FakeRoot, host: Path) -> None:
    """A process that writes without end does not keep the copy from ending."""
    path, stop = root.dir / "srv/log", threading.Event()
    path.write_bytes(b"x" * (8 << 20))

    def grow() -> None:
        with path.open("ab") as file:
            while not stop.is_set() and file.tell() < 64 << 20:
                file.write(b"y" * 65536)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        result = copy_out(root.open, "/srv/log", host / "out")
    finally:
        stop.set()
        thread.join()
    assert (host / "out/log").stat().st_size == result.bytes >= 8 << 20
