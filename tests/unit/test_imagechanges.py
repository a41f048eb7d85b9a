"""What is said anew of an image."""

from __future__ import annotations

import pytest

from lxcwrap.errors import InvalidSpecError
from lxcwrap.imagechanges import ImageChanges, changed
from lxcwrap.imageconfig import ImageConfig
from lxcwrap.oci import oci_layer_type

BASE = ImageConfig(
    diff_ids=(),
    entrypoint=("run",),
    cmd=("a", "b"),
    env={"A": "1", "B": "2"},
    labels={"x": "y"},
    user="www",
    working_dir="/srv",
    exposed_ports=("80/tcp",),
    volumes=("/data",),
    stop_signal="SIGQUIT",
)


def test_nothing_said_changes_nothing() -> None:
    assert changed(BASE, {}) == BASE


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"cmd": ["c"]}, "cmd", ("c",)),
        ({"cmd": []}, "cmd", ()),
        ({"entrypoint": []}, "cmd", ()),
        ({"entrypoint": ["e"], "cmd": ["c"]}, "cmd", ("c",)),
        ({"env": {"B": None, "C": 3}}, "env", {"A": "1", "C": "3"}),
        ({"labels": {"x": None, "z": ""}}, "labels", {"z": ""}),
        ({"user": ""}, "user", ""),
        ({"working_dir": ""}, "working_dir", ""),
        ({"exposed_ports": [80, "53/udp"]}, "exposed_ports", ("53/udp", "80/tcp")),
        ({"volumes": ["/a"]}, "volumes", ("/a", "/data")),
        ({"stop_signal": "9"}, "stop_signal", "9"),
    ],
)
def test_what_is_said_is_changed(changes: ImageChanges, field: str, value: object) -> None:
    """Replaced, merged or added; an empty one, or None in a mapping, takes away."""
    assert getattr(changed(BASE, changes), field) == value


@pytest.mark.parametrize(
    "wrong",
    [
        {"cmd": "ls -l"},
        {"cmd": ["a\0"]},
        {"env": {"A=B": "1"}},
        {"user": 5},
        {"working_dir": "srv"},
        {"exposed_ports": "80"},
        {"exposed_ports": [0]},
        {"exposed_ports": ["80/http"]},
        {"volumes": ["data"]},
        {"stop_signal": "SIGNONE"},
        {"memory": 5},
    ],
)
def test_what_cannot_be_right_is_refused(wrong: ImageChanges) -> None:
    """Also what no image has."""
    with pytest.raises((InvalidSpecError, TypeError)):
        changed(BASE, wrong)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "+gzip"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.zstd", "+zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar", ""),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "+gzip"),
        ("application/vnd.oci.image.layer.v1.tar", ""),
    ],
)
def test_layers_have_oci_types(given: str, expected: str) -> None:
    """In an OCI manifest, also those that came with Docker's."""
    assert oci_layer_type(given) == f"application/vnd.oci.image.layer.v1.tar{expected}"
