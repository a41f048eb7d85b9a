"""``RUN --mount`` for real: secrets that leave no trace, caches that stay, files that are only looked at."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from lxcwrap import Host
from lxcwrap.errors import BuildError
from lxcwrap.progress import ProgressEvent, StepOutput
from tests.integration.building import Building, files, read

SECRET = "correct horse battery staple 8f3a"


@pytest.fixture
def build(fresh_host: Host, tmp_path: Path) -> Building:
    return Building(fresh_host, tmp_path / "context")


# --- secrets --------------------------------------------------------------------------------------------


def test_a_secret_is_seen_by_its_command_alone(build: Building, fresh_host: Host, tmp_path: Path) -> None:
    """As a file with the mode and owner asked for, as a variable, or not at all; and it is on no disk."""
    (tmp_path / "file").write_text(SECRET)
    build(
        """FROM busybox
RUN --mount=type=secret,id=a cat /run/secrets/a | sha256sum > /a; ls -ln /run/secrets/a
RUN --mount=type=secret,id=b,target=/root/b,mode=0444,uid=3,gid=4 ls -ln /root/b && sha256sum < /root/b > /b
RUN --mount=type=secret,id=a,env=TOKEN printf %s "$TOKEN" | sha256sum > /c
RUN ! [ -e /run/secrets ] && ! [ -e /root/b ] && ! env | grep -q TOKEN
RUN --mount=type=secret,id=none,env=NONE ! [ -e /run/secrets/none ] && [ -z "${NONE+x}" ]
""",
        secrets={"a": SECRET, "b": tmp_path / "file"},
        tags=["with-secrets:1"],
    )
    image = fresh_host.images["with-secrets:1"]
    assert len({read(image, name) for name in "abc"}) == 1
    assert "-r--------    1 0        0" in build.output and "-r--r--r--    1 3        4" in build.output
    with pytest.raises(BuildError):
        build("FROM busybox\nRUN --mount=type=secret,id=a exit 3\n", secrets={"a": SECRET})
    _assert_nowhere(fresh_host.root, SECRET.encode())


def _assert_nowhere(root: Path, secret: bytes) -> None:
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if stat.S_ISREG(path.lstat().st_mode):
                assert secret not in path.read_bytes(), path


def test_a_secret_leaves_nothing_behind_after_kill_9(fresh_host: Host, build: Building) -> None:
    """While the command that has it runs."""
    fresh_host.images.resolve("busybox")
    (build.context / "Dockerfile").write_text(
        "FROM busybox\nRUN --mount=type=secret,id=a,env=A cat /run/secrets/a; echo begun; sleep 60\n"
    )

    def die_in_the_midst(event: ProgressEvent) -> None:
        if isinstance(event, StepOutput) and "begun" in event.text:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            with Host(fresh_host.root) as host:
                host.images.build(build.context, secrets={"a": SECRET}, progress=die_in_the_midst)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    with Host(fresh_host.root):
        pass
    _assert_nowhere(fresh_host.root, SECRET.encode())
    assert not list((fresh_host.root / "layers").glob(".draft*"))
    assert not list((fresh_host.root / "containers").iterdir())


# --- caches ---------------------------------------------------------------------------------------------


def test_a_cache_outlives_builds_and_is_in_no_image(build: Building, fresh_host: Host) -> None:
    """It is known by its id, by default its target."""
    line = "RUN --mount=type=cache,target=/c{0} echo {1} >> /c/list; cat /c/list"
    for number in (1, 2):
        image = build(
            f"FROM busybox\n{line.format('', number)}\nRUN --mount=type=cache,id=x,target=/c ls /c\n"
        )
        assert not any("c" in {path.name for path in layer.iterdir()} for layer in image.lower_dirs)
    assert build.output == "1\n2\n"
    build(f"FROM busybox\n{line.format(',id=other', 3)}\n")
    assert build.output == "3\n"
    kept = list(fresh_host.root.glob("cache/mounts/*"))
    for path in kept:
        os.utime(path, (0, 0))
    build("FROM busybox\nRUN --mount=type=cache,target=/c,ro ! touch /c/x && cat /c/list\n")
    assert build.output.endswith("1\n2\n")
    assert sum(path.stat().st_mtime > 0 for path in kept) == 1  # that of the one in use tells when it was


def test_a_cache_begins_as_asked(build: Building) -> None:
    """With an owner and a mode, and with files of a stage or image."""
    build("""FROM busybox AS one
RUN mkdir -p /seed/d && echo x > /seed/d/f && chown -R 7 /seed && ln -s d /seed/link
FROM busybox
RUN --mount=type=cache,target=/c,uid=5,gid=6,mode=0700 stat -c %u:%g:%a /c
RUN --mount=type=cache,target=/c,from=one,source=/seed stat -c %u /c/d; cat /c/link/f; echo y > /c/d/f
RUN --mount=type=cache,target=/c,from=one,source=/seed cat /c/d/f
""")
    assert build.output == "5:6:700\n7\nx\ny\n"


def test_who_wants_a_cache_to_himself_waits_or_gets_another(build: Building, fresh_host: Host) -> None:
    """locked: one after the other; private: another one at the same time."""
    fresh_host.images.resolve("busybox")
    step = "RUN --mount=type=cache,target=/c,sharing={} mkdir /c/b; sleep .3; echo {} >> /c/list; rmdir /c/b"
    for sharing, lists in (("locked", 1), ("private", 2)):
        stages = "".join(
            f"FROM busybox AS s{number}\n{step.format(sharing, number)}\nRUN touch /done\n"
            for number in (1, 2)
        )
        build(f"{stages}FROM scratch\nCOPY --from=s1 /done /1\nCOPY --from=s2 /done /2\n", no_cache=True)
        found = [path.read_text() for path in (fresh_host.root / "cache/mounts").glob("*/list")]
        assert len(found) == lists and sorted("".join(found).split()) == ["1", "2"]
        assert "File exists" not in build.output
        for path in (fresh_host.root / "cache/mounts").glob("*/list"):
            path.unlink()


# --- bind, tmpfs ----------------------------------------------------------------------------------------


def test_files_of_the_context_can_be_looked_at(build: Building) -> None:
    """Directories and single files, without what is ignored; what is written there is dropped."""
    (build.context / "dir").mkdir()
    (build.context / "dir/f").write_text("f\n")
    (build.context / "dir/ignored").write_text("no\n")
    (build.context / "a*b").write_text("star\n")
    (build.context / ".dockerignore").write_text("**/ignored\n")
    os.chown(build.context / "dir/f", 1000, 1000)
    text = """FROM busybox
RUN --mount=target=/m ls /m/dir; ! touch /m/x; stat -c %u:%g /m/dir/f
RUN --mount=target=/m,source=dir,rw cat /m/f; echo more >> /m/f; cat /m/f
RUN --mount=type=bind,target=/m/file,source=dir/f cat /m/file
RUN --mount=target=/m,source=dir ls /m && [ ! -e /m/x ] && cat /m/f
RUN --mount=target=m,source=a*b cat /m && pwd
"""
    image = build(text)
    lines = [line for line in build.output.split("\n") if "touch" not in line and line]
    assert lines == ["f", "0:0", "f", "f", "more", "f", "f", "f", "star", "/"]
    assert not any((layer / "m").exists() for layer in image.lower_dirs)
    build(text)
    assert build.cached == 5
    (build.context / "dir/f").write_text("g\n")
    build(text)
    assert build.cached == 1
    with pytest.raises(BuildError):
        build("FROM busybox\nRUN --mount=target=/m,source=missing true\n")


def test_files_of_stages_and_images_can_be_looked_at(build: Building) -> None:
    """With their owners; a link leads nowhere else."""
    build("""FROM busybox AS one
RUN mkdir /d && echo x > /d/f && chown 4 /d/f && ln -s /d /link && ln -s ../../../../etc /up
FROM busybox
RUN --mount=from=one,source=/d,target=/m,rw stat -c %u /m/f; echo y > /m/f
RUN --mount=from=one,source=/link,target=/m cat /m/f
RUN --mount=from=busybox,target=/m ls -d /m/etc/passwd
RUN --mount=from=one,source=/up,target=/m cmp /m/passwd /etc/passwd
""")
    assert build.output == "4\nx\n/m/etc/passwd\n"


def test_memory_is_gone_afterwards(build: Building) -> None:
    """And never larger than was said."""
    image = build("""FROM busybox
RUN --mount=type=tmpfs,target=/t,size=1m touch /t/f && ! dd if=/dev/zero of=/t/x bs=64k count=32 2>&-
RUN mkdir -p /t && ls /t
""")
    assert build.output == "" and list(files(image)) == ["./", "t/"]


def test_several_builds_in_threads_do_not_meet(build: Building, fresh_host: Host) -> None:
    """Each has its own containers; all make the same, and one cache serves them."""
    fresh_host.images.resolve("busybox")
    (build.context / "Dockerfile").write_text("FROM busybox\nRUN echo x > /f\nRUN echo y > /g\n")
    made: list[str] = []

    def one() -> None:
        image = fresh_host.images.build(build.context, build_args={"SOURCE_DATE_EPOCH": "1"})
        made.append(image.id)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and len(set(made)) == 1
