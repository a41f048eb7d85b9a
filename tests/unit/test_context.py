"""Build contexts: directories, archives; what is ignored; what is remembered of files."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap.build.context import open_context
from lxcwrap.build.filedigests import FileDigests
from lxcwrap.build.placement import Placement
from lxcwrap.build.selecting import select
from lxcwrap.errors import DockerfileError, FormatError, InvalidSpecError, PathNotFoundError
from lxcwrap.storage.layers import LayerStore

from .copytree import Copying, make


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    return Copying(tmp_path)


@pytest.fixture
def digests(tmp_path: Path) -> Iterator[FileDigests]:
    with FileDigests(tmp_path / "digests.db") as digests:
        yield digests


@pytest.fixture
def layers(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path / "layers")


def tar(*names: str, kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(name) if kind == tarfile.REGTYPE else 0
            info.uid, info.gid = os.geteuid(), os.getegid()
            archive.addfile(info, io.BytesIO(name.encode()))
    return stream.getvalue()


# --- kinds of contexts --------------------------------------------------------------------------------------


def test_a_directory_is_a_context(tmp_path: Path, digests: FileDigests, layers: LayerStore) -> None:
    """Its files are read without following links out of it, also those that are ignored."""
    root = make(
        tmp_path / "c",
        {
            "Dockerfile": "FROM scratch",
            ".dockerignore": "*",
            "out": "->/etc/hostname",
        },
    )
    with digests, open_context(root, layers=layers, digests=digests) as context:
        assert context.read("Dockerfile") == b"FROM scratch"
        for name in ("none", "out"):
            with pytest.raises(PathNotFoundError):
                context.read(name)
        with pytest.raises(InvalidSpecError):
            context.read(".")
        with pytest.raises(InvalidSpecError):
            context.read("Dockerfile", limit=3)


@pytest.mark.parametrize("as_file", [True, False])
def test_an_archive_is_a_context(
    tmp_path: Path, digests: FileDigests, as_file: bool, layers: LayerStore
) -> None:
    """By path or as a binary file, also a pipe; nothing of it is left. Names like ``.wh.x`` are ordinary."""
    data = gzip.compress(tar("Dockerfile", "src/a", ".wh.x"))
    path = tmp_path / "context.tar.gz"
    path.write_bytes(data)
    given: Path | io.BufferedReader = path
    if as_file:
        reader, writer = os.pipe()
        os.write(writer, data)
        os.close(writer)
        given = os.fdopen(reader, "rb")
    with digests, open_context(given, layers=layers, digests=digests) as context:
        assert context.read("src/a") == b"src/a"
        assert context.read(".wh.x") == b".wh.x"
    if not isinstance(given, Path):
        given.close()
    assert not list((tmp_path / "layers").iterdir())


def test_what_is_no_context_is_refused(tmp_path: Path, digests: FileDigests, layers: LayerStore) -> None:
    """Nothing there, no archive, an archive with devices or that leads out; nothing is left of it."""
    (tmp_path / "text").write_text("no archive")
    (tmp_path / "device.tar").write_bytes(tar("null", kind=tarfile.CHRTYPE))
    (tmp_path / "up.tar").write_bytes(tar("../x"))
    os.mkfifo(tmp_path / "fifo")
    errors = {"none": InvalidSpecError, "fifo": InvalidSpecError, "text": FormatError} | dict.fromkeys(
        ("device.tar", "up.tar"), FormatError
    )
    for name, error in errors.items():
        with (
            pytest.raises(error),
            open_context(tmp_path / name, layers=layers, digests=digests),
        ):
            pass
    assert not list((tmp_path / "layers").iterdir())


def test_what_killed_builds_left_is_swept(tmp_path: Path, digests: FileDigests, layers: LayerStore) -> None:
    """A draft without its maker; those in use stay."""
    (tmp_path / "context.tar").write_bytes(tar("a"))
    with (
        digests,
        open_context(tmp_path / "context.tar", layers=layers, digests=digests) as context,
    ):
        dead = tmp_path / "layers/.draft-0123"
        (dead / "layer").mkdir(parents=True)
        layers.clean()
        assert not dead.exists()
        assert context.read("a") == b"a"


# --- what is ignored ----------------------------------------------------------------------------------------


def taken(copying: Copying, *sources: str, dockerfile: str = "Dockerfile", **asked: object) -> set[str]:
    """The files and links, from the root of the context."""
    placement = Placement(sources=sources, destination="/d/", **asked)  # type: ignore[arg-type]
    with copying.source(dockerfile) as source:
        return {
            item.found.at
            for selected in select(source, placement)
            for item in selected.items
            if not (copying.context / item.found.at).is_dir()
            or (copying.context / item.found.at).is_symlink()
        }


def test_what_is_ignored_is_not_there(copying: Copying) -> None:
    """Not by name, not by a wildcard, not through a link, not in a directory."""
    make(
        copying.context,
        {
            ".dockerignore": "secret\n*.log\nlink\n",
            "secret/key": "",
            "a.log": "",
            "b": "",
            "s/x.log": "",
            "link": "->b",
            "to": "->secret",
        },
    )
    assert taken(copying, ".") == {".dockerignore", "b", "s/x.log", "to"}
    assert taken(copying, "*") == {".dockerignore", "b", "s/x.log"}
    assert taken(copying, "sec*") == set()
    for name in ("secret", "secret/key", "a.log", "link", "to/key"):
        with pytest.raises(InvalidSpecError):
            taken(copying, name)


def test_exceptions_come_back_with_their_directories(copying: Copying) -> None:
    """And nothing else of these."""
    make(
        copying.context,
        {
            ".dockerignore": "**\n!src/deep/keep*\n",
            "src/deep/keep1": "",
            "src/other": "",
            "node_modules/x": "",
            "src/empty": None,
        },
    )
    with copying.source() as source:
        (everything,) = select(source, Placement(sources=(".",), destination="/"))
    assert [item.path for item in everything.items] == ["", "src", "src/deep", "src/deep/keep1"]
    assert taken(copying, "src/deep") == {"src/deep/keep1"}
    assert taken(copying, "s*") == {"src/deep/keep1"}
    assert taken(copying, "src/deep/k*") == {"src/deep/keep1"}


def test_ignored_directories_are_not_entered(copying: Copying) -> None:
    """Unless an exception may be in them."""
    make(copying.context, {".dockerignore": "big\n!other/x\n", "big/x": "", "f": ""})
    with copying.source() as source:
        entered: list[str] = []
        directory = source.directory
        source.directory = lambda at: entered.append(at) or directory(at)  # type: ignore[method-assign, func-returns-value]
        list(select(source, Placement(sources=(".",), destination="/")))
    assert entered == [""]


@pytest.mark.parametrize(
    ("dockerfile", "expected"),
    [
        ("Dockerfile", {"b"}),
        ("web.Dockerfile", {"a"}),
        ("sub/Dockerfile", {"a", "b"}),
        ("x/Dockerfile", {"b"}),
    ],
)
def test_a_dockerfiles_own_ignore_file_comes_first(
    copying: Copying, dockerfile: str, expected: set[str]
) -> None:
    """Beside it, and called as it is; the other is not read then."""
    make(
        copying.context,
        {
            ".dockerignore": "a",
            "web.Dockerfile.dockerignore": "b",
            "sub/Dockerfile.dockerignore": "",
            "a": "",
            "b": "",
        },
    )
    assert taken(copying, "[ab]", dockerfile=dockerfile) == expected


def test_a_dockerfile_may_be_elsewhere(copying: Copying, tmp_path: Path, layers: LayerStore) -> None:
    """Its own ignore file is beside it."""
    make(copying.context, {".dockerignore": "a", "a": "", "b": ""})
    (tmp_path / "Web.dockerignore").write_text("b")
    with (
        FileDigests(tmp_path / "db") as digests,
        open_context(copying.context, layers=layers, digests=digests) as context,
    ):
        for name, ignored in (("Web", "b"), ("Other", "a")):
            assert context.source(outside=tmp_path / name).ignored.match(ignored)
            assert not context.source(outside=tmp_path / name).ignored.match("ab".replace(ignored, ""))


def test_a_malformed_ignore_file_is_told(copying: Copying) -> None:
    """With its name and the line."""
    make(copying.context, {".dockerignore": "a\n[\n"})
    with pytest.raises(DockerfileError) as caught, copying.source():
        pass
    assert (caught.value.file, caught.value.line) == (".dockerignore", 2)


def test_kernel_files_are_no_content(tmp_path: Path, digests: FileDigests, layers: LayerStore) -> None:
    """A context of the whole machine must leave out /proc."""
    with (
        digests,
        open_context("/proc/self", layers=layers, digests=digests) as context,
        pytest.raises(InvalidSpecError),
    ):
        list(select(context.source(), Placement(sources=(".",), destination="/")))
