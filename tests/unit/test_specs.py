"""What a user asks for: what is accepted, what it means, what is refused before anything was touched."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import attrs
import pytest

from lxcwrap.errors import InvalidSpecError
from lxcwrap.results import Completed
from lxcwrap.specs import (
    ContainerSpec,
    Device,
    Limits,
    Mount,
    Security,
    State,
    Ulimit,
    check_argv,
    check_env,
    parse_signal,
    parse_size,
)

SPEC: dict[str, Any] = {"image_id": "sha256:00", "name": "web", "argv": ("true",)}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256MiB", 256 << 20),
        ("1MB", 10**6),
        ("1m", 1 << 20),
        ("1.5g", 3 << 29),
        ("512", 512),
        (" 2 kB ", 2000),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """The examples of the documentation."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    ["", "MiB", "-1", "1 2", "1e3", "1XB", "\u0661", "9" * 400 + ".5", "9" * 5000, True, 1.5, None, -1, b"1"],
)
def test_wrong_sizes(value: Any) -> None:
    """No guessing."""
    with pytest.raises(InvalidSpecError):
        parse_size(value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (9, 9),
        ("9", 9),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        (signal.SIGHUP, 1),
        ("RTMIN+3", 37),
        ("64", 64),
    ],
)
def test_signals(value: str | int, number: int) -> None:
    """As kill(1) and Dockerfiles write them."""
    assert parse_signal(value) == number


@pytest.mark.parametrize("value", ["", "NONE", "0", 0, 65, -9, "RTMIN+40", "RTMIN+x", "SIG", "²"])
def test_wrong_signals(value: str | int) -> None:
    """0 only asks whether a process is there: it is none to stop with."""
    with pytest.raises(InvalidSpecError):
        parse_signal(value)


@pytest.mark.parametrize("argv", ["true", b"true"])
def test_a_plain_string_is_no_command(argv: Any) -> None:
    """Ambiguous, as in subprocess: the message names sh=."""
    with pytest.raises(TypeError, match="sh="):
        check_argv(argv)


def test_commands_take_paths() -> None:
    """What os.fspath takes is a word; what it does not is no word."""
    assert check_argv([Path("/bin/x"), "y"]) == ("/bin/x", "y")  # type: ignore[list-item]  # more than is promised
    for wrong in ([1], [b"x"], [None]):
        with pytest.raises(TypeError):
            check_argv(wrong)  # type: ignore[arg-type]  # on purpose


def test_environments_take_numbers() -> None:
    """``env={"PORT": 80}`` is what most write."""
    assert check_env({"PORT": 80}) == {"PORT": "80"}  # type: ignore[dict-item]  # more than is promised
    for wrong in ({"A": None}, {1: "x"}, ["A=1"], "A=1"):
        with pytest.raises(TypeError):
            check_env(wrong)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory": "100"},
        {"memory": 0},
        {"memory": "1QB"},
        {"swap": "1MiB"},
        {"cpus": 0},
        {"cpus": -1},
        {"cpus": 0.001},
        {"cpu_weight": 0},
        {"cpu_weight": 10001},
        {"cpuset": ""},
        {"cpuset": "0-"},
        {"cpuset": "0 1"},
        {"cpuset": "0\n"},
        {"pids": 0},
        {"read_bps": 0},
        {"write_bps": -1},
        {"disk": "15MiB"},
        {"disk": 1 << 63},
    ],
    ids=repr,
)
def test_wrong_limits(wrong: dict[str, Any]) -> None:
    """What the kernel would refuse, or what would hold no process, is refused when it is made."""
    with pytest.raises(InvalidSpecError):
        Limits(**wrong)


def test_limits_take_text() -> None:
    """And hold numbers."""
    limits = Limits(memory="256MiB", swap="1g", read_bps="10MB")
    assert (limits.memory, limits.swap, limits.read_bps) == (256 << 20, 1 << 30, 10**7)


@pytest.mark.parametrize(
    "target", ["/", "//", "/proc", "/proc/sys", "/sys/fs", "/dev/.lxcwrap/x", "x", "", "/a/../b"]
)
def test_the_containers_own_places_are_no_mount_targets(target: str) -> None:
    """Nor is anything that is not plainly a path from the root."""
    with pytest.raises(InvalidSpecError):
        Mount.tmpfs(target)


@pytest.mark.parametrize("target", ["/./proc", "//proc/x", "/sys/", "/dev//.lxcwrap"])
def test_a_target_cannot_be_spelt_around_the_rule(target: str) -> None:
    """Dots and double slashes are taken out first."""
    with pytest.raises(InvalidSpecError):
        Mount.tmpfs(target)


def test_a_bind_mount_names_what_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made absolute when it is asked for, ``~`` too: later the current directory may be another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "dist").mkdir()
    for source in ("dist", Path("dist"), "~/dist", tmp_path / "x/../dist"):
        assert Mount.bind(source, "/srv/").source == str(tmp_path / "dist")
    with pytest.raises(InvalidSpecError):
        Mount.bind("nonesuch", "/srv")


def test_two_mounts_at_one_target_are_refused() -> None:
    """One would hide the other; spelling does not matter."""
    with pytest.raises(InvalidSpecError):
        ContainerSpec(**SPEC, mounts=(Mount.tmpfs("/a"), Mount.tmpfs("//a/")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "-x"},
        {"name": "a/b"},
        {"name": ""},
        {"name": None},
        {"cwd": "relative"},
        {"cwd": "/a/../b"},
        {"hostname": "a_b"},
        {"hostname": "-a"},
        {"hostname": "a\nb"},
        {"hostname": "a" * 65},
        {"oom_score_adj": 1001},
        {"shm_size": 0},
        {"log_max_bytes": 0},
        {"log_max_files": 0},
    ],
    ids=repr,
)
def test_wrong_specs(wrong: dict[str, Any]) -> None:
    """Each field is checked when the value is made."""
    with pytest.raises(InvalidSpecError):
        ContainerSpec(**{**SPEC, **wrong})


def test_values_are_frozen() -> None:
    """What was checked stays so."""
    for value in (ContainerSpec(**SPEC), Limits(), Mount.tmpfs("/x"), Security(), Ulimit(name="core")):
        name = attrs.fields(type(value))[0].name
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, name, None)


@pytest.mark.parametrize("name", ["SYS ADMIN", "net_admin", "CAP-X", "", "A\n"])
def test_capabilities_have_the_form_of_names(name: str) -> None:
    """They become part of liblxc's configuration."""
    with pytest.raises(InvalidSpecError):
        Security(cap_add=(name,))


@pytest.mark.parametrize(
    "wrong",
    [{"access": ""}, {"access": "x"}, {"path": "null"}]
    + [{"target": target} for target in ("null", "/", "/proc/1", "//sys/x", "/dev/.lxcwrap/init", "/a/../b")],
)
def test_wrong_devices(wrong: dict[str, str]) -> None:
    """Absolute paths, and letters of rwm."""
    with pytest.raises(InvalidSpecError):
        Device(**{"path": "/dev/null", **wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"name": "files"}, {"soft": 2, "hard": 1}, {"hard": 1}, {"soft": -1}, {"soft": 0, "hard": -1}],
    ids=repr,
)
def test_wrong_ulimits(wrong: dict[str, Any]) -> None:
    """Names that setrlimit(2) knows; a soft limit is no higher than the hard one."""
    with pytest.raises(InvalidSpecError):
        Ulimit(**{"name": "nofile", **wrong})


def test_states_answer_questions() -> None:
    """What may be started, and what has processes."""
    assert {state for state in State if state.can_start} == {State.CREATED, State.STOPPED, State.RESTARTING}
    assert {state for state in State if state.is_alive} == {State.RUNNING, State.PAUSED}


def test_output_as_text_never_fails() -> None:
    """What is not UTF-8 is replaced; the bytes are there as well; the repr of much output is short."""
    done = Completed(argv=("x",), exit_code=0, stdout_bytes=b"\xff" * 9999, stderr_bytes="é".encode())
    assert (done.stdout[0], done.stderr) == ("\ufffd", "é")
    assert len(repr(done)) < 1200
