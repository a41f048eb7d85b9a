"""A bridge network in parts that do not reach each other, for as long as somebody wants it.

The rules are in a table that the kernel deletes with the socket that made it: whoever wants it may be killed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations

from ..drivers.netlink_messages import check_link_name
from ..drivers.nftables import Nftables


@contextmanager
def partitioned(parts: Sequence[Sequence[str]]) -> Iterator[None]:
    """Nothing passes between bridge ports of different `parts`, which are links on the host."""
    name = f"lxcwrap_parts_{secrets.token_hex(4)}"
    with Nftables() as rules:
        rules.run(table(name, parts))
        try:
            yield
        finally:
            rules.run(f"delete table bridge {name}")


def table(name: str, parts: Sequence[Sequence[str]]) -> str:
    """In nft's language."""
    written = [", ".join(f'"{check_link_name(link)}"' for link in part) for part in parts]
    drops = [f"iifname {{ {one} }} oifname {{ {other} }} drop" for one, other in permutations(written, 2)]
    chain = ["type filter hook forward priority -300; policy accept;", *drops]
    return "\n".join((f"table bridge {name} {{", "flags owner;", "chain passed {", *chain, "}", "}"))
