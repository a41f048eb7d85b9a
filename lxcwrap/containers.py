"""The collection `host.containers`: making, running and finding containers."""

from __future__ import annotations

import builtins
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar, Unpack

from attrs import evolve

from . import lifecycle, making, networking
from .container import Container
from .errors import (
    ContainerNotFoundError,
    InvalidSpecError,
    StillUsedError,
    TimeoutExpired,
    VolumeNotFoundError,
    WrongStateError,
)
from .execution import DEVNULL, PIPE, OnOutput, Popen, Stream, Streams, Transfer, checked, input_bytes
from .image import Image
from .images import Images
from .inroot import layers_root
from .machinery import Machinery
from .options import ContainerOptions, make_spec
from .results import Completed
from .shown import Shown
from .specs import ContainerSpec, State
from .storage import sized
from .supervisor import wiring
from .supervisor.client import Conversation
from .supervisor.records import Record
from .systems import as_system
from .waiting import Steps, Wait, waits

if TYPE_CHECKING:
    from .display.blocks import Page
    from .display.live import LiveStats

T = TypeVar("T")
_COUNT = "SELECT count(*) FROM containers WHERE phase != 'building'"
_BY_KEY = """
    SELECT id FROM containers WHERE phase != 'building'
    AND (name = :key OR (length(:key) > 1 AND id >= :key AND id < :key || 'g'))
    ORDER BY name = :key DESC LIMIT 2
"""


class Containers(Shown):
    """All containers of a host: a read-only mapping by name, id or unique id prefix, that iterates over each
    `Container`, the newest first."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._images = Images(machinery)

    # --- finding ---

    def __getitem__(self, key: str | Container) -> Container:
        if isinstance(key, Container):
            lifecycle.row(self._machinery, key.id)
            return key
        rows = self._machinery.state.connection.execute(_BY_KEY, {"key": key}).fetchall()
        if not rows or (len(rows) > 1 and not self._is_name(key)):
            raise ContainerNotFoundError(key, [row["id"] for row in rows])
        return Container(self._machinery, rows[0]["id"])

    def _is_name(self, key: str) -> bool:
        query = "SELECT 1 FROM containers WHERE name = ? AND phase != 'building'"
        return self._machinery.state.connection.execute(query, (key,)).fetchone() is not None

    def get(self, key: str, default: T | None = None) -> Container | T | None:
        """The container of this name, id or unique beginning of an id, or `default`."""
        try:
            return self[key]
        except ContainerNotFoundError:
            return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | Container) and self.get(key) is not None  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Container]:
        return iter(self.list())

    def __len__(self) -> int:
        return int(self._machinery.state.connection.execute(_COUNT).fetchone()[0])

    def list(self, *, state: State | None = None) -> list[Container]:
        """All containers, or those in `state`; the newest first."""
        rows = self._machinery.state.connection.execute(
            "SELECT id FROM containers WHERE phase != 'building' ORDER BY created_at DESC, id"
        )
        found = [Container(self._machinery, row["id"]) for row in rows]
        return found if state is None else [container for container in found if _state(container) == state]

    def live_stats(self, *, interval_s: float = 1.0, window_s: float = 60.0) -> LiveStats:
        """What all that run now use, a line for each, drawn in a notebook as it changes: see
        `Container.live_stats`."""
        from .display.live import LiveStats

        running = self.list(state=State.RUNNING)
        return LiveStats([(each.name, each.stats) for each in running], interval_s, window_s)

    def __repr__(self) -> str:
        return f"<Containers: {len(self)}>"

    def _page(self) -> Page:
        from .display.containers import table

        return table(self._machinery)

    # --- making ---

    def create(
        self,
        image: str | Image,
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        auto_remove: bool = False,
        **options: Unpack[ContainerOptions],
    ) -> Container:
        """A container ready to start. `argv` replaces the image's command; `sh` is a line for /bin/sh
        instead.

        Raises ImageNotFoundError, InvalidSpecError, NameInUseError; then nothing was made.
        """
        container_id = secrets.token_hex(32)
        with self._undone(container_id) as made:
            spec, _ = self._create(container_id, made, image, argv, sh, options, auto_remove=auto_remove)
            if not self._machinery.publish(container_id):
                raise ContainerNotFoundError(spec.name)  # removed by another already
        return Container(self._machinery, container_id)

    def launch(
        self,
        image: str | Image,
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        auto_remove: bool = False,
        **options: Unpack[ContainerOptions],
    ) -> Container:
        """Create and start: it runs when this returns. A ``with`` block stops and removes it at its end.

        `auto_remove`: it removes itself when it ends. Raises as `create` and `Container.start`; then nothing
        is left.
        """
        container_id = secrets.token_hex(32)
        with self._undone(container_id) as made:
            spec, slot = self._create(container_id, made, image, argv, sh, options, auto_remove=auto_remove)
            lifecycle.run_up(self._machinery, container_id, spec, slot)
            self._machinery.publish(container_id)
        return Container(self._machinery, container_id)

    @waits
    def run(
        self,
        image: str | Image,
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        input: bytes | str | None = None,
        timeout_s: float | None = None,
        check: bool = True,
        on_output: OnOutput | None = None,
        **options: Unpack[ContainerOptions],
    ) -> Steps[Completed]:
        """Run a command in a new container, collect its output, remove the container: as `subprocess.run`.

        on_output: called with ``"stdout"`` or ``"stderr"`` and the bytes, as they come.
        Raises CommandFailedError when it does not end with 0 (unless ``check=False``), TimeoutExpired (it is
        killed; what it wrote until then is on the error), and as `launch`.
        """
        began = time.monotonic()
        input = None if input is None else input_bytes(input)
        if options.get("tty") or options.get("init") == "system":
            raise InvalidSpecError("run() collects output and has no terminal: use launch() for one")
        container_id = secrets.token_hex(32)
        with self._undone(container_id) as made:
            spec, slot = self._create(container_id, made, image, argv, sh, options, auto_remove=True)
            with (
                Streams(DEVNULL if input is None else PIPE, PIPE, PIPE) as streams,
                lifecycle.begin(self._machinery, container_id, spec, slot, streams) as conversation,
            ):
                transfer = Transfer(
                    streams.files.get("stdin"),
                    streams.files["stdout"],
                    streams.files["stderr"],
                    input,
                    on_output,
                )
                ended = yield from self._until_end(conversation, transfer, container_id, spec, timeout_s)
        if spec.publish:  # which others may have from now on
            wiring.conceal(self._machinery.root, container_id)
        lifecycle.forget_row(self._machinery, container_id)  # its monitor clears the rest, while we go on
        if ended["exit_code"] is None:
            raise lifecycle.start_error(spec.name, ended)
        stdout, stderr = transfer.result()
        done = Completed(
            argv=spec.argv,
            exit_code=ended["exit_code"],
            stdout_bytes=stdout,
            stderr_bytes=stderr,
            oom_killed=ended["oom_killed"],
            duration_s=time.monotonic() - began,
        )
        return checked(done, spec.name, check=check)

    def popen(
        self,
        image: str | Image,
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        **options: Unpack[ContainerOptions],
    ) -> Popen:
        """Run a command in a new container and return at once, as `subprocess.Popen`; the container removes
        itself at its end.

        PIPE gives real files, a file or descriptor is used directly; None is /dev/null for stdin, and the log
        for the others. With ``tty=True`` it has a terminal, whose master is `Popen.tty`; it hangs up when
        nobody has that any more. A command that cannot be run ends with 126 or 127. Raises as `launch`.
        """
        container_id = secrets.token_hex(32)
        with self._undone(container_id) as made:
            spec, slot = self._create(
                container_id, made, image, argv, sh, options, auto_remove=True, attached=True
            )
            streams = Streams(stdin, stdout, stderr)
            try:
                conversation = lifecycle.begin(self._machinery, container_id, spec, slot, streams)
                process = Popen(
                    spec.argv,
                    spec.name,
                    conversation,
                    streams,
                    lambda ended: lifecycle.start_error(spec.name, ended),
                )
            except BaseException:
                streams.close()
                raise
            self._machinery.publish(container_id)
        return process

    def _until_end(
        self,
        conversation: Conversation,
        transfer: Transfer,
        container_id: str,
        spec: ContainerSpec,
        timeout_s: float | None,
    ) -> Steps[Record]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        answers: list[Record] = []

        def has_ended() -> bool:
            answers.append(conversation.receive()[0])
            return bool(answers[-1]["event"] == "exited")

        def ended() -> bool:
            return bool(answers) and answers[-1]["event"] == "exited"

        try:
            yield from transfer.run(deadline, conversation, has_ended)
            while not ended():
                remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not (yield Wait(conversation.fileno(), remaining)):
                    raise TimeoutExpired("", 0.0)
                has_ended()
        except TimeoutExpired:
            lifecycle.kill(self._machinery, container_id)
            while not ended():
                has_ended()
            stdout, stderr = transfer.result()
            what = f"run of {list(spec.argv)!r}"
            raise TimeoutExpired(
                what, timeout_s or 0.0, stdout.decode(errors="replace"), stderr.decode(errors="replace")
            ) from None
        return answers[-1]

    def prune(self) -> builtins.list[str]:
        """Remove all containers that do not run; their names."""
        removed = []
        for container in self.list():
            with suppress(ContainerNotFoundError, WrongStateError):
                name = container.name
                if container.state in (State.CREATED, State.STOPPED):
                    container.remove()
                    removed.append(name)
        return removed

    @contextmanager
    def _undone(self, container_id: str) -> Iterator[builtins.list[str]]:
        """If the block raises, there is no such container, and none of the volumes that it adds to the
        list."""
        made: builtins.list[str] = []
        try:
            yield made
        except BaseException as error:
            query = "SELECT 1 FROM containers WHERE id = ?"
            is_known = self._machinery.state.connection.execute(query, (container_id,)).fetchone()
            lifecycle.discard(self._machinery, container_id)
            for name in made:
                with suppress(StillUsedError, VolumeNotFoundError):
                    self._machinery.volume_store.remove(name)
            if isinstance(error, FileNotFoundError) and not is_known:  # another has removed it, by force
                raise ContainerNotFoundError(container_id[:12]) from error
            raise

    def _create(
        self,
        container_id: str,
        made: builtins.list[str],
        image: str | Image,
        argv: Sequence[str] | None,
        sh: str | None,
        options: ContainerOptions,
        *,
        auto_remove: bool,
        attached: bool = False,
    ) -> tuple[ContainerSpec, int | None]:
        """Its spec and the slot of its id range. Until `Machinery.publish` this process answers for it.
        `made` gets the names of new volumes. attached: its terminal is its caller's."""
        machinery = self._machinery
        found = self._images.resolve(image)
        config, lowers = found.config, machinery.image_store.lower_dirs(found.id)
        if options.get("init") == "system":
            with layers_root(lowers, repr(found)) as root:
                config, options = as_system(config, root, argv, sh, options)
        spec = make_spec(
            found.id, config, argv, sh, options, container_id=container_id, auto_remove=auto_remove
        )
        spec = evolve(spec, stdin_open=attached)
        if spec.networks or spec.network_mode != "own" or spec.limits.network_rate:
            spec = networking.resolve(machinery, spec, lambda key: self[key].id)
        if spec.limits.disk is not None:
            sized.check(machinery.root.trash, spec.limits.disk)
        made += machinery.volume_store.ensure(spec.volumes)
        slot = making.record(machinery, container_id, spec)
        making.furnish(machinery, container_id, spec, machinery.idmap(slot), lowers)
        return spec, slot


def _state(container: Container) -> State | None:
    try:
        return container.state
    except ContainerNotFoundError:  # removed since it was listed
        return None
