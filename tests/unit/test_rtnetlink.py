"""Messages to the kernel: their bytes, what is read out of answers, and what is refused before it is sent."""

from __future__ import annotations

import errno
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.drivers import links, traffic
from lxcwrap.drivers.netlink_messages import (
    ERROR,
    Request,
    attribute,
    attributes,
    check_link_name,
    mac_bytes,
    messages,
    nested,
    packed_network,
    text,
    unpacked,
    verdict,
)


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=6))
def test_attributes_round_trip(values: dict[int, bytes]) -> None:
    """Whatever their lengths: each begins at a multiple of four."""
    data = b"".join(attribute(kind, value) for kind, value in values.items())
    assert attributes(data) == values
    assert len(data) % 4 == 0
    assert attributes(attributes(nested(7, data))[7]) == values


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_an_end(data: bytes) -> None:
    """Lengths that lie end the reading; none goes on for ever."""
    attributes(data)
    list(messages(data))


def test_an_answer_of_several_messages_is_taken_apart() -> None:
    """Each with its type, flags, sequence number and body."""
    first, second = (
        Request("", "", kind, 0, body).message(kind, 0) for kind, body in ((16, b"abc\0"), (20, b""))
    )
    assert list(messages(first + second)) == [(16, 1, 16, b"abc\0"), (20, 1, 20, b"")]


def test_a_refusal_has_number_words_operation_and_name() -> None:
    """As the kernel sends them with the options that we set."""
    request = links.bridge("front")
    body = struct.pack("=i", -errno.EEXIST) + bytes(16) + text(1, "it is there")
    answer = struct.pack("=IHHII", 16 + len(body), ERROR, 0x300, 1, 0) + body
    (_, flags, _, received) = next(messages(answer))
    error = request.failed(*verdict(flags, received))
    assert isinstance(error, FileExistsError)
    assert (error.errno, error.filename) == (errno.EEXIST, "front")
    assert "make bridge" in str(error)
    assert "it is there" in str(error)
    assert verdict(0, struct.pack("=i", 0) + bytes(16)) == (0, "")


@pytest.mark.parametrize(
    "name", ["", "a" * 16, ".", "..", "a/b", "a b", "a:1", "eth%d", "a\n", "a\0", "ü" * 8]
)
def test_names_the_kernel_would_refuse_or_change(name: str) -> None:
    """Are refused here; so are they wherever a link is made or meant."""
    makers: list[Callable[[str], object]] = [
        check_link_name,
        links.bridge,
        links.delete,
        lambda name: links.veth("good", name),
        lambda name: links.rename(1, name),
    ]
    for make in makers:
        with pytest.raises(ValueError):
            make(name)


@pytest.mark.parametrize(
    "mac", ["", "02:00:00:00:00", "02-00-00-00-00-01", "02:00:00:00:00:0g", "2:0:0:0:0:1"]
)
def test_malformed_macs_are_refused(mac: str) -> None:
    """Six bytes of two digits."""
    with pytest.raises(ValueError):
        mac_bytes(mac)


@pytest.mark.parametrize(
    "network",
    ["", "10.0.0.1/33", "10.0.0/24", "fd00::/129", "10.0.0.1/", "10.0.0.1/x", "10.0.0.1/-1", "::1/²"],
)
def test_malformed_networks_are_refused(network: str) -> None:
    """Of both versions, with lengths that are none."""
    if network.endswith("/"):
        assert packed_network(network)[2] == 32
        return
    with pytest.raises(ValueError):
        packed_network(network)


@given(st.ip_addresses(), st.data())
def test_networks_round_trip(address: object, data: st.DataObject) -> None:
    """Text to bytes and back."""
    bits = data.draw(st.integers(0, 128 if ":" in str(address) else 32))
    _, value, length = packed_network(f"{address}/{bits}")
    assert (packed_network(unpacked(value))[1], length) == (value, bits)


@pytest.mark.parametrize(
    "make",
    [
        lambda: links.macvlan("m", 1, mode="wild"),
        lambda: links.ipvlan("i", 1, mode="bridge"),
        lambda: links.route("10.0.0.0/8", via="fd00::1"),
        lambda: links.route("10.0.0.0/8", via="gateway"),
        lambda: links.address(1, "ten"),
    ],
)
def test_what_cannot_be_right_is_refused(make: Callable[[], Request]) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError):
        make()


@given(st.integers(8, 10**12))
def test_a_bucket_holds_a_packet_and_its_rate(bps: int) -> None:
    """Never less than the largest packet, and all figures fit the kernel's fields."""
    body = traffic.shape(1, bps).body
    options = attributes(attributes(body[20:])[2])
    (rate,) = struct.unpack("=Q", options[4])
    (burst,) = struct.unpack("=I", options[6])
    limit = struct.unpack_from("=I", options[1], 24)[0]
    assert rate == bps // 8
    assert limit > burst >= 1 << 17


def test_modules_for_the_fork_server_are_light() -> None:
    """Each process of a container carries them: nothing heavy comes along, in name or in fact."""
    modules = "rtnetlink traffic nftables conntrack forwarding netns".split()
    code = (
        "import sys, socket, errno, ctypes, struct\n"
        "sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        + "".join(f"import lxcwrap.drivers.{name}\n" for name in modules)
        + "print(*set(sys.modules) - before)"
    )
    root = str(Path(links.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True
    )
    own = {name for name in done.stdout.split() if name.startswith("lxcwrap")}
    assert set(done.stdout.split()) - own <= {"__future__"}
