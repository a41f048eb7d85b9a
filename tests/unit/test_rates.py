"""How fast containers may send and receive: what is asked for, what is kept, and which of several holds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap import Endpoint, Host, InvalidSpecError, Limits, NetworkNotFoundError, NetworkSpec, Rate
from lxcwrap.events import Updated
from lxcwrap.net.store import NetworkStore
from lxcwrap.netspecs import parse_rate
from lxcwrap.storage import state as module
from lxcwrap.storage.state import MIGRATIONS, State
from lxcwrap.testing import fake_host

M = 1_000_000
TEN, TWENTY = Rate(egress=10 * M, ingress=10 * M), Rate(egress=20 * M)


@pytest.mark.parametrize(
    ("text", "bps"),
    [
        ("100Mbit", 100 * M),
        ("100mbit/s", 100 * M),
        (" 1.5 Gbit ", 1_500 * M),
        ("0.1Tbit", 10**11),
        ("64Kibit", 65_536),
        ("2Mibit", 2 << 20),
        ("1Gibit", 1 << 30),
        ("1000bit", 1000),
        (1000, 1000),
        (10**12, 10**12),
        (None, None),
    ],
)
def test_bits_a_second(text: int | str | None, bps: int | None) -> None:
    """As tc and Incus have them: a k is 1000, a Ki 1024."""
    assert parse_rate(text) == bps


@pytest.mark.parametrize(
    "wrong",
    [
        *("100Mbps", "100MB", "100M", "100"),  # bits to some, bytes to others
        *("", "fast", "-1Mbit", "1e6bit", "Mbit", "1,5Mbit", "\u0661Mbit", True, 1.5 * M, b"1Mbit", []),
        *("999bit", "0Mbit", "1.1Tbit", "9999999999999Tbit", 0, -1, 999, 10**12 + 1),
    ],
)
def test_what_is_no_rate(wrong: Any) -> None:
    """Is refused where it is given, whoever takes it."""
    facts: dict[str, Any] = {"subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "mtu": 1500}
    for refuse in (
        lambda: Rate(egress=wrong),
        lambda: Rate(ingress=wrong),
        lambda: Endpoint(rate=wrong),
        lambda: Limits(network_rate=wrong),
        lambda: NetworkSpec(**facts, rate=wrong),
    ):
        with pytest.raises(InvalidSpecError):
            refuse()


@given(st.integers(1, 10**9), st.sampled_from(["k", "M", "Ki", "Mi"]))
def test_text_is_exact(number: int, prefix: str) -> None:
    """No figure is lost on the way."""
    factor = {"k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20}[prefix]
    if number * factor <= 10**12:
        assert parse_rate(f"{number}{prefix}bit") == number * factor


def test_one_figure_stands_for_both_directions() -> None:
    """Where a rate is asked for."""
    assert Endpoint(rate="10Mbit").rate == Limits(network_rate=10 * M).network_rate == TEN
    assert Endpoint().rate is None and Endpoint(rate=Rate()).rate == Rate()
    assert Endpoint(rate=TWENTY).rate == TWENTY


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with fake_host(tmp_path) as host:
        yield host


def test_the_nearest_holds(host: Host) -> None:
    """That of the endpoint, else of the container, else of the network; each as a whole."""
    front, back = host.networks.create("front", rate="10Mbit"), host.networks.create("back")
    with host.containers.create("busybox", ["true"], network=[front, back], name="plain") as plain:
        assert [each.rate for each in plain.networks.values()] == [TEN, None]
    limits, at = Limits(network_rate=TWENTY), {front: Endpoint(rate=Rate()), back: Endpoint()}
    with host.containers.create("busybox", ["true"], network=at, limits=limits, name="web") as web:
        assert [each.rate for each in web.networks.values()] == [None, TWENTY]
        front.limit(None, container=web)
        assert web.networks["front"].rate == TWENTY
        front.disconnect(web)
        assert front.connect("web").rate == TWENTY
        front.disconnect(web)
        assert front.connect("web", rate="10Mbit").rate == TEN


def test_changes_are_kept(host: Host) -> None:
    """By whom nothing else was said; other limits stay as they are."""
    front = host.networks.create("front")
    limits = Limits(memory="64MiB")
    with host.containers.create("busybox", ["true"], network=front, limits=limits) as web:
        front.limit("10Mbit")
        assert front.rate == front.spec.rate == web.networks["front"].rate == TEN
        web.update(Limits(network_rate=TWENTY))
        web.update(Limits(cpus=0.5))
        assert web.spec.limits == Limits(memory="64MiB", cpus=0.5, network_rate=TWENTY)
        assert web.networks["front"].rate == TWENTY
        front.limit(None)
        assert front.rate is None and web.networks["front"].rate == TWENTY


def test_who_is_limited_is_told_of(host: Host) -> None:
    """One event for each container that is concerned."""
    front = host.networks.create("front")
    with host.containers.create("busybox", ["true"], network=front, name="web") as web:
        began = datetime.now(UTC)
        front.limit("10Mbit")
        front.limit("1Mbit", container=web)
        web.update(Limits(network_rate=TWENTY))
        told = list(host.events(since=began, follow=False))
        assert [(type(each), getattr(each, "name", "")) for each in told] == [(Updated, "web")] * 3


def test_who_cannot_be_limited(host: Host) -> None:
    """A container that is not there, that has the network of another; a network that is gone."""
    front = host.networks.create("front")
    with host.containers.create("busybox", ["true"], network="host") as web:
        with pytest.raises(InvalidSpecError):
            front.limit("1Mbit", container=web)
        with pytest.raises(InvalidSpecError):
            web.update(Limits(network_rate="1Mbit"))
        assert web.spec.limits == Limits()
    with pytest.raises(InvalidSpecError):
        host.containers.create("busybox", network="host", limits=Limits(network_rate="1Mbit"))
    front.remove()
    with pytest.raises(NetworkNotFoundError):
        front.limit("1Mbit")


def test_an_older_store_has_no_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gets along with them."""
    older = next(number for number, script in enumerate(MIGRATIONS) if "COLUMN rate" in script)
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", MIGRATIONS[:older])
        state = State(tmp_path / "state.db")
        spec = '{"driver": "bridge", "subnet": "10.9.0.0/24", "gateway": "10.9.0.1", "mtu": 1500}'
        container = ("ab" * 32, "web", None, "created", None, '{"limits": {"memory": null}}', 0.0, 1, 1)
        network = ("n", "front", spec, "lxb", 0.0, "", "")
        leased = (container[0], "n", 0, "eth0", "lxv", "10.9.0.2", None, "mac", "[]", None, None)
        for table, row in (("containers", container), ("networks", network), ("endpoints", leased)):
            state.connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        state.close()
    newer = State(tmp_path / "state.db")
    store = NetworkStore(newer)
    (wire,) = store.wires(container[0])
    assert store.spec("n").rate is None and (wire["egress_bps"], wire["ingress_bps"]) == (0, 0)
    with newer.transaction() as change:
        assert store.change_rate(change, "n", None, TWENTY) is None
        assert store.change_rate(change, None, container[0], TEN) is None
    (wire,) = store.wires(container[0])
    assert store.spec("n").rate == TWENTY and wire["egress_bps"] == wire["ingress_bps"] == 10 * M
