"""ADD: archives, and what a URL gives; whom things belong to; what cannot be asked for."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import zstandard

from lxcwrap.build.owners import find_owner
from lxcwrap.build.placement import InlineFile, Placement
from lxcwrap.errors import DigestMismatchError, FormatError, InvalidSpecError, RegistryError

from .copytree import OWN, Copying, make

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "bzip2 twice": lambda data: bz2.compress(data[:700]) + bz2.compress(data[700:]),
}


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    return Copying(tmp_path)


def archive(*members: tuple[str, str | None] | tarfile.TarInfo) -> bytes:
    """A tar of files (None: directories), all our own."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            content = b"" if isinstance(member, tarfile.TarInfo) else (member[1] or "").encode()
            if not isinstance(member, tarfile.TarInfo) and member[1] is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o711
            info.uid, info.gid = OWN
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


# --- archives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_an_archive_is_unpacked(copying: Copying, compression: str) -> None:
    """Whatever it is called, and however compressed; what was there stays, or is replaced."""
    data = archive(("d", None), ("d/new", "new"), ("d/old", "changed"), link("d/l", "/x"))
    (copying.context / "data").write_bytes(COMPRESSIONS[compression](data))
    make(copying.target, {"app/d/old": "old", "app/stays": "stays"})
    assert copying.copy("data", to="/app", add=True) == {
        "app": None,
        "app/d": None,
        "app/d/l": "->/x",
        "app/d/new": "new",
        "app/d/old": "changed",
        "app/stays": "stays",
    }
    assert stat.S_IMODE((copying.target / "app/d").stat().st_mode) == 0o711
    assert stat.S_IMODE((copying.target / "app").stat().st_mode) == 0o755
    assert (copying.target / "app").stat().st_mtime > 0


@pytest.mark.parametrize("content", ["", "no archive", "\0" * 1024, "BZh", "BZh91AY", "\x1f\x8b"])
def test_what_is_no_archive_is_copied(copying: Copying, content: str) -> None:
    """By its content alone: also an empty file called .tar.gz."""
    (copying.context / "x.tar.gz").write_text(content, encoding="latin-1")
    with copying.source() as source:
        copying.place(source, Placement(sources=("x.tar.gz",), destination="/d/", add=True))
    assert (copying.target / "d/x.tar.gz").read_bytes() == content.encode("latin-1")


def test_unpacking_can_be_declined(copying: Copying) -> None:
    """By ``--unpack=false``; COPY never does it."""
    data = archive(("f", "f"))
    (copying.context / "x.tar").write_bytes(data)
    with copying.source() as source:
        copying.place(source, Placement(sources=("x.tar",), destination="/a/", add=True, unpack=False))
        copying.place(source, Placement(sources=("x.tar",), destination="/b/"))
    assert (copying.target / "a/x.tar").read_bytes() == (copying.target / "b/x.tar").read_bytes() == data


def test_chmod_and_exclude_concern_the_entries(copying: Copying) -> None:
    """Nothing that was asked for is ignored."""
    (copying.context / "x.tar").write_bytes(archive(("d", None), ("d/a.txt", ""), ("./d/b.md", "")))
    found = copying.copy("x.tar", to="/", add=True, exclude=("**/*.txt",), chmod="u=rwX,go=")
    assert set(found) == {"d", "d/b.md"}
    assert stat.S_IMODE((copying.target / "d/b.md").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "member",
    [
        ("../x", "x"),
        ("a/../../x", "x"),
        link("h", "../../secret", tarfile.LNKTYPE),
        link("h", "/secret", tarfile.LNKTYPE),
        (".wh.passwd", ""),
        ("d/.wh..wh..opq", ""),
        (".wh.d/x", ""),
    ],
    ids=str,
)
def test_hostile_entries_are_refused(
    copying: Copying, tmp_path: Path, member: tuple[str, str] | tarfile.TarInfo
) -> None:
    """Those that lead out, and those that would delete what is below once they were in a layer."""
    (tmp_path / "secret").write_text("secret")
    (copying.context / "x.tar").write_bytes(archive(("fine", ""), member))
    with pytest.raises(FormatError):
        copying.copy("x.tar", to="/", add=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["context", "secret", "target"]


def test_links_do_not_lead_an_archive_out(copying: Copying, tmp_path: Path) -> None:
    """Neither its own nor those of the image."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (copying.context / "x.tar").write_bytes(
        archive(link("out", str(outside)), ("out/a", "a"), ("there/b", "b"))
    )
    make(copying.target, {"there": f"->{outside}"})
    with pytest.raises(FormatError):
        copying.copy("x.tar", to="/", add=True)
    assert not list(outside.iterdir())


def test_a_damaged_archive_is_told(copying: Copying) -> None:
    """One that begins well is an archive."""
    data = gzip.compress(archive(("f", os.urandom(20000).hex())))
    (copying.context / "x").write_bytes(data[:-5000])
    with pytest.raises(FormatError) as caught:
        copying.copy("x", to="/", add=True)
    assert "x" in caught.value.what


# --- URLs ---------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to"))
            self.end_headers()
        elif self.path == "/circle":
            self.send_response(302)
            self.send_header("Location", "/circle")
            self.end_headers()
        elif self.path == "/file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif self.path in self.files:
            data = self.files[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Last-Modified", "Thu, 01 Jan 1970 00:16:40 GMT")
            self.end_headers()
            self.wfile.write(data)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _added(url: str, content: bytes, to: str, **asked: object) -> Placement:
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Placement(sources=(url,), destination=to, add=True, checksum=checksum, **asked)  # type: ignore[arg-type]


def test_a_url_is_downloaded(copying: Copying, server: str) -> None:
    """Into a file with mode 0600 and the time the server says; also after a redirection."""
    _Handler.files["/a%20b.bin"] = b"content"
    copying.place(None, _added(f"{server}/a%20b.bin", b"content", "/d/"))
    copying.place(None, _added(f"{server}/to/a%20b.bin", b"content", "/e"))
    for name in ("d/a b.bin", "e"):
        status = (copying.target / name).stat()
        assert (copying.target / name).read_bytes() == b"content"
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o600, 1000)


def test_a_downloaded_archive_is_unpacked_only_if_told(copying: Copying, server: str) -> None:
    """As by Docker."""
    data = _Handler.files["/x.tar.gz"] = gzip.compress(archive(("f", "f")))
    copying.place(None, _added(f"{server}/x.tar.gz", data, "/a/"))
    copying.place(None, _added(f"{server}/x.tar.gz", data, "/b/", unpack=True))
    assert (copying.target / "a/x.tar.gz").read_bytes() == data
    assert (copying.target / "b/f").read_text() == "f"


def test_wrong_content_is_not_placed(copying: Copying, server: str) -> None:
    """The checksum is compared before anything is written."""
    _Handler.files["/f"] = b"other"
    with pytest.raises(DigestMismatchError):
        copying.place(None, _added(f"{server}/f", b"content", "/f"))
    assert not list(copying.target.iterdir())


@pytest.mark.parametrize("path", ["/none", "/circle", "/file"])
def test_servers_may_refuse(copying: Copying, server: str, path: str) -> None:
    """Or lead nowhere: no other protocol is followed."""
    with pytest.raises(RegistryError) as caught:
        copying.place(None, _added(server + path, b"", "/f"))
    assert caught.value.registry == "127.0.0.1"


# --- owners -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chown", "expected"),
    [
        ("55", (55, 55)),
        ("10:11", (10, 11)),
        ("web", (33, 34)),
        ("web:staff", (33, 50)),
        ("web:7", (33, 7)),
        ("55:staff", (55, 50)),
        ("33", (33, 33)),
    ],
)
def test_owners_are_looked_up_in_the_image(copying: Copying, chown: str, expected: tuple[int, int]) -> None:
    """By name, in its own files, links followed within it; ids are taken as they are."""
    users = "root:x:0:0::/:/bin/sh\nbroken\nweb:x:33:34::/:\nweb:x:99:99::/:\n"
    make(copying.target, {"etc/passwd": "->/usr/passwd", "usr/passwd": users, "etc/group": "staff:x:50:\n"})
    fd = os.open(copying.target, os.O_RDONLY)
    try:
        assert find_owner(chown, fd) == expected
        with pytest.raises(InvalidSpecError):
            find_owner("nobody", fd)
        with pytest.raises(InvalidSpecError):
            find_owner("web:nogroup", fd)
    finally:
        os.close(fd)


def test_users_are_not_those_of_the_host(copying: Copying) -> None:
    """Neither in an image without users, nor through a link."""
    fd = os.open(copying.target, os.O_RDONLY)
    try:
        with pytest.raises(InvalidSpecError):
            find_owner("root", fd)
        make(copying.target, {"etc/passwd": "->../../../../../../etc/passwd"})
        with pytest.raises(InvalidSpecError):
            find_owner("root", fd)
    finally:
        os.close(fd)


# --- what cannot be right -----------------------------------------------------------------------------------

SUM = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "asked",
    [
        {"sources": ()},
        {"sources": ("a",), "destination": ""},
        {"sources": ("a", "b"), "destination": "/c"},
        {"sources": ("",)},
        {"sources": ("a\0b",)},
        {"sources": ("a[",)},
        {"sources": ("a",), "chmod": "888"},
        {"sources": ("a",), "chmod": "17777"},
        {"sources": ("a",), "chmod": "u=q"},
        {"sources": ("a",), "chown": ":"},
        {"sources": ("a",), "chown": "4294967295"},
        {"sources": ("a",), "chown": "web", "link": True},
        {"sources": ("a",), "exclude": ("[",)},
        {"sources": ("a",), "checksum": SUM, "add": True},
        {"sources": ("http://h/x",)},
        {"sources": ("http://h/x",), "add": True},
        {"sources": ("http://h/x",), "add": True, "checksum": "sha256:0"},
        {"sources": ("http://h/x", "http://h/y"), "add": True, "checksum": SUM},
        {"sources": ("http://h/",), "add": True, "checksum": SUM},
        {"sources": ("http:///x",), "add": True, "checksum": SUM},
        {"sources": ("https://h/x.git",), "add": True},
        {"sources": ("git@h:x",), "add": True},
        {"sources": ("https://h/x.git#main",), "add": True},
        {"sources": (), "inline": (InlineFile("../x", b""),)},
        {"sources": ("**[/a",), "parents": True},
    ],
    ids=str,
)
def test_what_cannot_be_right_is_refused(asked: dict[str, object]) -> None:
    """Before anything is looked at."""
    with pytest.raises(InvalidSpecError):
        Placement(**{"destination": "/d/", **asked})  # type: ignore[arg-type]
