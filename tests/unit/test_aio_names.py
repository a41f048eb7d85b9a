"""lxcwrap.aio has the names, parameters and results of lxcwrap; what is awaited there, and what is not."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import pytest

import lxcwrap
from lxcwrap import aio
from lxcwrap.testing import fake_host

# Never awaited: they only look up, or make what is awaited.
AT_ONCE = {
    "get": "Containers Images Networks Snapshots Volumes",
    "path": "Container",
    "calling": "Container",
    "function": "Container Calls",
    "build_steps": "Images",
    "live_stats": "Container Containers",
    "live_logs": "Container",
    "graph": "Host",
}
# Names only, or values: as they are.
UNTOUCHED = {
    "ContainerPath ImagePath VolumePath": """
        as_posix is_relative_to joinpath match relative_to with_name with_suffix
    """,
    "BuildSteps": """
        call cmd copy entrypoint env expose healthcheck label program run shell stop_signal user volume
        workdir write
    """,
}
# Popen has the streams of asyncio, and its time limits are asyncio's, too.
OF_ITS_OWN = {"Popen"}
PAIRS = [
    (name, getattr(lxcwrap, name), getattr(aio, name))
    for name in vars(aio)
    if isinstance(getattr(aio, name), type) and name not in OF_ITS_OWN
]


def _methods(noun: type) -> Iterator[tuple[str, Any]]:
    for name in dir(noun):
        member = inspect.getattr_static(noun, name)
        if not name.startswith("_") and callable(member):
            yield name, member


def _is_untouched(noun: str, name: str) -> bool:
    return any(noun in nouns.split() and name in names.split() for nouns, names in UNTOUCHED.items())


def test_every_noun_has_its_counterpart() -> None:
    """What has methods that do something; values are the same in both."""
    nouns = {"Containers", "Container", "Image", "Images", "Network", "Networks", "Volume", "Volumes", "Host"}
    nouns |= {
        "BuildSteps",
        "Calls",
        "ContainerPath",
        "ImagePath",
        "Popen",
        "Snapshot",
        "Snapshots",
        "VolumePath",
    }
    assert {name for name, _, _ in PAIRS} | OF_ITS_OWN == nouns
    assert {"run", "default_host", "use_host"} <= set(vars(aio))


@pytest.mark.parametrize(("name", "plain", "awaited"), PAIRS, ids=[name for name, _, _ in PAIRS])
def test_every_method_is_awaited(name: str, plain: type, awaited: type) -> None:
    """With the same parameters; nothing that blocks is inherited."""
    assert issubclass(awaited, plain)
    for method, member in _methods(plain):
        if _is_untouched(name, method):
            continue
        own = inspect.getattr_static(awaited, method)
        assert own is not member, f"aio.{name}.{method} is not awaited"
        ours, theirs = (list(inspect.signature(each).parameters) for each in (own, member))
        assert ours == theirs, f"{name}.{method}"
        at_once = name in AT_ONCE.get(method, "").split()
        assert at_once or _is_awaited(own), f"{name}.{method}"


def _is_awaited(function: Any) -> bool:
    """Or iterated over by ``async for``, or entered by ``async with``."""
    if inspect.iscoroutinefunction(function):
        return True
    said = str(inspect.signature(function).return_annotation)
    return "Iterator" in said or "ContextManager" in said


def test_a_plain_block_is_refused(tmp_path: Path) -> None:
    """It would block the event loop at its end."""
    with pytest.raises(TypeError), fake_host(tmp_path) as plain, aio.Host.of(plain):
        pass


def test_popen_has_the_same_names() -> None:
    """But for what reads a terminal."""
    theirs = {name for name in dir(lxcwrap.Popen) if not name.startswith("_")} - {"interact", "fileno"}
    assert theirs <= set(dir(aio.Popen)) | {"stdin", "stdout", "stderr"}


def test_run_has_the_same_parameters() -> None:
    """And so have the default hosts."""
    for name in ("run", "default_host"):
        ours, theirs = (list(inspect.signature(getattr(each, name)).parameters) for each in (aio, lxcwrap))
        assert ours == theirs


# --- what type checkers see: checked by mypy alone, never run ----------------------------------------------


async def _right(host: aio.Host, plain: lxcwrap.Host) -> None:
    assert_type(await aio.run("busybox", ["true"], host=plain, name="x"), lxcwrap.Completed)
    async with await host.containers.launch("busybox", sh="true") as web:
        assert_type(web, aio.Container)
        assert_type(await web.stop(timeout_s=1), int | None)
        assert_type(await web.call(str.upper, "x"), str)
        assert_type(await web.commit("site:v2"), aio.Image)
        assert_type([await each.path("/x").read_text() for each in host.containers], list[str])
        async for line in web.log_lines(follow=True):
            assert_type(line, lxcwrap.LogLine)
        async with host.networks["front"].partition([web]), web.frozen():
            pass
        assert_type(await (await web.popen(["sh"])).communicate(b"x"), tuple[bytes, bytes])
        assert_type(await host.images.build_steps("x").run("true").build(tags=["x"]), aio.Image)


async def _wrong(host: aio.Host, web: aio.Container) -> None:
    await host.containers.launch("busybox", nmae="x")  # type: ignore[call-arg]
    await web.stop(timeout=1)  # type: ignore[call-arg]
    await web.wait_ready(3)  # type: ignore[arg-type]
    web.stop()  # type: ignore[unused-coroutine]
