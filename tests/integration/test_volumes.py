"""Named volumes in real containers: who sees what, who owns what, and what stays."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lxcwrap import Host, Image, Mount, State, Volume
from lxcwrap.errors import (
    CommandFailedError,
    InvalidSpecError,
    KernelError,
    NameInUseError,
    StartError,
    StillUsedError,
    VolumeNotFoundError,
)


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


@pytest.fixture
def volume(host: Host) -> Iterator[Volume]:
    volume = host.volumes.create("site", labels={"tier": "web"})
    yield volume
    volume.remove()


def with_data(host: Host) -> Image:
    """An image with something at /data, and a link /way to it."""
    stream = io.BytesIO()
    busybox = Path("/bin/busybox").read_bytes()
    with tarfile.open(fileobj=stream, mode="w") as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **facts: object) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode = kind, len(data), 0o755
            for key, value in facts.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        add("bin/busybox", data=busybox)
        for name in (
            "sh",
            "cat",
            "ls",
            "stat",
            "sleep",
            "id",
            "touch",
            "mkdir",
            "grep",
            "true",
            "df",
            "dd",
            "rm",
        ):
            add(f"bin/{name}", tarfile.SYMTYPE, linkname="busybox")
        add("data", tarfile.DIRTYPE, mode=0o2750, uid=33, gid=44, mtime=1_000_000_000)
        add("data/file", data=b"image", uid=7, gid=8, mode=0o640, mtime=1_000_000_000)
        add("data/same", tarfile.LNKTYPE, linkname="data/file")
        add("data/link", tarfile.SYMTYPE, linkname="/etc/passwd")
        add("data/sub/deep", data=b"deep", pax_headers={"SCHILY.xattr.user.note": "kept"})
        add("way", tarfile.SYMTYPE, linkname="data/sub")
    stream.seek(0)
    return host.images.import_rootfs(stream, tag="with-data:1")


@pytest.fixture
def image(host: Host) -> Iterator[Image]:
    image = with_data(host)
    yield image
    image.remove()


# --- made, found, removed ---


def test_volumes_are_found_by_name_and_say_what_they_are(host: Host, volume: Volume) -> None:
    """As other collections."""
    assert "site" in host.volumes and volume in host.volumes and "other" not in host.volumes
    assert host.volumes["site"] == host.volumes[volume] == volume and list(host.volumes) == [volume]
    assert (len(host.volumes), volume.name, dict(volume.labels)) == (1, "site", {"tier": "web"})
    assert volume.size is None and volume.used == 0 and volume.containers == ()
    assert volume.path.is_dir() and volume.created_at.year > 2000
    with pytest.raises(NameInUseError):
        host.volumes.create("site")
    with pytest.raises(InvalidSpecError):
        host.volumes.create("../site")
    with pytest.raises(VolumeNotFoundError):
        host.volumes["other"]
    with pytest.raises(InvalidSpecError):
        volume.resize("1GiB")


def test_a_volume_is_made_on_first_use_and_outlives_its_containers(host: Host) -> None:
    """As in Docker; a container that has it, running or not, keeps it from removal."""
    host.containers.run("busybox", sh="echo hello > /data/x", mounts=[Mount.volume("made", "/data")])
    made = host.volumes["made"]
    with host.containers.create("busybox", ["cat", "/d/x"], mounts=[Mount.volume(made, "/d")]) as container:
        assert made.containers == (container,)
        with pytest.raises(StillUsedError) as caught:
            made.remove()
        assert caught.value.users == [container.name] and host.volumes.prune() == []
        container.start().wait()
        assert container.logs() == "hello\n"
        with pytest.raises(StillUsedError):
            host.volumes.remove("made")
    path = made.path
    assert host.volumes.prune() == ["made"] and not path.exists()
    with pytest.raises(VolumeNotFoundError):
        made.remove()
    with pytest.raises(VolumeNotFoundError):
        _ = made.labels


def test_a_failure_leaves_no_volume(host: Host, volume: Volume) -> None:
    """That was made for the container; one that was there stays."""
    mounts = [Mount.volume("site", "/a"), Mount.volume("new", "/b")]
    with pytest.raises(StartError):
        host.containers.launch("busybox", ["/no/such/program"], mounts=mounts)
    with pytest.raises(InvalidSpecError):  # /etc/passwd is a file
        host.containers.create("busybox", mounts=[*mounts, Mount.volume("newer", "/etc/passwd")])
    assert list(host.volumes) == [volume] and len(host.containers) == 0


# --- owners and content ---


def test_all_containers_see_the_same_owners_and_the_disk_has_plain_ids(host: Host, volume: Volume) -> None:
    """Whatever their own ranges of ids are, also with none."""
    mounts = [Mount.volume("site", "/data")]
    script = "id -u > /data/by-root; chown 33:44 /data/by-root; chmod 4755 /data/by-root"
    host.containers.run("busybox", sh=script, mounts=mounts)
    assert (volume.path / "by-root").stat()[stat.ST_UID : stat.ST_SIZE] == (33, 44)
    ask = "stat -c %u:%g:%a /data/by-root; touch /data/$(id -u)-$$"
    with host.containers.launch("busybox", ["sleep", "1000"]):  # another range
        for options in ({}, {"privileged": True}):
            done = host.containers.run("busybox", sh=ask, mounts=mounts, **options)  # type: ignore[arg-type]  # one option
            assert done.stdout.strip() == "33:44:4755"
    assert {path.stat().st_uid for path in volume.path.glob("0-*")} == {0}
    file = volume.files / "by-root"
    assert (file.read_text(), file.stat().uid) == ("0\n", 33)


def test_an_empty_volume_begins_with_what_the_image_has_there(host: Host, image: Image) -> None:
    """With owners, modes, times, links and attributes; once, and not if that is not wanted."""
    mounts = [Mount.volume("filled", "/data")]
    ask = "stat -c '%u:%g:%a' /data; stat -c '%u:%g:%a:%h:%Y' /data/file; cat /data/sub/deep; ls /data"
    done = host.containers.run(image, sh=ask, mounts=mounts)
    expected = ["33:44:2750", "7:8:640:2:1000000000", "deepfile", "link", "same", "sub"]
    assert done.stdout.split() == expected
    volume = host.volumes["filled"]
    assert os.getxattr(volume.path / "sub/deep", "user.note") == b"kept"
    assert (volume.files / "link").readlink().as_posix() == "/etc/passwd"
    host.containers.run(image, sh="rm -r /data/sub /data/file", mounts=mounts)
    assert host.containers.run(image, ["ls", "/data"], mounts=mounts).stdout.split() == ["link", "same"]
    bare = Mount.volume("bare", "/data", copy=False)
    assert host.containers.run(image, ["ls", "/data"], mounts=[bare]).stdout == ""
    # By a link in the image, and at a path that it does not have.
    for target, content in (("/way", "deep\n"), ("/none/at/all", "")):
        mount = Mount.volume("x" + target.replace("/", "-"), target)
        assert host.containers.run(image, ["ls", target], mounts=[mount]).stdout == content
    assert sorted(host.volumes.prune()) == ["bare", "filled", "x-none-at-all", "x-way"]


def test_many_containers_may_be_the_first(fresh_host: Host) -> None:
    """All see all of what it begins with."""
    image, mounts = with_data(fresh_host), [Mount.volume("race", "/data")]

    def look(_: int) -> list[str]:
        return fresh_host.containers.run(image, ["ls", "/data"], mounts=mounts).stdout.split()

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(look, range(12))) == [["file", "link", "same", "sub"]] * 12


def test_how_it_is_mounted(host: Host, volume: Volume) -> None:
    """Read-only, without programs, a part of it; set-user-ID bits and devices are of no use."""
    (volume.files / "run").write_text("#!/bin/sh\necho ran\n")
    (volume.files / "run").chmod(0o755)
    (volume.files / "part/of").mkdir(parents=True)
    (volume.files / "part/of/it").write_text("it")
    (volume.files / "out").symlink_to("/etc")
    (volume.files / "in").symlink_to("/part")

    def says(script: str, **how: object) -> str:
        mounts = [Mount.volume(volume, "/v", **how)]  # type: ignore[arg-type]  # options of one test
        return host.containers.run("busybox", sh=script, mounts=mounts).stdout.strip()

    assert says("/v/run") == "ran"
    assert "nosuid" in says("grep ' /v ' /proc/self/mounts") and "nodev" in says(
        "grep ' /v ' /proc/self/mounts"
    )
    with pytest.raises(CommandFailedError, match="Permission denied"):
        says("/v/run", exec=False)
    with pytest.raises(CommandFailedError, match="Read-only"):
        says("touch /v/x", read_only=True)
    assert says("ls /v", subpath="part/of") == says("ls /v", subpath="in/of") == "it"
    assert says("cat /v", subpath="part/of/it") == "it"
    with pytest.raises(StartError, match="none"):
        says("true", subpath="none")
    with pytest.raises(StartError):  # within the volume there is no /etc: the host's is not reached
        says("ls /v", subpath="out")
    with pytest.raises(InvalidSpecError):
        Mount.volume(volume, "/v", subpath="../..")


def test_a_mount_within_a_volume_may_need_a_new_directory(host: Host, volume: Volume, tmp_path: Path) -> None:
    """Its place is made in the volume, or in what is bound, by the container's root."""
    for outer, where in ((Mount.volume(volume, "/v"), volume.path), (Mount.bind(tmp_path, "/v"), tmp_path)):
        ask = ["stat", "-c", "%u", "/v/new/inner"]
        mounts = [outer, Mount.tmpfs("/v/new/inner")]
        assert host.containers.run("busybox", ask, mounts=mounts).stdout == "0\n"
        assert (where / "new/inner").stat().st_uid == 0


def test_files_are_reached_while_containers_use_it_or_not(host: Host, volume: Volume) -> None:
    """From outside, as paths; hostile links end within it."""
    mounts = [Mount.volume(volume, "/v")]
    with host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as container:
        (volume.files / "a").write_text("out")
        assert container.exec(sh="cat /v/a; echo in > /v/b; ln -s /etc/passwd /v/trap").stdout == "out"
        assert (volume.files / "b").read_text() == container.path("/v/b").read_text() == "in\n"
        with pytest.raises(FileNotFoundError):
            (volume.files / "trap").read_text()
        container.stop()
        container.path("/v/c").write_text("stopped")
        assert container.diff() == ()
    assert sorted(path.name for path in volume.files.iterdir()) == ["a", "b", "c", "trap"]
    assert (volume.files / "c").stat().uid == 0


# --- given and taken while it runs ---


def test_a_volume_is_attached_to_a_running_container_and_detached(host: Host, volume: Volume) -> None:
    """At once, and for later starts; its place is made."""
    with host.containers.launch("busybox", ["sleep", "1000"], name="web") as web:
        volume.attach(web, "/new/place")
        web.exec(sh="echo hello > /new/place/x; chown 5 /new/place/x")
        assert (volume.path / "x").stat().st_uid == 5 and volume.containers == (web,)
        assert [mount.target for mount in web.spec.mounts] == ["/new/place"]
        web.restart()
        assert web.exec(["cat", "/new/place/x"]).stdout == "hello\n"
        with pytest.raises(InvalidSpecError):
            volume.attach("web", "/new/place")
        volume.attach(web, "/again", read_only=True, exec=False, subpath="x")
        assert web.exec(sh="cat /again; echo > /again", check=False).stdout == "hello\n"
        volume.detach(web, "/again")
        volume.detach("web")
        assert web.exec(["ls", "/new/place"]).stdout == "" and not web.spec.mounts and not volume.containers
        with pytest.raises(InvalidSpecError):
            volume.detach(web)
        web.restart()
        assert web.exec(["ls", "/new/place"]).stdout == ""


def test_attaching_to_one_that_is_paused_or_stopped(host: Host, volume: Volume) -> None:
    """The former has it when it goes on, the latter when it is started."""
    (volume.files / "x").write_text("hello")
    with host.containers.create("busybox", ["sleep", "1000"]) as container:
        volume.attach(container, "/created")
        assert container.start().exec(["cat", "/created/x"]).stdout == "hello"
        container.pause()
        volume.attach(container, "/paused")
        volume.detach(container, "/created")
        assert container.state == State.PAUSED
        container.unpause()
        assert container.exec(sh="cat /paused/x; ls /created").stdout == "hello"
        container.stop()
        volume.detach(container, "/paused")
        assert container.start().exec(["ls", "/paused"]).stdout == ""


def test_a_volume_in_use_is_not_detached(host: Host, volume: Volume) -> None:
    """Nor does it leave a container that has a file of it open."""
    with host.containers.launch(
        "busybox", sh="cd /v; sleep 1000", mounts=[Mount.volume(volume, "/v")]
    ) as container:
        with pytest.raises(StillUsedError):
            volume.detach(container)
        assert volume.containers == (container,) and len(container.spec.mounts) == 1
        container.exec(["touch", "/v/x"])
    assert (volume.files / "x").exists()


def test_a_failed_attachment_is_undone(host: Host, volume: Volume) -> None:
    """Where no place can be made, or the part does not exist."""
    with host.containers.launch("busybox", ["sleep", "1000"], read_only=True) as container:
        with pytest.raises(KernelError) as caught:
            volume.attach(container, "/no/place")
        assert caught.value.errno == 30  # EROFS
        with pytest.raises(KernelError):
            volume.attach(container, "/srv", subpath="missing")
        assert container.spec.mounts == () and volume.containers == ()
        container.restart()


def test_links_inside_cannot_misdirect_attaching_and_detaching(host: Host, volume: Volume) -> None:
    """What hides the host's state stays hidden, and nothing is mounted outside."""
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        container.exec(sh="ln -s ../../../../../../tmp /out; mkdir -p /a/b")
        volume.attach(container, "/out/lxcwrap-test-place")
        assert container.exec(["ls", "/tmp"]).stdout == "lxcwrap-test-place\n"
        assert not Path("/tmp/lxcwrap-test-place").exists()
        volume.attach(container, "/a/b")
        container.exec(sh="mv /a /c && mkdir /a && ln -s /proc/sys /a/b")
        volume.detach(
            container
        )  # /a/b is another now; the volume's mount is out of reach until the next start
        assert "ro" in container.exec(sh="grep ' /proc/sys ' /proc/self/mounts").stdout
        assert container.spec.mounts == ()


@pytest.mark.parametrize("how", ["attached", "from the start"])
def test_a_mighty_container_cannot_change_how_a_volume_is_mounted(
    host: Host, volume: Volume, how: str
) -> None:
    """Even with SYS_ADMIN in its own user namespace, read-only stays read-only, and set-user-ID without
    effect."""
    given = Mount.volume(volume, "/v", read_only=True)
    with host.containers.launch(
        "busybox",
        ["sleep", "1000"],
        mounts=[given] if how != "attached" else [],
        cap_add=["SYS_ADMIN"],
        seccomp=False,
    ) as container:
        if how == "attached":
            volume.attach(container, "/v", read_only=True)
        script = "mount -o remount,bind,{} /v || echo refused"
        for options in ("rw", "ro,suid", "ro,dev"):
            assert container.exec(sh=script.format(options)).stdout == "refused\n"
        flags = container.exec(sh="grep ' /v ' /proc/self/mounts").stdout.split()[3].split(",")
        assert flags[:3] == ["ro", "nosuid", "nodev"]
        volume.detach(container)
        assert container.exec(sh="grep -c ' /v ' /proc/self/mounts", check=False).stdout == "0\n"


# --- binds ---


@pytest.mark.parametrize(("propagation", "seen"), [("private", ""), ("slave", "later\n")])
def test_later_mounts_of_the_host_are_seen_by_slaves_only(
    host: Host, tmp_path: Path, propagation: str, seen: str
) -> None:
    """And what a container mounts is never seen by the host."""
    subprocess.run(["mount", "-t", "tmpfs", "lxcwrap-test-outer", tmp_path], check=True)
    try:
        subprocess.run(["mount", "--make-shared", tmp_path], check=True)
        (tmp_path / "sub").mkdir()
        mounts = [Mount.bind(tmp_path, "/b", propagation=propagation)]  # type: ignore[arg-type]  # one of the two
        with host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as container:
            subprocess.run(["mount", "-t", "tmpfs", "lxcwrap-test-inner", tmp_path / "sub"], check=True)
            (tmp_path / "sub/later").touch()
            assert container.exec(["ls", "/b/sub"]).stdout == seen
            subprocess.run(["umount", tmp_path / "sub"], check=True)
    finally:
        subprocess.run(["umount", "-R", tmp_path], check=True)
    with pytest.raises(InvalidSpecError):
        Mount.bind(tmp_path, "/b", propagation="shared")  # type: ignore[arg-type]  # on purpose
