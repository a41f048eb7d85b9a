"""Factories of fixtures: what they ask for, and what stands for it in another run."""

from __future__ import annotations

from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lxcwrap import Endpoint, Mount, fixtures, pytest_plugin, testmaking, testruns

REPOSITORY = Path(__file__).parents[2]


class Named:
    name = "front"


def asked(*values: Any) -> list[str]:
    return list(fixtures._names(list(values)))


def test_values_name_the_fixtures_they_need() -> None:
    """By `use`, or by the parameters of functions, wherever they are; but not by other callables."""
    assert asked(fixtures.use("db"), {"A": lambda app, db: None}, [("x", fixtures.use("y"))]) == [
        *("db", "app", "db", "y"),
    ]
    assert asked("text", Mount.tmpfs("/x"), str, None) == []


def test_values_are_those_of_fixtures() -> None:
    """Nested ones are resolved in their places, and all else stays as it is."""
    given = fixtures._Given({"lxc_host": None, "db": "DB", "app": "APP"})
    mount = Mount.tmpfs("/x")
    value = {"A": lambda app, db: app + db, "B": [fixtures.use("db"), mount], "C": (1, None)}
    assert given.value(value) == {"A": "APPDB", "B": ["DB", mount], "C": (1, None)}


def test_only_what_lasts_for_the_session_is_shared() -> None:
    """It goes with the last worker, so no narrower scope has it."""
    for factory in (fixtures.network, fixtures.volume, lambda **each: fixtures.container("busybox", **each)):
        with pytest.raises(TypeError):
            factory(scope="function", shared=True)


@pytest.mark.parametrize("network", [None, "none", "host", "container:db"])
def test_without_networks_there_is_no_further_name(network: str | None) -> None:
    """What is no network of its own stays as it is."""
    assert testmaking._with_alias(network, "db") == network


def test_on_its_networks_a_container_has_the_name_of_its_fixture() -> None:
    """Beside those it was to have."""
    named = Named()
    assert testmaking._with_alias("front", "db") == {"front": Endpoint(aliases=("db",))}
    assert testmaking._with_alias([named], "db") == {named: Endpoint(aliases=("db",))}
    given = {"front": Endpoint(aliases=("x",), ip="10.0.0.2")}
    assert testmaking._with_alias(given, "db") == {"front": Endpoint(aliases=("x", "db"), ip="10.0.0.2")}


def test_the_same_is_recognised_in_another_process() -> None:
    """Things with names are known by these, and dicts whatever their order."""
    one = testmaking._stable({"network": [Named()], "env": {"A": "1", "B": "2"}})
    other = testmaking._stable({"env": {"B": "2", "A": "1"}, "network": [Named()]})
    assert repr(one) == repr(other)
    assert one != testmaking._stable({"env": {"A": "1"}, "network": [Named()]})


def test_runs_are_where_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LXCWRAP_TEST_DIR; else in memory or on disk, and both are looked at."""
    monkeypatch.setenv("LXCWRAP_TEST_DIR", str(tmp_path))
    assert testruns.parents() == [tmp_path]
    monkeypatch.delenv("LXCWRAP_TEST_DIR")
    assert Path("/var/lib/lxcwrap-runs") in testruns.parents()


def test_pytest_finds_the_plugin() -> None:
    """The entry point names the module."""
    config = ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    name, module = config["options.entry_points"]["pytest11"].strip().split(" = ")
    assert (name, import_module(module)) == ("lxcwrap", pytest_plugin)
