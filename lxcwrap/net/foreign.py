"""Rules of others on the machine that drop what our tables accept, and what to do about them. Pure: takes
what `drivers.nftables.Nftables.query` gives, and gives text for its `run`.

A packet passes only if every table lets it. Docker and ufw drop what is forwarded by policy, in the chains of
iptables, and Docker reserves one, DOCKER-USER, for rules of others. That is where ours go. Programs that
rewrite all their rules (firewalld) would undo that: there the remedy is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .names import bridge_name

Object = Mapping[str, Any]  # of nft's JSON: {"chain": {..}}, {"rule": {..}}
_OWN = "lxcwrap_"
_BRIDGES = bridge_name("")  # how the names of ours begin
FIREWALLD = "firewalld"
_DOCKER_USER = "DOCKER-USER"
# Docker's bridges: what containers of ours send there goes on through Docker's own rules.
_OTHER_BRIDGES = ("br-*", "docker*")


class Obstacle(NamedTuple):
    """A chain that drops packets from or to containers. `mends_in`: the chain that rules of ours go in;
    empty: see `remedy`."""

    family: str
    table: str
    chain: str
    hook: str
    mends_in: str = ""

    @property
    def remedy(self) -> str:
        """What an administrator is to do, once, for all networks, in words."""
        bridge = f"{_BRIDGES}*"
        if self.table == FIREWALLD:
            command = f"firewall-cmd --permanent --zone=trusted --add-interface={_BRIDGES}+"
            return f"{command}; firewall-cmd --reload"
        where = f"nftables' chain {self.family} {self.table} {self.chain}"
        if self.hook == "input":
            return f"let containers ask their name server: accept port 53 from {bridge} in {where}"
        return f"accept packets from and to {bridge} in {where}"


def obstacles(listed: Iterable[Object]) -> list[Obstacle]:
    """In the order found. listed: of ``list chains``."""
    chains = [item["chain"] for item in listed if "chain" in item]
    docker = {
        chain["family"] for chain in chains if (chain["table"], chain["name"]) == ("filter", _DOCKER_USER)
    }
    found = []
    for chain in chains:
        hook = chain.get("hook")
        firewalld = chain["table"] == FIREWALLD  # it accepts by policy, and rejects by its last rule
        if hook not in ("forward", "input") or chain["table"].startswith(_OWN):
            continue
        if chain.get("policy") != "drop" and not firewalld:
            continue
        where = (chain["family"], chain["table"], chain["name"])
        mends_in = ""
        if where in (("ip", "filter", "FORWARD"), ("ip6", "filter", "FORWARD")):
            mends_in = _DOCKER_USER if chain["family"] in docker else "FORWARD"
        found.append(Obstacle(*where, hook, mends_in))
    return found


def has_zone(listed: Iterable[Object]) -> bool:
    """Whether firewalld's administrator has put our bridges in a zone of their own. listed: of its table."""
    expressions = [each for item in listed for each in item.get("rule", {}).get("expr", ())]
    wanted = {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": f"{_BRIDGES}*"}
    return any(each.get("match") == wanted for each in expressions if isinstance(each, dict))


def accept(obstacle: Obstacle, bridge: str, owner: str) -> str:
    """Rules that let packets from and to `bridge` pass, marked with `owner`, the name of our tables. To be
    run after `withdraw`, or they are there twice."""
    verdicts = [f'iifname "{bridge}" oifname "{other}" counter return' for other in _OTHER_BRIDGES]
    verdicts += [f'iifname "{bridge}" counter accept', f'oifname "{bridge}" counter accept']
    place = f"{obstacle.family} {obstacle.table} {obstacle.mends_in}"
    mark = f'comment "{_mark(bridge, owner)}"'
    # Each goes before all others.
    return "".join(f"insert rule {place} {verdict} {mark}\n" for verdict in reversed(verdicts))


def withdraw(rules: Iterable[Object], bridge: str, owner: str) -> str:
    """What `accept` added. rules: of ``list chain`` of the chain that it went in."""
    ours = [item["rule"] for item in rules if item.get("rule", {}).get("comment") == _mark(bridge, owner)]
    return "".join(
        f"delete rule {rule['family']} {rule['table']} {rule['chain']} handle {rule['handle']}\n"
        for rule in ours
    )


def _mark(bridge: str, owner: str) -> str:
    return f"{owner} {bridge}"
