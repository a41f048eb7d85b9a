"""/etc/hosts and /etc/resolv.conf of a container whose networks change."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lxcwrap.supervisor import hostfiles
from lxcwrap.supervisor.records import Records

HOSTS = "127.0.0.1\tlocalhost\n127.0.1.1\tme\n10.0.0.9\tdb\n"


def wire(number: int, **network: Any) -> dict[str, Any]:
    facts = {"driver": "bridge", "dns": True, "internal": False, "gateway": f"10.88.{number}.1"}
    return {"ip": f"10.88.{number}.2", "ip6": None, "network": {**facts, **network}}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Of a container without networks."""
    (tmp_path / "files").mkdir()
    Records(tmp_path).write("plan", {"files": {"/etc/hosts": HOSTS, "/etc/resolv.conf": ""}})
    (tmp_path / "files/hosts").write_text(HOSTS)
    (tmp_path / "files/resolv.conf").write_text("")
    return tmp_path


def texts(bundle: Path) -> tuple[str, str]:
    return (bundle / "files/hosts").read_text(), (bundle / "files/resolv.conf").read_text()


def test_they_are_as_at_a_start_on_the_same_networks(bundle: Path) -> None:
    """Whatever it was on before; and may be written again, in the same file."""
    known = Records(bundle).read("plan")
    assert known
    inode = (bundle / "files/hosts").stat().st_ino
    steps = [[], [wire(1)], [wire(1), wire(2)], [wire(2)], [wire(2, dns=False, internal=True)], []]
    for before, after in pairwise(steps):
        for _ in range(2):
            hostfiles.rewrite(str(bundle), (), before, after)
        planned = hostfiles.connected(known["files"], after) if after else known["files"]
        assert texts(bundle) == (planned["/etc/hosts"], planned["/etc/resolv.conf"])
    assert (bundle / "files/hosts").stat().st_ino == inode


def test_what_was_changed_within_stays(bundle: Path) -> None:
    """Also what is no text, or more than anybody writes by hand."""
    for own in (b"127.0.0.1\tlocalhost\n", b"\xff\n", bytes(2 << 20)):
        (bundle / "files/hosts").write_bytes(own)
        (bundle / "files/resolv.conf").write_bytes(own)
        hostfiles.rewrite(str(bundle), (), [], [wire(1)])
        assert (bundle / "files/hosts").read_bytes() == own
        assert (bundle / "files/resolv.conf").read_bytes() == own


def test_missing_files_are_not_made(bundle: Path) -> None:
    """Nor is it an error that a container was removed meanwhile."""
    (bundle / "files/hosts").unlink()
    hostfiles.rewrite(str(bundle), [str(bundle / "gone")], [], [wire(1)])
    assert not (bundle / "files/hosts").exists() and "10.88.1.1" in texts_of(bundle)
    hostfiles.rewrite(str(bundle / "gone"), (), [], [wire(1)])


def texts_of(bundle: Path) -> str:
    return (bundle / "files/resolv.conf").read_text()
