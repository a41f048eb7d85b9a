"""Factories of pytest fixtures, for a ``conftest.py``: containers, images, networks, volumes::

    from lxcwrap import fixtures, ready

    front = fixtures.network()
    db = fixtures.container(
        "postgres:15", env={"POSTGRES_PASSWORD": "x"}, network=fixtures.use("front"), ready=ready.tcp(5432)
    )
    app_image = fixtures.image("./app")
    app = fixtures.container(
        fixtures.use("app_image"), network=fixtures.use("front"), env={"DB_HOST": lambda db: db.ip}
    )
    fresh_db = fixtures.fresh("db")  # for each test another, as `db` was when it was ready

Wherever a value is expected, `use` gives that of a fixture, and a function that of a call: its parameters are
names of fixtures.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any, Literal, Protocol

import pytest
from attrs import frozen

from . import testmaking
from .container import Container
from .host import Host
from .image import Image
from .pytest_plugin import session_of
from .ready import Check

Scope = Literal["session", "package", "module", "class", "function"]


@frozen
class Use:
    """See `use`."""

    function: Callable[..., Any]
    names: tuple[str, ...]


def use(what: str | Callable[..., Any]) -> Any:
    """In the place of a value: that of the fixture `what`; or what the function `what` gives for the values
    of the fixtures that its parameters name."""
    if isinstance(what, str):
        return Use(lambda value: value, (what,))
    return Use(what, tuple(inspect.signature(what).parameters))


# --- factories ------------------------------------------------------------------------------------------


def container(
    image: Any,
    argv: Any = None,
    *,
    sh: Any = None,
    ready: Check | Use | None = None,
    ready_timeout_s: float = 60.0,
    scope: Scope = "session",
    shared: bool = False,
    **options: Any,
) -> Any:
    """
    A fixture whose value is a `Container`, launched as by `Containers.launch`.

    image: a reference, an `Image`, or the fixture of one. ready: of `lxcwrap.ready`, waited for at most
    `ready_timeout_s`; None: that it is healthy, if it has a health check. shared: the workers of pytest-xdist
    have one, which goes with the last of them; else each has its own. options: of `ContainerOptions`.

    Its name, and a name in its networks, is that of the fixture. It is killed in the end.
    """
    _check_shared(scope, shared)
    asked = {"image": image, "argv": argv, "sh": sh, "options": options}
    place = _place()

    def set_up(request: pytest.FixtureRequest, given: _Given) -> Iterator[Container]:
        maker = _maker(request, given, place, shared)
        with maker.container(given.value(asked), given.resolved(ready), ready_timeout_s) as made:
            yield made

    return _fixture(set_up, scope, asked, ready)


def fresh(of: str, *, scope: Scope = "function", **overrides: Any) -> Any:
    """
    A fixture whose value is another container for each test, with the file system that the one of the fixture
    `of` had when it was ready; it waits for the same. overrides: as of `Snapshot.launch`.
    """
    testmaking.wanted_fresh.add(of)
    origin = use(of)

    def set_up(request: pytest.FixtureRequest, given: _Given) -> Iterator[Container]:
        with _maker(request, given).fresh(of, given.value(overrides)) as made:
            yield made

    return _fixture(set_up, scope, overrides, origin)


def image(source: Any, *, scope: Scope = "session", **options: Any) -> Any:
    """
    A fixture whose value is an `Image`: of a reference; or built, as by `Images.build`, if `source` is a
    `Path` or begins with ``.`` or ``/``. Relative paths are relative to the file that calls this.
    """
    place = _place()
    asked = {"source": source, "options": options}

    def set_up(request: pytest.FixtureRequest, given: _Given) -> Iterator[Image]:
        values = given.value(asked)
        yield _maker(request, given, place).image(values["source"], values["options"])

    return _fixture(set_up, scope, asked)


def network(*, scope: Scope = "session", shared: bool = False, **options: Any) -> Any:
    """A fixture whose value is a `Network`, made as by `Networks.create`. shared: as of `container`."""
    return _noun("networks", scope, shared, _place(), options)


def volume(*, scope: Scope = "session", shared: bool = False, **options: Any) -> Any:
    """A fixture whose value is a `Volume`, made as by `Volumes.create`. shared: as of `container`."""
    return _noun("volumes", scope, shared, _place(), options)


def _noun(
    kind: Literal["networks", "volumes"], scope: Scope, shared: bool, place: str, options: Mapping[str, Any]
) -> Any:
    _check_shared(scope, shared)

    def set_up(request: pytest.FixtureRequest, given: _Given) -> Iterator[Any]:
        with _maker(request, given, place, shared).noun(kind, given.value(options)) as made:
            yield made

    return _fixture(set_up, scope, options)


class LaunchContainer(Protocol):
    """What the fixture `lxc_container` gives. ready, ready_timeout_s: as of `container`."""

    def __call__(
        self,
        image: str | Image = "busybox",
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        ready: Check | None = None,
        ready_timeout_s: float = 60.0,
        **options: Any,
    ) -> Container: ...


@contextmanager
def launching(request: pytest.FixtureRequest, host: Host) -> Iterator[LaunchContainer]:
    """Launches containers, that end with the block."""
    with ExitStack() as stack:

        def launch(
            image: str | Image = "busybox",
            argv: Sequence[str] | None = None,
            *,
            sh: str | None = None,
            ready: Check | None = None,
            ready_timeout_s: float = 60.0,
            **options: Any,
        ) -> Container:
            asked = {"image": image, "argv": argv, "sh": sh, "options": options}
            maker = _maker(request, _Given({"lxc_host": host}))
            return stack.enter_context(maker.container(asked, ready, ready_timeout_s))

        yield launch


def _maker(
    request: pytest.FixtureRequest, given: _Given, place: str = "", shared: bool = False
) -> testmaking.Maker:
    return testmaking.Maker(session_of(request.config), request, given.host, place, shared)


# --- values of fixtures ---------------------------------------------------------------------------------


class _Given:
    """The values of the fixtures that were asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self.host: Host = values["lxc_host"]

    def resolved(self, value: Any) -> Any:
        """`value`, or what it uses."""
        if not isinstance(value, Use):
            return value
        return value.function(*(self._values[name] for name in value.names))

    def value(self, value: Any) -> Any:
        """The same for all in dicts and lists, where functions need not be marked."""
        if isinstance(value, FunctionType):
            value = use(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(each) for key, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(self.value, value))
        return self.resolved(value)


def _names(value: Any) -> Iterator[str]:
    """Of the fixtures that `value` uses."""
    if isinstance(value, FunctionType):
        value = use(value)
    if isinstance(value, Use):
        yield from value.names
    elif isinstance(value, Mapping):
        yield from _names([*value.keys(), *value.values()])
    elif type(value) in (list, tuple):
        for each in value:
            yield from _names(each)


def _fixture(set_up: Callable[..., Iterator[Any]], scope: Scope, asked: Any, ready: Any = None) -> Any:
    """A fixture that asks for those it uses, as if they were its parameters."""
    names = ["request", "lxc_host", *_names(asked), *(_names(ready) if isinstance(ready, Use) else ())]

    def fixture(request: pytest.FixtureRequest, **values: Any) -> Iterator[Any]:
        yield from set_up(request, _Given(values))

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind) for name in dict.fromkeys(names)]
    fixture.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what pytest looks at
    return pytest.fixture(scope=scope)(fixture)


def _place() -> str:
    """The file that calls a factory."""
    return str(sys._getframe(2).f_globals.get("__file__", ""))


def _check_shared(scope: Scope, shared: bool) -> None:
    if shared and scope != "session":
        raise TypeError(f"shared=True goes with scope='session', not with {scope!r}")
