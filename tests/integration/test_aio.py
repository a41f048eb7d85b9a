"""Containers in an event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from lxcwrap import PIPE, CommandFailedError, Host, State, TimeoutExpired, aio, events, ready, use_host
from tests.integration import called

SLEEP = ("busybox", ["sleep", "1000"])


@asynccontextmanager
async def sleeper(host: Host) -> AsyncIterator[aio.Container]:
    async with await aio.Host.of(host).containers.launch(*SLEEP) as container:
        yield container


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def cancelled(awaitable: Awaitable[object], when: Callable[[], object]) -> None:
    """It is cancelled when the condition holds, and says so."""
    task = asyncio.ensure_future(awaitable)
    await until(when)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_life_in_an_event_loop(host: Host) -> None:
    """What is had from a host is awaited as well; properties are read; a block removes it at its end."""

    async def main() -> None:
        containers = aio.Host.of(host).containers
        async with await containers.launch("busybox", sh="echo up; exec sleep 1000", name="aio-life") as web:
            assert await web.wait_ready(ready.log("up"), timeout_s=60) == web
            assert web.state is State.RUNNING and containers["aio-life"] == web and web in containers
            assert web in await containers.list() and isinstance(next(iter(containers)), aio.Container)
            assert (await web.exec(["echo", "hello"])).stdout == "hello\n"
            with pytest.raises(CommandFailedError):
                await web.exec(["false"])
            with pytest.raises(TimeoutExpired):
                await web.exec(["sleep", "1000"], timeout_s=0.1)
            assert await web.path("/etc/hostname").exists()
            assert [each.name async for each in web.path("/").glob("et*")] == ["etc"]
            async with web.frozen():
                assert host.containers[web.id].state is State.PAUSED
            assert await web.stop() == 143 and await web.wait() == 143
            assert web.image == host.images["busybox"] and isinstance(web.image, aio.Image)
            assert "aio-life" in web._repr_html_() and "aio-life" in containers._repr_html_()
        assert "aio-life" not in containers

    asyncio.run(main())


def test_run_uses_the_default_host(host: Host) -> None:
    """That of the task."""

    async def main() -> None:
        with use_host(host):
            done = await aio.run("busybox", sh="cat; echo err >&2; exit 3", input="x", check=False)
        assert (done.exit_code, done.stdout, done.stderr) == (3, "x", "err\n")

    asyncio.run(main())


def test_many_at_once_hold_up_nobody(host: Host) -> None:
    """More than there are threads; the loop goes on meanwhile."""

    async def main() -> None:
        run = aio.Host.of(host).containers.run
        began = time.monotonic()
        done = await asyncio.gather(*(run("busybox", sh=f"sleep 1; echo {n}") for n in range(20)))
        assert [each.stdout for each in done] == [f"{n}\n" for n in range(20)]
        assert time.monotonic() - began < 19  # one after the other would take as many seconds

    asyncio.run(main())


# --- cancellation ----------------------------------------------------------------------------------------


def test_cancelled_wait_leaves_the_container_alone(host: Host) -> None:
    """So do those for its readiness and its lines."""

    async def main() -> None:
        async with sleeper(host) as container:

            async def follow() -> None:
                async for _ in container.log_lines(follow=True):
                    pass

            for wait in (container.wait(), container.wait_ready(ready.log("never")), follow()):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await wait
            assert container.state is State.RUNNING

    asyncio.run(main())


def test_cancelled_run_is_ended_and_removed(host: Host) -> None:
    """Nobody has a name for it."""

    async def main() -> None:
        def runs() -> bool:
            return any(each.name == "aio-run" and each.state.is_alive for each in host.containers)

        await cancelled(aio.Host.of(host).containers.run(*SLEEP, name="aio-run"), when=runs)
        assert "aio-run" not in host.containers

    asyncio.run(main())


def test_cancelled_exec_and_call_are_killed(host: Host) -> None:
    """Each for itself; the container goes on."""

    async def main() -> None:
        async with sleeper(host) as container:
            plain = host.containers[container.id]

            def runs(word: str) -> bool:
                return any(word in " ".join(process.argv) for process in plain.top())

            await cancelled(container.exec(["sleep", "777"]), when=lambda: runs("sleep 777"))
            await until(lambda: not runs("sleep 777"))
            await cancelled(container.call(time.sleep, 888), when=lambda: len(plain.top()) > 2)
            await until(lambda: len(plain.top()) == 2)
            assert container.state is State.RUNNING

    asyncio.run(main())


def test_cancelled_launch_leaves_nothing(host: Host) -> None:
    """Whenever that comes."""

    async def main() -> None:
        for pause_s in (0.0, 0.002, 0.005, 0.01, 0.02):
            task = asyncio.ensure_future(aio.Host.of(host).containers.launch(*SLEEP, name="aio-launch"))
            await asyncio.sleep(pause_s)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await (await task).remove(force=True)
            assert "aio-launch" not in host.containers

    asyncio.run(main())


# --- streams ---------------------------------------------------------------------------------------------


def test_popen_has_streams_of_asyncio(host: Host) -> None:
    """To write, to read line by line, to wait for."""

    async def main() -> None:
        async with sleeper(host) as container:
            async with await container.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
                assert process.stdin and process.stdout and process.stderr is None
                for word in (b"one\n", b"two\n"):
                    process.stdin.write(word)
                    assert await process.stdout.readline() == word
                assert process.poll() is None
                process.stdin.close()
                assert await process.stdout.read() == b"" and await process.wait() == 0
            big = os.urandom(3 << 20)
            async with await container.popen(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
                assert await process.communicate(big) == (big, b"")
                assert process.returncode == 0
            async with await container.popen(["true"], stdin=PIPE) as process:
                assert await process.communicate(big) == (b"", b"")  # which nobody reads

    asyncio.run(main())


def test_popen_goes_on_when_its_wait_is_cancelled(host: Host) -> None:
    """A block that fails kills it."""

    async def main() -> None:
        async with sleeper(host) as container:
            process = await container.popen(["sleep", "1000"])
            with pytest.raises(TimeoutExpired):
                await process.wait(timeout_s=0.05)
            await cancelled(asyncio.gather(process.wait(), process.wait()), when=lambda: True)
            assert process.poll() is None
            with pytest.raises(KeyError):
                async with process:
                    raise KeyError
            assert process.poll() == 137

    asyncio.run(main())


def test_popen_cancelled_while_its_streams_open_is_ended(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has a handle on it; with what it has started."""

    def runs() -> bool:
        return any("1234" in process.argv for process in host.containers["aio-cancelled"].top())

    async def main() -> None:
        containers = aio.Host.of(host).containers
        async with await containers.launch(*SLEEP, name="aio-cancelled") as container:
            connect, opened = asyncio.get_running_loop().connect_write_pipe, []

            async def slow(*arguments: Any) -> object:
                opened.append((await connect(*arguments))[0])
                return await asyncio.Event().wait()

            monkeypatch.setattr(asyncio.get_running_loop(), "connect_write_pipe", slow)
            argv = ["sh", "-c", "sleep 1234; true"]
            await cancelled(container.popen(argv, stdin=PIPE, stdout=PIPE, stderr=PIPE), when=runs)
            await until(lambda: not runs())
            opened[0].close()

    asyncio.run(main())


def test_new_container_as_a_process(host: Host) -> None:
    """`Containers.popen`, too."""

    async def main() -> None:
        process = await aio.Host.of(host).containers.popen("busybox", ["cat"], stdin=PIPE, stdout=PIPE)
        async with process:
            assert await process.communicate("hello") == (b"hello", b"")

    asyncio.run(main())


def test_lines_events_and_figures_are_iterated_over(host: Host) -> None:
    """As they come, and until there are no more."""

    async def main() -> None:
        there = aio.Host.of(host)
        told = there.events(kinds=events.ContainerEvent, timeout_s=60)
        async with await there.containers.launch("busybox", sh="seq 2000; sleep 0.2; echo end") as container:
            lines = [line.text async for line in container.log_lines(follow=True)]
            assert lines == [*map(str, range(1, 2001)), "end"]
            exited = [each async for each in _until(told, events.Exited)]
            assert {type(each) for each in exited} >= {events.Created, events.Started, events.Exited}
        async with sleeper(host) as container:
            found = []
            async for figures in container.stats_stream(interval_s=0.02):
                found.append(figures.pids)
                if len(found) == 3:
                    await container.kill()
            assert found[:3] == [2, 2, 2]

    asyncio.run(main())


async def _until(told: AsyncIterator[events.Event], kind: type[events.Event]) -> AsyncIterator[events.Event]:
    async for event in told:
        yield event
        if isinstance(event, kind):
            return


def test_functions_are_called_and_awaited(host: Host) -> None:
    """With options, decorated, many at once."""

    async def main() -> None:
        async with sleeper(host) as container:
            assert await container.call(os.getpid) != os.getpid()
            done = await container.calling().captured(called.say, "out", "err")
            assert (done.stdout, done.stderr) == ("out\nechoed\n", "err\n")
            double = container.function(called.double)
            assert await asyncio.gather(*map(double, range(10))) == [2 * n for n in range(10)]
            with pytest.raises(TimeoutExpired):
                await container.calling(timeout_s=0.1).call(time.sleep, 1000)

    asyncio.run(main())


def test_images_and_networks_are_awaited(fresh_host: Host) -> None:
    """What they give is awaited, too."""

    async def main() -> None:
        there = aio.Host.of(fresh_host)
        image = await there.images.build_steps("busybox").run("echo built >/made").build()
        assert await (image.files / "made").read_text() == "built\n"
        async with sleeper(fresh_host) as container:
            network = await there.networks.create("aio-net")
            await network.connect(container)
            assert network.containers == (container,)
            await network.disconnect(container)
            await network.remove()

    asyncio.run(main())
