"""What strangers try with images, archives and what they build: memory, time and stack must be bounded."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcwrap.build.contentkey import key
from lxcwrap.build.context import Source
from lxcwrap.build.filedigests import FileDigests
from lxcwrap.build.owners import find_owner
from lxcwrap.build.placement import Placement
from lxcwrap.build.step import RunStep
from lxcwrap.buildsteps import BuildSteps
from lxcwrap.digests import chain_ids
from lxcwrap.errors import DockerfileError, FormatError, InvalidSpecError
from lxcwrap.formats.archive import Archive
from lxcwrap.formats.simplestreams import read_properties
from lxcwrap.formats.targets import new_directory, new_file
from lxcwrap.storage import unpack
from lxcwrap.storage.blobs import BlobStore
from lxcwrap.storage.layers import LayerStore
from lxcwrap.storage.layerwriter import Member, _record, read_tree, tar_chunks
from lxcwrap.storage.packing import pack_layer
from lxcwrap.storage.pruning import prune_build_cache
from lxcwrap.storage.tarstream import TarReader
from lxcwrap.storage.unpack import unpack_tar
from tests.strategies import directory
from tests.unit.fakebuild import Builder

_MEMORY = 64 << 20


@contextmanager
def little_memory() -> Iterator[None]:
    """At no moment the block holds more than `_MEMORY` bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < _MEMORY
    finally:
        tracemalloc.stop()


def unpack_into(path: Path, members: Iterator[Member]) -> None:
    path.mkdir()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack_tar(TarReader(tar_chunks(members)), fd)
    finally:
        os.close(fd)


def nest(path: Path, depth: int, name: str = "d") -> None:
    """Directories within each other, deeper than any path can name."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


# --- layers -----------------------------------------------------------------------------------------------


def test_a_draft_of_any_depth_is_deleted(tmp_path: Path) -> None:
    """A command can nest directories beyond stack and descriptors: nothing is left, also after kill -9."""
    store = LayerStore(tmp_path / "layers")
    with store.draft(None) as draft:
        nest(draft.layer, 1200)
    assert os.listdir(tmp_path / "layers") == []
    left = tmp_path / "layers/.draft-1"
    left.mkdir()
    nest(left, 1200)
    store.clean()
    assert os.listdir(tmp_path / "layers") == []


@pytest.mark.parametrize("name", [b"security.x", b"user.x"])
def test_attributes_of_directories_take_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    """They are set at the end: a few compressed kilobytes may hold gigabytes of them."""
    value = b"a" * 1_000_000
    members = (directory(f"d{number}", xattrs=((name, value),)) for number in range(200))
    monkeypatch.setattr(unpack, "_MAX_REMEMBERED", 20 << 20)
    with little_memory():
        if name == b"security.x":  # not kept, so nothing needs to be remembered
            unpack_into(tmp_path / "layer", members)
        else:
            with pytest.raises(FormatError):
                unpack_into(tmp_path / "layer", members)


def test_holes_are_content(tmp_path: Path) -> None:
    """A file of terabytes without data is refused before it is read, and comes out of no archive."""
    store, tree = BlobStore(tmp_path / "images"), tmp_path / "tree"
    tree.mkdir()
    with open(tree / "f", "wb") as file:
        file.truncate(unpack.MAX_LAYER_BYTES + 1)
    with pytest.raises(FormatError):
        pack_layer(store, read_tree(tree))
    assert list(store.digests()) == []


def test_sparse_files_of_an_archive_are_counted_with_their_holes(tmp_path: Path) -> None:
    """Their maps make little bytes much content, file after file."""
    size = unpack.MAX_LAYER_BYTES // 4
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(6):
            info = tarfile.TarInfo(f"f{number}")
            info.pax_headers = {
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": f"f{number}",
                "GNU.sparse.realsize": str(size),
            }
            info.size = 512
            info.uid, info.gid = os.geteuid(), os.getegid()
            tar.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(FormatError):
            unpack_tar(TarReader([text.getvalue()]), fd)
    finally:
        os.close(fd)
    assert sorted(os.listdir(tmp_path)) == ["f0", "f1", "f2", "f3"]


def test_paths_beyond_what_can_be_unpacked_make_no_layer(tmp_path: Path) -> None:
    """Such an image would run here, and be refused wherever it is loaded."""
    nest(tmp_path, 30, "n" * 200)
    with pytest.raises(FormatError):
        for _ in read_tree(tmp_path):
            pass


# --- builds -----------------------------------------------------------------------------------------------


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(tmp_path, monkeypatch)


def test_no_dockerfile_gives_itself_the_hosts_network(builder: Builder) -> None:
    """Nor does a trigger of a base image; only who builds, by argument or by a program of their own."""
    builder.base("eager", on_build=("RUN --network=host x",))
    for text in ("FROM base\nRUN --network=host x\n", "FROM eager\n"):
        with pytest.raises(DockerfileError):
            builder.build(text)
        assert not builder.runner.steps
        assert builder.build(text, network="host")
        assert builder.runner.steps.pop().network == "host"
    own = BuildSteps(lambda *_, **__: None, "base").run("y", network="host")  # type: ignore[arg-type]  # not called
    builder.build(own.program())
    assert builder.runner.steps.pop().network == "host"


@pytest.mark.parametrize("line", ["ENV V{}=$A", "ARG V{}=$A", "LABEL V{}=$A", "ARG V{0}\nRUN x{0}"])
def test_variables_do_not_multiply(builder: Builder, line: str) -> None:
    """A megabyte of instructions could bring in a hundred gigabytes."""
    lines = "".join(f"{line.format(number)}\n" for number in range(2000))
    with little_memory(), pytest.raises(DockerfileError):
        builder.build(f"FROM base\nARG A={'a' * 120_000}\n{lines}")


def test_huge_files_of_a_context_are_not_read(tmp_path: Path) -> None:
    """They may hold nothing but holes, and no layer can take them."""
    with open(tmp_path / "f", "wb") as file:
        file.truncate(unpack.MAX_LAYER_BYTES + 1)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        source = Source(fd, name="context", digests=FileDigests(tmp_path / "digests.db"))
        with pytest.raises(InvalidSpecError):
            key(source, Placement(sources=("f",), destination="/"))
    finally:
        os.close(fd)


def test_a_cache_cannot_make_itself_younger(builder: Builder) -> None:
    """A step can set the time of its directory to the next century; it is pruned like others."""
    directory = builder.store.root.cache / "mounts/cache"
    directory.mkdir(parents=True)
    os.utime(directory, (2**32, 2**32))
    assert prune_build_cache(builder.store, keep_bytes=None, older_than_s=0) == 1
    assert not directory.exists()


def test_what_no_archive_holds_is_not_kept_of_a_step(builder: Builder) -> None:
    """Access control lists: an image must not be another here than where it is checked or sent to."""
    entries = ((1, 6, ~0), (2, 6, 1234), (4, 4, ~0), (16, 6, ~0), (32, 4, ~0))  # acl(5): user 1234 may write
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", t, p, i & 0xFFFFFFFF) for t, p, i in entries)

    def act(step: RunStep) -> None:
        for path in (step.draft.layer, step.draft.layer / "f"):
            path.touch()
            os.setxattr(path, "system.posix_acl_access", acl)

    builder.runner.act = act
    image = builder.store.config(builder.build("FROM base\nRUN x\n"))
    layer = builder.store.layers.path(chain_ids(image.diff_ids)[-1])
    assert os.listxattr(layer) == os.listxattr(layer / "f") == []


# --- archives ---------------------------------------------------------------------------------------------


def _extended(payload: bytes) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = b"x", len(payload)
    return info.tobuf(tarfile.USTAR_FORMAT) + payload + bytes(-len(payload) % 512)


def _scan(headers: Iterable[bytes]) -> None:
    with tempfile.TemporaryFile() as file:
        file.writelines((*headers, bytes(1024)))
        file.flush()
        Archive(file, "archive")


def test_extended_headers_of_one_member_are_bounded_together() -> None:
    """Each of them is small, and there is no end to them."""
    headers = (_extended(_record(b"k%d" % number, b"v" * 900_000)) for number in range(3))
    with pytest.raises(FormatError):
        _scan(headers)


def test_many_small_records_take_no_time() -> None:
    """What is left of a header is not copied again for each record."""
    headers = [_extended(b"5 a=\n" * 200_000), tarfile.TarInfo("f").tobuf(tarfile.USTAR_FORMAT)]
    began = time.process_time()
    _scan(3 * headers)
    assert time.process_time() - began < 5  # and not 10 or more


def test_what_is_saved_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    """In the store nobody else gets at the shadow files of images either."""
    before = os.umask(0)
    try:
        with new_file(tmp_path / "f.tar") as write, new_directory(tmp_path / "d") as add:
            write(b"secret")
            add("blobs/x", [b"secret"])
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("f.tar", "d")] == [0o600, 0o700]


# --- names and metadata -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids", ["²:0", "0:²", "4294967295:0", "0:4294967295", "99999999999:0", "-1:0", "+1:0"]
)
def test_impossible_ids_of_an_image_are_nobodys(tmp_path: Path, ids: str) -> None:
    """2**32 - 1 would be no id but "leave it": the files would stay root's."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(f"app:x:{ids}::/:\n")
    (tmp_path / "etc/group").write_text("app:x:4294967295:\n")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for owner in ("app", "0:app", "²", "0:²", "4294967295"):
            with pytest.raises(InvalidSpecError):
                find_owner(owner, fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("value", ["!!int ''", "!!float ''", "!!timestamp x", "!!bool x", f"0x{'f' * 9000}"])
def test_metadata_of_an_image_server_is_text(value: str) -> None:
    """No tag of YAML makes it anything else, and what is not text is left out."""
    text = f"properties: {{os: Alpine, size: {value}}}".encode()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        info = tarfile.TarInfo("metadata.yaml")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    assert read_properties(data.getvalue(), "server")["os"] == "Alpine"


def test_metadata_with_an_impossible_size() -> None:
    """The tar of it is a stranger's, too."""
    info = tarfile.TarInfo("metadata.yaml")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80\x7f" + b"\xff" * 10
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(FormatError):
        read_properties(bytes(header), "server")
