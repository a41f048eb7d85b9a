"""Restart policies and health checks as values, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lxcwrap import HealthCheck, InvalidSpecError, RestartPolicy
from lxcwrap.oci import Healthcheck, ImageConfig
from lxcwrap.options import make_spec
from lxcwrap.specjson import spec_from_json, spec_to_json
from lxcwrap.specs import ContainerSpec
from lxcwrap.supervisor import restarting


def _spec(said: Healthcheck | None = None, **options: Any) -> ContainerSpec:
    config = ImageConfig(diff_ids=(), cmd=("true",), healthcheck=said)
    keywords: Any = options
    return make_spec("sha256:0", config, None, None, keywords, container_id="1" * 64, auto_remove=False)


def _order(tmp_path: Path, policy: RestartPolicy, **more: Any) -> dict[str, Any]:
    restart = {"when": policy.when, "max_retries": policy.max_retries}
    return {"bundle": str(tmp_path), "stdio": ["stdin"], "restart": restart, **more}


@pytest.mark.parametrize(
    "wrong",
    [{"when": "sometimes"}, {"when": "always", "max_retries": 3}, {"when": "on_failure", "max_retries": 0}],
)
def test_wrong_policies(wrong: dict[str, Any]) -> None:
    """Retries are counted on failures only, and once at least."""
    with pytest.raises(InvalidSpecError):
        RestartPolicy(**wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HealthCheck.command([]),
        lambda: HealthCheck.command(["a\0b"]),
        lambda: HealthCheck.tcp(0),
        lambda: HealthCheck.http(80, "x"),
        lambda: HealthCheck.http(80, "/x HTTP/1.0\r\nA: b"),
        lambda: HealthCheck.tcp(80, interval_s=0),
        lambda: HealthCheck.tcp(80, retries=0),
        lambda: HealthCheck.tcp(80, start_period_s=-1),
        lambda: HealthCheck.tcp(80, start_period_s=float("nan")),
        lambda: HealthCheck.tcp(80, interval_s=1e-9),
        lambda: HealthCheck.tcp(80, interval_s=1e10),  # more than sleep() can
        lambda: HealthCheck.tcp(80, timeout_s=3e6),  # more than poll() can
        lambda: HealthCheck.tcp(80, start_interval_s=float("inf")),
    ],
)
def test_wrong_checks(make: Any) -> None:
    """Refused when they are made."""
    with pytest.raises(InvalidSpecError):
        make()


def test_mistaken_types() -> None:
    """A line is no list, and a misspelt timing no timing."""
    with pytest.raises(TypeError):
        HealthCheck.command("test -e /x")
    with pytest.raises(TypeError):
        HealthCheck.tcp(80, interval=3)
    with pytest.raises(TypeError):
        _spec(restart="always")
    with pytest.raises(TypeError):
        _spec(health=["CMD", "true"])


def test_both_survive_the_store() -> None:
    """As JSON and back; a record of an older version has neither."""
    spec = _spec(restart=RestartPolicy.on_failure(3), health=HealthCheck.http(80, "/x", retries=2))
    assert spec_from_json(spec_to_json(spec)) == spec
    old = spec_to_json(_spec()).replace('"health":null,', "")
    assert spec_from_json(old).health is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, None),
        (Healthcheck(test=("NONE",)), None),
        (Healthcheck(test=()), None),
        (Healthcheck(test=("CMD", "a", "b"), retries=5), HealthCheck.command(["a", "b"], retries=5)),
        (Healthcheck(test=("CMD-SHELL", "a b"), interval_s=2.0), HealthCheck.shell("a b", interval_s=2.0)),
    ],
)
def test_what_images_say(said: Healthcheck | None, expected: HealthCheck | None) -> None:
    """Docker's words for a check; the caller's goes before."""
    assert _spec(said).health == expected
    assert _spec(said, health=HealthCheck.none()).health is None
    assert _spec(said, health=HealthCheck.tcp(1)).health == HealthCheck.tcp(1)


def test_an_unknown_kind_of_check_is_refused() -> None:
    """Not ignored: the container would never be unhealthy."""
    with pytest.raises(InvalidSpecError):
        _spec(Healthcheck(test=("HTTP", "/x")))


def test_the_pauses_grow_and_begin_anew(tmp_path: Path) -> None:
    """Doubled up to a minute; after ten seconds of running it is the first again."""
    order = _order(tmp_path, RestartPolicy.always())
    delays = []
    for _ in range(12):
        again = restarting.plan_next(order, 0, 0.5)
        assert again
        order = again
        delays.append(order["delay_s"])
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60.0
    again = restarting.plan_next(order, 0, 10.0)
    assert again and (again["delay_s"], again["count"], again["stdio"]) == (0.1, 13, [])


def test_when_there_is_no_restart(tmp_path: Path) -> None:
    """Success, too many failures, or a user's wish."""
    failing = _order(tmp_path, RestartPolicy.on_failure(2))
    assert restarting.plan_next(failing, 0, 1.0) is None
    assert restarting.plan_next({**failing, "count": 2, "delay_s": 0.2}, 1, 1.0) is None
    assert restarting.plan_next({**failing, "count": 1, "delay_s": 0.1}, None, 1.0)
    assert restarting.plan_next({"bundle": str(tmp_path)}, 1, 1.0) is None
    (tmp_path / "stopped").touch()
    assert restarting.plan_next(_order(tmp_path, RestartPolicy.always()), 1, 1.0) is None


def test_a_ticket_is_good_until_another_is_given(tmp_path: Path) -> None:
    """Of two who wait the later one starts it; none when it is called off."""
    order = restarting.plan_next(_order(tmp_path, RestartPolicy.always()), 1, 1.0)
    assert order
    first = restarting.take_on(order, 1)
    assert restarting.is_wanted(first)
    second = restarting.take_on(order, 2)
    assert (restarting.is_wanted(first), restarting.is_wanted(second)) == (False, True)
    (tmp_path / "stopped").touch()
    assert not restarting.is_wanted(second)
    restarting.forget(order)
    assert list(tmp_path.iterdir()) == []
