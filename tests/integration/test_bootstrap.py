"""Images from Debian packages, made by mmdebstrap."""

from __future__ import annotations

import pytest

from lxcwrap import Host
from lxcwrap.errors import DriverError
from tests.unit.fakelayers import contents

pytestmark = [pytest.mark.network, pytest.mark.slow]


def test_a_bootstrapped_image_has_its_packages_and_runs(host: Host) -> None:
    """And nothing of the machine it was made on: no name, no name server, no device nodes."""
    image = host.images.bootstrap("debian:bookworm", packages=["zstd"], tag="packed:1")
    assert image.tags == ("packed:1",)
    (root,) = image.lower_dirs
    assert (root / "usr/bin/zstd").is_file()
    assert list((root / "dev").iterdir()) == []
    assert not (root / "etc/hostname").exists() and not (root / "etc/resolv.conf").exists()
    done = host.containers.run("packed:1", ["dpkg-query", "-W", "-f", "${Status}", "zstd"])
    assert done.stdout == "install ok installed"
    image.remove()


def test_a_failed_bootstrap_says_why_and_leaves_nothing(fresh_host: Host) -> None:
    """With the end of mmdebstrap's log."""
    before = contents(fresh_host.images._store)
    with pytest.raises(DriverError, match="Connection refused"):
        fresh_host.images.bootstrap("debian:bookworm", mirror="http://127.0.0.1:9/debian")
    assert contents(fresh_host.images._store) == before
