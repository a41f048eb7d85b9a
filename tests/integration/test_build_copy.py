"""COPY and ADD into real layers: an overlay over an image, its draft as upper."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import struct
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcwrap.build.context import Context, Source
from lxcwrap.build.filedigests import FileDigests
from lxcwrap.build.placement import Placement
from lxcwrap.build.placing import key, place
from lxcwrap.errors import InvalidSpecError, PathDeniedError, PathError
from lxcwrap.storage.layers import LayerDraft, LayerStore
from lxcwrap.storage.layerwriter import read_tree, tar_chunks
from lxcwrap.storage.merged import merged

CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service


class Build:
    """An image of one layer, a context, and drafts over the image."""

    def __init__(self, base: Path) -> None:
        self.store = LayerStore(base / "layers")
        self.image = base / "image"
        self.context = base / "context"
        self.digests = FileDigests(base / "digests.db")
        for path in (self.image / "etc", self.image / "run", self.image / "var", self.context):
            path.mkdir(parents=True)
        (self.image / "var/run").symlink_to("/run")
        (self.image / "etc/passwd").write_text("root:x:0:0::/:\nweb:x:33:34::/:\n")
        (self.image / "etc/group").write_text("root:x:0:\nstaff:x:50:\n")

    @contextmanager
    def source(self) -> Iterator[Source]:
        fd = os.open(self.context, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield Context(fd, self.digests).source()
        finally:
            os.close(fd)

    @contextmanager
    def stage(self) -> Iterator[Source]:
        with merged([self.image]) as fd:
            yield Source(fd, name="stage", digests=self.digests, owner=None, identity="sha256:x")

    @contextmanager
    def placed(self, placement: Placement, source: Source) -> Iterator[tuple[LayerDraft, Path]]:
        """The draft, and the tree as a container sees it."""
        with self.store.draft(self.image) as draft, merged([self.image], draft) as fd:
            place(source, placement, fd, expected=key(source, placement))
            yield draft, Path(f"/proc/self/fd/{fd}")


@pytest.fixture
def build(roots: Path) -> Iterator[Build]:
    base = Path(tempfile.mkdtemp(prefix="copy-", dir=roots))
    build = Build(base)
    with build.digests:
        yield build
    shutil.rmtree(base)


def _names(layer: Path) -> set[str]:
    return {str(path.relative_to(layer)) for path in layer.rglob("*")}


def test_only_what_is_copied_is_in_the_layer(build: Build) -> None:
    """And the directories it is in; links of the image are followed, and stay."""
    (build.context / "f").write_text("f")
    placement = Placement(sources=("f",), destination="/var/run/app/")
    with build.source() as source, build.placed(placement, source) as (draft, tree):
        assert _names(draft.layer) == {"run", "run/app", "run/app/f"}
        assert (tree / "run/app/f").read_text() == "f"
        assert (tree / "var/run").is_symlink()


def test_files_of_lower_layers_are_replaced(build: Build) -> None:
    """Whole: neither their other names nor their attributes are concerned."""
    (build.image / "old").write_text("old")
    os.setxattr(build.image / "old", "user.old", b"1")
    os.link(build.image / "old", build.image / "other")
    (build.image / "link").symlink_to("other")
    (build.context / "old").write_text("new")
    (build.context / "d").mkdir()
    (build.context / "d/link").write_text("file")
    with build.source() as source:
        with build.placed(Placement(sources=("old",), destination="/"), source) as (_, tree):
            assert ((tree / "old").read_text(), (tree / "other").read_text()) == ("new", "old")
            assert os.listxattr(tree / "old") == []
        with build.placed(Placement(sources=("d",), destination="/"), source) as (_, tree):
            assert ((tree / "link").read_text(), (tree / "other").read_text()) == ("file", "old")
    assert (build.image / "old").read_text() == "old"


def test_the_context_belongs_to_root_in_the_image(build: Build) -> None:
    """Whoever owns it outside, and also in a directory that gives its own group to new files."""
    (build.image / "shared").mkdir()
    os.chown(build.image / "shared", 0, 50)
    (build.image / "shared").chmod(0o2775)
    for name in ("d/f", "f"):
        (build.context / name).parent.mkdir(exist_ok=True)
        (build.context / name).write_text("")
    (build.context / "link").symlink_to("f")
    os.mkfifo(build.context / "fifo")
    for path in build.context.rglob("*"):
        os.chown(path, 1000, 1000, follow_symlinks=False)
    placement = Placement(sources=(".",), destination="/shared/new/")
    with build.source() as source, build.placed(placement, source) as (draft, _):
        for path in (draft.layer / "shared/new", *(draft.layer / "shared/new").rglob("*")):
            status = path.lstat()
            assert (status.st_uid, status.st_gid, status.st_mode & stat.S_ISGID) == (0, 0, 0), path
        shared = (draft.layer / "shared").stat()
        assert (shared.st_gid, stat.S_IMODE(shared.st_mode)) == (50, 0o2775)


def test_owners_are_those_of_the_image(build: Build) -> None:
    """Also of directories that are made on the way; what was there stays."""
    (build.context / "d").mkdir()
    (build.context / "d/f").write_text("")
    placement = Placement(sources=("d",), destination="/run/a/b", chown="web:staff")
    with build.source() as source, build.placed(placement, source) as (draft, _):
        owners = {name: (draft.layer / name).stat()[4:6] for name in _names(draft.layer)}
        assert owners == {"run": (0, 0)} | dict.fromkeys(("run/a", "run/a/b", "run/a/b/f"), (33, 50))
    nobody = Placement(sources=("d",), destination="/", chown="nobody")
    with build.source() as source, pytest.raises(InvalidSpecError), build.placed(nobody, source):
        pass


def test_what_comes_from_a_stage_stays_as_it_is(build: Build) -> None:
    """Owners, devices, set-user-ID bits, and capabilities, which a change of owner would take."""
    origin = build.image / "opt"
    (origin / "d").mkdir(parents=True)
    os.mknod(origin / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (origin / "d/tool").write_text("tool")
    for path in (origin / "d", origin / "d/tool"):
        os.chown(path, 100, 200)
    (origin / "d/tool").chmod(0o6755)
    os.setxattr(origin / "d/tool", "security.capability", CAPABILITY)
    placement = Placement(sources=("opt",), destination="/copy")
    with build.stage() as source, build.placed(placement, source) as (draft, _):
        tool, null = draft.layer / "copy/d/tool", (draft.layer / "copy/null").stat()
        status = tool.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (100, 200, 0o6755)
        assert os.getxattr(tool, "security.capability") == CAPABILITY
        assert (stat.S_ISCHR(null.st_mode), null.st_rdev) == (True, os.makedev(1, 3))
    chowned = Placement(sources=("opt",), destination="/copy", chown="web")
    with build.stage() as source, build.placed(chowned, source) as (draft, _):
        assert (draft.layer / "copy/d/tool").stat()[4:6] == (33, 34)
        assert os.getxattr(draft.layer / "copy/d/tool", "security.capability") == CAPABILITY


def test_devices_of_a_context_are_refused(build: Build) -> None:
    """Only images have any."""
    os.mknod(build.context / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with build.source() as source, pytest.raises(InvalidSpecError):
        key(source, Placement(sources=(".",), destination="/"))


def test_an_added_archive_merges_with_the_image(build: Build) -> None:
    """With its own owners; directories it does not name keep theirs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, owner in (("etc/passwd", 7), ("var/new/f", 8)):
            info = tarfile.TarInfo(name)
            info.uid = info.gid = owner
            tar.addfile(info)
    (build.context / "x").write_bytes(stream.getvalue())
    os.chown(build.image / "etc", 5, 5)
    for chown, owners in (("", (7, 8)), ("9:9", (9, 9))):
        placement = Placement(sources=("x",), destination="/", add=True, chown=chown)
        with build.source() as source, build.placed(placement, source) as (draft, tree):
            assert _names(draft.layer) == {"etc", "etc/passwd", "var", "var/new", "var/new/f"}
            assert (draft.layer / "etc").stat()[4:6] == (5, 5)
            assert ((tree / "etc/passwd").stat().st_uid, (tree / "var/new/f").stat().st_uid) == owners
            assert (tree / "etc/group").exists()


def test_a_linked_copy_sees_nothing_below(build: Build) -> None:
    """Its layer has directories where the image has links, and is the same on top of any other."""
    (build.context / "f").write_text("f")
    placement = Placement(sources=("f",), destination="/var/run/", link=True)
    with build.source() as source, build.store.draft(None) as draft:
        fd = os.open(draft.layer, os.O_RDONLY | os.O_DIRECTORY)
        try:
            place(source, placement, fd)
        finally:
            os.close(fd)
        assert _names(draft.layer) == {"var", "var/run", "var/run/f"}
        with merged([draft.layer, build.image]) as tree:
            assert Path(f"/proc/self/fd/{tree}/var/run/f").read_text() == "f"
            assert Path(f"/proc/self/fd/{tree}/run").is_dir()


def test_the_same_copy_makes_the_same_layer(build: Build) -> None:
    """Byte for byte, times of new directories apart."""
    for number in range(30):
        path = build.context / f"d{number % 3}/f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(number))
    placement = Placement(sources=(".",), destination="/srv/app")
    seen = set()
    for _ in range(2):
        with build.source() as source, build.placed(placement, source) as (draft, _tree):
            digest = hashlib.sha256()
            for chunk in tar_chunks(read_tree(draft.layer, newest_s=1)):
                digest.update(chunk)
            seen.add(digest.hexdigest())
    assert len(seen) == 1


def test_a_tree_without_a_draft_is_not_written_to(build: Build) -> None:
    """The error says so."""
    (build.context / "f").write_text("f")
    with build.source() as source, merged([build.image]) as fd, pytest.raises((PathDeniedError, PathError)):
        place(source, Placement(sources=("f",), destination="/"), fd)
