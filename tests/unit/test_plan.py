"""From a spec to a plan, on a host that is a directory: the default is tight, each loosening is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lxcwrap.ids import IDENTITY, IdMap
from lxcwrap.specs import ContainerSpec, Device, Limits, Mount, Security, Ulimit
from lxcwrap.supervisor.plan import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    capabilities,
    environment,
    make_plan,
    mount_points,
    uses_own_filter,
)

ID = "ab" * 32
ENTRY = "lxc.mount.entry"
NO_REBOOT = ("lxc.hook.post-stop", "/bin/false")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """What a usual kernel shows."""
    for name in ("kcore", "keys", "timer_list"):
        (tmp_path / "proc").mkdir(exist_ok=True)
        (tmp_path / "proc" / name).touch()
    for name in ("proc/acpi", "proc/bus", "proc/irq", "sys/firmware"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def plan(host: Path, **facts: Any) -> dict[str, Any]:
    security = facts.get("security", Security())
    spec = ContainerSpec(image_id="sha256:00", name="web", argv=("nginx",), hostname="web", **facts)
    return make_plan(
        spec,
        container_id=ID,
        root=Path("/r"),
        idmap=IDENTITY if security.privileged else IdMap(0x40000000),
        lowers=[Path("/r/layers/b"), Path("/r/layers/a")],
        init_dir=Path("/r/cache/init"),
        profile=Path("/r/cache/profile") if security.seccomp and not security.no_new_privs else None,
        host=host,
    )


def config(host: Path, **facts: Any) -> set[tuple[str, str]]:
    return {tuple(item) for item in plan(host, **facts)["config"]}


def entries(host: Path, **facts: Any) -> dict[str, str]:
    """Target to the whole entry."""
    return {value.split()[1]: value for key, value in config(host, **facts) if key == ENTRY}


def difference(host: Path, **security: Any) -> tuple[set[tuple[str, str]], set[tuple[str, str]], list[str]]:
    """What a loosening takes from and adds to the configuration, and what it takes from init's options."""
    tight, loose = config(host), config(host, security=Security(**security))
    options = [
        word for word in plan(host)["init"] if word not in plan(host, security=Security(**security))["init"]
    ]
    return tight - loose, loose - tight, options


def test_a_plan_is_json(host: Path) -> None:
    """It is written to the container's directory, and a start needs nothing else."""
    made = plan(host, limits=Limits(memory="64MiB"), mounts=(Mount.tmpfs("/t"),))
    assert json.loads(json.dumps(made)) == {**made, "config": [list(item) for item in made["config"]]}
    assert made["limits"] == {"memory": 64 << 20}
    assert made["lowers"] == ["/r/layers/b", "/r/layers/a"]  # topmost first
    assert made["bundle"] == f"/r/containers/{ID}"


# --- isolation ------------------------------------------------------------------------------------------


def test_the_default_is_tight(host: Path) -> None:
    """Own ids, usual capabilities, no new privileges, a seccomp filter, read-only /sys, a device policy."""
    found = config(host)
    assert {("lxc.idmap", "u 0 1073741824 65536"), ("lxc.idmap", "g 0 1073741824 65536")} <= found
    assert {("lxc.no_new_privs", "1"), ("lxc.mount.auto", "proc:mixed sys:ro")} <= found
    assert dict(found)["lxc.cap.keep"].upper().split() == sorted(DEFAULT_CAPABILITIES)
    assert "-s" in plan(host)["init"] and plan(host)["devices"] == []


def test_the_hosts_kernel_state_is_masked(host: Path) -> None:
    """Files under /dev/null, directories under an empty file system, or read-only; if they exist."""
    found = entries(host)
    assert {target for target, entry in found.items() if entry.startswith("/dev/null ")} == {
        "proc/kcore",
        "proc/keys",
        "proc/timer_list",
    }
    assert "ro" in found["proc/acpi"].split()[3].split(",") and "size=0" in found["sys/firmware"]
    assert "ro" in found["proc/bus"].split()[3].split(",")
    assert "proc/asound" not in found


@pytest.mark.parametrize("name", sorted(ALL_CAPABILITIES - DEFAULT_CAPABILITIES))
def test_one_capability_more(host: Path, name: str) -> None:
    """cap_add adds one, and nothing else changes."""
    gone, new, options = difference(host, cap_add=(name,))
    new -= {NO_REBOOT} if name == "SYS_BOOT" else set()
    assert [key for key, _ in gone] == [key for key, _ in new] == ["lxc.cap.keep"] and not options
    (kept,) = (set(value.upper().split()) for _, value in new)
    assert kept == DEFAULT_CAPABILITIES | {name}


def test_who_may_reboot_ends_by_it(host: Path) -> None:
    """liblxc would start it again in place, but for a hook that fails."""
    assert NO_REBOOT in config(host, security=Security(cap_add=("SYS_BOOT",)))
    assert NO_REBOOT in config(host, security=Security(privileged=True))
    assert NO_REBOOT not in config(host)


def test_a_system_is_its_images_init(host: Path) -> None:
    """Ours becomes it, having made its cgroup the root of what is seen, and its terminal the console."""
    made = plan(host, init="system", tty=True)
    assert made["system"] and {"-x", "-b", "-t"} <= set(made["init"])
    for other in (True, False):
        made = plan(host, init=other)
        assert not made["system"] and "-b" not in made["init"] and ("-x" in made["init"]) != other


@pytest.mark.parametrize("name", sorted(DEFAULT_CAPABILITIES))
def test_one_capability_less(name: str) -> None:
    """cap_drop wins over cap_add."""
    assert capabilities(Security(cap_drop=(name,))) == DEFAULT_CAPABILITIES - {name}
    assert capabilities(Security(cap_add=(name,), cap_drop=(name,))) == DEFAULT_CAPABILITIES - {name}


@pytest.mark.parametrize(
    ("security", "kept"),
    [
        (Security(cap_add=("ALL",)), ALL_CAPABILITIES),
        (Security(cap_add=("ALL",), cap_drop=("SYS_ADMIN",)), ALL_CAPABILITIES - {"SYS_ADMIN"}),
        (Security(cap_drop=("ALL",)), frozenset()),
        (Security(cap_add=("KILL",), cap_drop=("ALL",)), {"KILL"}),
        (Security(privileged=True), ALL_CAPABILITIES),
    ],
    ids=["add ALL", "ALL but one", "none", "only one", "privileged"],
)
def test_all_and_none(security: Security, kept: frozenset[str]) -> None:
    """As Docker has it: ``cap_drop=["ALL"], cap_add=["KILL"]`` is exactly KILL."""
    assert capabilities(security) == kept


def test_without_masks(host: Path) -> None:
    """masked_paths=False takes the masks away, and nothing else."""
    gone, new, options = difference(host, masked_paths=False)
    assert {key for key, _ in gone} == {ENTRY} and not new and not options
    assert all(value.split()[1].startswith(("proc/", "sys/")) for _, value in gone)


def test_without_seccomp(host: Path) -> None:
    """seccomp=False only: init loads no filter; liblxc does not either."""
    gone, new, options = difference(host, seccomp=False)
    assert not gone and not new
    assert options == ["-s", "/dev/.lxcwrap/filter.bpf"]


def test_with_new_privileges(host: Path) -> None:
    """no_new_privs=False: the filter stays, loaded by liblxc, as an unprivileged init could not."""
    gone, new, options = difference(host, no_new_privs=False)
    assert gone == {("lxc.no_new_privs", "1")}
    assert new == {("lxc.seccomp.profile", "/r/cache/profile")}
    assert options[0] == "-s" and not uses_own_filter(Security(no_new_privs=False))


def test_a_device_more(host: Path) -> None:
    """Its node, and its numbers for the device policy; nothing else."""
    gone, new, options = difference(host, devices=(Device(path="/dev/null", target="/dev/x y", access="rw"),))
    assert not gone and not options
    assert new == {(ENTRY, "/dev/null dev/x\\040y none bind,create=file 0 0")}
    devices = (Device(path="/dev/null", access="rw"),)
    assert plan(host, security=Security(devices=devices))["devices"] == ["c 1:3 rw"]


def test_privileged_has_no_confinement(host: Path) -> None:
    """No id range, no capability bound, no policy for devices, no filter, no masks; /proc, /sys writable."""
    keys = {key for key, _ in config(host, security=Security(privileged=True))}
    assert not keys & {"lxc.idmap", "lxc.cap.keep", "lxc.no_new_privs", "lxc.seccomp.profile"}
    made = plan(host, security=Security(privileged=True))
    assert made["devices"] is None and "-s" not in made["init"]
    assert ["lxc.mount.auto", "proc:rw sys:rw"] in [list(item) for item in made["config"]]
    assert not any(
        target.startswith(("proc", "sys")) for target in entries(host, security=Security(privileged=True))
    )


# --- the rest -------------------------------------------------------------------------------------------


def test_parents_are_mounted_before_children(host: Path) -> None:
    """So that no mount hides another."""
    targets = [
        mount["target"]
        for mount in plan(host, mounts=tuple(map(Mount.tmpfs, ("/a/b/c", "/b", "/a"))))["mounts"]
    ]
    assert targets.index("/a") < targets.index("/a/b/c")


def test_nameless_volumes_have_directories_of_their_own(host: Path) -> None:
    """Below the container's directory, each its own."""
    volumes = tuple(Mount(kind="volume", target=target) for target in ("/data", "/var/lib/x"))
    sources = {mount["source"] for mount in plan(host, mounts=volumes)["mounts"]}
    assert len(sources) == 2 and all(source.startswith(f"/r/containers/{ID}/volumes/") for source in sources)


def test_mount_points_are_no_changes_of_the_containers(host: Path) -> None:
    """Targets and the way to them."""
    found = mount_points(plan(host, mounts=(Mount.tmpfs("/srv/a/b"),)))
    assert {"/srv", "/srv/a", "/srv/a/b", "/etc/hosts", "/etc", "/proc", "/dev"} <= found
    assert "/srv/a/b/c" not in found


def test_files_name_the_host(host: Path) -> None:
    """/etc/hosts with the extra ones, /etc/hostname; every line ends."""
    files = plan(host, extra_hosts={"db": "10.0.0.2"})["files"]
    assert "10.0.0.2\tdb\n" in files["/etc/hosts"] and "127.0.1.1\tweb\n" in files["/etc/hosts"]
    assert files["/etc/hostname"] == "web\n"


def test_systemd_leaves_the_network_alone(host: Path) -> None:
    """A file says so where it is PID 1, and nowhere else."""

    def settings(**options: object) -> list[str]:
        return [name for name in plan(host, **options)["files"] if name.endswith(".network")]

    assert settings(init="system", stop_signal=37) == ["/etc/systemd/network/00-lxcwrap.network"]
    assert settings(init="system", stop_signal=12) == settings(stop_signal=37) == []


def test_ulimits_and_the_oom_score(host: Path) -> None:
    """None is unlimited; a score of 0 is the default, and left alone."""
    found = config(
        host, ulimits=(Ulimit(name="nofile", soft=10), Ulimit(name="core", soft=0, hard=0)), oom_score_adj=9
    )
    assert {("lxc.prlimit.nofile", "10:unlimited"), ("lxc.prlimit.core", "0:0")} <= found
    assert ("lxc.proc.oom_score_adj", "9") in found
    assert "lxc.proc.oom_score_adj" not in dict(config(host))


def test_the_command_is_not_touched(host: Path) -> None:
    """However it looks: init gets it after its own options' end."""
    spec = ContainerSpec(image_id="sha256:00", name="web", argv=("-x", "--", "-f", "3"))
    made = make_plan(
        spec,
        container_id=ID,
        root=Path("/r"),
        idmap=IDENTITY,
        lowers=[],
        init_dir=Path("/i"),
        profile=None,
        host=host,
    )
    assert made["argv"] == ["-x", "--", "-f", "3"] and made["init"][-1] == "--"


def test_there_is_always_a_path() -> None:
    """As in Docker; the image's counts before it, the caller's before the image's."""
    assert "/usr/bin" in environment({})["PATH"]
    assert environment({"PATH": "/image", "A": "1"}, {"A": "2"}) == {"PATH": "/image", "A": "2"}
    assert environment({"PATH": "/image"}, {"PATH": "/caller"})["PATH"] == "/caller"
