"""Limits of the disk: of what a container writes, and of volumes; their growth; what is left of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Limits, Mount, Volume
from lxcwrap.drivers import loopdisk
from lxcwrap.errors import InvalidSpecError, StartError, UnsupportedError
from tests import leaks
from tests.polling import eventually

MIB = 1 << 20
FULL = "dd if=/dev/zero of={}/big bs=1M 2>&1 | grep -o 'No space left on device'; ls -l {}/big"


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


@pytest.fixture
def volume(host: Host) -> Iterator[Volume]:
    volume = host.volumes.create("sized", size="400MiB")
    yield volume
    volume.remove()


def size_of(container: Container, path: str = "/") -> int:
    """MiB of its file system, as `df` inside shows it."""
    return int(container.exec(["df", "-m", path]).stdout.splitlines()[-1].split()[1])


def devices(root: Path) -> list[str]:
    """Files under `root` that loop devices hold. The kernel tells paths from the root of their mount on."""
    part = f"/{root.parent.name}/{root.name}/"
    return [
        text for text in map(leaks.read, Path("/sys/block").glob("loop*/loop/backing_file")) if part in text
    ]


# --- containers ---


@pytest.mark.parametrize(("disk", "least"), [("400MiB", 320), ("32MiB", 24)])
def test_a_full_disk_concerns_one_container_only(host: Host, disk: str, least: int) -> None:
    """The others write on, and so does it when it has made room. By XFS, and by ext4 where that is too
    small."""
    with (
        host.containers.launch("busybox", ["sleep", "1000"], disk=disk) as small,
        host.containers.launch("busybox", ["sleep", "1000"]) as other,
    ):
        whole = size_of(small)
        assert least <= whole <= int(disk[:-3]) and size_of(other) > 1000
        error, listing = small.exec(sh=FULL.format("", "")).stdout.splitlines()
        assert (
            error == "No space left on device" and least * MIB * 0.9 < int(listing.split()[4]) < whole * MIB
        )
        assert other.exec(sh="dd if=/dev/zero of=/x bs=1M count=8", check=False).exit_code == 0
        small.exec(sh="rm /big && echo x > /x")
    eventually(lambda: not devices(host.root))


def test_a_disk_grows_while_it_is_used_and_while_it_is_not(host: Host) -> None:
    """Seen inside at once; what it held stays. It does not shrink."""
    with host.containers.launch("busybox", ["sleep", "1000"], limits=Limits(disk="300MiB")) as container:
        container.exec(sh="echo kept > /kept")
        before = size_of(container)
        container.update(Limits(disk="500MiB"))
        assert size_of(container) == before + 200 and container.spec.limits.disk == 500 * MIB
        container.update(Limits(disk="500MiB", pids=50))
        with pytest.raises(UnsupportedError):
            container.update(Limits(disk="400MiB", pids=60))
        assert (container.spec.limits.disk, container.spec.limits.pids) == (500 * MIB, 50)
        container.stop()
        container.update(Limits(disk="600MiB"))
        container.start()
        assert size_of(container) == before + 300 and container.exec(["cat", "/kept"]).stdout == "kept\n"


def test_a_disk_below_300_mib_grows_if_the_kernel_lets_it(host: Host) -> None:
    """It asks for CAP_SYS_RESOURCE; without it nothing has changed."""
    with host.containers.launch("busybox", ["sleep", "1000"], disk="32MiB") as container:
        before = size_of(container)
        try:
            container.update(Limits(disk="64MiB"))
            assert size_of(container) > before
        except UnsupportedError as error:
            assert "300" in error.remedy and container.spec.limits.disk == 32 * MIB
            assert size_of(container) == before
        container.restart().exec(sh="echo x > /x")


def test_files_changes_and_commits_of_a_limited_container(host: Host) -> None:
    """As of any other, running or not."""
    with host.containers.launch("busybox", ["sleep", "1000"], disk="400MiB", read_only=False) as container:
        container.exec(sh="echo one > /one")
        for _ in ("running", "stopped"):
            assert [change.path for change in container.diff()] == ["/one"]
            assert container.path("/one").read_text() == "one\n"
            image = container.commit()
            assert host.containers.run(image, ["cat", "/one"]).stdout == "one\n"
            image.remove()
            container.stop()
        container.path("/two").write_text("two")
        assert container.start().exec(["cat", "/two"]).stdout == "two"


def test_nameless_volumes_are_within_the_limit(host: Host) -> None:
    """A container cannot get around it by a volume that its image declares."""
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        image = container.commit(volumes=["/data"])
    try:
        done = host.containers.run(image, sh=FULL.format("/data", "/data"), disk="32MiB")
        assert "No space left" in done.stdout
    finally:
        image.remove()


def test_read_only_and_privileged_containers_have_disks_too(host: Host) -> None:
    """The one for its mount points, the other with the host's ids."""
    assert host.containers.run("busybox", ["true"], disk="32MiB", read_only=True).exit_code == 0
    done = host.containers.run("busybox", sh=FULL.format("", ""), disk="32MiB", privileged=True)
    assert "No space left" in done.stdout


def test_what_cannot_be_limited_is_refused_before_anything_is_made(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the tool, with its package; a container made without a limit; builds; absurd sizes."""
    with host.containers.create("busybox") as container, pytest.raises(UnsupportedError):
        container.update(Limits(disk="1GiB"))
    with pytest.raises(InvalidSpecError):
        Limits(disk="1MiB")
    with pytest.raises(InvalidSpecError):
        host.images.build("/tmp", limits=Limits(disk="1GiB"))
    monkeypatch.setattr(loopdisk, "_PATH", "/nowhere")
    for size, package in (("1GiB", "xfsprogs"), ("64MiB", "e2fsprogs")):
        with pytest.raises(UnsupportedError, match=package):
            host.volumes.create("none", size=size)
        with pytest.raises(UnsupportedError, match=package):
            host.containers.create("busybox", disk=size, mounts=[Mount.volume("none", "/v")])
    assert len(host.containers) == len(host.volumes) == 0
    assert os.listdir(host.root / "volumes") == []


def test_nothing_is_left_of_a_killed_containers_disk(host: Host) -> None:
    """Its loop device ends with its processes; what it has written is there at the next start."""
    with host.containers.launch("busybox", ["sleep", "1000"], disk="400MiB") as container:
        container.exec(sh="echo kept > /kept; sync")
        assert len(devices(host.root)) == 1
        os.kill(container._look().run["monitor"], signal.SIGKILL)
        container.wait(timeout_s=10)
        eventually(lambda: not devices(host.root))
        assert container.start().exec(["cat", "/kept"]).stdout == "kept\n"
    eventually(lambda: not devices(host.root))


# --- volumes ---


def test_a_volume_with_a_size_has_one_file_system_for_all(host: Host, volume: Volume) -> None:
    """Two containers and the host see the same, and its growth, at once."""
    assert (volume.size, volume.path.name) == (400 * MIB, "image")
    mounts = [Mount.volume(volume, "/v"), Mount.volume(volume, "/part", subpath="part")]
    (volume.files / "part").mkdir()
    with (
        host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as one,
        host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts[:1]) as two,
    ):
        one.exec(sh="echo hello > /part/x")
        assert two.exec(["cat", "/v/part/x"]).stdout == "hello\n" == (volume.files / "part/x").read_text()
        assert len(devices(host.root)) == 1
        before = size_of(one, "/v")
        volume.resize("600MiB")
        assert size_of(one, "/v") == size_of(two, "/v") == before + 200
        error, _ = two.exec(sh=FULL.format("/v", "/v")).stdout.splitlines()
        assert error == "No space left on device" and volume.used > 500 * MIB
        one.exec(sh="echo x > /elsewhere; rm /v/big")
        with pytest.raises(UnsupportedError):
            volume.resize("400MiB")
        volume.detach(one, "/part")
        volume.detach(one)
    assert (volume.size, volume.used) == (600 * MIB, volume.used) and volume.containers == ()


def test_who_grows_it_at_once_with_others_never_cuts_it(fresh_host: Host) -> None:
    """Each either made it larger, or was refused: the last file system is as large as its file."""
    volume = fresh_host.volumes.create("busy", size="300MiB")
    gate = threading.Barrier(4)

    def grow(number: int) -> int:
        size = (1 << number) * 300 * MIB
        gate.wait()
        with suppress(UnsupportedError):
            volume.resize(size)
        return size

    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            most = max(pool.map(grow, range(4)))
        assert volume.size == most
        (volume.files / "x").write_bytes(b"x")


def test_what_is_deleted_in_it_is_given_back(host: Host, volume: Volume) -> None:
    """To the file system that its file lies on."""

    def on_disk() -> int:
        return volume.path.stat().st_blocks * 512

    mounts = [Mount.volume(volume, "/v")]
    with host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as container:
        container.exec(sh="dd if=/dev/urandom of=/v/x bs=1M count=64; sync")
        assert on_disk() > 120 * MIB
        container.exec(sh="rm /v/x; sync")
    eventually(lambda: on_disk() < 90 * MIB)


def test_many_may_reach_for_it_at_once(fresh_host: Host) -> None:
    """Its file never has two devices, which would destroy what is in it, and ext4 would not notice."""
    volume = fresh_host.volumes.create("busy", size="32MiB")
    gate = threading.Barrier(6)

    def work(number: int) -> str:
        gate.wait()
        for turn in range(15):
            (volume.files / f"{number}-{turn}").write_text(f"{number} {turn}")
            assert len(devices(fresh_host.root)) <= 1
        return (volume.files / f"{number}-14").read_text()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [f"{number} 14" for number in range(6)]
    assert len(list(volume.files.glob("?-*"))) == 90
    eventually(lambda: not devices(fresh_host.root))


def test_a_volume_whose_disk_is_damaged_is_told(host: Host, volume: Volume) -> None:
    """Containers that have it do not start; it can be removed."""
    os.truncate(volume.path, 0)
    os.truncate(volume.path, 400 * MIB)
    mounts = [Mount.volume(volume, "/v", copy=False)]
    with pytest.raises(StartError):
        host.containers.launch("busybox", ["true"], mounts=mounts)
