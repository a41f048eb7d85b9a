"""The command line of our init. Imported by the fork-server: no heavy imports here."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INIT = "/dev/.lxcwrap/init"
FILTER = "/dev/.lxcwrap/filter.bpf"


def init_argv(
    *,
    user: str,
    groups: Sequence[str],
    cwd: str,
    tty: bool,
    seccomp: bool,
    exec_only: bool,
    boots: bool = False,
    capabilities: int | None,
) -> list[str]:
    """Our init with its options, up to the command: the same for the main process and for exec.

    Whoever starts it adds the descriptors it inherits, by `with_descriptors`.
    """
    options = [INIT, "-C", cwd]
    options += ["-x"] if exec_only else []
    options += ["-b"] if boots else []
    options += ["-k", f"{capabilities:x}"] if capabilities is not None else []
    options += ["-t"] if tty else []
    options += ["-u", user] if user else []
    options += ["-G", ",".join(groups)] if groups else []
    options += ["-s", FILTER] if seccomp else []
    return [*options, "--"]


def with_descriptors(argv: Sequence[str], status_fd: int, cgroup_fds: Sequence[int]) -> list[str]:
    """`argv`, made by `init_argv`, told which descriptors to report on and to join cgroups by."""
    join = ["-j", ",".join(map(str, cgroup_fds))] if cgroup_fds else []
    return [argv[0], "-f", str(status_fd), *join, *argv[1:]]
