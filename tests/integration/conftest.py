"""What several of the real tests use, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def debian_system(shared_root: Path) -> Iterator[str]:
    """Debian 12 with systemd, from a package mirror."""
    from lxcwrap import Host

    name = "debian-system:bookworm"
    with Host(shared_root) as host:
        host.images.bootstrap(name, packages=["systemd-sysv", "dbus"])
    yield name
    with Host(shared_root) as host:
        host.images.remove(name)
