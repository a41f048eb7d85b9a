"""The steps of a walk that are about networks, ports and volumes."""

from __future__ import annotations

from random import Random
from unittest.mock import ANY

from attrs import evolve

from lxcwrap import (
    Host,
    InvalidSpecError,
    NameInUseError,
    NetworkNotFoundError,
    NotFoundError,
    Port,
    PortInUseError,
    StillUsedError,
    WrongStateError,
)

from .model import STOPPED, Wanted, World, without
from .steps import CONTAINERS, NETWORKS, TARGETS, VOLUMES, Step, refused


def _network(random: Random, world: World) -> str:
    return random.choice([*world.networks, *world.networks, random.choice(NETWORKS)])


def _volume(random: Random, world: World) -> str:
    return random.choice([*world.volumes, *world.volumes, random.choice(VOLUMES)])


def _container(random: Random, world: World) -> str:
    return random.choice([*world.containers] * 4 + [random.choice(CONTAINERS)])


def _allowed(step: Step, after: World) -> Step:
    return evolve(step, error=None, after=after)


# --- networks -------------------------------------------------------------------------------------------


def create_network(random: Random, world: World, _: int) -> Step | None:
    name, internal, ipv6 = random.choice(NETWORKS), random.random() < 0.3, random.random() < 0.5

    def act(host: Host) -> None:
        host.networks.create(name, internal=internal, ipv6=ipv6)

    step = refused(f"create network {name} ({internal=}, {ipv6=})", act, world, NameInUseError)
    if name in world.networks:
        return step
    made = (ANY, ANY, ANY if ipv6 else "", internal)
    return _allowed(step, evolve(world, networks={**world.networks, name: made}))


def remove_network(random: Random, world: World, _: int) -> Step | None:
    name = _network(random, world)

    def act(host: Host) -> None:
        host.networks[name].remove()

    step = refused(f"remove network {name}", act, world, NetworkNotFoundError)
    if name not in world.networks:
        return step
    if world.on(name):
        return evolve(step, error=StillUsedError)
    return _allowed(step, evolve(world, networks=without(world.networks, name)))


def connect(random: Random, world: World, _: int) -> Step | None:
    name, network = _container(random, world), _network(random, world)

    def act(host: Host) -> None:
        host.networks[network].connect(name, aliases=["also"])

    step = refused(f"connect {name} to {network}", act, world, NotFoundError)
    it = world.containers.get(name)
    if it is None or network not in world.networks:
        return step
    if it.on(network):
        return evolve(step, error=InvalidSpecError)
    return _allowed(step, world.with_container(name, networks=(*it.networks, (network, ANY))))


def disconnect(random: Random, world: World, _: int) -> Step | None:
    name, network = _container(random, world), _network(random, world)

    def act(host: Host) -> None:
        host.networks[network].disconnect(name)

    step = refused(f"disconnect {name} from {network}", act, world, NotFoundError)
    it = world.containers.get(name)
    if it is None or network not in world.networks:
        return step
    if not it.on(network):
        return evolve(step, error=InvalidSpecError)
    kept = tuple(each for each in it.networks if each[0] != network)
    return _allowed(step, world.with_container(name, networks=kept))


def prune_networks(random: Random, world: World, _: int) -> Step | None:
    kept = {name: each for name, each in world.networks.items() if world.on(name)}
    return Step("prune networks", lambda host: host.networks.prune(), evolve(world, networks=kept))


# --- ports ----------------------------------------------------------------------------------------------


def publish(random: Random, world: World, first_port: int) -> Step | None:
    name, protocol = _container(random, world), random.choice(["tcp", "tcp", "udp"])
    container_port = random.choice([80, 81])
    host_port = random.choice([None, first_port + random.randrange(4)])
    it = world.containers.get(name)
    if it and (protocol, container_port) in it.ports:
        return None

    def act(host: Host) -> None:
        port = Port(container_port, host_port=host_port, protocol=protocol)  # type: ignore[arg-type]
        host.containers[name].publish(port)

    step = refused(f"publish {protocol} {container_port} of {name} at {host_port}", act, world, NotFoundError)
    if it is None:
        return step
    if not world.takes_published(name):
        return evolve(step, error=InvalidSpecError)
    if host_port and world.holder(protocol, host_port):
        return evolve(step, error=PortInUseError)
    ports = {**it.ports, (protocol, container_port): host_port or ANY}
    return _allowed(step, world.with_container(name, ports=ports))


def unpublish(random: Random, world: World, _: int) -> Step | None:
    name = _container(random, world)
    it = world.containers.get(name)
    published = sorted(it.ports) if it else []
    protocol, container_port = random.choice([*published, *published, ("tcp", 80)])

    def act(host: Host) -> None:
        host.containers[name].unpublish(Port(container_port, protocol=protocol))  # type: ignore[arg-type]

    step = refused(f"unpublish {protocol} {container_port} of {name}", act, world, NotFoundError)
    if it is None:
        return step
    if (protocol, container_port) not in it.ports:
        return evolve(step, error=InvalidSpecError)
    kept = {key: value for key, value in it.ports.items() if key != (protocol, container_port)}
    return _allowed(step, world.with_container(name, ports=kept))


# --- volumes --------------------------------------------------------------------------------------------


def create_volume(random: Random, world: World, _: int) -> Step | None:
    name = random.choice(VOLUMES)
    step = refused(f"create volume {name}", lambda host: host.volumes.create(name), world, NameInUseError)
    if name in world.volumes:
        return step
    return _allowed(step, evolve(world, volumes={**world.volumes, name: frozenset()}))


def remove_volume(random: Random, world: World, _: int) -> Step | None:
    name = _volume(random, world)

    def act(host: Host) -> None:
        host.volumes[name].remove()

    step = refused(f"remove volume {name}", act, world, NotFoundError)
    if name not in world.volumes:
        return step
    if world.users(name):
        return evolve(step, error=StillUsedError)
    return _allowed(step, evolve(world, volumes=without(world.volumes, name)))


def prune_volumes(random: Random, world: World, _: int) -> Step | None:
    kept = {name: each for name, each in world.volumes.items() if world.users(name)}
    return Step("prune volumes", lambda host: host.volumes.prune(), evolve(world, volumes=kept))


def write(random: Random, world: World, _: int) -> Step | None:
    """A file in a volume; by a container that has it, if one runs."""
    name, file = _volume(random, world), random.choice("abc")
    by = [each for each in world.users(name) if world.containers[each].state == "running"]

    def act(host: Host) -> None:
        if not by:
            (host.volumes[name].files / file).write_text(file)
        else:
            target = next(t for t, volume in world.containers[by[0]].volumes.items() if volume == name)
            host.containers[by[0]].exec(["sh", "-c", f"echo {file} > {target}/{file}"])

    step = refused(f"write {file} to {name} by {by[:1]}", act, world, NotFoundError)
    if name not in world.volumes:
        return step
    return _allowed(step, evolve(world, volumes={**world.volumes, name: world.volumes[name] | {file}}))


def attach(random: Random, world: World, _: int) -> Step | None:
    name, volume, target = _container(random, world), _volume(random, world), random.choice(TARGETS)
    step = refused(
        f"attach {volume} to {name} at {target}",
        lambda host: host.volumes[volume].attach(name, target),
        world,
        NotFoundError,
    )
    it = world.containers.get(name)
    if it is None or volume not in world.volumes:
        return step
    if target in it.volumes:
        return None if it.volumes[target] == volume else evolve(step, error=InvalidSpecError)
    return _allowed(step, world.with_container(name, volumes={**it.volumes, target: volume}))


def detach(random: Random, world: World, _: int) -> Step | None:
    name, volume = _container(random, world), _volume(random, world)
    step = refused(
        f"detach {volume} from {name}",
        lambda host: host.volumes[volume].detach(name),
        world,
        NotFoundError,
    )
    it = world.containers.get(name)
    if it is None or volume not in world.volumes:
        return step
    if volume not in it.volumes.values():
        return evolve(step, error=InvalidSpecError)
    kept = {target: each for target, each in it.volumes.items() if each != volume}
    return _allowed(step, world.with_container(name, volumes=kept))


def save(random: Random, world: World, _: int) -> Step | None:
    """A backup, which is restored into another."""
    one, other = _volume(random, world), _volume(random, world)

    def act(host: Host) -> None:
        host.volumes[one].backup(host.root / "backup.tar")
        host.volumes[other].restore(host.root / "backup.tar", replace=True)

    step = refused(f"backup of {one} into {other}", act, world, NotFoundError)
    if one not in world.volumes or other not in world.volumes:
        return step
    if any(world.containers[user].is_alive for user in world.users(other)):
        return evolve(step, error=WrongStateError)
    return _allowed(step, evolve(world, volumes={**world.volumes, other: world.volumes[one]}))


# --- all ------------------------------------------------------------------------------------------------


def prune(random: Random, world: World, _: int) -> Step | None:
    """Containers, and images without tags and containers."""

    def act(host: Host) -> None:
        host.containers.prune()
        host.prune()

    kept = {name: each for name, each in world.containers.items() if each.is_alive}
    return Step("prune", act, evolve(world, containers=kept))


def resume(random: Random, world: World, _: int) -> Step | None:
    """What should run and does not is started."""
    after = world
    for name, each in world.containers.items():
        if _is_resumed(each):
            after = after.started(name)
    return Step("resume", lambda host: host.resume(), after)


def _is_resumed(it: Wanted) -> bool:
    return it.state == STOPPED and (
        it.policy == "always" or (it.policy == "unless_stopped" and not it.kept_down)
    )
