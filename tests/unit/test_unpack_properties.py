"""Trees go through tar and disk unchanged; no archive, however made, gets out or breaks anything."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lxcwrap.errors import FormatError
from lxcwrap.storage.layerwriter import Member, read_tree, tar_chunks
from lxcwrap.storage.tarstream import Entry, Kind, TarReader
from lxcwrap.storage.unpack import unpack_tar
from tests.strategies import archive, hostile_members, tar_trees

PROFILE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Some need root, but none a container: nothing the leak check of tests/conftest.py knows is touched."""


@contextmanager
def scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=_MEMORY))
    try:
        (path / "outside").mkdir()
        (path / "outside/secret").write_text("secret")
        (path / "root").mkdir()
        yield path
    finally:
        shutil.rmtree(path)


def unpack(data: bytes, root: Path) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack_tar(TarReader([data]), fd)
    finally:
        os.close(fd)


def plain(members: list[Member]) -> list[tuple[Entry, bytes]]:
    return [(entry, b"".join(content)) for entry, content in members]


@given(tar_trees())
@PROFILE
def test_parse_is_the_inverse_of_write(members: list[Member]) -> None:
    """Every entry, with whatever bytes in names and attributes, is read as it was written."""
    read = list(TarReader([archive(*members)]))
    wanted = [entry for entry, _ in members]
    assert [
        entry._replace(name=entry.name.rstrip(b"/"), xattrs=tuple(sorted(entry.xattrs))) for entry in read
    ] == [entry._replace(name=entry.name.rstrip(b"/")) for entry in wanted]


@pytest.mark.lxc
@given(tar_trees())
@PROFILE
def test_disk_is_the_inverse_of_write(members: list[Member]) -> None:
    """unpack(write(tree)) == tree, and writing what was unpacked gives the same bytes."""
    with scratch() as path:
        data = archive(*members)
        unpack(data, path / "root")
        found = [(entry, b"".join(content)) for entry, content in read_tree(path / "root")]
        assert found == plain(members)
        assert b"".join(tar_chunks(read_tree(path / "root"))) == data


@given(hostile_members())
@settings(PROFILE, max_examples=150)
def test_nothing_gets_out(members: list[Member]) -> None:
    """Whatever entries do to one another, what is outside stays as it was, and errors are FormatErrors."""
    with scratch() as path:
        before = os.stat(path / "outside")
        with suppress(FormatError):
            unpack(archive(*members), path / "root")
        after = os.stat(path / "outside")
        assert sorted(os.listdir(path)) == ["outside", "root"]
        assert os.listdir(path / "outside") == ["secret"]
        assert (path / "outside/secret").read_text() == "secret"
        assert (path / "outside/secret").stat().st_nlink == 1
        assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)


@given(tar_trees(), st.data())
@settings(PROFILE, max_examples=200)
def test_damage_is_a_format_error(members: list[Member], data: st.DataObject) -> None:
    """Flipped, cut or inserted bytes give another archive or a FormatError, never another exception."""
    damaged = bytearray(archive(*members))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        change = data.draw(st.sampled_from(("flip", "cut", "insert", "checksum")))
        if change == "cut":
            del damaged[at:]
        elif change == "insert":
            damaged[at:at] = data.draw(st.binary(max_size=600))
        elif change == "checksum" and len(damaged) >= 512:  # a header that lies, with the right checksum
            start = min(at - at % 512, len(damaged) - 512)
            header = damaged[start : start + 512]
            header[data.draw(st.integers(0, 511))] ^= data.draw(st.integers(1, 255))
            header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(b"        ") + sum(header[156:]))
            damaged[start : start + 512] = header
        elif damaged:
            damaged[at] ^= data.draw(st.integers(1, 255))
    reader = TarReader([bytes(damaged)])
    with open(os.devnull, "wb") as sink:
        try:
            for entry in reader:
                if entry.kind is Kind.FILE and entry.size < 1 << 20:
                    reader.copy_to(sink.fileno(), entry.size)
        except FormatError:
            pass
        except OSError:
            # /dev/null cannot be made longer, as a sparse file must be
            assert entry.kind is Kind.FILE
