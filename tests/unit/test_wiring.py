"""The network of a container that starts, as far as it is decided and not done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lxcwrap.drivers.pidfd import start_time
from lxcwrap.ids import IdMap
from lxcwrap.specs import ContainerSpec, Security
from lxcwrap.supervisor import hostfiles, wiring
from lxcwrap.supervisor.plan import Plan, make_plan
from lxcwrap.supervisor.records import Records

HOSTS = "127.0.0.1\tlocalhost\n127.0.1.1\tme\n10.0.0.9\tdb\n"


def plan(tmp_path: Path, **fields: Any) -> Plan:
    return make_plan(
        ContainerSpec(image_id="i", name="me", argv=("true",), hostname="me", **fields),
        container_id="ab" * 32,
        root=tmp_path,
        idmap=IdMap(100000),
        lowers=(),
        init_dir=tmp_path,
        profile=None,
    )


def test_its_own_name_leads_to_its_addresses() -> None:
    """In place of loopback; what else is in /etc/hosts stays."""
    assert hostfiles.with_addresses(HOSTS, ["10.0.0.2", "fd00::2"]) == (
        "127.0.0.1\tlocalhost\n10.0.0.2\tme\nfd00::2\tme\n10.0.0.9\tdb\n"
    )


def test_names_come_with_a_network_of_others(tmp_path: Path) -> None:
    """Those of who has it; what the container adds goes behind."""
    lender = "cd" * 32
    made = plan(tmp_path, network_mode=f"container:{lender}", extra_hosts={"db": "10.0.0.9"})
    files = tmp_path / "containers" / lender / "files"
    files.mkdir(parents=True)
    (files / "hosts").write_text("10.0.0.2\tlender\n")
    assert wiring.plug_in(made, -1, 1)["files"] == {
        "/etc/hosts": "10.0.0.2\tlender\n10.0.0.9\tdb\n",
        "/etc/hostname": "me\n",
        "/etc/resolv.conf": "",
    }


def test_who_was_never_on_a_network_is_not_looked_up(tmp_path: Path) -> None:
    """Its start costs what it did."""
    made = plan(tmp_path)
    assert wiring.plug_in(made, -1, 1) is made


@pytest.mark.parametrize("mode", ["own", "host", "container:" + "cd" * 32])
@pytest.mark.parametrize("privileged", [True, False])
def test_sysfs_is_made_for_those_the_kernel_gives_none(tmp_path: Path, mode: str, privileged: bool) -> None:
    """A user namespace may mount that of networks of its own only."""
    made = plan(tmp_path, network_mode=mode, security=Security(privileged=privileged))
    config = dict(made["config"])
    assert made["sysfs"] is (mode != "own" and not privileged)
    assert ("sys:" in config["lxc.mount.auto"]) is not made["sysfs"]
    assert (config.get("lxc.net.0.type") == "none") is (mode != "own")


def test_a_container_that_has_ended_has_no_network(tmp_path: Path) -> None:
    """Nor one that never ran."""
    with pytest.raises(wiring.NotRunning), wiring.network_of(tmp_path):
        pass
    Records(tmp_path).write("run", {"init_pid": 1, "init_start": start_time(1) + 1})
    with pytest.raises(wiring.NotRunning), wiring.network_of(tmp_path):
        pass
