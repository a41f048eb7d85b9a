"""What a build step or a container leaves for the host to stumble over: nothing here may harm others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lxcwrap import Host
from lxcwrap.errors import BuildError, FormatError, InvalidSpecError
from tests.integration.building import Building, files

pytestmark = pytest.mark.lxc

# The shell goes no further than a path can be long, the last one makes it longer.
_LONG = "n=$(printf %0200d 0); for i in $(seq 21); do mkdir $n; cd $n; done; true"
_DEEP = "for i in $(seq 1100); do mkdir d; cd d; done"


@pytest.fixture
def build(fresh_host: Host, tmp_path: Path) -> Building:
    return Building(fresh_host, tmp_path / "context")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(_LONG, id="a path longer than any system call takes"),
        pytest.param(_DEEP, id="more directories in each other than there are descriptors"),
        pytest.param("truncate -s 8000000000000 /f", id="a file of terabytes, that holds nothing"),
        pytest.param("touch '/.wh.bin'", id="the name of a deletion"),
    ],
)
def test_a_step_leaves_what_no_layer_can_be(build: Building, fresh_host: Host, script: str) -> None:
    """It fails at once, leaves nothing, and keeps nobody from going on."""
    build("FROM busybox\n")
    before = sorted(os.listdir(fresh_host.root / "layers"))
    with pytest.raises(BuildError) as caught:
        build(f"FROM busybox\nRUN {script}\n")
    assert isinstance(caught.value.__cause__, FormatError)
    with Host(fresh_host.root) as another:
        assert sorted(os.listdir(another.root / "layers")) == before
        assert not list(another.containers)


def test_a_cache_of_any_depth_can_be_pruned(build: Building, fresh_host: Host) -> None:
    """What is in it is no layer: it is measured and deleted however deep."""
    build(f"FROM busybox\nRUN --mount=type=cache,target=/c cd /c; echo x > f; {_DEEP}\n")
    assert fresh_host.disk_usage().build_cache > 0
    fresh_host.prune(build_cache_keep=0)
    assert not list((fresh_host.root / "cache/mounts").iterdir())


def test_a_container_too_deep_to_look_into(host: Host) -> None:
    """It can be neither compared nor committed, only removed."""
    with host.containers.launch("busybox", ["sleep", "60"]) as container:
        container.exec(["sh", "-c", _LONG])
        with pytest.raises(FormatError):
            container.diff()
        with pytest.raises(FormatError):
            container.commit()


def test_nothing_inside_can_make_what_overlays_obey(build: Building) -> None:
    """Whiteouts and devices: in the layer they would hide what is below, or be the host's."""
    image = build(
        "FROM busybox\n"
        "RUN mkdir /d; ! mknod /d/w c 0 0; ! mknod /d/null c 1 3; mknod /d/p p;"
        " ln -s /etc/shadow /d/s; ln /bin/busybox /d/h; chmod 4755 /d/h\n"
    )
    made = files(image)
    assert {"d/p", "d/s", "d/h"} <= made.keys()
    assert not {"d/w", "d/null"} & made.keys()


def test_what_a_command_writes_steers_no_terminal(build: Building) -> None:
    """Its output is in the message, as text."""
    with pytest.raises(BuildError) as caught:
        build(
            "FROM busybox\nRUN printf 'a\\033]0;title\\007\\033[31mb\\033[2Jc\\r\\342\\200\\256d'; exit 1\n"
        )
    assert "\x1b" in caught.value.log
    assert all(character.isprintable() or character == "\n" for character in str(caught.value))


@pytest.mark.parametrize("owner", ["uid=70000", "gid=65536", "uid=4294967295"])
def test_secrets_belong_to_nobody_elses_ids(build: Building, owner: str) -> None:
    """Ids beyond the container's own are those of another one."""
    with pytest.raises((BuildError, InvalidSpecError)):
        build(f"FROM busybox\nRUN --mount=type=secret,id=s,{owner} true\n", secrets={"s": b"x"})
