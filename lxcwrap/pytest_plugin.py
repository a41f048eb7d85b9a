"""The pytest plugin: options, `lxc_host`, `lxc_container`, logs of containers in reports of failed tests.

As long as no test asks for a container this loads nothing of lxcwrap. Factories of fixtures are in
`lxcwrap.fixtures`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .fixtures import LaunchContainer
    from .host import Host
    from .testsession import Session

_SESSION = pytest.StashKey["Session"]()
_TOKEN = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lxcwrap", "containers (lxcwrap)")
    group.addoption(
        "--lxc-keep",
        action="store_true",
        help="leave the containers of failed tests, and those for all tests, and say how to get into them; "
        "the next run here removes them",
    )
    group.addoption(
        "--lxc-reuse",
        action="store_true",
        help="leave what fixtures of the session have made, for the next run that asks for the same",
    )
    group.addoption("--lxc-clean", action="store_true", help="first remove what earlier runs here have left")
    group.addoption(
        "--lxc-root",
        metavar="DIR",
        help="root directory to use and to keep, with its images; default: a new one, that is removed",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("lxc_clean") and not hasattr(config, "workerinput"):
        from .testsession import clean

        clean(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Workers of pytest-xdist take part in one run."""
    node.workerinput["lxcwrap_run"] = _token(node.config)


def _token(config: pytest.Config) -> str:
    """The name of the run: a new one, or always the same for those that use the same things again."""
    if given := getattr(config, "workerinput", {}).get("lxcwrap_run"):
        return str(given)
    if _TOKEN not in config.stash:
        place = f"{config.getoption('lxc_root')} {config.rootpath}"
        reused = sha256(place.encode()).digest() if config.getoption("lxc_reuse") else None
        config.stash[_TOKEN] = (reused or os.urandom(8))[:8].hex()
    return config.stash[_TOKEN]


def session_of(config: pytest.Config) -> Session:
    """This process' part in the run, which begins now if it has not."""
    if _SESSION not in config.stash:
        from .testsession import Session

        config.stash[_SESSION] = Session(config, _token(config))
    return config.stash[_SESSION]


def pytest_unconfigure(config: pytest.Config) -> None:
    if _SESSION in config.stash:
        config.stash[_SESSION].leave()
        del config.stash[_SESSION]


# --- fixtures ---


@pytest.fixture(scope="session")
def lxc_host(pytestconfig: pytest.Config) -> Host:
    """A `lxcwrap.Host` over a root directory of this run, which goes with all that is in it.

    Without root or LXC the test is skipped; with CI set in the environment it fails.
    """
    from .errors import UnsupportedError
    from .testsession import lack

    reason = lack()
    if not reason:
        try:
            return session_of(pytestconfig).host
        except UnsupportedError as error:
            reason = str(error)
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def lxc_container(request: pytest.FixtureRequest, lxc_host: Host) -> Iterator[LaunchContainer]:
    """Launches containers that end with the test: ``lxc_container("nginx:1", ready=ready.http(80))``. Without
    arguments it is a busybox that sleeps."""
    from .fixtures import launching

    with launching(request, lxc_host) as launch:
        yield launch


# --- reports ---


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _SESSION in item.config.stash:
        item.config.stash[_SESSION].began(item)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    outcome = yield
    report = outcome.get_result()
    if report.failed and _SESSION in item.config.stash:
        item.config.stash[_SESSION].failed(item, report)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if (config.getoption("lxc_keep") or config.getoption("lxc_reuse")) and _TOKEN in config.stash:
        from .testruns import kept_root

        if root := kept_root(config.stash[_TOKEN]):
            terminalreporter.section("containers that are kept")
            for line in _kept(root):
                terminalreporter.write_line(line)
            terminalreporter.write_line("To remove them: pytest --lxc-clean")


def _kept(root: Path) -> Iterator[str]:
    from .host import Host

    with Host(root) as host:
        for container in host.containers:
            name = container.name
            yield f"{name}: {container.state}; python -m lxcwrap --root {root} exec -it {name} sh"
