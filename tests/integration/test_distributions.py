"""Distributions side by side on one kernel: from package mirrors, and from an image server."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from lxcwrap import Container, Host
from lxcwrap.errors import FormatError
from lxcwrap.formats.busybox import build_rootfs
from tests.archives import extended, tar
from tests.imageservers import image_server
from tests.polling import eventually
from tests.unit.fakelayers import contents


def name_of(container: Container) -> str:
    lines = container.path("/etc/os-release").read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines)["ID"].strip('"')


def test_a_downloaded_distribution_runs(fresh_host: Host) -> None:
    """From the server's index to a process, as a container and as a system."""
    (root,) = fresh_host.images.resolve("busybox").lower_dirs
    program = (root / "bin/busybox").read_bytes()
    rootfs = build_rootfs(program, ["bin/sh", "bin/cat", "sbin/init", "bin/sleep"])
    rootfs = extended(
        rootfs, {"etc/os-release": b"ID=alpine\n", "etc/inittab": b"::respawn:/bin/sleep 100\n"}
    )
    with image_server() as server:
        server.publish(lzma.compress(rootfs))
        image = fresh_host.images.download("alpine", release="3.20", architecture="amd64", server=server.url)
    assert fresh_host.containers.run("alpine:3.20", ["cat", "/etc/os-release"]).stdout == "ID=alpine\n"
    assert fresh_host.containers.run(image, sh="echo $PATH").stdout.startswith("/usr/local/sbin:")
    with fresh_host.containers.launch(image, init="system") as system:
        eventually(lambda: any(process.argv[:1] == ("/bin/sleep",) for process in system.top()))
        system.kill()


def test_a_hostile_root_file_system_is_refused(fresh_host: Host) -> None:
    """Its digest is right, and its tar leads out: nothing of it is kept, here or outside."""
    before = contents(fresh_host.images._store)
    for hostile in (
        tar({"../../outside": b"x"}),
        extended(tar({}, links={"link": "/"}), {"link/../../outside": b"x"}),
    ):
        with image_server() as server:
            server.publish(lzma.compress(hostile))
            with pytest.raises(FormatError):
                fresh_host.images.download("alpine", release="3.20", architecture="amd64", server=server.url)
    assert contents(fresh_host.images._store) == before


@pytest.mark.network
@pytest.mark.slow
def test_two_distributions_run_side_by_side(host: Host, debian_system: str, tmp_path: Path) -> None:
    """Debian 12 boots by systemd, Debian 13 runs a command: each its own C library, on the one kernel."""
    newer = host.images.bootstrap("debian:trixie", tag="debian-newer:1")
    try:
        with (
            host.containers.launch(debian_system, init="system") as old,
            host.containers.launch(newer, ["sleep", "99"]) as new,
        ):
            versions = {each.exec(["cat", "/etc/debian_version"]).stdout.split(".")[0] for each in (old, new)}
            assert versions == {"12", "13"} and name_of(old) == name_of(new) == "debian"
            assert len({each.exec(["ldd", "--version"]).stdout.split("\n")[0] for each in (old, new)}) == 2
            assert len({each.exec(["uname", "-r"]).stdout for each in (old, new)}) == 1
            new.kill()
    finally:
        newer.remove()
