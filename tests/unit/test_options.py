"""From an image's config and keywords to a spec: merged as Docker merges, refused before anything is made."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from lxcwrap.errors import InvalidSpecError
from lxcwrap.oci import Digest, ImageConfig
from lxcwrap.options import ContainerOptions, make_spec
from lxcwrap.specs import ContainerSpec, Device, Limits, Mount, Ulimit

ID = "ab" * 32
DIFF = (Digest("sha256:" + "00" * 32),)
BARE = ImageConfig(diff_ids=DIFF)
NGINX = ImageConfig(
    diff_ids=DIFF,
    entrypoint=("/entry.sh",),
    cmd=("nginx", "-g"),
    env={"PATH": "/nginx", "VERSION": "1"},
    working_dir="/usr/share/nginx",
    user="nginx",
    labels={"maintainer": "x"},
    stop_signal="SIGQUIT",
    volumes=("/var/cache/nginx", "/data/"),
)


def make(
    config: ImageConfig = BARE, argv: Sequence[str] | None = ("true",), sh: str | None = None, **options: Any
) -> ContainerSpec:
    given: ContainerOptions = options  # type: ignore[assignment]  # also wrong ones, on purpose
    return make_spec("sha256:00", config, argv, sh, given, container_id=ID, auto_remove=False)


# --- the command ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "options", "expected"),
    [
        (None, {}, ("/entry.sh", "nginx", "-g")),
        (["sh"], {}, ("/entry.sh", "sh")),
        (None, {"entrypoint": ["/x"]}, ("/x",)),
        (["y"], {"entrypoint": ["/x", "1"]}, ("/x", "1", "y")),
        (["y"], {"entrypoint": []}, ("y",)),
        (["y"], {"entrypoint": None}, ("/entry.sh", "y")),
    ],
)
def test_entrypoint_and_command(
    argv: Sequence[str] | None, options: dict[str, Any], expected: tuple[str, ...]
) -> None:
    """A command replaces the image's; an entrypoint of the caller's drops the image's command too."""
    assert make(NGINX, argv, **options).argv == expected


def test_a_shell_line_needs_no_entrypoint() -> None:
    """sh= runs in the image's shell, whatever the image does else; with a command it is ambiguous."""
    assert make(NGINX, None, "echo $A").argv == ("/bin/sh", "-c", "echo $A")
    with pytest.raises(TypeError):
        make(NGINX, ["x"], "y")
    for wrong in ("a\0b", 1, ["x"]):
        with pytest.raises(InvalidSpecError):
            make(NGINX, None, wrong)  # type: ignore[arg-type]  # on purpose


def test_no_command_at_all() -> None:
    """An image without one needs one."""
    entrypoint: list[str] | None
    for entrypoint in (None, []):
        with pytest.raises(InvalidSpecError):
            make(BARE, None, entrypoint=entrypoint)
    with pytest.raises(InvalidSpecError):
        make(NGINX, None, entrypoint=[])  # which drops the image's command


def test_a_plain_string_is_no_command() -> None:
    """It would be read in two ways: words, or a line for the shell."""
    for argv, options in (("true", {}), (["x"], {"entrypoint": "/x"})):
        with pytest.raises(TypeError, match="sh="):
            make(BARE, argv, **options)


# --- image and caller -----------------------------------------------------------------------------------


def test_the_images_settings_apply() -> None:
    """Where the caller says nothing, or None."""
    unsaid: dict[str, Any] = dict.fromkeys(("env", "user", "cwd", "labels", "stop_signal"))
    for options in ({}, unsaid):
        spec = make(NGINX, **options)
        assert (spec.user, spec.cwd, spec.stop_signal) == ("nginx", "/usr/share/nginx", signal.SIGQUIT)
        assert dict(spec.labels) == {"maintainer": "x"}
        assert dict(spec.env) == {"PATH": "/nginx", "VERSION": "1"}


def test_the_callers_settings_win() -> None:
    """Mappings are merged by key, the rest is replaced."""
    spec = make(NGINX, env={"VERSION": 2, "A": ""}, user=0, cwd="/", labels={"b": "c"}, stop_signal="HUP")
    assert dict(spec.env) == {"PATH": "/nginx", "VERSION": "2", "A": ""}
    assert (spec.user, spec.cwd, spec.stop_signal) == ("0", "/", signal.SIGHUP)
    assert dict(spec.labels) == {"maintainer": "x", "b": "c"}


def test_defaults_are_safe() -> None:
    """Of an image that says nothing."""
    spec = make()
    assert (spec.name, spec.hostname, spec.cwd, spec.user) == (ID[:12], ID[:12], "/", "")
    assert spec.stop_signal == signal.SIGTERM and "/usr/bin" in spec.env["PATH"]
    security = spec.security
    assert security.seccomp and security.no_new_privs and security.masked_paths and not security.privileged
    assert not security.cap_add and not security.devices and spec.limits == Limits()


def test_declared_volumes_apply() -> None:
    """A nameless one for each path, unless the caller mounts something there or above."""
    assert {(mount.kind, mount.source, mount.target) for mount in make(NGINX).mounts} == {
        ("volume", "", "/var/cache/nginx"),
        ("volume", "", "/data"),
    }
    covered = make(NGINX, tmpfs=["/data"], mounts=[Mount.tmpfs("/var/cache")])
    assert [(mount.kind, mount.target) for mount in covered.mounts] == [
        ("tmpfs", "/var/cache"),
        ("tmpfs", "/data"),
    ]


def test_a_limit_of_the_disk_is_said_once() -> None:
    """As an option, or among the limits."""
    spec = make(disk="1GiB", limits=Limits(pids=5))
    assert (spec.limits.disk, spec.limits.pids) == (1 << 30, 5)
    with pytest.raises(TypeError, match="disk"):
        make(disk="1GiB", limits=Limits(disk="1GiB"))
    with pytest.raises(InvalidSpecError):
        make(disk="1MiB")


# --- wrong options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("volumes", "mounts="),
        ("environment", "env="),
        ("mem_limit", "Limits"),
        ("hostnam", "hostname"),
        ("xyz", "cwd"),
    ],
)
def test_unknown_options_are_named(name: str, hint: str) -> None:
    """With what is probably meant: names of docker-py and subprocess, misspelt ones."""
    with pytest.raises(TypeError, match=f"'{name}'") as caught:
        options: dict[str, Any] = {name: 1}
        make(**options)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cap_add": "ALL"},
        {"cap_add": [1]},
        {"cap_drop": {"ALL": 1}},
        {"mounts": Mount.tmpfs("/x")},
        {"mounts": ["/a:/b"]},
        {"tmpfs": "/x"},
        {"groups": "wheel"},
        {"groups": [None]},
        {"devices": "/dev/null"},
        {"devices": [1]},
        {"ulimits": {"nofile": 1}},
        {"ulimits": ["nofile=1"]},
        {"limits": {"memory": 1 << 30}},
        {"labels": ["a=b"]},
        {"sysctls": ["a=b"]},
        {"extra_hosts": ["a:1.2.3.4"]},
        {"env": ["A=b"]},
        {"env": "A=b"},
        {"privileged": "false"},
        {"seccomp": 1},
        {"tty": "no"},
    ],
    ids=repr,
)
def test_wrong_types(wrong: dict[str, Any]) -> None:
    """A single item where a list is wanted, a list where a mapping is wanted: TypeError, no guess."""
    with pytest.raises(TypeError):
        make(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cap_add": ["SYS_ADMINN"]},
        {"cap_drop": ["x\ny"]},
        {"devices": ["/dev/nonesuch"]},
        {"devices": ["/etc/passwd"]},
        {"devices": [Device(path="/tmp")]},
        {"user": "a:b:c"},
        {"user": "a\nb"},
        {"user": "65536"},
        {"user": "0:70000"},
        {"groups": ["a,b"]},
        {"groups": ["a:b"]},
        {"groups": ["a\0b"]},
        {"groups": [65536]},
        {"stop_signal": "SIGNONE"},
        {"cwd": "relative"},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"env": {"A": "\udcff"}},
        {"env": {"\udcff": "c"}},
        {"labels": {"a": "\udcff"}},
        {"cwd": "/\udcff"},
        {"user": "\udcff"},
        {"hostname": "under_score"},
        {"sysctls": {"kernel.hostname": "x"}},
        {"sysctls": {"kernel.core_pattern": "|/x"}},
        {"sysctls": {"net/../kernel/core_pattern": "x"}},
        {"extra_hosts": {"db": "nonsense"}},
        {"extra_hosts": {"d\nb": "1.2.3.4"}},
        {"extra_hosts": {"db": "fe80::1%a\n1.2.3.4 b"}},
        {"tmpfs": ["/proc/x"]},
        {"tmpfs": ["/a", "/a"]},
        {"name": "a/b"},
        {"shm_size": "-1"},
        {"log_max_files": 0},
    ],
    ids=repr,
)
def test_wrong_values(wrong: dict[str, Any]) -> None:
    """What no container can have."""
    with pytest.raises(InvalidSpecError):
        make(**wrong)


@pytest.mark.parametrize("text", ["a\0b", os.fsdecode(b"\xff")])
def test_what_cannot_be_said_is_refused(text: str) -> None:
    """liblxc takes no NUL bytes, and nothing but UTF-8: said before a container is made."""
    for argv, sh in ((("true", text), None), (None, text)):
        with pytest.raises(InvalidSpecError):
            make(BARE, argv, sh)


@pytest.mark.parametrize(
    "wrong",
    [{"cmd": ("a\0b",)}, {"cmd": ("",)}, {"env": {"A": "\0"}}, {"user": "a\nb"}, {"working_dir": "/a/../b"}],
    ids=repr,
)
def test_what_an_image_says_is_checked_too(wrong: dict[str, Any]) -> None:
    """It comes from anywhere."""
    with pytest.raises(InvalidSpecError):
        make(ImageConfig(**{"diff_ids": DIFF, "cmd": ("true",), **wrong}), None)


def test_what_is_right_is_taken_over() -> None:
    """Each option finds its field."""
    spec = make(
        name="web",
        groups=["www", 7],
        cap_add=["cap_net_admin"],
        devices=["/dev/null"],
        ulimits=[Ulimit(name="core", soft=0, hard=0)],
        sysctls={"net.core.somaxconn": 9},
        extra_hosts={"db": "::1"},
        limits=Limits(pids=9),
        tmpfs=["/run"],
        shm_size="1m",
        read_only=True,
        tty=True,
        init=False,
        oom_score_adj=-5,
        log_max_bytes="1MB",
        log_max_files=2,
        seccomp=False,
        user=65535,
    )
    assert (spec.name, spec.groups, spec.security.cap_add) == ("web", ("www", "7"), ("NET_ADMIN",))
    assert spec.security.devices == (Device(path="/dev/null"),) and not spec.security.seccomp
    assert dict(spec.sysctls) == {"net.core.somaxconn": "9"} and dict(spec.extra_hosts) == {"db": "::1"}
    assert (spec.limits.pids, spec.shm_size, spec.log_max_bytes, spec.log_max_files) == (9, 1 << 20, 10**6, 2)
    assert spec.read_only and spec.tty and not spec.init and spec.oom_score_adj == -5
    assert [mount.target for mount in spec.mounts] == ["/run"]


def test_a_privileged_container_may_have_any_id() -> None:
    """It has no range."""
    assert make(user="70000", privileged=True).user == "70000"


def test_every_option_is_documented() -> None:
    """In the one place where users look."""
    text = ContainerOptions.__doc__ or ""
    missing = [name for name in ContainerOptions.__annotations__ if name not in text and name != "name"]
    assert not missing
