"""``%%lxc``: the code of a notebook's cell runs in a container, its output streams into the notebook.

%load_ext lxcwrap

%%lxc debian:bookworm --memory 256MiB
apt-get --version
"""

from __future__ import annotations

import argparse
import codecs
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .containers import Containers
from .errors import CommandFailedError, LxcwrapError
from .host import default_host
from .results import Completed
from .specs import Limits, Mount

if TYPE_CHECKING:
    from .execution import OnOutput

_PYTHON = "python3 -uc"
_SHELL = "sh -c"


def register(shell: Any) -> None:
    """Give IPython's `shell` the magic."""

    def lxc(line: str, cell: str) -> None:
        _run(shell, line, cell)

    lxc.__doc__ = _parser().format_help()
    shell.register_magic_function(lxc, magic_kind="cell", magic_name="lxc")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong instead of ending the notebook."""

    def error(self, message: str) -> NoReturn:
        raise _usage_error(f"%%lxc: {message}; see %%lxc?")


def _usage_error(message: str) -> Exception:
    from IPython.core.error import UsageError  # type: ignore[import-not-found, unused-ignore]

    error: Exception = UsageError(message)
    return error


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="%%lxc",
        description="Run the cell in a container. It is killed when the cell is stopped.",
        add_help=False,
    )
    add = parser.add_argument
    add("image", nargs="?", metavar="IMAGE", help="a new container of this is made, and removed at the end")
    add("-c", "--container", metavar="NAME", help="run it in this container instead")
    add("-p", "--python", dest="argv", action="store_const", const=_PYTHON, help="the cell is Python")
    add("--with", dest="argv", metavar="COMMAND", help=f"gets the cell as its last argument; '{_SHELL}'")
    add("-v", "--mount", action="append", default=[], metavar="SOURCE:TARGET[:ro]", help="path or volume")
    add("-n", "--network", metavar="NAME", help="network to be on; none by default")
    add("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="or NAME, as it is here")
    add("-u", "--user", help="who runs it")
    add("-w", "--cwd", metavar="DIRECTORY", help="where it runs")
    add("--memory", metavar="SIZE", help="such as 256MiB")
    add("--cpus", type=float, help="processors' worth of time")
    add("--pids", type=int, help="number of processes")
    add("-t", "--timeout", type=float, metavar="SECONDS", help="kill it after so long")
    add("-o", "--out", metavar="VARIABLE", help="keep the result, a Completed, in this variable")
    add("-q", "--quiet", action="store_true", help="do not show the output")
    add("--no-check", action="store_true", help="an exit code other than 0 is no error")
    parser.set_defaults(argv=_SHELL)
    return parser


def _run(shell: Any, line: str, cell: str) -> None:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise _usage_error(f"%%lxc: {error}") from None
    given = _parser().parse_args(words)
    if (given.image is None) == (given.container is None):
        raise _usage_error("%%lxc: name an image, or a container with -c; see %%lxc?")
    argv = [*shlex.split(given.argv), cell]
    try:
        done = _done(given, argv, None if given.quiet else _show())
    except LxcwrapError as error:
        raise _in_a_line(error, f"%%lxc: {error}") from None
    if given.out:
        shell.user_ns[given.out] = done
    if done.exit_code and not given.no_check:
        raise _failure(done, given.container or given.image)


def _done(given: argparse.Namespace, argv: Sequence[str], on_output: OnOutput | None) -> Completed:
    containers: Containers = default_host().containers
    env = {
        name: value if equals else os.environ[name]
        for name, equals, value in map(_partition, given.env)
        if equals or name in os.environ
    }
    if given.container is not None:
        for name in ("mount", "network", "memory", "cpus", "pids"):
            if getattr(given, name):
                raise _usage_error(f"%%lxc: --{name} is for a new container, and -c names one that there is")
        return containers[given.container].exec(
            argv,
            env=env,
            user=given.user,
            cwd=given.cwd,
            timeout_s=given.timeout,
            check=False,
            on_output=on_output,
        )
    optional = {"user": given.user, "cwd": given.cwd, "network": given.network}
    return containers.run(
        given.image,
        argv,
        entrypoint=(),
        env=env,
        mounts=[_mount(text) for text in given.mount],
        limits=Limits(memory=given.memory, cpus=given.cpus, pids=given.pids),
        timeout_s=given.timeout,
        check=False,
        on_output=on_output,
        **{name: value for name, value in optional.items() if value is not None},
    )


def _partition(text: str) -> tuple[str, str, str]:
    return text.partition("=")


def _mount(text: str) -> Mount:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not target or mode not in ("", "ro", "rw"):
        raise _usage_error(f"%%lxc: --mount {text!r}: must be SOURCE:TARGET or SOURCE:TARGET:ro")
    if "/" in source or source.startswith("."):
        return Mount.bind(os.path.abspath(os.path.expanduser(source)), target, read_only=mode == "ro")
    return Mount.volume(source, target, read_only=mode == "ro")


def _show() -> OnOutput:
    """Writes to the cell's own streams; a character may come in two parts."""
    decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}

    def show(stream: str, data: bytes) -> None:
        file = getattr(sys, stream)
        file.write(decoders[stream].decode(data))
        file.flush()

    return show


def _failure(done: Completed, where: str) -> LxcwrapError:
    oom = ", out of memory" if done.oom_killed else ""
    error = CommandFailedError(done.argv, done.exit_code, done.stdout, done.stderr, where, done.oom_killed)
    return _in_a_line(error, f"%%lxc {where}: exit code {done.exit_code}{oom}")


def _in_a_line(error: LxcwrapError, line: str) -> LxcwrapError:
    """Shown so: what a command wrote has been shown already, and our own code is of no interest."""
    vars(error)["_render_traceback_"] = lambda: [line]
    return error
