"""The same Dockerfile built by buildah: the same settings and files. What we build runs elsewhere."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Host, Image
from lxcwrap.storage.merged import merged
from tests.integration.building import Building
from tests.othertools import OtherTools
from tests.trees import Facts, facts_of

BASE = "localhost/base:1"
SETTINGS = (
    "entrypoint cmd env working_dir user labels volumes exposed_ports stop_signal shell healthcheck on_build"
).split()
# What buildah's chroot leaves where it mounted something.
REMAINS = ("etc/hosts", "etc/resolv.conf", "run/.containerenv", "run", "dev", "proc", "sys", "etc", ".")

DOCKERFILES = {
    "settings": """
        ENV A=1 B="two words" C=$HOME
        ENV A=2 D=${A}x E=${none:-fallback} F=${A:+set}
        LABEL a=b "c d"="e f"
        LABEL multi="one \\
two"
        EXPOSE 80 53/udp
        VOLUME /data ["/more"]
        STOPSIGNAL SIGQUIT
        MAINTAINER someone
        USER 1000:1000
        HEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD wget -q localhost
        ONBUILD RUN echo triggered
        CMD ["serve", "$A"]
    """,
    "entrypoint over the base's command": """
        CMD ["a", "b"]
        ENTRYPOINT ["/bin/echo"]
    """,
    "shell forms": """
        ENTRYPOINT exec cat
        CMD top -b
        SHELL ["/bin/ash", "-ec"]
        RUN echo $0 > /shell
    """,
    "working directories": """
        WORKDIR /a/b
        WORKDIR c
        WORKDIR ../d
        ENV P=/x
        WORKDIR $P/y
        RUN pwd > where
    """,
    "arguments": """
        ARG ONE=1
        ARG TWO
        ENV E=$ONE$TWO
        ARG ONE=again
        RUN echo $ONE $TWO $E > /out
    """,
    "commands": """
        RUN echo "a  b" > /a && ln -s a /link && ln /a /hard && mkdir -m 700 /d && chown 5:6 /d
        RUN ["/bin/sh", "-c", "echo $0 > /words", "$HOME"]
        RUN rm /hard && mv /d /e && echo more >> /a; exit 0
        RUN echo split \\
            # a comment
            over lines > /lines
    """,
    "copies": """
        COPY file /one
        COPY file dir/*.txt /two/
        COPY dir /three
        COPY --chown=3:4 dir/ /four/sub/
        WORKDIR /w
        COPY file dir ./
        COPY ["file", "with space"]
        ADD archive.tar /unpacked/
        COPY archive.tar /
    """,
    "stages": """
        RUN echo built > /built && chown 7 /built
        FROM localhost/base:1 AS second
        COPY --from=0 /built /from-first
        FROM second
        COPY --from=first /built /etc/ /again/
        LABEL last=1
    """,
}


@pytest.fixture
def space(roots: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="b-", dir=roots))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def build(fresh_host: Host, space: Path) -> Building:
    base = fresh_host.images.resolve("busybox")
    base.tag(BASE)
    base.save(space / "base")
    building = Building(fresh_host, space / "context")
    (building.context / "dir/sub").mkdir(parents=True)
    for name in ("file", "dir/a.txt", "dir/b.txt", "dir/c", "dir/sub/d"):
        (building.context / name).write_text(name)
    shutil.make_archive(str(building.context / "archive"), "tar", building.context / "dir")
    return building


@pytest.fixture
def tools(space: Path, build: Building) -> OtherTools:
    tools = OtherTools(space)
    tools.buildah("pull", f"docker-archive:{space / 'base'}:{BASE}")
    return tools


def tree(image: Image) -> Facts:
    """Without times, and what a builder may leave at its mount points."""
    with merged(image.lower_dirs) as root:
        facts = facts_of(Path(f"/proc/self/fd/{root}"))
    return {
        name: (*what[:2], *what[3:])
        for name, what in facts.items()
        if name not in REMAINS and not name.startswith("dev/")
    }


@pytest.mark.parametrize("name", DOCKERFILES)
def test_buildah_makes_the_same_of_it(
    build: Building, tools: OtherTools, space: Path, fresh_host: Host, name: str
) -> None:
    """All settings, and all files with modes, owners and contents."""
    text = f"FROM {BASE} AS first\n" + DOCKERFILES[name].replace("        ", "")
    ours = build(text, build_args={"TWO": "2"} if "ARG TWO" in text else None)
    args = ["--format=docker", "--isolation=chroot", "--identity-label=false", "--build-arg=TWO=2"]
    tools.buildah("bud", *args, "-q", "-t", "localhost/theirs:1", str(build.context))
    tools.buildah("push", "-q", "localhost/theirs:1", f"docker-archive:{space / 'theirs'}:localhost/theirs:1")
    (theirs,) = fresh_host.images.load(space / "theirs")
    for setting in SETTINGS:
        assert getattr(ours.config, setting) == getattr(theirs.config, setting), setting
    assert tree(ours) == tree(theirs)


def test_what_we_build_is_read_and_run_by_others(build: Building, tools: OtherTools, space: Path) -> None:
    """With its history: as many entries with a layer as there are layers."""
    text = "ENV WHO=world\nRUN echo hello > /f\nWORKDIR /w\nCOPY file .\nLABEL a=b\nCMD cat /f; pwd\n"
    image = build(f"FROM {BASE}\n{text}", tags=["ours:1"])
    image.save(space / "ours")
    tools.podman("load", "-q", "-i", space / "ours")
    (facts,) = json.loads(tools.podman("image", "inspect", "ours:1"))
    assert f"sha256:{facts['Id']}" == image.id
    assert facts["Config"]["Cmd"] == ["/bin/sh", "-c", "cat /f; pwd"]
    layers = [entry for entry in facts["History"] if not entry.get("empty_layer")]
    assert len(layers) == len(facts["RootFS"]["Layers"])
    container = tools.buildah("from", "docker.io/library/ours:1")
    assert tools.buildah("run", "--isolation=chroot", container, "cat", "/f", "file") == "hello\nfile"
    tools.buildah("rm", container)
