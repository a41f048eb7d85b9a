"""What a walk expects to be there: plain values. `ANY` stands for what is not known, or not decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import ANY

from attrs import evolve, field, frozen

from lxcwrap import Container, Host, Network, Volume

CREATED, RUNNING, PAUSED, STOPPED, GONE = "created", "running", "paused", "stopped", "gone"
KILLED, TERMINATED = 137, 143


@frozen
class Wanted:
    """A container. networks: in their order. ports: of the host, by its own. volumes: by target.
    kept_down: a user has ended it, so that it is not restarted. files: in /files."""

    id: str = ANY
    state: str = CREATED
    exit_code: Any = None
    networks: tuple[tuple[str, tuple[str, str | None, str]], ...] = ()
    ports: Mapping[tuple[str, int], int] = field(factory=dict)
    volumes: Mapping[str, str] = field(factory=dict)
    policy: str = "no"
    kept_down: bool = False
    restarts: int = 0
    auto_remove: bool = False
    pids: int | None = None
    image: str = ANY

    @property
    def is_alive(self) -> bool:
        return self.state in (RUNNING, PAUSED)

    @property
    def is_restarted(self) -> bool:
        """When it ends."""
        return self.policy != "no" and not self.kept_down

    def on(self, network: str) -> bool:
        return network in dict(self.networks)

    def loosened(self) -> Wanted:
        """How it is after a step that was cut off, as far as that is decided."""
        return evolve(self, exit_code=ANY, kept_down=ANY, restarts=ANY)


@frozen
class World:
    """networks: id, subnets, and whether it is internal. volumes: the names of their files."""

    containers: Mapping[str, Wanted] = field(factory=dict)
    networks: Mapping[str, tuple[str, str, str, bool]] = field(factory=dict)
    volumes: Mapping[str, frozenset[str]] = field(factory=dict)
    images: Mapping[str, str] = field(factory=dict)

    def with_container(self, name: str, **changes: Any) -> World:
        """One changed, or added."""
        changed = evolve(self.containers.get(name, Wanted()), **changes)
        if changed.state == GONE or (changed.auto_remove and changed.state == STOPPED):
            return evolve(self, containers=without(self.containers, name))
        return evolve(self, containers={**self.containers, name: changed})

    def users(self, volume: str) -> list[str]:
        return [name for name, each in self.containers.items() if volume in each.volumes.values()]

    def on(self, network: str) -> list[str]:
        return [name for name, each in self.containers.items() if each.on(network)]

    def holder(self, protocol: str, host_port: int) -> str | None:
        """Of a port of the host."""
        for name, each in self.containers.items():
            for (its, _), number in each.ports.items():
                if (its, number) == (protocol, host_port):
                    return name
        return None

    def takes_published(self, name: str) -> bool:
        """Whether ports of the host can lead to it."""
        return any(not self.networks[network][3] for network, _ in self.containers[name].networks)

    def ended(self, name: str, exit_code: Any, *, by_user: bool = False) -> World:
        """By itself, or killed; or for a user, who wants it to stay down."""
        it = self.containers[name]
        if by_user:
            return self.with_container(
                name, state=STOPPED, exit_code=exit_code, kept_down=it.policy != "no" or it.kept_down
            )
        if it.is_restarted:
            return self.with_container(name, state=RUNNING, exit_code=None, restarts=it.restarts + 1)
        return self.with_container(name, state=STOPPED, exit_code=exit_code)

    def started(self, name: str) -> World:
        return self.with_container(name, state=RUNNING, exit_code=None, kept_down=False, restarts=0)


def without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def observed(host: Host) -> World:
    """All that the library says there is."""
    containers = {each.name: _container(each) for each in host.containers}
    assert len(containers) == len(host.containers)
    return World(
        containers=containers,
        networks={each.name: _network(each) for each in host.networks},
        volumes={each.name: _volume(each) for each in host.volumes},
        images={str(tag): image.id for image in host.images for tag in image.tags if tag.startswith("walk:")},
    )


def _container(container: Container) -> Wanted:
    spec, state = container.spec, container.state
    found = Wanted(
        id=container.id,
        state=str(state),
        exit_code=container.exit_code,
        networks=tuple((name, (str(e.ip), e.ip6, str(e.mac))) for name, e in container.networks.items()),
        ports={(port.protocol, port.container_port): port.host_port for port in container.ports},
        volumes={mount.target: mount.source for mount in spec.mounts},
        policy=spec.restart.when,
        kept_down=(container._machinery.bundle(container.id) / "stopped").exists(),
        restarts=container.restart_count,
        auto_remove=spec.auto_remove,
        pids=spec.limits.pids,
        image=container.image.id,
    )
    assert container.state == state, "its state changed while it was looked at"
    return found


def _network(network: Network) -> tuple[str, str, str, bool]:
    return network.id, network.subnet, network.subnet6 or "", network.internal


def _volume(volume: Volume) -> frozenset[str]:
    return frozenset(path.name for path in volume.files.iterdir())


def differences(before: World, after: World, found: World, *, was_cut_off: bool) -> list[str]:
    """What is not as it must be `after` a step; one that was cut off may have been done in part: then each
    thing is as before or after it, or has ended on the way."""
    wrong = []
    for kind in ("containers", "networks", "volumes", "images"):
        old, new, now = (getattr(world, kind) for world in (before, after, found))
        for name in {*old, *new, *now}:
            allowed = [new.get(name)]
            if was_cut_off:
                allowed.append(old.get(name))
                if kind == "containers":
                    allowed = [each.loosened() if each else each for each in allowed]
                    alive = [each for each in allowed if each and each.is_alive]
                    allowed += [evolve(each, state=STOPPED) for each in alive]
                    if name in old:  # a start forgets the last run before it begins another
                        allowed += [evolve(each, state=CREATED) for each in alive]
            if now.get(name) not in allowed:
                wrong.append(f"{kind} {name}:\n    is     {now.get(name)}\n    not in {allowed}")
    return wrong
