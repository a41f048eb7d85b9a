"""What is done about a container whose monitor has ended."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from lxcwrap.drivers.protocols import Cgroups
from lxcwrap.supervisor import undertaker
from lxcwrap.supervisor.records import Records


class SlowCgroups:
    """Whose processes go after some attempts."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts

    def exists(self, container_id: str) -> bool:
        return self.attempts > 0

    def sweep(self, container_id: str) -> bool:
        self.attempts -= 1
        return self.attempts <= 0


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(undertaker, "remove_container", lambda root, name: found.append(name))
    return found


@pytest.fixture
def plan(tmp_path: Path) -> dict[str, object]:
    """Of a container that has ended and is to remove itself."""
    bundle = tmp_path / "containers/one"
    bundle.mkdir(parents=True)
    (bundle / "lock").touch()
    Records(bundle).end({"exit_code": 0})
    return {"id": "one", "root": str(tmp_path), "bundle": str(bundle), "auto_remove": True}


def test_what_takes_long_to_go_is_swept_until_it_has(plan: dict[str, object], removed: list[str]) -> None:
    """On a busy machine the kernel may need seconds for it."""
    slow = SlowCgroups(attempts=4)
    undertaker.bury(plan, cast("Cgroups", slow), None, timeout_s=1.0)
    assert slow.attempts == 0 and removed == ["one"]


def test_what_does_not_go_is_left_to_the_next_host(
    plan: dict[str, object], removed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which finds it by its record."""
    monkeypatch.setattr(undertaker, "_SWEEP_TIMEOUT_S", 0.05)
    undertaker.bury(plan, cast("Cgroups", SlowCgroups(attempts=1000)), None, timeout_s=1.0)
    assert removed == []
