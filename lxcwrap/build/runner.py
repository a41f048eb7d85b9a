"""Build steps in containers: the usual isolation, the writable layer a draft with plain ids."""

from __future__ import annotations

import os
import secrets
import selectors
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, NamedTuple

from .. import calling, lifecycle, making
from ..drivers import mounts
from ..errors import CallError, ContainerNotFoundError
from ..execution import DEVNULL, PIPE, Streams
from ..ids import IdMap
from ..machinery import Machinery
from ..specs import ContainerSpec
from ..supervisor.argv import INIT
from ..supervisor.client import Conversation
from ..supervisor.plan import Plan, mount_points
from ..supervisor.records import Record
from ..waiting import finish
from .step import BuildCancelled, CacheMount, OnOutput, RunStep, SecretMount, TmpfsMount, TreeMount
from .stubs import remove_stubs

_HOSTNAME = "build"  # the same for all, as it may find its way into files
_LOOK_S = 0.05
_CHUNK = 1 << 16


class _Begun(NamedTuple):
    container_id: str
    name: str
    conversation: Conversation
    streams: Streams


class ContainerRunner:
    """The `StepRunner` of one root directory. Each command has a container to itself, which is not listed."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery

    def run(self, step: RunStep, on_output: OnOutput, cancelled: Event) -> int:
        with self._begun(step, step.argv) as begun:
            ended = _follow(begun.conversation, begun.streams, on_output, cancelled)
            if ended["exit_code"] is None:
                raise lifecycle.start_error(begun.name, ended)
        return int(ended["exit_code"])

    def call(
        self,
        step: RunStep,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        cancelled: Event,
    ) -> None:
        with self._begun(step, (INIT, "-w")) as begun:
            answer = begun.conversation.receive()[0]
            if answer["event"] == "exited":
                raise lifecycle.start_error(begun.name, answer)
            with self._killed_if(cancelled, begun.container_id):
                finish(calling.call(self._machinery, begun.container_id, function, args, kwargs))
            lifecycle.kill(self._machinery, begun.container_id)
            _follow(begun.conversation, begun.streams, lambda _stream, _data: None, Event())

    @contextmanager
    def _killed_if(self, cancelled: Event, container_id: str) -> Iterator[None]:
        """Kill the container when `cancelled` is set within the block, which then raises BuildCancelled."""
        done = Event()

        def watch() -> None:
            while not done.wait(_LOOK_S):
                if cancelled.is_set():
                    return lifecycle.kill(self._machinery, container_id)

        watcher = Thread(target=watch, name="lxcwrap-build-watch")
        watcher.start()
        try:
            yield
        except CallError:
            if cancelled.is_set():
                raise BuildCancelled from None
            raise
        finally:
            done.set()
            watcher.join()

    @contextmanager
    def _begun(self, step: RunStep, argv: tuple[str, ...]) -> Iterator[_Begun]:
        """A container whose command is under way. When the block ends it must have ended."""
        container_id = secrets.token_hex(32)
        spec = ContainerSpec(
            image_id="",
            name=f"build-{container_id}",
            argv=argv,
            env=step.env,
            cwd=step.cwd,
            user=step.user,
            hostname=_HOSTNAME,
            limits=step.limits,
            auto_remove=True,
        )
        machinery = self._machinery
        with self._undone(container_id), ExitStack() as stack:
            slot = making.record(machinery, container_id, spec, "building")
            idmap = machinery.idmap(slot)
            given = _Given(stack)
            plan = making.furnish(
                machinery,
                container_id,
                spec,
                idmap,
                step.lowers,
                lambda plan: _complete(plan, step, idmap, given),
            )
            stdin = given.file(step.stdin) if step.stdin else DEVNULL
            streams = stack.enter_context(Streams(stdin, PIPE, PIPE))
            with lifecycle.begin(machinery, container_id, spec, slot, streams, given.fds) as conversation:
                yield _Begun(container_id, spec.name, conversation, streams)
        lifecycle.forget_row(machinery, container_id)  # its monitor clears the rest, while we go on
        remove_stubs(step.draft.layer, step.lowers, mount_points(plan))

    @contextmanager
    def _undone(self, container_id: str) -> Iterator[None]:
        """If the block raises, the command runs no more, and no container is left."""
        try:
            yield
        except BaseException:
            with suppress(ContainerNotFoundError):  # interrupted before it had a record
                lifecycle.kill(self._machinery, container_id)
            lifecycle.discard(self._machinery, container_id)
            raise


class _Given:
    """Descriptors that go with the plan, which says by their place what each is for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.fds: list[int] = []

    def add(self, fd: int) -> int:
        """Give `fd` too, and close it at the end; its place."""
        self._stack.callback(os.close, fd)
        self.fds.append(fd)
        return len(self.fds) - 1

    def file(self, content: bytes) -> int:
        """A file in memory, to be read from its beginning; it ends with us."""
        fd = os.memfd_create("lxcwrap-step", os.MFD_CLOEXEC)
        self._stack.callback(os.close, fd)
        _write_all(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


def _complete(plan: Plan, step: RunStep, idmap: IdMap, given: _Given) -> Plan:
    """The plan of a container as that of a build step."""
    more: Plan = {"draft": str(step.draft.path), "network": step.network}
    more["mounts"] = list(_mounts(step, idmap, given))
    if step.network == "host":
        more |= _on_host_network(plan)
    if step.secret_env:
        text = "".join(f"{name}={value}\0" for name, value in step.secret_env.items())
        more["variables"] = given.add(os.dup(given.file(text.encode())))
    return {**plan, **more, "given": len(given.fds)}


def _on_host_network(plan: Plan) -> Plan:
    """No /sys: the kernel lets a user namespace mount it for networks of its own only."""
    files = {
        name: Path(name).read_text() for name in ("/etc/hosts", "/etc/resolv.conf") if os.path.exists(name)
    }
    config = [(key, "proc:mixed" if key == "lxc.mount.auto" else value) for key, value in plan["config"]]
    return {"files": {**plan["files"], **files}, "config": [*config, ("lxc.net.0.type", "none")]}


def _mounts(step: RunStep, idmap: IdMap, given: _Given) -> Iterator[dict[str, Any]]:
    """Parents before children, so that none hides another."""
    for mount in sorted(step.mounts, key=lambda mount: mount.target.count("/")):
        common = {"target": mount.target, "exec": True, "read_only": False}
        match mount:
            case TreeMount():
                trees = [str(path) for path in mount.trees]
                yield common | {
                    "kind": "tree",
                    "trees": trees,
                    "subpath": mount.subpath,
                    "read_only": mount.read_only,
                }
            case CacheMount():
                source = str(mount.directory)
                yield common | {"kind": "bind", "source": source, "read_only": mount.read_only}
            case TmpfsMount():
                yield common | {"kind": "tmpfs", "mode": 0o1777, "size": mount.size}
            case SecretMount():
                number = given.add(_secret(mount, idmap))
                yield common | {"kind": "given", "given": number, "subpath": "secret", "read_only": True}


def _secret(mount: SecretMount, idmap: IdMap) -> int:
    """A file system in memory with the one file `secret`. It is mounted nowhere, and ends with us."""
    fd = mounts.new_filesystem("tmpfs", ["mode=711"], mounts.NOSUID | mounts.NODEV | mounts.NOEXEC)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open("secret", flags, 0o600, dir_fd=fd)
        try:
            _write_all(file, mount.content)
            os.fchown(file, idmap.base + mount.uid, idmap.base + mount.gid)
            os.fchmod(file, mount.mode)
        finally:
            os.close(file)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _follow(conversation: Conversation, streams: Streams, on_output: OnOutput, cancelled: Event) -> Record:
    """Hand on what it writes until it has ended; its exit record. What a process left behind holds open is
    not waited for."""
    ended: Mapping[str, Any] | None = None
    with selectors.DefaultSelector() as selector:
        for name in ("stdout", "stderr"):
            selector.register(streams.files[name], selectors.EVENT_READ, name)
        selector.register(conversation, selectors.EVENT_READ)
        while True:
            events = selector.select(0 if ended else _LOOK_S)
            if cancelled.is_set():
                raise BuildCancelled
            if ended and not events:
                return dict(ended)
            for key, _ in events:
                if key.data is None:
                    answer = conversation.receive()[0]
                    if answer["event"] == "exited":
                        ended = answer
                        selector.unregister(conversation)
                elif data := os.read(key.fd, _CHUNK):
                    on_output(key.data, data)
                else:
                    selector.unregister(key.fileobj)
