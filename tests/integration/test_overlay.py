"""The two ways to an overlay of id-mapped layers: by descriptors, and by paths for kernels before 6.13."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcwrap.drivers import mounts, namespaces
from lxcwrap.ids import IDENTITY, IdMap
from lxcwrap.supervisor import rootfs

IDS = IdMap(0x50000000)


@pytest.fixture
def bundle(roots: Path) -> Iterator[Path]:
    """A container's directory, and `layers` beside it."""
    base = Path(tempfile.mkdtemp(prefix="overlay-", dir=roots))
    (base / "bundle").mkdir()
    for name in ("upper", "work"):
        (base / "bundle" / name).mkdir()
        os.chown(base / "bundle" / name, IDS.base, IDS.base)
    (base / "layers").mkdir()
    yield base / "bundle"
    shutil.rmtree(base)


def layer(bundle: Path, name: str, files: dict[str, str]) -> str:
    directory = bundle.parent / "layers" / name
    directory.mkdir()
    for file, text in files.items():
        (directory / file).write_text(text)
    return str(directory)


def in_a_child(work: Callable[[], str]) -> str:
    """What `work` gives, done in a process and a mount namespace of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mounts.private_mount_namespace()
            os.write(writer, work().encode())
        except BaseException as error:
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("by_descriptors", [True, False])
@pytest.mark.parametrize("idmap", [IDS, IDENTITY], ids=["own ids", "privileged"])
def test_layers_are_seen_with_the_containers_ids_and_not_changed(
    bundle: Path, by_descriptors: bool, idmap: IdMap
) -> None:
    """The topmost wins; writing goes to the upper; nothing is mounted where others see it."""
    lowers = [layer(bundle, "top", {"both": "top"}), layer(bundle, "base", {"both": "base", "one": "base"})]
    plan = {"bundle": str(bundle), "disk": str(bundle), "lowers": lowers, "volatile": False}

    def work() -> str:
        userns = None if idmap.is_identity else namespaces.make_user_namespace(idmap)
        fd = rootfs.overlay(plan, userns, by_descriptors=by_descriptors)
        root = Path(f"/proc/self/fd/{fd}")
        (root / "one").write_text("changed")
        owner = (root / "both").stat().st_uid
        return " ".join([(root / "both").read_text(), (root / "one").read_text(), str(owner)])

    assert in_a_child(work) == f"top changed {idmap.base}"
    assert (bundle / "upper/one").read_text() == "changed"
    assert Path(lowers[1], "one").read_text() == "base"
    assert str(bundle) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("by_descriptors", [True, False])
def test_an_image_may_have_very_many_layers(bundle: Path, by_descriptors: bool) -> None:
    """More than fit into one mount option by their paths."""
    lowers = [layer(bundle, f"{number:064x}", {f"file{number}": ""}) for number in range(300)]
    plan = {"bundle": str(bundle), "disk": str(bundle), "lowers": lowers, "volatile": True}

    def work() -> str:
        fd = rootfs.overlay(plan, namespaces.make_user_namespace(IDS), by_descriptors=by_descriptors)
        return str(len(os.listdir(f"/proc/self/fd/{fd}")))

    assert in_a_child(work) == in_a_child(work) == "300"  # again: a volatile upper has been used before
