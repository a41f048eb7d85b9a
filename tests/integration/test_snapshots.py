"""Snapshots: what a container had on its file system, to begin others with."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

import lxcwrap
from lxcwrap import (
    Container,
    Endpoint,
    Host,
    Image,
    Limits,
    Mount,
    NameInUseError,
    Port,
    StillUsedError,
    Volume,
    resting,
)
from lxcwrap.supervisor.client import Conversation

KEEPS_ITS_DATA = "mkdir -p /srv/db/inner && echo old > /srv/db/old && chown 33:33 /srv/db && chmod 711 /srv"


@pytest.fixture
def running(host: Host) -> Iterator[Container]:
    with host.containers.launch("busybox", ["sleep", "1000"], env={"A": "first", "B": "2"}) as container:
        yield container


@pytest.fixture
def database(host: Host) -> Iterator[Image]:
    """An image with a volume, that has files there already."""
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        container.exec(sh=KEEPS_ITS_DATA)
        image = container.commit(volumes=["/srv/db"], compression="none")
    yield image
    image.remove()


@pytest.fixture
def volume(host: Host) -> Iterator[Volume]:
    made = host.volumes.create(f"volume-{secrets.token_hex(4)}")
    yield made
    made.remove()


def test_interrupted_it_is_undone(running: Container, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it was complete: nobody knows of it."""
    thaw, images = resting._thaw, len(host.images)

    def interrupted(conversation: Conversation) -> NoReturn:
        thaw(conversation)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resting, "_thaw", interrupted)
        for name in (None, "mine"):
            with pytest.raises(KeyboardInterrupt):
                running.snapshot(name)
    assert (len(host.snapshots), len(host.images)) == (0, images)


def test_an_error_in_its_block_comes_out(running: Container, host: Host) -> None:
    """Though there is a container of it, which keeps it."""
    with pytest.raises(ZeroDivisionError), running.snapshot() as snapshot:
        with_it = snapshot.create()
        raise ZeroDivisionError
    with_it.remove()
    snapshot.remove()


def test_its_containers_have_what_there_was(running: Container) -> None:
    """Files, owners, modes and deletions are as they were; what is written later is not there."""
    running.exec(
        sh="echo 1 > /root/a; chown 33:7 /root/a; chmod 640 /root/a; rm /etc/shells; ln /root/a /root/b"
    )
    with running.snapshot() as snapshot:
        running.exec(sh="echo 2 > /root/a")
        with snapshot.launch() as other:
            assert other.exec(["cat", "/root/a"]).stdout == "1\n"
            assert other.exec(["stat", "-c", "%u %g %a %h", "/root/a"]).stdout == "33 7 640 2\n"
            assert not other.path("/etc/shells").exists()


def test_its_containers_do_not_see_each_other(running: Container) -> None:
    """Each writes to a layer of its own."""
    with running.snapshot() as snapshot, snapshot.launch() as one, snapshot.launch() as other:
        one.exec(sh="echo > /root/mine")
        assert not other.path("/root/mine").exists()


def test_they_are_made_as_it_was_but_for_what_is_given(host: Host) -> None:
    """Command, variables and limits are those of the container; keywords take their place."""
    made = host.containers.launch(
        "busybox", ["sleep", "1000"], env={"A": "1", "B": "2"}, limits=Limits(pids=50), hostname="db"
    )
    with made, made.snapshot() as snapshot:
        with snapshot.launch(env={"B": "3"}, labels={"x": "y"}) as other:
            assert other.spec.argv == ("sleep", "1000")
            assert other.spec.limits == Limits(pids=50)
            assert other.exec(sh="echo $A $B").stdout == "1 3\n"
            assert (other.labels["x"], other.name == made.name) == ("y", False)
        assert snapshot.run(["hostname"], hostname="mine").stdout == "mine\n"
        assert snapshot.run(sh="cat; exit 3", input="x", check=False).exit_code == 3


def test_they_are_on_its_network_with_addresses_of_their_own(host: Host) -> None:
    """The network is the same; address and port of the host are not."""
    network = host.networks.create(f"snap-{secrets.token_hex(4)}")
    options = {network: Endpoint(ip=network.gateway.rpartition(".")[0] + ".77")}
    with (
        host.containers.launch(
            "busybox", ["sleep", "1000"], network=options, publish=[Port(80, host_port=18377)]
        ) as made,
        made.snapshot() as snapshot,
        snapshot.launch() as other,
    ):
        assert list(other.networks) == [network.name]
        assert other.ip != made.ip
        assert [port.container_port for port in other.ports] == [80]
    network.remove()


def test_nameless_volumes_are_part_of_it(host: Host, database: Image) -> None:
    """What an image keeps in a volume it declares is there, in the place of what the image has, and each has
    its own; directories on the way stay as they are."""
    with host.containers.launch(database, ["sleep", "1000"]) as made:
        made.exec(sh="cd /srv/db; rm -r old inner; echo new > new; chown 7:8 new; ln new same; mkfifo pipe")
        with made.snapshot() as snapshot, snapshot.launch() as one, snapshot.launch() as other:
            one.exec(sh="echo changed > /srv/db/new")
            assert sorted(path.name for path in other.path("/srv/db").iterdir()) == ["new", "pipe", "same"]
            assert other.exec(["cat", "/srv/db/same"]).stdout == "new\n"
            modes = other.exec(["stat", "-c", "%u %g %a", "/srv", "/srv/db", "/srv/db/new"]).stdout
            assert modes == "0 0 711\n33 33 755\n7 8 644\n"
            assert not other.spec.mounts


def test_named_volumes_are_copied_and_what_is_only_read_is_shared(
    host: Host, volume: Volume, tmp_path: Path
) -> None:
    """What it could write to in a volume each has for itself; the others see what it sees."""
    (tmp_path / "file").write_text("host")
    (volume.path / "shared").write_text("volume")
    mounts = [
        Mount.volume(volume, "/data/inner"),
        Mount.volume(volume, "/read", read_only=True),
        Mount.bind(tmp_path, "/bind"),
        Mount.tmpfs("/memory"),
    ]
    with host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as made:
        made.exec(sh="echo > /memory/gone; echo mine > /data/inner/own")
        with made.snapshot() as snapshot, snapshot.launch() as other:
            other.exec(sh="rm /data/inner/own")
            assert other.exec(["cat", "/data/inner/shared"]).stdout == "volume"
            assert made.exec(["cat", "/data/inner/own"]).stdout == "mine\n"
            assert other.exec(["cat", "/bind/file"]).stdout == "host"
            assert [mount.target for mount in other.spec.mounts] == ["/read", "/bind", "/memory"]
            assert not list(other.path("/memory").iterdir())


def test_a_volume_at_a_link_is_where_that_leads(host: Host) -> None:
    """A volume mounted through a symbolic link ends up in the directory the link leads to."""
    with host.containers.launch("busybox", ["sleep", "1000"]) as made:
        made.exec(sh="mkdir /srv/real; ln -s srv/real /link")
        image = made.commit(volumes=["/link"], compression="none")
    with host.containers.launch(image, ["sleep", "1000"]) as made:
        made.exec(sh="echo there > /link/file")
        with made.snapshot() as snapshot:
            assert snapshot.run(sh="cat /srv/real/file; readlink /link").stdout == "there\nsrv/real\n"
    image.remove()


def test_a_snapshot_of_a_snapshot_s_container(running: Container) -> None:
    """What both have written is there; the first can go before the second only if nothing uses it."""
    running.exec(sh="echo 1 > /one")
    with running.snapshot() as first:
        with first.launch() as middle:
            middle.exec(sh="echo 2 > /two")
            second = middle.snapshot()
        first.remove()
        with second:
            assert second.run(sh="cat /one /two").stdout == "1\n2\n"


def test_of_a_stopped_container_and_of_one_with_a_limited_disk(host: Host) -> None:
    """It need not run; a disk of its own is found."""
    with host.containers.launch("busybox", ["sleep", "1000"], disk="32MiB") as made:
        made.exec(sh="echo 1 > /one")
        made.stop()
        with made.snapshot() as snapshot:
            assert snapshot.run(["cat", "/one"]).stdout == "1\n"
            assert snapshot.run(["cat", "/one"], disk="16MiB").stdout == "1\n"


def test_nobody_writes_while_it_is_taken(running: Container) -> None:
    """A writer that is at it does not make it fail, and goes on afterwards."""
    running.exec(["touch", "/log"])
    with running.popen(
        ["sh", "-c", "while :; do date >> /log; mv /log /log2; mv /log2 /log; done"]
    ) as writer:
        for _ in range(5):
            with running.snapshot() as snapshot:
                assert snapshot.run(sh="ls /log*").exit_code == 0
        assert writer.poll() is None
        writer.kill()


def test_one_in_use_is_not_removed(fresh_host: Host) -> None:
    """StillUsedError names the containers; nothing prunes it or its image."""
    host = fresh_host
    with host.containers.launch("busybox", ["sleep", "1000"]) as running, running.snapshot() as snapshot:
        with snapshot.launch() as other:
            with pytest.raises(StillUsedError) as caught:
                snapshot.remove()
            assert caught.value.users == [other.name]
        image = snapshot.image
        assert image.id not in host.prune(all_images=True).images
        assert image in list(host.images)
        assert any(usage.id == image.id and usage.blobs for usage in host.disk_usage().images)
    assert image not in list(host.images)
    assert snapshot not in host.snapshots


def test_a_tag_outlives_it(host: Host, running: Container) -> None:
    """An image that was given a name stays when the snapshot goes."""
    with running.snapshot() as snapshot:
        snapshot.image.tag(name := f"kept-{secrets.token_hex(4)}:1")
    assert host.images[name].config.volumes == ()
    host.images.remove(name)


def test_its_name_is_its_own(host: Host, running: Container) -> None:
    """A named one is found by name or id; a second of that name is refused before anything is done."""
    name = f"warm-{secrets.token_hex(4)}"
    with running.snapshot(name) as snapshot:
        assert host.snapshots[name] == host.snapshots[snapshot.id] == snapshot
        count = len(host.images)
        with pytest.raises(NameInUseError):
            running.snapshot(name)
        assert len(host.images) == count
    with pytest.raises(lxcwrap.SnapshotNotFoundError):
        host.snapshots[name]


TAKES_ONE = """
import os, signal, sys
from lxcwrap import Host
container = Host(sys.argv[1]).containers[sys.argv[2]]
container.snapshot(), container.snapshot("named")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_who_is_killed_leaves_only_named_ones(fresh_host: Host) -> None:
    """After kill -9 the next host removes snapshots without a name, unless they are in use still."""
    with fresh_host.containers.launch("busybox", ["sleep", "1000"]) as made:
        arguments = [sys.executable, "-c", TAKES_ONE, str(fresh_host.root), made.id]
        assert subprocess.run(arguments).returncode == -signal.SIGKILL
        nameless = next(each for each in fresh_host.snapshots if not each.name)
        with nameless.launch():
            Host(fresh_host.root).close()
            assert nameless in fresh_host.snapshots
        Host(fresh_host.root).close()
    assert [each.name for each in fresh_host.snapshots] == ["named"]
    fresh_host.snapshots["named"].remove()
    assert [image.tags for image in fresh_host.images] == [("busybox:latest",)]
    assert len(os.listdir(fresh_host.root / "layers")) == 1
