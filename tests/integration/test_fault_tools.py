"""Faults that last as long as a block."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import NoReturn

import pytest

from lxcwrap import (
    Container,
    Host,
    InvalidSpecError,
    RestartPolicy,
    State,
    UnsupportedError,
    WrongStateError,
    faults,
)
from lxcwrap.drivers import link_probes, links, netem, netns
from lxcwrap.drivers.netlink_messages import Request
from lxcwrap.drivers.rtnetlink import Rtnetlink
from lxcwrap.drivers.traffic import set_limits
from lxcwrap.supervisor import keeping, wire
from lxcwrap.waiting import Steps
from tests.integration.networked import launch, maker
from tests.polling import eventually

HAS_NETEM = not link_probes.probe("delays")


@pytest.fixture
def container(host: Host) -> Iterator[Container]:
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        yield container


def killed_within(block: Callable[[], AbstractContextManager[None]]) -> None:
    """A process is killed by SIGKILL in the middle of a block."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            with block():
                os.write(writer, b"x")
                signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 1)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


# --- frozen ----------------------------------------------------------------------------------------------


def test_frozen_container_does_nothing_and_goes_on(host: Host) -> None:
    """Within the block it uses no processor, then it does again."""
    with host.containers.launch("busybox", sh="while :; do sleep 0.01; done") as container:
        with container.frozen():
            assert container.state == State.PAUSED
            used = container.stats().cpu_s
            time.sleep(0.1)
            assert container.stats().cpu_s == used
        eventually(lambda: container.stats().cpu_s > used)


def test_frozen_blocks_add_up(container: Container) -> None:
    """It goes on with the end of the last; a commit within thaws nothing."""
    with container.frozen():
        with container.frozen():
            container.commit().remove()
            assert container.state == State.PAUSED
        assert container.state == State.PAUSED
    eventually(lambda: container.state == State.RUNNING)


def test_paused_container_stays_so(container: Container) -> None:
    """Who has paused it unpauses it."""
    container.pause()
    with container.frozen():
        pass
    assert container.state == State.PAUSED
    container.unpause()


def test_freezing_ends_with_its_process(container: Container) -> None:
    """However that ends."""
    killed_within(container.frozen)
    eventually(lambda: container.state is State.RUNNING)


def test_frozen_container_may_be_removed(host: Host) -> None:
    """The block then has nothing to undo."""
    container = host.containers.launch("busybox", ["sleep", "1000"])
    with container.frozen():
        container.remove(force=True)
    assert container.id not in host.containers


def test_what_does_not_run_is_not_frozen(host: Host) -> None:
    """Nor killed."""
    with host.containers.create("busybox", ["true"]) as container:
        for block in (container.frozen, container.kill9):
            with pytest.raises(WrongStateError), block():
                pass


# --- killed ----------------------------------------------------------------------------------------------


def test_killed_container_is_started_at_the_end(container: Container) -> None:
    """Within the block it is down, of SIGKILL."""
    with container.kill9():
        assert (container.state, container.exit_code) == (State.STOPPED, 137)
    assert container.state == State.RUNNING


def test_killed_container_is_started_when_the_kill_is_interrupted(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, before the block."""

    def interrupted(steps: Steps[object]) -> NoReturn:
        monkeypatch.undo()
        with suppress(StopIteration):  # it has ended already
            next(steps)
        steps.close()
        raise KeyboardInterrupt

    pid = container.init_pid
    monkeypatch.setattr(faults, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt), container.kill9():
        pass
    assert container.state == State.RUNNING and container.init_pid != pid


def test_policy_does_not_restart_it_meanwhile(host: Host) -> None:
    """Nor is it forgotten afterwards."""
    policy = RestartPolicy.always()
    with host.containers.launch("busybox", ["sleep", "1000"], restart=policy) as container:
        with container.kill9():
            time.sleep(0.3)  # longer than the policy's first pause
            assert container.state == State.STOPPED
        assert container.init_pid
        os.kill(container.init_pid, signal.SIGKILL)
        eventually(lambda: container.restart_count == 1 and container.state is State.RUNNING)


def test_who_was_started_or_removed_within_is_left_alone(host: Host) -> None:
    """The block undoes what is left to undo."""
    container = host.containers.launch("busybox", ["sleep", "1000"])
    with container.kill9():
        container.start()
        pid = container.init_pid
    assert container.init_pid == pid
    with container.kill9():
        container.remove()
    assert container.id not in host.containers


def test_an_error_within_undoes_all_the_same(container: Container) -> None:
    """And comes out of the block."""
    for block in (container.frozen, container.kill9):
        with pytest.raises(ZeroDivisionError), block():
            raise ZeroDivisionError
        assert container.state == State.RUNNING


# --- delayed ---------------------------------------------------------------------------------------------


def test_delay_is_felt_or_refused_with_the_reason(host: Host) -> None:
    """As the kernel has netem, or lacks it; then nothing has changed."""
    with maker(host) as make:
        network = make()
        server, client = launch(host, network=network), launch(host, network=network)

        def took_s() -> float:
            began = time.monotonic()
            with suppress(ConnectionRefusedError):
                client.socket(9, host=str(server.ip)).close()
            return time.monotonic() - began

        block = network.delay([client], delay_s=0.3)
        if not HAS_NETEM:
            with pytest.raises(UnsupportedError) as refused, block:
                pass
            assert "netem" in str(refused.value)
        else:
            with block:
                assert took_s() >= 0.3
            assert took_s() < 0.3


def test_wrong_delays_are_refused(host: Host) -> None:
    """Figures that cannot be, and containers of elsewhere."""
    with maker(host) as make, launch(host) as stranger:
        network = make()
        for wrong in (
            {"delay_s": -1},
            {"delay_s": 0.1, "jitter_s": 0.2},
            {"loss": 1.1},
            {"delay_s": float("nan")},
            {"delay_s": 1e9},
            {},
        ):
            with pytest.raises(InvalidSpecError), network.delay(**wrong):
                pass
        with pytest.raises(InvalidSpecError), network.delay([stranger], delay_s=0.1):
            pass


# A discipline that every kernel has, in the place of netem.
def fifo(index: int, place: int, **_: float) -> Request:
    netem_ = real_netem(index, place, delay_s=0.1, jitter_s=0.0, loss=0.0)
    body = netem_.body[:20] + b"\x0b\x00\x01\x00pfifo\x00\x00"[:12]
    return Request(netem_.operation, netem_.name, netem_.kind, netem_.flags, body)


real_netem = netem.netem


def disciplines(net: Rtnetlink, link: str) -> list[tuple[int, int]]:
    """Handles and places of those that were asked for, of `link`."""
    index = net.index(link)
    heads = [netem._TCMSG.unpack_from(body) for body in net.dump(38, netem._TCMSG.pack(0, index, 0, 0, 0))]
    return sorted(
        (head[2], head[3]) for head in heads if head[1] == index and head[2] in (0x1_0000, 0x2_0000)
    )


@pytest.mark.parametrize("bps", [0, 10**6])
def test_impairment_is_kept_as_long_as_its_caller_lives(bps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the limit of the link's rate, where it has one, which stays; once at a time."""
    monkeypatch.setattr(netem, "netem", fifo)
    request = {"links": ["one", "gone"], "impairment": {"delay_s": 0.1, "jitter_s": 0.0, "loss": 0.0}}
    fd = netns.make()
    try:
        with Rtnetlink(fd) as net:
            net.apply(links.veth("one", "other"), links.veth("gone", "else"))
            for link in ("one", "gone"):
                set_limits(net, link, "detour", sent_bps=bps)
            before = disciplines(net, "one")
            ours, theirs = socket.socketpair()
            child = os.fork()
            if not child:
                ours.close()
                try:
                    with netns.within(fd):
                        keeping.keep_impaired(request, theirs)
                    os._exit(0)
                finally:
                    os._exit(1)
            theirs.close()
            assert wire.receive(ours) == ({"impaired": True}, [])
            place = 0x1_0001 if bps else 0xFFFFFFFF
            assert disciplines(net, "one") == sorted([*before, (0x2_0000, place)])
            with pytest.raises(FileExistsError):
                netem.impair(net, "one", delay_s=0.1, jitter_s=0.0, loss=0.0)
            net.apply(links.delete("gone"))
            ours.close()
            assert os.waitpid(child, 0)[1] == 0
            assert disciplines(net, "one") == before
    finally:
        os.close(fd)
