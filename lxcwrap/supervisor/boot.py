"""How the fork-server begins: the nursery is forked before anything heavy is loaded."""

from __future__ import annotations

import os

from ..drivers import inheritance
from . import nursery

_MAX_LOG = 1 << 20  # of what earlier servers wrote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main(root: str, ready_fd: int) -> NoReturn:
    """Become the fork-server of `root`, and nobody's child, as no caller reaps us. See `server.main`."""
    if os.fork():
        os._exit(0)
    os.setsid()
    inheritance.shed()
    os.chdir("/")
    os.umask(0o022)
    log = os.open(f"{root}/run/server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    if os.fstat(log).st_size > _MAX_LOG:
        os.ftruncate(log, 0)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for target, fd in ((0, null), (1, log)):
        os.dup2(fd, target)
    os.set_inheritable(ready_fd, False)
    nursery_end = nursery.start(log, ready_fd)
    from . import server  # what fails until here is told to the caller

    os.dup2(log, 2)
    server.main(root, ready_fd, nursery_end)
