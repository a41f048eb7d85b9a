"""What an image says of its processes applies, unless the caller says otherwise."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcwrap import Container, Host, Image, Mount
from lxcwrap.errors import InvalidSpecError
from tests import archives
from tests.polling import eventually

Make = Callable[..., Image]


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


@pytest.fixture
def make(host: Host, tmp_path: Path) -> Iterator[Make]:
    """Images over busybox with a layer of these tar members and this config; removed at the end."""
    store = host.images._store
    blob = store.blobs.path(store.manifest(host.images.resolve("busybox").id).layers[0].digest).read_bytes()
    base = gzip.decompress(blob) if blob.startswith(b"\x1f\x8b") else blob
    made: list[Image] = []

    def image(members: list[tarfile.TarInfo] | None = None, **process: Any) -> Image:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for member in members or []:
                tar.addfile(member, io.BytesIO(b"x" * member.size))
        layers = (base, stream.getvalue())
        layout = archives.Layout()
        layout.name(layout.image(*layers, config=archives.config_of(layers, **process)), "made:1")
        made.extend(host.images.load(layout.write(tmp_path / f"image-{len(made)}")))
        return made[-1]

    yield image
    for each in {image.id: image for image in made}.values():
        each.remove()


def entry(name: str, kind: bytes = tarfile.REGTYPE, **attributes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def test_the_image_says_how_it_starts(host: Host, make: Make) -> None:
    """Command, environment, directory, user, labels."""
    image = make(
        Entrypoint=["/bin/sh", "-c"], Cmd=["echo $A-$B; pwd; id -u; id -g"], Env=["A=1", "B=of=image"],
        WorkingDir="/srv/dir", User="nobody", Labels={"made-by": "us", "tier": "1"},
    )  # fmt: skip
    done = host.containers.run(image)
    assert done.stdout.split() == ["1-of=image", "/srv/dir", "65534", "65534"]
    with host.containers.create(image, labels={"tier": "2"}) as container:
        assert container.labels == {"made-by": "us", "tier": "2"} and container.image == image


def test_the_caller_has_the_last_word(host: Host, make: Make) -> None:
    """Each for itself; the environment is added to."""
    image = make(
        Cmd=["false"], Env=["A=1", "B=2"], WorkingDir="/tmp", User="nobody", Entrypoint=["/bin/echo", "image"]
    )
    assert host.containers.run(image, ["mine"]).stdout == "image mine\n"
    done = host.containers.run(image, sh="echo $A$B; pwd; id -u", env={"B": "3"}, cwd="/etc", user=0)
    assert done.stdout.split() == ["13", "/etc", "0"]
    assert host.containers.run(image, ["x"], entrypoint=["/bin/echo", "own"]).stdout == "own x\n"
    assert host.containers.run(image, ["/bin/echo", "bare"], entrypoint=[]).stdout == "bare\n"
    with pytest.raises(InvalidSpecError):  # as in Docker, another entrypoint drops the image's command
        host.containers.create(image, entrypoint=[])


def test_an_image_without_a_command_needs_one(host: Host, make: Make) -> None:
    """And says so."""
    with pytest.raises(InvalidSpecError, match="command"):
        host.containers.create(make())


def test_users_and_groups_are_the_images(host: Host, tmp_path: Path) -> None:
    """Names are looked up in it, with the groups it gives them."""
    tree = tmp_path / "rootfs.tar"
    busybox = Path("/bin/busybox").read_bytes()
    with tarfile.open(tree, "w") as tar:
        for name, data, mode in (
            ("bin/busybox", busybox, 0o755),
            ("etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1500:1600::/srv/app:/bin/sh\n", 0o644),
            ("etc/group", b"root:x:0:\napp:x:1600:\nextra:x:1700:app\nother:x:1800:\n", 0o644),
        ):
            tar.addfile(entry(name, size=len(data), mode=mode), io.BytesIO(data))
    image = host.images.import_rootfs(
        tree, entrypoint=["/bin/busybox"], cmd=["id"], user="app", env={"X": "y"}, stop_signal="INT"
    )
    try:
        assert host.containers.run(image).stdout.strip() == (
            "uid=1500(app) gid=1600(app) groups=1600(app),1700(extra)"
        )
        assert "1800(other)" in host.containers.run(image, user="app:other").stdout
        assert host.containers.run(image, ["sh", "-c", "echo $HOME"]).stdout == "/srv/app\n"
    finally:
        image.remove()


def test_the_stop_signal_is_the_images(host: Host, make: Make) -> None:
    """Unless the caller has another."""
    script = "trap 'exit 8' QUIT; trap 'exit 9' USR2; echo ready; while :; do sleep 0.01; done"
    image = make(Cmd=["/bin/sh", "-c", script], StopSignal="SIGQUIT")
    for options, code in (({}, 8), ({"stop_signal": "USR2"}, 9)):
        with host.containers.launch(image, **options) as container:  # type: ignore[arg-type]  # one option
            eventually(lambda: "ready" in container.logs())
            assert container.stop(timeout_s=20) == code


# --- declared volumes ---


def volume_of(host: Host, container: Container) -> list[Path]:
    return sorted((host.root / "containers" / container.id / "volumes").glob("*"))


def test_a_declared_volume_begins_with_what_the_image_has_there(host: Host, make: Make) -> None:
    """With owners, modes, links, times, attributes; it is the container's own, and survives restarts."""
    members = [
        entry("data", tarfile.DIRTYPE, uid=33, gid=44, mode=0o750),
        entry("data/file", size=5, uid=7, gid=8, mode=0o640, mtime=1_000_000_000),
        entry("data/same", tarfile.LNKTYPE, linkname="data/file"),
        entry("data/link", tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("data/sub/deep", size=3, pax_headers={"SCHILY.xattr.user.note": "kept"}),
    ]
    image = make(members, Cmd=["sleep", "1000"], Volumes={"/data": {}})
    ask = "stat -c '%n %u:%g %a %h %Y' /data /data/file; readlink /data/link; cat /data/sub/deep"
    with host.containers.launch(image) as container, host.containers.launch(image) as other:
        answer = container.exec(sh=ask).stdout.split()
        assert answer[1:3] == ["33:44", "750"] and answer[-2:] == ["/etc/passwd", "xxx"]
        assert answer[6:10] == ["7:8", "640", "2", "1000000000"]
        (directory,) = volume_of(host, container)
        assert os.getxattr(directory / "sub/deep", "user.note") == b"kept"
        container.exec(sh="echo changed > /data/file; rm -r /data/sub; touch /data/new")
        assert container.diff() == ()
        container.restart()
        assert container.exec(sh="cat /data/file; ls /data").stdout.split() == [
            "changed",
            "file",
            "link",
            "new",
            "same",
        ]
        assert container.path("/data/file").read_text() == "changed\n"
        container.stop()
        assert container.path("/data/file").read_text() == "changed\n" and container.diff() == ()
        container.path("/data/from-outside").touch()
        assert "from-outside" in container.start().exec(["ls", "/data"]).stdout
        assert other.exec(["cat", "/data/file"]).stdout == "xxxxx"
    assert not directory.exists()


def test_a_declared_volume_that_the_image_does_not_have_is_empty(host: Host, make: Make) -> None:
    """Owned by root, even in a read-only container, and with odd spellings of its path."""
    image = make(Volumes={"/new/deep/": {}, "relative": {}, "/new/../tmp": {}})
    script = "touch /new/deep/x /relative/x /tmp/x && stat -c %u:%g:%a /new/deep; touch /x"
    done = host.containers.run(image, sh=script, read_only=True, check=False)
    assert done.stdout.strip() == "0:0:755" and "Read-only" in done.stderr


def test_volumes_within_volumes(host: Host, make: Make) -> None:
    """The inner one begins with what the image has there too."""
    image = make([entry("a/b/file", size=4)], Volumes={"/a/b": {}, "/a": {}})
    with host.containers.launch(image, ["sleep", "1000"]) as container:
        assert container.exec(["cat", "/a/b/file"]).stdout == "xxxx"
        assert container.exec(["grep", "-c", " /a", "/proc/self/mounts"]).stdout == "2\n"
        assert len(volume_of(host, container)) == 2


def test_a_mount_of_the_callers_takes_its_place(host: Host, make: Make) -> None:
    """At the path or above it."""
    image = make([entry("data/db/file", size=1)], Volumes={"/data/db": {}, "/other": {}})
    for mount in (Mount.tmpfs("/data/db"), Mount.tmpfs("/data")):
        with host.containers.launch(image, ["sleep", "1000"], mounts=[mount]) as container:
            assert container.exec(sh="find /data -type f").stdout == ""
            assert [each.target for each in container.spec.mounts] == [mount.target, "/other"]


def test_a_link_on_the_way_is_followed_inside(host: Host, make: Make, tmp_path: Path) -> None:
    """For volumes and for mounts: the host's files are never reached."""
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [entry("way", tarfile.SYMTYPE, linkname=f"../../../..{outside}")]
    image = make(members, Cmd=["ls", str(outside)], Volumes={"/way/volume": {}})
    done = host.containers.run(image, mounts=[Mount.tmpfs("/way/mount")])
    assert done.stdout.split() == ["mount", "volume"] and list(outside.iterdir()) == []


def test_a_volume_that_cannot_be_is_told(host: Host, make: Make) -> None:
    """Over a file; over the root or /proc."""
    with pytest.raises(InvalidSpecError, match="/etc/passwd"):
        host.containers.run(make(Volumes={"/etc/passwd": {}}), ["true"])
    for path in ("/", "/proc/sys"):
        with pytest.raises(InvalidSpecError):
            host.containers.create(make(Volumes={path: {}}), ["true"])
    assert len(host.containers) == 0
