"""COPY: what of the context goes where in the image."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lxcwrap.build.placement import Placement
from lxcwrap.errors import (
    FormatError,
    InvalidSpecError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
)

from .copytree import OWN, Copying, inline, make


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    return Copying(tmp_path)


PROJECT = {
    "foo.go": "foo",
    "bar.go": "bar",
    "sub/dir1/dir2/foo": "deep",
    "sub/.hidden": "hidden",
    "link": "->sub/dir1",
    "file-link": "->foo.go",
}

DEEP: dict[str, str | None] = {"d": None, "d/dir2": None, "d/dir2/foo": "deep"}
CASES: dict[str, tuple[tuple[str, ...], str, dict[str, str | None]]] = {
    "a file to a name": (("foo.go",), "/x", {"x": "foo"}),
    "a file into a directory": (("foo.go",), "/d/", {"d": None, "d/foo.go": "foo"}),
    "a file relative": (("foo.go",), "d/x", {"w": None, "w/d": None, "w/d/x": "foo"}),
    "a file to the working directory": (("foo.go",), ".", {"w": None, "w/foo.go": "foo"}),
    "a file above the working directory": (("foo.go",), "../", {"foo.go": "foo"}),
    "a file above the root": (("foo.go",), "/../../x", {"x": "foo"}),
    "a source above the context": (("../../foo.go",), "/x", {"x": "foo"}),
    "an absolute source": (("/foo.go",), "/x", {"x": "foo"}),
    "several files": (("foo.go", "bar.go"), "/", {"foo.go": "foo", "bar.go": "bar"}),
    "a wildcard": (("*.go",), "/", {"foo.go": "foo", "bar.go": "bar"}),
    "a wildcard that fits one": (("f*.go",), "/x", {"x": "foo"}),
    "a wildcard that fits nothing": (("foo.go", "none*"), "/", {"foo.go": "foo"}),
    "a set": (("[bf][ao][or].go",), "/", {"foo.go": "foo", "bar.go": "bar"}),
    "a wildcard on the way": (("sub/*/dir2/foo",), "/d/", {"d": None, "d/foo": "deep"}),
    "wildcards do not see through links": (("*/dir2/foo",), "/d/", {}),
    "hidden files fit": (("sub/.*",), "/", {".hidden": "hidden"}),
    "the contents of a directory": (("sub/dir1",), "/d", DEEP),
    "slashes at the end do not matter": (("sub/dir1//",), "/d/", DEEP),
    "a dot at the end does not matter": (("sub/dir1/.",), "/d", DEEP),
    "directories by a wildcard": (("sub/d*",), "/d", DEEP),
    "a link is followed": (("link/dir2/foo",), "/x", {"x": "deep"}),
    "a link to a directory": (("link",), "/d", DEEP),
    "a link to a file": (("file-link",), "/d/", {"d": None, "d/file-link": "foo"}),
    "links by a wildcard": (("file-l*",), "/", {"file-link": "foo"}),
}


@pytest.mark.parametrize("case", CASES)
def test_sources_and_destinations(copying: Copying, case: str) -> None:
    """What the Dockerfile reference says, and what BuildKit's tests expect."""
    sources, destination, expected = CASES[case]
    make(copying.context, PROJECT)
    assert copying.copy(*sources, to=destination, working_dir="/w") == expected


def test_all_of_the_context(copying: Copying) -> None:
    """Links in a directory are copied as links."""
    make(copying.context, PROJECT)
    found = copying.copy(".", to="/all")
    assert {name for name in found if name != "all"} >= {f"all/{name}" for name in PROJECT}
    assert (found["all/link"], found["all/file-link"]) == ("->sub/dir1", "->foo.go")


PARENTS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "a file": (("a/b/c/foo",), {"a/b/c/foo"}),
    "a directory": (("/a/b/c",), {"a/b/c/foo", "a/b/c/e/bay", "a/b/c/e/baz"}),
    "a pivot": (("a/./b/c",), {"b/c/foo", "b/c/e/bay", "b/c/e/baz"}),
    "two pivots": (("/a/./b/./c/foo",), {"b/c/foo"}),
    "a dot before": (("./a/b/c/foo",), {"a/b/c/foo"}),
    "a dot behind": (("a/b/c/e/.",), {"a/b/c/e/bay", "a/b/c/e/baz"}),
    "a wildcard": (("a/./*/c/e/baz",), {"b/c/e/baz", "b2/c/e/baz"}),
    "a wildcard before the pivot": (("a/b*/./c/e/ba[yz]",), {"c/e/bay", "c/e/baz"}),
    "any depth": (("a/./**/bay",), {"b/c/e/bay"}),
    "nothing fits": (("a/./c2*",), set()),
    "several": (("a/b/./**/foo", "a/b2/./**/baz"), {"c/foo", "c/e/baz"}),
}


@pytest.mark.parametrize("case", PARENTS)
def test_parents_are_kept(copying: Copying, case: str) -> None:
    """Those behind ``/./``, and only of what was chosen."""
    make(
        copying.context, {"a/b/c/foo": "", "a/b/c/e/bay": "", "a/b/c/e/baz": "", "a/b2/c/e/baz": "", "x": ""}
    )
    sources, expected = PARENTS[case]
    found = copying.copy(*sources, to="/out/", parents=True)
    assert {name.removeprefix("out/") for name, content in found.items() if content is not None} == expected
    assert "out" in found


def test_parents_look_as_they_did(copying: Copying) -> None:
    """Kept directories have the modes of the originals."""
    make(copying.context, {"a/b/foo": ""})
    (copying.context / "a").chmod(0o700)
    copying.copy("a/b/foo", to="/", parents=True)
    assert stat.S_IMODE((copying.target / "a").stat().st_mode) == 0o700


def test_what_is_excluded_is_left_out(copying: Copying) -> None:
    """Patterns are relative to each source; of a file its name counts."""
    make(copying.context, {"d/a.txt": "", "d/b.md": "", "d/s/c.txt": "", "home.txt": "", "home.md": ""})
    assert set(copying.copy("d", to="/d", exclude=("*.txt",))) == {"d", "d/b.md", "d/s", "d/s/c.txt"}
    assert set(copying.copy("hom*", to="/h/", exclude=("*.txt",))) >= {"h", "h/home.md"}
    assert "h/home.txt" not in copying.copy("home.md", to="/h/")
    assert set(copying.copy("d", to="/e", exclude=("**", "!s/c.txt"))) >= {"e", "e/s", "e/s/c.txt"}
    assert "e/a.txt" not in copying.copy("home.md", to="/h/")


def test_a_directory_is_merged(copying: Copying) -> None:
    """Files are replaced, others stay; the destination keeps its mode, directories in it take theirs."""
    make(copying.context, {"src/s/new": "new", "src/s/old": "changed"})
    (copying.context / "src").chmod(0o700)
    (copying.context / "src/s").chmod(0o711)
    make(copying.target, {"d/s/old": "old", "d/s/stays": "stays"})
    assert copying.copy("src", to="/d") == {
        "d": None,
        "d/s": None,
        "d/s/new": "new",
        "d/s/old": "changed",
        "d/s/stays": "stays",
    }
    assert stat.S_IMODE((copying.target / "d").stat().st_mode) == 0o755
    assert stat.S_IMODE((copying.target / "d/s").stat().st_mode) == 0o711


def test_looks_are_kept(copying: Copying) -> None:
    """Mode and time of files, links and directories; new directories on the way have mode 0755."""
    make(copying.context, {"src/dir/tool": "", "src/link": "->x"})
    (copying.context / "src/dir/tool").chmod(0o4751)
    (copying.context / "src/dir").chmod(0o500)
    old = os.umask(0o077)
    try:
        copying.copy("src", to="/a/b")
    finally:
        os.umask(old)
    target = copying.target
    for name, mode in {"a": 0o755, "a/b": 0o755, "a/b/dir": 0o500, "a/b/dir/tool": 0o4751}.items():
        status = (target / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, *OWN), name
    for name in ("a/b", "a/b/dir", "a/b/dir/tool", "a/b/link"):
        assert (target / name).lstat().st_mtime == 1000 or name == "a/b", name


def test_of_several_sources_the_last_decides(copying: Copying) -> None:
    """How a directory looks that is in each of them."""
    make(copying.context, {"one/s/f": "1", "two/s/f": "2", "two/s/g": "2"})
    (copying.context / "one/s").chmod(0o700)
    (copying.context / "two/s").chmod(0o711)
    found = copying.copy("one", "two", to="/d/")
    assert (found["d/s/f"], found["d/s/g"]) == ("2", "2")
    assert stat.S_IMODE((copying.target / "d/s").stat().st_mode) == 0o711
    assert (copying.target / "d/s").stat().st_mtime == 1000
    copying.copy("two", "one", to="/e/", chmod="u=rwx,go=")
    assert stat.S_IMODE((copying.target / "e").stat().st_mode) == 0o700


def test_attributes_are_kept(copying: Copying) -> None:
    """Those that a layer keeps, of files and directories."""
    make(copying.context, {"src/dir/file": ""})
    for name in ("src/dir", "src/dir/file"):
        os.setxattr(copying.context / name, "user.origin", name.encode())
    copying.copy("src", to="/")
    assert os.getxattr(copying.target / "dir/file", "user.origin") == b"src/dir/file"
    assert os.getxattr(copying.target / "dir", "user.origin") == b"src/dir"


def test_hard_links_stay_hard_links(copying: Copying) -> None:
    """Among the files of one source."""
    make(copying.context, {"src/a": "x", "src/s/x": ""})
    os.link(copying.context / "src/a", copying.context / "src/s/b")
    copying.copy("src", to="/")
    assert (copying.target / "a").samefile(copying.target / "s/b")


def test_holes_stay_holes(copying: Copying) -> None:
    """A large file of nothing takes no place."""
    with (copying.context / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(b"x")
    with copying.source() as source:
        copying.place(source, Placement(sources=("sparse",), destination="/"))
    status = (copying.target / "sparse").stat()
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20


def test_sockets_are_left_out_and_fifos_are_not(copying: Copying) -> None:
    """As by Docker, but for the empty file that it makes of a socket."""
    import socket

    os.mkfifo(copying.context / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        old = Path.cwd()
        os.chdir(copying.context)
        try:
            listener.bind("socket")
        finally:
            os.chdir(old)
        copying.copy(".", to="/")
        with pytest.raises(InvalidSpecError):
            copying.copy("socket", to="/s")
    assert stat.S_ISFIFO((copying.target / "fifo").stat().st_mode)
    assert not (copying.target / "socket").exists()


@pytest.mark.parametrize(
    ("chmod", "file", "directory"),
    [
        ("700", 0o700, 0o700),
        ("0755", 0o755, 0o755),
        ("go-r", 0o600, 0o711),
        ("u=rwX,go=rX", 0o644, 0o755),
        ("+x", 0o755, 0o755),
    ],
)
def test_chmod(copying: Copying, chmod: str, file: int, directory: int) -> None:
    """Octal for all, symbolic for each by what it was; directories on the way are not concerned."""
    make(copying.context, {"src/d/f": ""})
    copying.copy("src", to="/way/dest", chmod=chmod)
    modes = {name: stat.S_IMODE((copying.target / name).stat().st_mode) for name in ("way", "way/dest/d")}
    assert modes == {"way": 0o755, "way/dest/d": directory}
    assert stat.S_IMODE((copying.target / "way/dest/d/f").stat().st_mode) == file


def test_inline_files(copying: Copying) -> None:
    """Here-documents are files with mode 0644, called as their delimiters."""
    one = Placement(inline=(inline("EOF", "text\n"),), destination="/etc/x", chmod="")
    two = Placement(inline=(inline("a", "1"), inline("b", "2")), destination="d/", chmod="700")
    copying.place(None, one)
    copying.place(None, two, "/w")
    assert (copying.target / "etc/x").read_text() == "text\n"
    assert stat.S_IMODE((copying.target / "etc/x").stat().st_mode) == 0o644
    assert stat.S_IMODE((copying.target / "w/d/b").stat().st_mode) == 0o700


# --- what is in the way -------------------------------------------------------------------------------------


def test_links_on_the_way_are_followed(copying: Copying) -> None:
    """Within the root, as in a container: also absolute ones, and those that lead nowhere yet."""
    make(copying.context, {"f": "f", "src/lib/x": "x"})
    make(
        copying.target,
        {"run": None, "usr/lib": None, "var/run": "->/run", "lib": "->usr/lib", "gone": "->/a/../b/c"},
    )
    found = copying.copy("f", to="/var/run/app/")
    assert found["run/app/f"] == "f"
    assert copying.copy("src", to="/")["usr/lib/x"] == "x"
    assert copying.copy("f", to="/gone/")["b/c/f"] == "f"


def test_a_link_that_is_the_destination_is_written_through(copying: Copying) -> None:
    """But a link in a destination directory is replaced."""
    make(copying.context, {"f": "new"})
    make(copying.target, {"real": "old", "link": "->real", "nowhere": "->/x/y", "d/f": "->../real"})
    assert copying.copy("f", to="/link")["real"] == "new"
    assert copying.copy("f", to="/nowhere")["x/y"] == "new"
    found = copying.copy("f", to="/d/")
    assert found["d/f"] == "new"
    assert found["link"] == "->real"


def test_what_cannot_be_is_refused(copying: Copying) -> None:
    """A file over a directory, a directory over a file, many files to one name, what is not there."""
    make(copying.context, {"f": "", "g": "", "d/x/y": "", "loop": "->loop"})
    make(copying.target, {"d/f": None, "x": "", "e/x": ""})
    with pytest.raises(PathIsDirectoryError):
        copying.copy("f", to="/d/")
    with pytest.raises(PathNotDirectoryError):
        copying.copy("d", to="/e")
    with pytest.raises(PathNotDirectoryError):
        copying.copy("f", to="/x/")
    with pytest.raises(InvalidSpecError):
        copying.copy("[fg]", to="/new")
    for missing in ("none", "none/*", "f/x"):
        with pytest.raises((PathNotFoundError, PathNotDirectoryError)):
            copying.copy(missing, to="/")
    with pytest.raises(OSError):
        copying.copy("loop", to="/l")


def test_names_that_mean_deletions_are_refused(copying: Copying) -> None:
    """No layer could hold them."""
    make(copying.context, {".wh.x": ""})
    with pytest.raises(FormatError):
        copying.copy(".", to="/")


def test_links_do_not_lead_out_of_the_context(copying: Copying, tmp_path: Path) -> None:
    """Not by ``..``, not by an absolute link: they are resolved within it."""
    make(copying.context, {"up": "->../../../../etc", "abs": f"->{tmp_path}", "etc/hostname": "mine"})
    (tmp_path / "secret").write_text("secret")
    assert copying.copy("up/hostname", to="/h")["h"] == "mine"
    with pytest.raises(PathNotFoundError):
        copying.copy("abs/secret", to="/s")
    with pytest.raises(PathNotFoundError):
        copying.copy("up/../../secret", to="/s")


def test_links_do_not_lead_out_of_the_target(copying: Copying, tmp_path: Path) -> None:
    """Whatever links an image holds, nothing outside is written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    make(copying.context, {"f": "f", "src/d/f": "f"})
    make(copying.target, {"abs": f"->{outside}", "up": "->../../outside", "d": f"->{outside}"})
    with pytest.raises(PathNotFoundError):
        copying.copy("src", to="/")
    copying.copy("f", to="/abs/")
    copying.copy("f", to="/up/x")
    assert not list(outside.iterdir())


def test_a_context_that_changes_is_noticed(copying: Copying) -> None:
    """Nothing is kept under a key it does not have."""
    from lxcwrap.build.placing import key, place

    make(copying.context, {"f": "one"})
    placement = Placement(sources=("f",), destination="/")
    fd = os.open(copying.target, os.O_RDONLY)
    try:
        with copying.source() as source:
            expected = key(source, placement)
            place(source, placement, fd, expected=expected)
            (copying.context / "f").write_text("two")
            with pytest.raises(FormatError):
                place(source, placement, fd, expected=expected)
    finally:
        os.close(fd)
