"""``run`` and ``exec``."""

from __future__ import annotations

import sys
from argparse import REMAINDER, Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .creation import add_container_options, add_process_options, container_options, variables
from .parsing import Commands, completed_by
from .targets import host_of, say

if TYPE_CHECKING:
    from .. import Container, Host, Image, Popen

OWN_FAILURE = 125  # as Docker: the exit codes below are the command's


def add(commands: Commands) -> None:
    run = commands.add("run", _run, "run a command in a new container", failure=OWN_FAILURE, help_by_h=False)
    add_process_options(run)
    add_container_options(run)
    run.add_argument(
        "--rm", action="store_true", help="with -d: remove it at its end, as is always done without"
    )
    run.add_argument("--pull", choices=("missing", "always", "never"), default="missing")
    run.add_argument("--platform", metavar="OS/ARCHITECTURE", help="of an image that is pulled")
    completed_by(run.add_argument("image"), "images")
    run.add_argument("command", nargs=REMAINDER, metavar="command ...")
    execute = commands.add("exec", _exec, "run a command in a container that runs", failure=OWN_FAILURE)
    add_process_options(execute)
    completed_by(execute.add_argument("container"), "containers")
    execute.add_argument("command", nargs=REMAINDER, metavar="command ...")


def _run(given: Namespace) -> int:
    from ..execution import PIPE

    options = container_options(given)
    joined = _joined(given)
    with host_of(given) as host:
        image = _image(host, given)
        argv = given.command or None
        if given.detach:
            print(host.containers.launch(image, argv, auto_remove=given.rm, **options).id)
            return 0
        from .foreground import Interrupts

        pipe = None if given.tty else PIPE
        stdin = pipe if given.interactive else None
        with (
            Interrupts() as interrupts,
            host.containers.popen(image, argv, stdin=stdin, stdout=pipe, stderr=pipe, **options) as process,
            _removed(host.containers.get(process.container)) as container,
        ):
            if container is not None:
                interrupts.aim(lambda _: _stop(container), lambda _: container.kill())
            code = _attend(process, joined)
        if process.oom_killed:
            say("the kernel killed a process of it for want of memory: give it more by --memory")
        return interrupts.exit_code(code)


def _image(host: Host, given: Namespace) -> Image | str:
    """To be pulled first, if it is not here."""
    from ..errors import ImageNotFoundError

    if given.pull != "always":
        try:
            return host.images.resolve(given.image)
        except ImageNotFoundError as error:
            if given.pull == "never" or error.candidates:
                raise
    return host.images.pull(given.image, platform=given.platform)


def _joined(given: Namespace) -> bool:
    """Whether our terminal is to be joined to its own."""
    if not (given.tty and given.interactive) or given.detach:
        return False
    if not sys.stdin.isatty():
        raise ValueError("-t: our stdin is no terminal; leave -t out to give what comes from a file or pipe")
    return True


def _attend(process: Popen, joined: bool) -> int:
    from .foreground import attend

    return process.interact() if joined else attend(process)


def _stop(container: Container) -> None:
    container.stop()


@contextmanager
def _removed(container: Container | None) -> Iterator[Container | None]:
    """Gone when the block is left: it does so itself, but who runs the next one may want its name and ports
    at once. None: it was faster."""
    from ..errors import NotFoundError

    try:
        yield container
    finally:
        with suppress(NotFoundError):
            if container is not None:
                container.remove(force=True)


def _exec(given: Namespace) -> int:
    from ..execution import PIPE

    if not given.command:
        raise ValueError("exec: say which command")
    joined = _joined(given)
    with host_of(given) as host:
        container = host.containers[given.container]
        from .foreground import Interrupts

        pipe = None if given.tty or given.detach else PIPE
        with Interrupts() as interrupts:
            process = container.popen(
                given.command,
                stdin=pipe if given.interactive else None,
                stdout=pipe,
                stderr=pipe,
                env=variables(given),
                user=given.user,
                cwd=given.workdir,
                tty=given.tty,
            )
            if given.detach:
                process.close()
                return 0
            with process:
                interrupts.aim(process.send_signal, lambda _: process.kill())
                code = _attend(process, joined)
        return interrupts.exit_code(code)
