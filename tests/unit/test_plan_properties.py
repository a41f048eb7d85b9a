"""Whatever a user asks for, the configuration says that and no more: no text becomes a setting."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import given, settings

from lxcwrap.ids import IDENTITY, IdMap
from lxcwrap.specs import ContainerSpec
from lxcwrap.supervisor.plan import capabilities, make_plan, mount_points
from tests import spec_strategies as some

ID = "ab" * 32
KEYS = re.compile(
    r"lxc\.(uts\.name|log\.(file|level)|console\.path|tty\.max|pty\.max|autodev|hook\.post-stop|mount\.(auto|entry)|idmap|cap\.keep"
    r"|no_new_privs|seccomp\.profile|prlimit\.(nofile|core|nproc)|proc\.oom_score_adj|environment)"
)


def plan(spec: ContainerSpec) -> dict[str, object]:
    return make_plan(
        spec,
        container_id=ID,
        root=Path("/r"),
        idmap=IDENTITY if spec.security.privileged else IdMap(0x40000000),
        lowers=[Path("/r/layers/a")],
        init_dir=Path("/r/cache/init"),
        profile=Path("/p"),
        host=Path("/nonexistent"),
    )


def settings_of(spec: ContainerSpec) -> list[tuple[str, str]]:
    return plan(spec)["config"]  # type: ignore[return-value]  # as the fixture of a plan is


@settings(max_examples=40)
@given(some.specs)
def test_only_known_settings_of_one_line(spec: ContainerSpec) -> None:
    """Keys are ours; values hold no NUL and no second line, but for environments, which may."""
    for key, value in settings_of(spec):
        assert KEYS.fullmatch(key)
        assert "\0" not in value
        assert key == "lxc.environment" or "\n" not in value


@settings(max_examples=40)
@given(some.specs)
def test_mount_entries_have_six_fields(spec: ContainerSpec) -> None:
    """As fstab(5) reads them: no path brings fields, comments or options of its own."""
    for key, value in settings_of(spec):
        if key == "lxc.mount.entry":
            fields = re.split(r"[ \t]+", value)
            assert len(fields) == 6 and not value.startswith("#")
            assert not fields[1].startswith("/") and ".." not in fields[1].split("/")
            assert fields[4:] == ["0", "0"]


@settings(max_examples=40)
@given(some.specs)
def test_the_environment_is_what_was_asked_for(spec: ContainerSpec) -> None:
    """Each variable once, whole."""
    values = [value for key, value in settings_of(spec) if key == "lxc.environment"]
    assert dict(value.partition("=")[::2] for value in values) == dict(spec.env)
    assert plan(spec)["env"] == values


@settings(max_examples=40)
@given(some.specs)
def test_confinement_is_all_there_unless_loosened(spec: ContainerSpec) -> None:
    """For every combination of loosenings: nothing is missing that was not asked to be."""
    security, settings = spec.security, settings_of(spec)
    keys = {key for key, _ in settings}
    init = plan(spec)["init"]
    assert isinstance(init, list)
    assert ("lxc.idmap" in keys) == ("lxc.cap.keep" in keys) == (not security.privileged)
    assert ("lxc.no_new_privs" in keys) == (security.no_new_privs and not security.privileged)
    if security.seccomp and not security.privileged:
        assert ("-s" in init) != ("lxc.seccomp.profile" in keys)
    if not security.privileged:
        kept = set(dict(settings)["lxc.cap.keep"].upper().split())
        assert kept >= capabilities(security)
        assert kept == capabilities(security) or "-k" in init  # init lets go of the others


@settings(max_examples=40)
@given(some.specs)
def test_plans_are_json_and_alike(spec: ContainerSpec) -> None:
    """A pure function: the same spec gives the same plan, that survives being written down."""
    made = plan(spec)
    assert json.loads(json.dumps(made)) == json.loads(json.dumps(plan(spec)))
    assert {mount.target for mount in spec.mounts} <= mount_points(made)


@settings(max_examples=40)
@given(some.specs)
def test_init_options_end_before_the_command(spec: ContainerSpec) -> None:
    """Exactly one end of options, at the end, and every word of ours without NUL."""
    made = plan(spec)
    init = made["init"]
    assert isinstance(init, list)
    assert init[0] == "/dev/.lxcwrap/init" and init[-1] == "--"
    assert made["argv"] == list(spec.argv)
    assert not any("\0" in word for word in init)
