"""Control groups of containers: place, limits, devices, statistics, processes; on v1, hybrid and v2 hosts.

v1 and hybrid, in each hierarchy that is needed:

    lxcwrap/supervisor      the fork-server and the monitors, so that they outlive the caller's session
    lxcwrap/<id>            liblxc's process, by `enter`; the root of the container's cgroup namespace
    lxcwrap/<id>/c          the container: limits, devices, statistics; init and execs get in by `entry_fds`

A system in a container wants to divide its cgroup. Of a hybrid host it has a cgroup in the unified hierarchy,
which has no controllers there, and sees no other: what limits it is out of its reach.

liblxc is kept out of it (`hide_from_liblxc`). It would write pids to each cgroup.procs three times a run, and
such a write takes the lock that holds up all forks, waiting for an RCU grace period: 2 ms a run in a row, 8
for one alone. A thread that moves itself by 0 to `tasks` needs no lock (kernel: cgroup_attach_lock): 0.02 ms.

v2, where only whole processes move and liblxc clones straight into the cgroup:

    lxcwrap/<id>            limits, statistics
    lxcwrap/<id>/c          the container, made by liblxc as `config_items` says; devices by its BPF program
    lxcwrap/monitor/<id>    liblxc's process;  lxcwrap/pivot: where it goes to end

All is named from descriptors of the hierarchies, so it works also where these are hidden or mounted over.
Several processes and root directories share `lxcwrap`. Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from . import cgroup_limits, cgroupfs, syscalls
from .cgroup_files import DEFAULT_DEVICES, Limits, pairs, plan_v1, plan_v2, stats_v1, stats_v2
from .cgroup_hierarchies import open_unified, open_v1, open_v2, others
from .cgroup_limits import LimitError, MissingController

__all__ = ["CgroupHost", "LimitError", "MissingController"]

BASE = "lxcwrap"
_SUPERVISOR = f"{BASE}/supervisor"
_NEW_BASE = f"{BASE}-new-"
# How far a system may divide its cgroup: no path in it is too long for us, whatever the names.
_DIVISION = (("cgroup.max.depth", "14"), ("cgroup.max.descendants", "5000"))
_ID_LENGTH = 64  # no other directory of ours has a name so long
_LEAVE_TIMEOUT_S = 0.1
_MS_RDONLY, _MS_NOSUID_NODEV_NOEXEC = 0x1, 0xE


class CgroupHost:
    """The cgroups of this host. Holds a descriptor of each hierarchy until `close`; a fork inherits them."""

    def __init__(
        self, base: str | os.PathLike[str] = "/sys/fs/cgroup", *, block: str | os.PathLike[str] = "/sys/block"
    ) -> None:
        self.base, self._block = os.fspath(base), os.fspath(block)
        self.is_v2 = os.path.exists(f"{self.base}/cgroup.controllers")
        self._by_controller = open_v2(self.base) if self.is_v2 else open_v1(self.base)
        self._hierarchies = tuple(dict.fromkeys(self._by_controller.values()))
        self._unified = None if self.is_v2 else open_unified(self.base)
        self._first_namespace = _mount_namespace()

    @property
    def layout(self) -> str:
        """``v2``, ``hybrid`` (v1 controllers, and a v2 mount beside them), ``v1``, or ``none``."""
        if self.is_v2:
            return "v2"
        return "none" if not self._by_controller else "v1" if self._unified is None else "hybrid"

    @property
    def controllers(self) -> frozenset[str]:
        """The controllers we can use, as this layout calls them (v1's ``blkio`` is ``io`` in v2)."""
        return frozenset(self._by_controller) - {"cgroup"}

    def close(self) -> None:
        for fd in self._with_unified:
            os.close(fd)
        self._hierarchies, self._by_controller, self._unified = (), {}, None

    @property
    def _with_unified(self) -> tuple[int, ...]:
        """Where a container may have cgroups."""
        return self._hierarchies if self._unified is None else (*self._hierarchies, self._unified)

    # --- a container's life ---

    def config_items(self, container_id: str, devices: Sequence[str] | None = ()) -> list[tuple[str, str]]:
        """liblxc's settings. `devices`: rules such as ``c 10:229 rwm`` beyond the usual ones; None: all."""
        if not self.is_v2:
            return []
        items = [
            ("lxc.cgroup.dir.container", f"{BASE}/{container_id}/c"),
            ("lxc.cgroup.dir.monitor", f"{BASE}/monitor/{container_id}"),
            ("lxc.cgroup.dir.monitor.pivot", f"{BASE}/pivot"),
        ]
        if devices is not None:
            items.append(("lxc.cgroup2.devices.deny", "a"))
            items += (("lxc.cgroup2.devices.allow", rule) for rule in (*DEFAULT_DEVICES, *devices))
        return items

    def prepare(
        self,
        container_id: str,
        limits: Limits,
        devices: Sequence[str] | None = (),
        *,
        owner: int | None = None,
    ) -> None:
        """Make the container's cgroups. What a crashed run left there, also processes, is ended first.

        owner: host id of the root of a system, which may divide its own.
        Raises LimitError, MissingController, OSError; nothing is left then.
        """
        try:
            self._make(container_id)
        except FileExistsError:
            if not self.sweep(container_id):
                raise OSError(
                    errno.EBUSY, "an earlier run of this container cannot be ended", container_id
                ) from None
            self._make(container_id)
        try:
            if not self.is_v2 and devices is not None and "devices" in self._by_controller:
                fd, payload = self._by_controller["devices"], self._limited(container_id)
                cgroupfs.write(fd, f"{payload}/devices.deny", "a")
                cgroupfs.write(fd, f"{payload}/devices.allow", *DEFAULT_DEVICES, *devices)
            if owner is not None:
                self._make_divisible(container_id, owner)
            wanted = {key: value for key, value in limits.items() if value is not None}
            if wanted:
                self._apply(container_id, wanted)
        except BaseException:
            self.remove(container_id)
            raise

    def _make(self, container_id: str) -> None:
        for fd in self._hierarchies:
            parent, *inner = self._own_directories(container_id)
            self._mkdir(parent, fd)
            for path in inner:
                os.mkdir(path, dir_fd=fd)
            if self.is_v2:
                self._delegate(fd)

    def _make_divisible(self, container_id: str, owner: int) -> None:
        parent, fd = f"{BASE}/{container_id}", self._hierarchies[0] if self.is_v2 else self._unified
        if fd is None:
            raise OSError(errno.ENOTSUP, "a system needs cgroup v2: mount it at /sys/fs/cgroup/unified")
        if not self.is_v2:  # there liblxc makes and gives away what each container has
            self._mkdir(parent, fd)
            os.mkdir(f"{parent}/c", dir_fd=fd)
            cgroupfs.give(fd, f"{parent}/c", owner)
        for file, value in _DIVISION:
            cgroupfs.write(fd, f"{parent}/{file}", value)

    def _mkdir(self, path: str, fd: int) -> None:
        """A directory in the base, which others may remove at any time when it is empty (`tidy`)."""
        while True:
            try:
                return os.mkdir(path, dir_fd=fd)
            except FileNotFoundError:
                self._make_base(fd)

    def _own_directories(self, container_id: str) -> tuple[str, ...]:
        """What we make in each hierarchy, outermost first; the last one has the limits."""
        parent = f"{BASE}/{container_id}"
        return (parent,) if self.is_v2 else (parent, f"{parent}/c")

    def _limited(self, container_id: str) -> str:
        return self._own_directories(container_id)[-1]

    def _make_base(self, fd: int) -> None:
        if fd != self._by_controller.get("cpuset") or self.is_v2:
            with suppress(FileExistsError):
                os.mkdir(BASE, dir_fd=fd)
            return
        # A cpuset is empty at first, and then no process can enter. Others may make a child at once, so it
        # appears complete, by a rename.
        name = f"{_NEW_BASE}{os.getpid()}"
        with suppress(FileExistsError):  # of a process killed here, that had our pid
            os.mkdir(name, dir_fd=fd)
        try:
            for file in ("cpuset.cpus", "cpuset.mems"):
                cgroupfs.write(fd, f"{name}/{file}", cgroupfs.read(fd, file))
            cgroupfs.write(fd, f"{name}/cgroup.clone_children", "1")
            os.rename(name, BASE, src_dir_fd=fd, dst_dir_fd=fd)
        except OSError as error:
            os.rmdir(name, dir_fd=fd)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise

    def _delegate(self, fd: int) -> None:
        """v2: controllers must be passed down. One by one, as a host may keep some to itself."""
        for path in ("cgroup.subtree_control", f"{BASE}/cgroup.subtree_control"):
            for controller in sorted(self.controllers - set(cgroupfs.read(fd, path).split())):
                with suppress(OSError):
                    cgroupfs.write(fd, path, f"+{controller}")

    def hide_from_liblxc(self) -> None:
        """Keep liblxc from placing processes itself, as `entry_fds` do it. Nothing on v2.

        The caller must have left the mount namespace in which this object was made.
        """
        if self.is_v2:
            return
        if _mount_namespace() == self._first_namespace:
            raise RuntimeError("cgroups must not be hidden from the whole host")
        syscalls.mount("none", self.base, "tmpfs", _MS_RDONLY | _MS_NOSUID_NODEV_NOEXEC, "size=4k")

    def exists(self, container_id: str) -> bool:
        """Whether the container has cgroups."""
        return any(os.access(f"{BASE}/{container_id}", os.F_OK, dir_fd=fd) for fd in self._with_unified)

    def entry_fds(self, container_id: str) -> list[int]:
        """Descriptors: a process with one thread that writes ``0`` to each is in the container's cgroups.

        They work from inside of all namespaces. Empty on v2, where liblxc does it at start and at attach.
        Raises FileNotFoundError when there is no such container.
        """
        if self.is_v2:
            return []
        path = f"{BASE}/{container_id}/c"
        is_system = self._unified is not None and os.access(path, os.F_OK, dir_fd=self._unified)
        return cgroupfs.open_entries(path, self._with_unified if is_system else self._hierarchies)

    def runner_fds(self, container_id: str) -> list[int]:
        """The same for the process that starts liblxc."""
        return [] if self.is_v2 else cgroupfs.open_entries(f"{BASE}/{container_id}", self._hierarchies)

    def supervisor_fds(self) -> list[int]:
        """The same for where `settle` put the fork-server."""
        return cgroupfs.open_entries(_SUPERVISOR, self._all_hierarchies())

    def oom_fds(self, container_id: str) -> list[int]:
        """Of a file with a line ``oom_kill COUNT``, and with v1 one that is readable when memory runs out:
        with v2 POLLPRI on the file tells that. None if nobody counts."""
        if (memory := self._by_controller.get("memory")) is None:
            return []
        cgroup = self._limited(container_id)
        file = "memory.events" if self.is_v2 else "memory.oom_control"
        fds = [os.open(f"{cgroup}/{file}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=memory)]
        if not self.is_v2:
            fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            cgroupfs.write(memory, f"{cgroup}/cgroup.event_control", f"{fds[1]} {fds[0]}")
        return fds

    def remove(self, container_id: str, *, wait_s: float = 0.5) -> bool:
        """Remove the container's cgroups, waiting for its last processes. Whether nothing is left."""
        deadline = time.monotonic() + wait_s
        paths = [f"{BASE}/{container_id}/c", f"{BASE}/{container_id}"]
        paths += [f"{BASE}/monitor/{container_id}"] if self.is_v2 else []
        gone = [cgroupfs.remove(fd, path, deadline) for fd in self._with_unified for path in paths]
        return all(gone)

    def sweep(self, container_id: str) -> bool:
        """End what a crashed run left, and remove its cgroups. Whether nothing is left."""
        self.kill_all(container_id)
        return self.remove(container_id)

    def leftovers(self) -> set[str]:
        """Ids of all containers that have cgroups, of all root directories."""
        paths = (BASE, f"{BASE}/monitor")
        names = (name for fd in self._with_unified for path in paths for name in cgroupfs.children(fd, path))
        return {name for name in names if len(name) == _ID_LENGTH}

    # --- limits ---

    def apply_limits(self, container_id: str, limits: Limits) -> None:
        """Set `limits` on a running container: fields of `specs.Limits`, None taking a limit away.

        Raises LimitError or MissingController, and then all limits are as before; FileNotFoundError: no such
        container.
        """
        self._must_exist(container_id)
        self._apply(container_id, limits)

    def _must_exist(self, container_id: str) -> None:
        for fd in self._hierarchies[:1]:
            os.stat(self._limited(container_id), dir_fd=fd)

    def _apply(self, container_id: str, limits: Limits) -> None:
        disks = cgroup_limits.disks(self._block) if limits.keys() & {"read_bps", "write_bps"} else []
        if self.is_v2:
            writes = plan_v2(limits, disks=disks)
        else:
            names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            memory, memsw = (int(self._read(container_id, "memory", name) or 0) for name in names)
            cpuset = self._by_controller.get("cpuset")
            cpus = "" if cpuset is None else cgroupfs.read(cpuset, f"{BASE}/cpuset.cpus").strip()
            writes = plan_v1(limits, memory_now=memory, memsw_now=memsw, all_cpus=cpus, disks=disks)
        cgroup_limits.apply(self._by_controller, self._limited(container_id), writes)

    # --- what goes on inside ---

    def _read(self, container_id: str, controller: str, file: str) -> str:
        """Text of one of the container's files; empty where there is none."""
        try:
            return cgroupfs.read(self._by_controller[controller], f"{self._limited(container_id)}/{file}")
        except (KeyError, FileNotFoundError):
            return ""

    def read_stats(self, container_id: str) -> dict[str, int | None]:
        """Raw figures, as in `cgroup_files.stats_v1`. FileNotFoundError when there is no such container."""
        self._must_exist(container_id)
        stats = stats_v2 if self.is_v2 else stats_v1
        return stats(lambda controller, file: self._read(container_id, controller, file))

    def oom_kills(self, container_id: str) -> int:
        """How many of its processes the kernel killed for want of memory; can be asked until `remove`."""
        file = "memory.events" if self.is_v2 else "memory.oom_control"
        return pairs(self._read(container_id, "memory", file)).get("oom_kill", 0)

    def set_frozen(self, container_id: str, frozen: bool, *, timeout_s: float = 10.0) -> None:
        """Freeze or thaw all processes; returns when it is done. Raises TimeoutError, FileNotFoundError."""
        controller, file, value = "freezer", "freezer.state", "FROZEN" if frozen else "THAWED"
        if self.is_v2:
            controller, file, value = "cgroup", "cgroup.freeze", str(int(frozen))
        if controller not in self._by_controller:
            raise MissingController("pause", controller)
        deadline = time.monotonic() + timeout_s
        while True:  # v1 must be asked again when a process escaped by forking
            cgroupfs.write(self._by_controller[controller], f"{self._limited(container_id)}/{file}", value)
            if self.is_frozen(container_id) == frozen:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not all processes could be frozen within {timeout_s:g} s")
            time.sleep(0.0005)

    def is_frozen(self, container_id: str) -> bool:
        if self.is_v2:
            return "frozen 1" in self._read(container_id, "cgroup", "cgroup.events")
        return self._read(container_id, "freezer", "freezer.state") == "FROZEN\n"

    def pids(self, container_id: str) -> list[int]:
        """Host pids of the container's processes."""
        fds = [self._by_controller["freezer"]] if "freezer" in self._by_controller else self._hierarchies[:1]
        return [pid for fd in fds for pid in cgroupfs.processes(fd, f"{BASE}/{container_id}/c")]

    def kill_all(self, container_id: str, *, wait_s: float = 2.0) -> bool:
        """SIGKILL to all in the container's cgroups, and liblxc's process, until none is left; whether so."""
        deadline = time.monotonic() + wait_s
        while pids := self._all_pids(container_id) - {os.getpid()}:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(OSError):
                self.set_frozen(container_id, False, timeout_s=0)  # the frozen die when they thaw
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def _all_pids(self, container_id: str) -> set[int]:
        paths = (f"{BASE}/{container_id}", f"{BASE}/monitor/{container_id}")
        return {pid for fd in self._with_unified for path in paths for pid in cgroupfs.processes(fd, path)}

    # --- the supervisor's own place ---

    def settle(self) -> None:
        """Move the calling process, of one thread, out of its caller's cgroups: a session or service ending
        must not end what was started from it. For the fork-server; its children inherit the place."""
        for fd in self._all_hierarchies():
            while True:
                try:
                    cgroupfs.move_self(fd, _SUPERVISOR)
                    break
                except FileNotFoundError:
                    with suppress(FileExistsError):
                        self._mkdir(_SUPERVISOR, fd)

    def unsettle(self) -> None:
        """The last step of who may be the last there: leave, and tidy when its dying children have left."""
        for fd in self._all_hierarchies():
            cgroupfs.move_self(fd, ".")
        deadline = time.monotonic() + _LEAVE_TIMEOUT_S
        while not self.tidy() and time.monotonic() < deadline:
            time.sleep(0.002)

    def tidy(self) -> bool:
        """Remove the directories that all containers share, unless they are in use. Whether none is left."""
        shared = (_SUPERVISOR, f"{BASE}/monitor", f"{BASE}/pivot/lxc.pivot", f"{BASE}/pivot", BASE)
        for fd in self._all_hierarchies():
            new = (name for name in cgroupfs.children(fd, ".") if name.startswith(_NEW_BASE))
            killed = (name for name in new if not os.path.exists(f"/proc/{name.removeprefix(_NEW_BASE)}"))
            for path in (*shared, *killed):
                with suppress(OSError):
                    os.rmdir(path, dir_fd=fd)
        return not any(os.access(BASE, os.F_OK, dir_fd=fd) for fd in self._all_hierarchies())

    def _all_hierarchies(self) -> Iterator[int]:
        """Those in use, and those that only session managers care for."""
        yield from self._with_unified
        if not self.is_v2:
            yield from others(self.base, self._with_unified)


def _mount_namespace() -> int:
    return os.stat("/proc/self/ns/mnt").st_ino
