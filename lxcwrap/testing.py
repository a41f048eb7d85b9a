"""A host for the tests of programs that use lxcwrap: no root, no LXC, no images, no isolation.

Containers are real objects with real states, logs and exit codes; a command in them is a small Python program that the
test names, and a process of its own. What needs a kernel's help (files, terminals, networks) is refused.

    with fake_host(tmp_path, programs={"nginx": "print('ready', flush=True); import time; time.sleep(60)"}) as host:
        with host.containers.launch("busybox", ["nginx"]) as web:
            ...
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .drivers.fake import PROGRAMS, FakeCgroups
from .host import Host, use_host
from .machinery import Machinery
from .specs import StrPath
from .supervisor.fake import FakeSupervisor


class FakeMachinery(Machinery):
    """That of a user who is not root, whose containers have no ids of their own."""

    def __init__(self, root: StrPath, supervisor: FakeSupervisor) -> None:
        cgroups = FakeCgroups(Path(root).absolute() / "containers")
        super().__init__(root, supervisor=supervisor, cgroups=cgroups)

    def make_passable(self) -> None:
        pass

    def chown(self, path: Path, user: int, group: int) -> None:
        pass


@contextmanager
def fake_host(
    root: StrPath, *, programs: Mapping[str, str] | None = None, images: Sequence[str] = ("busybox",)
) -> Iterator[Host]:
    """A host under `root`, the default one in the block, with nearly empty `images`; at its end all containers end.

    programs: name of a command to Python source, added to ``true false echo cat env pwd sleep exit``. Any other
    command is not found: exit code 127.
    """
    supervisor = FakeSupervisor({**PROGRAMS, **(programs or {})})
    host = Host(machinery=FakeMachinery(root, supervisor))
    try:
        for reference in images:
            host.images.import_rootfs(_nearly_empty(), tag=reference)
        with use_host(host):
            yield host
    finally:
        for container in host.containers:
            container.remove(force=True)
        host.close(stop_server=True)


def _nearly_empty() -> io.BytesIO:
    """A root file system of one directory, that belongs to whoever runs the test."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("etc")
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        member.uid, member.gid = os.geteuid(), os.getegid()
        archive.addfile(member)
    file.seek(0)
    return file
