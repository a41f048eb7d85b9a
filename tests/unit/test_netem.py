"""Netem's messages, byte for byte as those of tc (iproute2 6.1.0, under strace)."""

from __future__ import annotations

import pytest

from lxcwrap.drivers.netem import netem, no_netem

ROOT, IN_BUCKET = 0xFFFFFFFF, 0x1_0001
ADD, DELETE = (36, 0x600), (37, 0)

# tc qdisc add dev veth0 PLACE handle 2: netem limit 100000 ...
SENT_BY_TC = [
    ("delay 100ms", ROOT, {"delay_s": 0.1}, "84d71700 a0860100 00000000 00000000 00000000 00000000"),
    (
        "delay 250us 50us loss 0.1%",
        ROOT,
        {"delay_s": 0.00025, "jitter_s": 0.00005, "loss": 0.001},
        "420f0000 a0860100 37894100 00000000 00000000 0d030000",
    ),
    (
        "delay 2s 1s loss 100%",
        IN_BUCKET,
        {"delay_s": 2, "jitter_s": 1, "loss": 1},
        "50d6dc01 a0860100 ffffffff 00000000 00000000 286bee00",
    ),
    ("loss 33.3%", ROOT, {"loss": 0.333}, "00000000 a0860100 ed7c3f55 00000000 00000000 00000000"),
]


@pytest.mark.parametrize(
    ("command", "place", "figures", "options"), SENT_BY_TC, ids=lambda each: str(each)[:9]
)
def test_message_is_that_of_tc(command: str, place: int, figures: dict[str, float], options: str) -> None:
    """Header, kind and options."""
    head = "00000000 03000000 00000200" + place.to_bytes(4, "little").hex() + "00000000"
    kind = "0a000100 6e6574656d000000"
    request = netem(3, place, **{"delay_s": 0.0, "jitter_s": 0.0, "loss": 0.0, **figures})
    assert request.body == bytes.fromhex(f"{head} {kind} 1c000200 {options}")
    assert (request.kind, request.flags) == ADD


def test_message_that_takes_it_away_is_that_of_tc() -> None:
    """tc qdisc del dev veth0 root handle 2:"""
    request = no_netem(3, ROOT)
    assert request.body == bytes.fromhex("00000000 03000000 00000200 ffffffff 00000000")
    assert (request.kind, request.flags) == DELETE
