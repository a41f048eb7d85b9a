"""What users ask for of networks: checked when it is made, and kept as it was said."""

from __future__ import annotations

from typing import Any

import pytest

from lxcwrap import Endpoint, InvalidSpecError, NetworkSpec, Port
from lxcwrap.oci import ImageConfig
from lxcwrap.options import check_network_name, make_spec
from lxcwrap.specjson import spec_from_json, spec_to_json
from lxcwrap.specs import ContainerSpec


class Front:
    name = "front"


def spec(**options: Any) -> ContainerSpec:
    return make_spec(
        "sha256:" + "0" * 64,
        ImageConfig(diff_ids=()),
        ["true"],
        None,
        options,  # type: ignore[arg-type]  # some are wrong on purpose
        container_id="ab" * 32,
        auto_remove=False,
    )


@pytest.mark.parametrize(
    ("given", "networks"),
    [
        ("front", {"front": Endpoint()}),
        (Front(), {"front": Endpoint()}),
        (["front", "back"], {"front": Endpoint(), "back": Endpoint()}),
        ([Front()], {"front": Endpoint()}),
        ({"front": Endpoint(ip="10.0.0.2")}, {"front": Endpoint(ip="10.0.0.2")}),
        ({Front(): Endpoint(mac="02:00:00:00:00:01")}, {"front": Endpoint(mac="02:00:00:00:00:01")}),
        ("none", {}),
        ([], {}),
        (None, {}),
    ],
)
def test_the_ways_to_name_networks(given: object, networks: dict[str, Endpoint]) -> None:
    """A name, an object, several, with how it is to be there; kept by the record."""
    made = spec(network=given)
    assert (made.network_mode, made.networks) == ("own", networks)
    assert list(made.networks) == list(networks)
    assert spec_from_json(spec_to_json(made)) == made


@pytest.mark.parametrize("mode", ["host", "container:db"])
def test_networks_of_others(mode: str) -> None:
    """Nothing is connected or published there, nor set."""
    assert spec(network=mode).network_mode == mode
    with pytest.raises(InvalidSpecError):
        spec(network=mode, sysctls={"net.core.somaxconn": 1})
    assert spec(network=mode, sysctls={"kernel.shmmax": 1}).sysctls == {"kernel.shmmax": "1"}


@pytest.mark.parametrize(
    "wrong",
    [
        "container:",
        "a/b",
        "",
        ["front", "front"],
        ["host"],
        ["none", "front"],
        "-front",
    ],
)
def test_what_is_no_network(wrong: object) -> None:
    """Is refused before anything is made."""
    with pytest.raises(InvalidSpecError):
        spec(network=wrong)


@pytest.mark.parametrize("wrong", [7, {"front": None}, {"front": "10.0.0.2"}, [7]])
def test_what_is_of_another_type(wrong: object) -> None:
    """Is a mistake of the program."""
    with pytest.raises((TypeError, InvalidSpecError)):
        spec(network=wrong)


def test_names_with_a_meaning_are_no_names() -> None:
    """Of networks."""
    for name in ("none", "host"):
        with pytest.raises(InvalidSpecError):
            check_network_name(name)
    assert check_network_name("default") == "default"


def test_addresses_are_written_in_one_way() -> None:
    """However they were given; and are of their version."""
    assert Endpoint(ip6="FD00:0::0:1").ip6 == "fd00::1"
    for wrong in ({"ip": "10.0.0.256"}, {"ip": "fd00::1"}, {"ip6": "10.0.0.1"}, {"ip": "10.0.0.1/24"}):
        with pytest.raises(InvalidSpecError):
            Endpoint(**wrong)
    for zoned_or_mapped in ("fe80::1%lo", "fe80::1%lo } accept", "::ffff:127.0.0.1"):
        with pytest.raises(InvalidSpecError):
            Port(80, host_ip=zoned_or_mapped)


@pytest.mark.parametrize("wrong", ["lo", "", "a b", "x" * 16, "a/b", "-x"])
def test_interfaces_have_names_the_kernel_takes(wrong: str) -> None:
    """And not that of loopback."""
    with pytest.raises(InvalidSpecError):
        Endpoint(interface=wrong)


def test_aliases_are_a_list() -> None:
    """A single one would be taken for its letters."""
    assert Endpoint(aliases=["www", "web"]).aliases == ("www", "web")
    with pytest.raises(TypeError):
        Endpoint(aliases="www")


@pytest.mark.parametrize(
    "wrong",
    [
        {"driver": "bond"},
        {"driver": "macvlan"},
        {"parent": "eth0"},
        {"mtu": 0},
        {"mtu": 1000},
        {"mtu": 70000},
    ],
)
def test_a_network_is_checked(wrong: dict[str, object]) -> None:
    """Driver, link and length of packets."""
    facts: dict[str, Any] = {"subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "mtu": 1500}
    assert NetworkSpec(**facts).driver == "bridge"
    with pytest.raises(InvalidSpecError):
        NetworkSpec(**{**facts, **wrong})
