"""What is mounted in a container is as it was asked for, all of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Host, Mount, WrongStateError


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host with another file system in it, and a program in both."""
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "lxcwrap-test-sub", tmp_path / "sub"], check=True)
    for program in (tmp_path / "run", tmp_path / "sub/run"):
        program.write_text("#!/bin/sh\necho ran\n")
        program.chmod(0o755)
    yield tmp_path
    subprocess.run(["umount", tmp_path / "sub"], check=True)


@pytest.mark.parametrize("propagation", ["private", "slave"])
def test_what_is_bound_is_restricted_to_its_depths(host: Host, tree: Path, propagation: str) -> None:
    """Also what is mounted below: read-only, without programs, set-user-ID and devices."""
    mount = Mount.bind(tree, "/b", read_only=True, exec=False, propagation=propagation)  # type: ignore[arg-type]
    with host.containers.launch("busybox", ["sleep", "1000"], mounts=[mount]) as container:
        for directory in ("/b", "/b/sub"):
            assert "Read-only" in container.exec(["touch", f"{directory}/x"], check=False).stderr
            assert container.exec(sh=f"{directory}/run", check=False).exit_code == 126
            mounted = container.exec(["grep", f" {directory} ", "/proc/self/mounts"]).stdout
            assert {"ro", "nosuid", "nodev", "noexec"} <= set(mounted.split()[3].split(","))
        assert container.exec(["cat", "/b/sub/run"]).stdout.endswith("ran\n")


def test_a_tmpfs_has_its_size_and_mode_and_maybe_programs(host: Host) -> None:
    """It is full for who fills it; programs in it run only if that is wanted."""
    mounts = [Mount.tmpfs("/small", size="1MiB", mode=0o700), Mount.tmpfs("/programs", exec=True)]
    script = "printf '#!/bin/sh\\necho ran\\n' > {0}/run; chmod +x {0}/run; {0}/run"
    with host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as container:
        assert container.exec(["stat", "-c", "%a %u", "/small"]).stdout == "700 0\n"
        assert container.exec(sh=script.format("/programs")).stdout == "ran\n"
        assert container.exec(sh=script.format("/small"), check=False).exit_code == 126
        full = container.exec(["dd", "if=/dev/zero", "of=/small/x", "bs=64k", "count=32"], check=False)
        assert "No space" in full.stderr and container.path("/small/x").stat().size == (1 << 20) - 4096


def test_a_volume_is_not_restored_under_who_is_paused(host: Host, tmp_path: Path) -> None:
    """It would go on with files that are gone: refused, and nothing has changed; a backup is fine."""
    volume = host.volumes.create("held")
    (volume.files / "x").write_text("kept")
    try:
        mounts = [Mount.volume(volume, "/v")]
        with host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as container:
            container.pause()
            volume.backup(tmp_path / "x.tar.zst")
            (volume.files / "x").write_text("newer")
            with pytest.raises(WrongStateError):
                volume.restore(tmp_path / "x.tar.zst", replace=True)
            assert (volume.files / "x").read_text() == "newer"
            container.kill()
            container.wait(timeout_s=30)
            volume.restore(tmp_path / "x.tar.zst", replace=True)
            assert container.start().exec(["cat", "/v/x"]).stdout == "kept"
    finally:
        volume.remove()
