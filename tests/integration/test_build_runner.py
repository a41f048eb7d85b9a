"""Build steps in real containers: what they see, what they leave in the layer, and what they must not."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Timer

import pytest

from lxcwrap import Host, Limits
from lxcwrap.build.runner import ContainerRunner
from lxcwrap.build.step import (
    BuildCancelled,
    CacheMount,
    RunStep,
    SecretMount,
    StepMount,
    TmpfsMount,
    TreeMount,
)
from lxcwrap.storage.layers import LayerDraft

pytestmark = pytest.mark.lxc
NEVER = Event()


class Steps:
    """Runs commands of a shell over busybox, all writing to one draft."""

    def __init__(self, host: Host, draft: LayerDraft) -> None:
        self.host = host
        self.draft = draft
        self.lowers = host.images.resolve("busybox").lower_dirs
        self.runner = ContainerRunner(host._machinery)
        self.output: dict[str, str] = {}

    def step(self, script: str = "", **options: object) -> RunStep:
        env = {"PATH": "/bin:/usr/bin:/sbin", "HOME": "/root"}
        return RunStep(argv=("sh", "-c", script), lowers=self.lowers, draft=self.draft, env=env, **options)  # type: ignore[arg-type]  # as RunStep's

    def sh(self, script: str, **options: object) -> int:
        self.output = {"stdout": "", "stderr": ""}

        def keep(stream: str, data: bytes) -> None:
            self.output[stream] += data.decode()

        return self.runner.run(self.step(script, **options), keep, NEVER)

    def layer(self) -> dict[str, os.stat_result]:
        """All that is in the draft, by path."""
        root = self.draft.layer
        return {str(path.relative_to(root)): path.lstat() for path in root.rglob("*")}


@pytest.fixture
def steps(host: Host) -> Iterator[Steps]:
    layers = host._machinery.layers
    lowers = host.images.resolve("busybox").lower_dirs
    with layers.draft(lowers[0]) as draft:
        yield Steps(host, draft)
    query = "SELECT 1 FROM containers WHERE phase = 'building'"
    assert not list(host._machinery.state.connection.execute(query))


def test_a_step_writes_to_its_draft_with_plain_ids(steps: Steps) -> None:
    """What root makes inside is root's in the layer, other owners too, and what is deleted is a whiteout."""
    assert steps.sh("mkdir /app; echo x > /app/f; chown 5:6 /app/f; chmod 4755 /app/f; rm /bin/ls") == 0
    layer = steps.layer()
    assert layer.keys() == {"app", "app/f", "bin", "bin/ls"}
    assert (layer["app"].st_uid, layer["app/f"].st_uid, layer["app/f"].st_gid) == (0, 5, 6)
    assert layer["app/f"].st_mode == stat.S_IFREG | 0o4755
    assert stat.S_ISCHR(layer["bin/ls"].st_mode) and layer["bin/ls"].st_rdev == 0


def test_steps_follow_each_other_in_one_draft(steps: Steps) -> None:
    """The second sees what the first has written."""
    steps.sh("echo 1 > /one")
    assert steps.sh("cat /one") == 0
    assert steps.output["stdout"] == "1\n"


def test_a_step_leaves_nothing_of_its_mounts(steps: Steps) -> None:
    """Mount points that the image lacks are not in the layer, nor the directories on the way there."""
    mounts: tuple[StepMount, ...] = (
        SecretMount(target="/run/secrets/deep/token", content=b"x"),
        TmpfsMount(target="/scratch"),
    )
    assert steps.sh("test -f /run/secrets/deep/token && echo > /scratch/x", mounts=mounts) == 0
    assert steps.layer() == {}


def test_a_secret_is_there_and_on_no_disk(steps: Steps) -> None:
    """A secret file and a secret variable are seen by the command, and are in no file below the root."""
    secret = SecretMount(target="/run/secrets/token", content=b"s3cr3t-file", uid=3, gid=4, mode=0o440)
    script = "stat -c %u:%g:%a /run/secrets/token; cat /run/secrets/token; echo; echo $TOKEN; sleep 0.2"
    found: list[bytes] = []

    def search(_stream: str, data: bytes) -> None:
        found.extend(path for path in (b"s3cr3t-file", b"s3cr3t-name") if _below(steps.host.root, path))
        steps.output["stdout"] += data.decode()

    steps.output = {"stdout": ""}
    step = steps.step(script, mounts=(secret,), secret_env={"TOKEN": "s3cr3t-name"})
    assert steps.runner.run(step, search, NEVER) == 0
    assert steps.output["stdout"] == "3:4:440\ns3cr3t-file\ns3cr3t-name\n"
    assert not found
    assert not _below(steps.host.root, b"s3cr3t-file") and not _below(steps.host.root, b"s3cr3t-name")


def _below(root: Path, text: bytes) -> bool:
    for directory, _, files in os.walk(root):
        for name in files:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and text in path.read_bytes():
                return True
    return False


def test_a_cache_keeps_what_is_written(steps: Steps, host: Host) -> None:
    """It has plain ids on the host, outlives the step, and is not in the layer."""
    directory = host.root / "cache" / "test-build-cache"
    directory.mkdir()
    try:
        mounts = (CacheMount(target="/var/cache/x", directory=directory),)
        assert steps.sh("echo kept > /var/cache/x/file", mounts=mounts) == 0
        assert steps.sh("cat /var/cache/x/file", mounts=mounts) == 0
        assert (directory / "file").stat().st_uid == 0
        assert "var/cache/x" not in steps.layer()
    finally:
        (directory / "file").unlink(missing_ok=True)
        directory.rmdir()


def test_a_tree_can_be_written_and_forgets(steps: Steps) -> None:
    """What is written to it is in neither the layer nor the tree; read-only it refuses."""
    lowers = steps.lowers
    script = "echo > /ro/x; echo new > /rw/passwd && cat /rw/passwd"
    mounts = (
        TreeMount(target="/ro", trees=lowers, subpath="/etc"),
        TreeMount(target="/rw", trees=lowers, subpath="etc/../etc", read_only=False),
    )
    assert steps.sh(script, mounts=mounts) == 0
    assert steps.output["stdout"] == "new\n"
    assert "Read-only" in steps.output["stderr"]
    assert steps.layer() == {}


def test_a_tree_never_leads_out(steps: Steps) -> None:
    """The kernel keeps the subpath within the trees: a link to the host's / is the trees' own."""
    (steps.draft.layer / "host").symlink_to("/")
    trees = (steps.draft.layer, *steps.lowers)
    mounts = (TreeMount(target="/t", trees=trees, subpath="/host/../../etc/passwd"),)
    assert steps.sh("cat /t", mounts=mounts) == 0
    assert steps.output["stdout"] == (steps.lowers[0] / "etc/passwd").read_text()


def test_network_none_has_loopback_alone_and_host_has_the_hosts(steps: Steps) -> None:
    """By default a step reaches nothing; the host's network must be asked for."""
    links = len(os.listdir("/sys/class/net"))
    steps.sh("ls /sys/class/net | wc -l; wc -l < /proc/net/dev")
    assert steps.output["stdout"].split() == ["1", "3"]
    steps.sh("wc -l < /proc/net/dev; cat /etc/resolv.conf", network="host")
    count, resolv = steps.output["stdout"].split("\n", 1)
    assert int(count) == links + 2
    assert resolv == Path("/etc/resolv.conf").read_text()


def test_a_step_gets_user_directory_input_and_limits(steps: Steps) -> None:
    """They are those of any container."""
    limits = Limits(pids=20)
    assert steps.sh("id -u; pwd; cat", user="7:8", cwd="/tmp", stdin=b"in", limits=limits) == 0
    assert steps.output["stdout"] == "7\n/tmp\nin"


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_the_exit_code_is_the_commands(steps: Steps, script: str, code: int) -> None:
    """128+signal if it was killed."""
    assert steps.sh(script) == code


def test_a_cancelled_step_ends_at_once(steps: Steps) -> None:
    """It is killed, and nothing of it is left."""
    cancelled = Event()
    timer = Timer(0.2, cancelled.set)
    timer.start()
    with pytest.raises(BuildCancelled):
        steps.runner.run(steps.step("sleep 60"), lambda _stream, _data: None, cancelled)
    timer.join()


def test_a_function_is_a_step(steps: Steps) -> None:
    """It runs inside, as root, in images without Python and without a shell."""
    steps.runner.call(steps.step(), os.mkdir, ("/made", 0o700), {}, NEVER)
    assert steps.layer()["made"].st_uid == 0
    with pytest.raises(FileNotFoundError):
        steps.runner.call(steps.step(), os.mkdir, ("/no/such",), {}, NEVER)


def test_a_cancelled_function_ends_at_once(steps: Steps) -> None:
    """As a command does."""
    import time

    cancelled = Event()
    timer = Timer(0.2, cancelled.set)
    timer.start()
    with pytest.raises(BuildCancelled):
        steps.runner.call(steps.step(), time.sleep, (60,), {}, cancelled)
    timer.join()


def test_building_containers_are_not_listed(steps: Steps, host: Host) -> None:
    """They are nobody's: neither listed nor found by name."""
    names: list[str] = []

    def look(_stream: str, _data: bytes) -> None:
        rows = host._machinery.state.connection.execute(
            "SELECT name FROM containers WHERE phase = 'building'"
        )
        names.extend(row["name"] for row in rows)
        names.extend(container.name for container in host.containers if container.name.startswith("build-"))

    assert steps.runner.run(steps.step("echo; sleep 0.1"), look, NEVER) == 0
    assert len(names) == 1 and names[0] not in host.containers
