"""The steps of a walk: what is done, chosen by chance, and what must come of it. Unknown names, and what must
be refused, are among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from unittest.mock import ANY

from attrs import evolve, frozen

from lxcwrap import (
    Host,
    InvalidSpecError,
    Limits,
    LxcwrapError,
    Mount,
    NameInUseError,
    NotFoundError,
    Port,
    PortInUseError,
    RestartPolicy,
    StillUsedError,
    WrongStateError,
)

from .model import CREATED, KILLED, PAUSED, RUNNING, TERMINATED, Wanted, World, without

CONTAINERS = tuple(f"c{number}" for number in range(6))
NETWORKS, VOLUMES, TAGS = ("n0", "n1", "n2", "n3"), ("d0", "d1", "d2"), ("walk:0", "walk:1")
TARGETS = ("/v/0", "/v/1", "/v/2")
COMMAND = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"


@frozen
class Step:
    """what: for who reads of a failure. error: with which it is refused; then nothing changes. ending: the
    container that it ends, which is ended for good if the step was cut off."""

    what: str
    act: Callable[[Host], object]
    after: World
    error: type[LxcwrapError] | None = None
    ending: str | None = None


Make = Callable[[Random, World, int], Step | None]


def refused(what: str, act: Callable[[Host], object], world: World, error: type[LxcwrapError]) -> Step:
    return Step(what, act, world, error)


# --- containers -----------------------------------------------------------------------------------------


def _make(random: Random, world: World, first_port: int, *, start: bool) -> Step:
    name, image = random.choice(CONTAINERS), random.choice(["busybox", "busybox", *world.images])
    networks = random.sample(sorted(world.networks), min(len(world.networks), random.choice([0, 1, 1, 2])))
    if random.random() < 0.05:
        networks = [random.choice(NETWORKS)]
    volumes = {random.choice(TARGETS): random.choice(VOLUMES) for _ in range(random.choice([0, 0, 1, 2]))}
    policy = random.choice(
        [RestartPolicy.no()] * 2 + [RestartPolicy.always(), RestartPolicy.unless_stopped()]
    )
    auto_remove = policy.when == "no" and random.random() < 0.15
    port = first_port + random.randrange(4) if networks and random.random() < 0.4 else None
    pids = random.choice([None, 50])
    what = f"{'launch' if start else 'create'} {name} of {image} on {networks} with {volumes}, port {port}"
    what += f", restart {policy.when}"

    def act(host: Host) -> None:
        make = host.containers.launch if start else host.containers.create
        make(
            image,
            sh=COMMAND,
            name=name,
            network=networks or "none",
            mounts=[Mount.volume(volume, target) for target, volume in volumes.items()],
            publish=[Port(80, host_port=port)] if port else [],
            limits=Limits(pids=pids),
            restart=policy,
            auto_remove=auto_remove,
        )

    if name in world.containers:
        return refused(what, act, world, NameInUseError)
    if not set(networks) <= world.networks.keys():
        return refused(what, act, world, NotFoundError)
    made = Wanted(
        image=ANY if image == "busybox" else world.images[image],
        state=RUNNING if start else CREATED,
        networks=tuple((network, ANY) for network in networks),
        ports={("tcp", 80): port} if port else {},
        volumes=volumes,
        policy=policy.when,
        auto_remove=auto_remove,
        pids=pids,
    )
    after = evolve(with_volumes(world, volumes.values()), containers={**world.containers, name: made})
    if port and not after.takes_published(name):
        return refused(what, act, world, InvalidSpecError)
    if port and world.holder("tcp", port):
        return refused(what, act, world, PortInUseError)
    return Step(what, act, after)


def with_volumes(world: World, names: Iterable[str]) -> World:
    """Those that are missing are made."""
    return evolve(world, volumes={**dict.fromkeys(names, frozenset()), **world.volumes})


def launch(random: Random, world: World, first_port: int) -> Step | None:
    return _make(random, world, first_port, start=True)


def create(random: Random, world: World, first_port: int) -> Step | None:
    return _make(random, world, first_port, start=False)


def run(random: Random, world: World, _: int) -> Step | None:
    """To its end, on networks."""
    networks = random.sample(sorted(world.networks), min(len(world.networks), random.choice([0, 1, 2])))

    def act(host: Host) -> None:
        done = host.containers.run("busybox", ["echo", "said"], network=networks or "none", name="passing")
        assert done.stdout == "said\n"

    return Step(f"run on {networks}", act, world)


def _some(random: Random, world: World) -> str:
    """A container; now and then one that is not there."""
    return random.choice([*world.containers, *world.containers, random.choice(CONTAINERS)])


def _done_to(
    random: Random, world: World, verb: str, act: Callable[[Host, str], object]
) -> tuple[str, Wanted | None, Step]:
    """A container, what is known of it, and the step that is refused as it is not there."""
    name = _some(random, world)
    step = refused(f"{verb} {name}", lambda host: act(host, name), world, NotFoundError)
    return name, world.containers.get(name), step


def start(random: Random, world: World, _: int) -> Step | None:
    name, it, step = _done_to(random, world, "start", lambda host, name: host.containers[name].start())
    if it is None:
        return step
    if it.is_alive:
        return evolve(step, error=WrongStateError)
    return evolve(step, error=None, after=world.started(name))


def stop(random: Random, world: World, _: int) -> Step | None:
    name, it, step = _done_to(random, world, "stop", lambda host, name: host.containers[name].stop())
    if it is None:
        return step
    if it.is_alive:
        return evolve(step, error=None, ending=name, after=world.ended(name, TERMINATED, by_user=True))
    after = world.with_container(name, kept_down=it.kept_down or it.policy != "no")
    return evolve(step, error=None, after=after)


def restart(random: Random, world: World, _: int) -> Step | None:
    name, it, step = _done_to(random, world, "restart", lambda host, name: host.containers[name].restart())
    if it is None:
        return step
    if it.auto_remove and it.is_alive:
        return None  # it may be gone before it is started
    return evolve(step, error=None, ending=name, after=world.started(name))


def kill(random: Random, world: World, _: int) -> Step | None:
    name, it, step = _done_to(random, world, "kill", lambda host, name: host.containers[name].kill())
    if it is None:
        return step
    if it.state == PAUSED:
        return None  # it dies when it is let go on
    if it.state != RUNNING:
        return evolve(step, error=WrongStateError)
    return evolve(step, error=None, ending=name, after=world.ended(name, KILLED, by_user=True))


def die(random: Random, world: World, _: int) -> Step | None:
    """By itself: its policy decides."""
    running = [name for name, each in world.containers.items() if each.state == RUNNING and each.restarts < 4]
    if not running:
        return None
    name = random.choice(running)

    def act(host: Host) -> None:
        host.containers[name].exec(["killall", "-9", "httpd"], check=False)

    return Step(f"{name} dies", act, world.ended(name, KILLED))


def pause(random: Random, world: World, _: int) -> Step | None:
    name, it, step = _done_to(random, world, "pause", lambda host, name: host.containers[name].pause())
    if it is None:
        return step
    if it.state != RUNNING:
        return evolve(step, error=WrongStateError)
    return evolve(step, error=None, after=world.with_container(name, state=PAUSED))


def unpause(random: Random, world: World, _: int) -> Step | None:
    name, it, step = _done_to(random, world, "unpause", lambda host, name: host.containers[name].unpause())
    if it is None:
        return step
    if it.state != PAUSED:
        return evolve(step, error=WrongStateError)
    return evolve(step, error=None, after=world.with_container(name, state=RUNNING))


def rename(random: Random, world: World, _: int) -> Step | None:
    new = random.choice(CONTAINERS)

    def act(host: Host, name: str) -> None:
        host.containers[name].rename(new)

    name, it, step = _done_to(random, world, f"rename to {new}", act)
    if it is None:
        return step
    if new in world.containers and new != name:
        return evolve(step, error=NameInUseError)
    return evolve(
        step, error=None, after=evolve(world, containers={**without(world.containers, name), new: it})
    )


def update(random: Random, world: World, _: int) -> Step | None:
    pids = random.choice([40, 60])

    def act(host: Host, name: str) -> None:
        host.containers[name].update(Limits(pids=pids))

    name, it, step = _done_to(random, world, f"update to {pids}", act)
    return evolve(step, error=None, after=world.with_container(name, pids=pids)) if it else step


def remove(random: Random, world: World, _: int) -> Step | None:
    force = random.random() < 0.5

    def act(host: Host, name: str) -> None:
        host.containers[name].remove(force=force)

    name, it, step = _done_to(random, world, f"remove (force={force})", act)
    if it is None:
        return step
    if it.is_alive and not force:
        return evolve(step, error=WrongStateError)
    after = evolve(world, containers=without(world.containers, name))
    return evolve(step, error=None, ending=name, after=after)


def execute(random: Random, world: World, _: int) -> Step | None:
    def act(host: Host, name: str) -> None:
        assert host.containers[name].exec(["hostname"]).stdout.strip() == host.containers[name].id[:12]

    _name, it, step = _done_to(random, world, "exec in", act)
    if it is None or it.state == PAUSED:
        return step if it is None else None
    return evolve(step, error=None if it.state == RUNNING else WrongStateError)


def commit(random: Random, world: World, _: int) -> Step | None:
    tag = random.choice(TAGS)
    _name, it, step = _done_to(
        random, world, f"commit {tag}", lambda host, name: host.containers[name].commit(tag)
    )
    return evolve(step, error=None, after=evolve(world, images={**world.images, tag: ANY})) if it else step


def remove_image(random: Random, world: World, _: int) -> Step | None:
    tag = random.choice(TAGS)
    step = refused(f"remove image {tag}", lambda host: host.images.remove(tag), world, NotFoundError)
    if tag not in world.images:
        return step
    users = [each for each in world.containers.values() if each.image == world.images[tag]]
    if users and list(world.images.values()).count(world.images[tag]) == 1:
        return evolve(step, error=StillUsedError)
    return evolve(step, error=None, after=evolve(world, images=without(world.images, tag)))
