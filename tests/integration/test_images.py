"""Images for real: unpacked layers, hostile archives, many processes at once, and kill -9."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from lxcwrap import Host
from lxcwrap.errors import ContentError, ImageNotFoundError, StillUsedError
from tests import archives
from tests.archives import oci_layout
from tests.unit.fakelayers import contents

_PROGRAM = """
import sys
from lxcwrap import Host
with Host(sys.argv[1]) as host:
    {statement}
"""


def python(root: Path, statement: str) -> subprocess.Popen[str]:
    """Another process with a host over the same root directory."""
    argv = [sys.executable, "-c", _PROGRAM.format(statement=statement), str(root)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def layer(*members: tarfile.TarInfo | str) -> bytes:
    """A plain layer of these members; a str is a small file of that name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = 5 if info.isreg() else 0
            tar.addfile(info, io.BytesIO(b"data\n") if info.isreg() else None)
    return stream.getvalue()


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_busybox_has_what_a_small_system_has(fresh_host: Host) -> None:
    """Applets, users, and directories with their modes."""
    image = fresh_host.images.resolve("busybox")
    (root,) = image.lower_dirs
    assert os.path.samestat((root / "bin/sh").stat(), (root / "bin/busybox").stat())
    assert "nobody:x:65534:65534" in (root / "etc/passwd").read_text()
    modes = {name: (root / name).stat().st_mode & 0o7777 for name in ("tmp", "root", "var/tmp", "etc/passwd")}
    assert modes == {"tmp": 0o1777, "root": 0o700, "var/tmp": 0o1777, "etc/passwd": 0o644}
    assert image.config.env["PATH"].endswith("/sbin:/bin")


def test_eight_processes_make_busybox_once(fresh_root: Path) -> None:
    """And all get the same."""
    processes = [python(fresh_root, "print(host.images.resolve('busybox').id)") for _ in range(8)]
    answers = {process.communicate(timeout=60) for process in processes}
    assert len(answers) == 1 and not answers.pop()[1]
    with Host(fresh_root) as host:
        assert len(host.images) == 1
        assert len(contents(host.images.resolve("busybox")._store)["blobs"]) == 3


def test_a_loaded_image_runs(host: Host, tmp_path: Path) -> None:
    """Layers above one another, whiteouts in effect, with the config's command."""
    busybox = host.images.resolve("busybox")
    base = host.images._store.blobs.path(
        host.images._store.manifest(busybox.id).layers[0].digest
    ).read_bytes()
    config = archives.config_of(
        [base, top := layer("opt/new", "etc/.wh.shells")], Cmd=["ls", "/opt", "/etc/shells"]
    )
    layout = archives.Layout()
    layout.name(layout.image(base, top, compression="zstd", config=config), "stacked:1")
    (tmp_path / "app.tar").write_bytes(layout.tar())
    (image,) = host.images.load(tmp_path / "app.tar")
    done = host.containers.run("stacked:1", check=False)
    assert "new" in done.stdout and "/etc/shells" in done.stderr
    image.remove()


@pytest.mark.parametrize(
    "hostile",
    [
        layer("../out"),
        layer(member("link", tarfile.SYMTYPE, "/tmp"), "link/../../../out"),
        layer("a", member("b", tarfile.LNKTYPE, "../../../../etc/passwd")),
        layer(member("b", tarfile.LNKTYPE, "/etc/passwd")),
        layer("a")[:700],
    ],
    ids=["above the root", "through a link", "hard link out", "absolute hard link", "truncated"],
)
@pytest.mark.parametrize("form", ["oci", "docker", "rootfs"])
def test_a_hostile_layer_is_refused_and_leaves_nothing(
    fresh_host: Host, tmp_path: Path, hostile: bytes, form: str
) -> None:
    """In whatever it comes."""
    images = fresh_host.images
    store = images._store
    before = contents(store)
    good = layer("good")
    data = {
        "oci": oci_layout(good, hostile).tar(),
        "docker": archives.tar(archives.docker_save(good, hostile)),
        "rootfs": hostile,
    }[form]
    (tmp_path / "app.tar").write_bytes(data)
    with pytest.raises(ContentError):
        images.import_rootfs(tmp_path / "app.tar") if form == "rootfs" else images.load(tmp_path / "app.tar")
    assert contents(store) == before
    assert not (tmp_path.parent / "out").exists()


def test_an_image_with_a_container_is_kept(host: Host) -> None:
    """Until the container is removed."""
    image = host.images.resolve("busybox")
    container = host.containers.create("busybox", ["true"])
    try:
        with pytest.raises(StillUsedError) as caught:
            image.remove()
        assert container.name in caught.value.users
        assert image.id not in host.images.prune()
    finally:
        container.remove()


def test_the_file_system_of_a_removed_image_is_gone(fresh_host: Host) -> None:
    """Blobs, layers, records, and the name."""
    image = fresh_host.images.resolve("busybox")
    (directory,) = image.lower_dirs
    image.remove()
    assert not directory.exists()
    with pytest.raises(ImageNotFoundError):
        fresh_host.images["busybox"]
    assert fresh_host.images.resolve("busybox") == image


def test_a_process_killed_while_loading_leaves_a_store_that_works(fresh_root: Path, tmp_path: Path) -> None:
    """At whatever moment; what it left is collected, and loading again succeeds."""
    layers = [layer(*(f"dir{number}/file{file}" for file in range(300))) for number in range(6)]
    (tmp_path / "app.tar").write_bytes(oci_layout(*layers, compression="gzip").tar())
    for delay in range(8):
        process = python(
            fresh_root, f"print('go', flush=True); host.images.load({str(tmp_path / 'app.tar')!r})"
        )
        assert process.stdout and process.stdout.readline() == "go\n"
        time.sleep(delay * 0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with Host(fresh_root) as host:
        store = host.images._store
        host.images.prune()
        for image in host.images:
            assert len(image.lower_dirs) == 6
        (image,) = host.images.load(tmp_path / "app.tar")
        assert image.tags == ("app:1",)
        assert sum(1 for path in image.lower_dirs for _ in path.rglob("file*")) == 1800
        image.remove()
        assert contents(store)["blobs"] == contents(store)["layers"] == []


def test_processes_add_and_remove_the_same_image_at_once(fresh_root: Path, tmp_path: Path) -> None:
    """One's garbage is never another's content."""
    (tmp_path / "app.tar").write_bytes(oci_layout(*(layer(f"file{number}") for number in range(3))).tar())
    statement = f"""
    from lxcwrap.errors import ImageNotFoundError
    for turn in range(15):
        image, = host.images.load({str(tmp_path / "app.tar")!r})
        try:
            assert len(image.lower_dirs) == 3
            image.remove()
        except ImageNotFoundError:
            pass"""
    processes = [python(fresh_root, statement) for _ in range(4)]
    assert [process.communicate(timeout=60) for process in processes] == [("", "")] * 4
    with Host(fresh_root) as host:
        host.images.prune()
        assert len(contents(host.images._store)["blobs"]) == 5 * len(host.images)
