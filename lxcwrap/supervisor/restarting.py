"""Starting a container again that has ended, where its policy wants that.

restart.json  how many restarts there were since a user started it, and who waits to do the next; 0: nobody
stopped       a user wants it to stay down: made by stop, kill and remove, removed by a start

Who records an end decides (`plan_next`): the monitor, or the undertaker of a killed one. A process of its
own (`wait_forked`) waits for the back-off and asks the fork-server for the same start again, as a caller
would; it brings up a fork-server if there is none. The new monitor, when it holds the lock, looks whether the
restart is wanted still (`is_wanted`): whoever calls it off makes ``stopped``, or lets another text come to
restart.json. If the waiting process is killed, the fork-server lets another wait. No heavy imports here
(handover.py).
"""

from __future__ import annotations

import os
import signal
import time

from ..drivers import syscalls
from ..drivers.pidfd import boot_id, lives, open_same, start_time
from ..drivers.polling import readable
from .handover import flat_json
from .records import Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Order = dict[str, Any]
else:
    Order = dict

FIRST_S, LONGEST_S = 0.1, 60.0
STEADY_S = 10.0  # a run that long was no failure to start: the back-off begins anew
_LOOK_S = 0.01
_RETRY_S = 1.0  # the server was killed, or something else holds the container


def plan_next(order: Order, exit_code: int | None, ran_s: float) -> Order | None:
    """The order for the next start of a container that `order` started, with how many restarts that makes and
    after how many seconds it is due; None: there is to be none."""
    policy = order.get("restart")
    if policy is None or _is_stopped(order["bundle"]):
        return None
    count, delay_s = order.get("count", 0), order.get("delay_s", 0.0)
    if policy["when"] == "on_failure" and (exit_code == 0 or count >= (policy["max_retries"] or count + 1)):
        return None
    delay_s = FIRST_S if ran_s >= STEADY_S or not delay_s else min(2 * delay_s, LONGEST_S)
    return {**order, "stdio": [], "count": count + 1, "delay_s": delay_s}


def _is_stopped(bundle: str) -> bool:
    return os.path.exists(f"{bundle}/stopped")


def forget(order: Order) -> None:
    """A user starts it: what was before counts no more."""
    for name in ("restart.json", "stopped"):
        try:
            os.unlink(f"{order['bundle']}/{name}")
        except FileNotFoundError:
            pass


def is_wanted(order: Order) -> bool:
    """Whether nobody has called the restart off."""
    if _is_stopped(order["bundle"]):
        return False
    try:
        with open(f"{order['bundle']}/restart.json", encoding="ascii") as file:
            return bool(file.read() == order["ticket"])
    except FileNotFoundError:
        return False


def done(order: Order) -> None:
    """It runs, or has ended for good: nobody waits."""
    _write(order, 0, 0)


def take_on(order: Order, waiter: int) -> Order:
    """Put on record that process `waiter` is to start it; with the ticket that it shows."""
    return {**order, "ticket": _write(order, waiter, start_time(waiter))}


def _write(order: Order, waiter: int, start: int) -> str:
    due = time.time() + order["delay_s"]
    record = {
        "count": order["count"],
        "delay_s": order["delay_s"],
        "due_at": due,
        "waiter": waiter,
        "waiter_start": start,
        "boot": boot_id(),
    }
    text, temporary = flat_json(record), f"{order['bundle']}/.restart.{os.getpid()}"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(text)
    os.rename(temporary, f"{order['bundle']}/restart.json")
    return text


def wait_forked(order: Order) -> None:
    """Fork the process that waits for our own end, and then does the restart. It is on record when this
    returns."""
    me, (ready, told) = os.getpid(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            order = take_on(order, os.getpid())
            syscalls.close_all_from(3)  # with them `told`; and what others wait for the end of
            _await_end(me)
            do(order)
        finally:
            os._exit(0)
    os.close(told)
    os.read(ready, 1)
    os.close(ready)


def _await_end(parent: int) -> None:
    try:
        fd = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    if os.getppid() == parent:
        readable(fd)
    os.close(fd)


def do(order: Order) -> NoReturn:
    """Wait for the back-off, and have the container started; ends this process, which keeps no file open."""
    syscalls.close_all_from(3)
    syscalls.set_process_name("lxcwrap-restart")
    time.sleep(order["delay_s"])
    go_on(order)


def go_on(order: Order) -> NoReturn:
    """Try until it runs, or is not wanted any more. It is started as if by a caller of its own."""
    while is_wanted(order) and not _ask(order):
        time.sleep(_RETRY_S)
    os._exit(0)


def _ask(order: Order) -> bool:
    """False: no answer, or something holds the container; try again."""
    from . import spawning, wire

    try:
        server = spawning.connect(order["root"])
    except (FileNotFoundError, ConnectionRefusedError):
        _begin_anew(order)
    try:
        wire.send(server, order)
        answer = wire.receive(server)
    except (OSError, ValueError):
        return False
    finally:
        server.close()
    # A start that failed is an end, too: what comes then, its monitor has decided.
    return answer is not None and not answer[0].get("refused")


def _begin_anew(order: Order) -> NoReturn:
    """There is no server. As a new program: this one may be older than what is installed now."""
    from . import spawning

    command = spawning.python(f"from {__name__} import bring_up; bring_up({order!r})")
    os.execve(command[0], command, {})


def bring_up(order: Order) -> NoReturn:
    """Start the fork-server, and go on."""
    from . import spawning

    def is_missing() -> bool:
        try:
            spawning.connect(order["root"]).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return True
        return False

    syscalls.set_process_name("lxcwrap-restart")
    spawning.spawn_if(order["root"], is_missing)
    go_on(order)


# --- for the server ---


def waiter(order: Order) -> int:
    """Process id of who waits to start it again; 0: nobody."""
    records = Records(order["bundle"])
    record = records.read("restart") if "restart" in order and is_pending(records) else None
    return record["waiter"] if record else 0


def left_behind(order: Order) -> Order | None:
    """What is to be done by somebody else, if who waited is gone, and was not done or called off."""
    records = Records(order["bundle"])
    record = records.read("restart") if "restart" in order else None
    if not record or not record["waiter"] or is_pending(records) or _is_stopped(records.path):
        return None
    return {**order, "stdio": [], "count": record["count"], "delay_s": record["delay_s"]}


def take_over(order: Order) -> None:
    """Do what was left behind; unless it was done just before: then the lock is held."""
    again = left_behind(order)
    while again:
        try:
            with Records(order["bundle"]).held(_RETRY_S):
                if again := left_behind(order):
                    again = take_on(again, os.getpid())
            break
        except FileNotFoundError:
            return  # it was removed
        except BlockingIOError:  # it runs, which is about to be recorded; or something else holds it
            time.sleep(_LOOK_S)
            again = left_behind(order)
    if again:
        do(again)


# --- for callers ---


def done_so_far(records: Records) -> int:
    """How many restarts there were."""
    record = records.read("restart")
    return record["count"] - bool(record["waiter"]) if record else 0


def is_pending(records: Records) -> bool:
    """Whether a process lives that will start the container again."""
    record = records.read("restart")
    if not record or not record["waiter"] or _is_stopped(records.path):
        return False
    return lives(record["waiter"], record["waiter_start"], record["boot"])


def call_off(records: Records) -> None:
    """From now on it stays down, once it is. FileNotFoundError: it was removed."""
    os.close(os.open(f"{records.path}/stopped", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    _dismiss(records.read("restart"))


def give_way(records: Records) -> None:
    """To a start by a user."""
    record = records.read("restart")
    records.remove("restart")
    _dismiss(record)


def _dismiss(record: Order | None) -> None:
    waiter = open_same(record["waiter"], record["waiter_start"]) if record and record["waiter"] else None
    if waiter is not None:
        try:
            signal.pidfd_send_signal(waiter, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(waiter)
