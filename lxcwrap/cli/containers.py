"""Commands on containers that there are."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .creation import add_limits, limits, port, seconds
from .output import Column, Facts, print_json, show
from .parsing import Commands, Parser, completed_by
from .targets import each, host_of, listed

if TYPE_CHECKING:
    from .. import Container

Act = Callable[["Container", Namespace], object]


def add(commands: Commands) -> None:
    ps = commands.add("ps", _ps, "list containers that run", json=True)
    ps.add_argument("-a", "--all", action="store_true", help="those that do not run, too")
    ps.add_argument("-q", "--quiet", action="store_true", help="ids alone")
    _each(commands, "start", "start containers", _start)
    stop = _each(commands, "stop", "stop containers", _stop)
    restart = _each(commands, "restart", "stop containers and start them", _restart)
    for parser in (stop, restart):
        parser.add_argument(
            "-t", "--time", "--timeout", default="10", metavar="TIME", help="until it is killed; default: 10s"
        )
    kill = _each(commands, "kill", "kill containers", lambda container, given: container.kill(given.signal))
    kill.add_argument("-s", "--signal", default="KILL", help="such as HUP")
    _each(commands, "pause", "freeze all processes of containers", lambda container, _: container.pause())
    _each(commands, "unpause", "let containers go on", lambda container, _: container.unpause())
    _each(commands, "wait", "wait for their end, and print exit codes", _wait)
    rm = _each(commands, "rm", "remove containers", _remove)
    rm.add_argument("-f", "--force", action="store_true", help="kill those that run")
    add_limits(_each(commands, "update", "change limits, also of what runs", _update))
    publish = commands.add("port", _port, "list ports of this host that lead to a container", json=True)
    completed_by(publish.add_argument("container"), "containers")
    publish.add_argument("-p", "--publish", action="append", default=[], metavar="[[IP:]PORT:]PORT[/udp]")
    rename = commands.add("rename", _rename, "give a container another name")
    completed_by(rename.add_argument("container"), "containers")
    rename.add_argument("name")
    copy = commands.add("cp", _copy, "copy files into a container, or out of it")
    copy.add_argument("source", metavar="[CONTAINER:]SOURCE")
    copy.add_argument("target", metavar="[CONTAINER:]TARGET")
    commit = commands.add("commit", _commit, "make an image of a container")
    completed_by(commit.add_argument("container"), "containers")
    commit.add_argument("tag", nargs="?")
    commit.add_argument("-m", "--message", default="")
    top = commands.add("top", _top, "list the processes of a container", json=True)
    completed_by(top.add_argument("container"), "containers")
    diff = commands.add("diff", _diff, "list what a container has changed", json=True)
    completed_by(diff.add_argument("container"), "containers")
    inspect = commands.add("inspect", _inspect, "all about containers, images, networks, volumes, as JSON")
    inspect.add_argument("name", nargs="+")


def _each(commands: Commands, name: str, text: str, act: Act) -> Parser:
    def run(given: Namespace) -> int:
        with host_of(given) as host:
            return each(given.container, lambda name: act(host.containers[name], given))

    parser = commands.add(name, run, text)
    completed_by(parser.add_argument("container", nargs="+"), "containers")
    return parser


def _start(container: Container, _: Namespace) -> None:
    container.start()


def _stop(container: Container, given: Namespace) -> None:
    container.stop(timeout_s=seconds(given.time))


def _restart(container: Container, given: Namespace) -> None:
    container.restart(timeout_s=seconds(given.time))


def _wait(container: Container, _: Namespace) -> str:
    code = container.wait()
    return "unknown" if code is None else str(code)


def _remove(container: Container, given: Namespace) -> None:
    container.remove(force=given.force)


def _update(container: Container, given: Namespace) -> None:
    container.update(limits(given))


def _rename(given: Namespace) -> int:
    with host_of(given) as host:
        host.containers[given.container].rename(given.name)
    return 0


def _copy(given: Namespace) -> int:
    (source, inside), (target, outside) = map(_place, (given.source, given.target))
    if bool(source) == bool(target):
        raise ValueError("cp: one of the two is in a container: CONTAINER:PATH")
    with host_of(given) as host:
        if target:
            host.containers[target].copy_in(inside, outside)
        else:
            host.containers[source].copy_out(inside, outside)
    return 0


def _place(text: str) -> tuple[str, str]:
    """Container and path; none for a path of this host."""
    container, colon, path = text.partition(":")
    return (container, path) if colon and "/" not in container and container else ("", text)


def _commit(given: Namespace) -> int:
    with host_of(given) as host:
        print(host.containers[given.container].commit(given.tag, message=given.message).id)
    return 0


# --- listings ---


def _ps(given: Namespace) -> int:
    from ..display.words import ago

    with host_of(given) as host:
        found = listed(host.containers, _facts)
    shown = [facts for facts in found if given.all or facts["state"] in ("running", "paused", "restarting")]
    if given.quiet and not given.json:
        for facts in shown:
            print(facts["id"][:12])
        return 0
    columns = (
        Column("ID", lambda facts: facts["id"][:12]),
        Column("IMAGE", lambda facts: facts["image"]),
        Column("COMMAND", lambda facts: " ".join(facts["argv"])[:40]),
        Column("CREATED", lambda facts: ago(facts["created_at"])),
        Column("STATUS", _status),
        Column("PORTS", lambda facts: ", ".join(map(_binding, facts["ports"]))),
        Column("NAME", lambda facts: facts["name"]),
    )
    show(shown, columns, as_json=given.json)
    return 0


def _facts(container: Container) -> dict[str, Any]:
    spec, image, health = container.spec, container.image, container.health
    return {
        "id": container.id,
        "name": container.name,
        "image": next(iter(image.tags), image.id[:19]),
        "argv": spec.argv,
        "state": container.state,
        "exit_code": container.exit_code,
        "error": container.error,
        "health": health and health.status,
        "restart_count": container.restart_count,
        "created_at": container.created_at,
        "started_at": container.started_at,
        "finished_at": container.finished_at,
        "networks": {name: endpoint.ip for name, endpoint in container.networks.items()},
        "ports": container.ports,
        "labels": spec.labels,
    }


def _status(facts: Facts) -> str:
    """``running 5 min, healthy``; ``stopped 2 h ago, exit code 1``."""
    from ..display.words import ago

    state, words = str(facts["state"]), [str(facts["state"])]
    if state in ("running", "paused") and facts["started_at"]:
        words = [f"{state} {ago(facts['started_at']).removesuffix(' ago')}"]
    elif state == "stopped" and facts["finished_at"]:
        words = [f"{state} {ago(facts['finished_at'])}"]
    if facts["exit_code"] is not None:
        words.append(f"exit code {facts['exit_code']}")
    return ", ".join([*words, *filter(None, [facts["health"]])])


def _binding(binding: Any) -> str:
    host = f"[{binding.host_ip}]" if ":" in binding.host_ip else binding.host_ip
    return f"{host or '*'}:{binding.host_port}->{binding.container_port}/{binding.protocol}"


def _port(given: Namespace) -> int:
    with host_of(given) as host:
        container = host.containers[given.container]
        if given.publish:
            container.publish(*map(port, given.publish))
        ports = container.ports
    if given.json:
        print_json(ports)
    else:
        for binding in ports:
            print(_binding(binding))
    return 0


def _top(given: Namespace) -> int:
    from ..display.words import size
    from .output import plain

    with host_of(given) as host:
        processes = host.containers[given.container].top()
    columns = (
        Column("PID", lambda facts: str(facts["pid"]), is_number=True),
        Column("HOST PID", lambda facts: str(facts["host_pid"]), is_number=True),
        Column("PARENT", lambda facts: str(facts["ppid"]), is_number=True),
        Column("USER", lambda facts: str(facts["user"]), is_number=True),
        Column("CPU S", lambda facts: f"{facts['cpu_s']:.2f}", is_number=True),
        Column("MEMORY", lambda facts: size(facts["rss"]), is_number=True),
        Column("COMMAND", lambda facts: " ".join(facts["argv"])),
    )
    show([plain(process) for process in processes], columns, as_json=given.json)
    return 0


def _diff(given: Namespace) -> int:
    from ..progress.board import clean

    with host_of(given) as host:
        changes = host.containers[given.container].diff()
    if given.json:
        print_json(changes)
    else:
        for change in changes:
            print(change.kind[0].upper(), clean(change.path))
    return 0


def _inspect(given: Namespace) -> int:
    """Whatever has the name; containers first."""
    from ..errors import LxcwrapError, NotFoundError

    with host_of(given) as host:
        found = []
        for name in given.name:
            for collection in (host.containers, host.images, host.networks, host.volumes):
                try:
                    found.append(_all_about(collection[name]))
                    break
                except LxcwrapError:
                    continue
            else:
                raise NotFoundError(f"nothing is named {name!r}: see ps -a, images, networks, volumes")
    print_json(found)
    return 0


def _all_about(noun: Any) -> dict[str, Any]:
    """Every property that tells a value, and no noun: those would go on without end."""
    from .. import Container, Image, Network, Volume

    kind = type(noun)
    facts: dict[str, Any] = {"kind": kind.__name__.lower()}
    for name, attribute in sorted(vars(kind).items()):
        if name.startswith("_") or not isinstance(attribute, property) or name in ("files", "lower_dirs"):
            continue
        value = getattr(noun, name)
        if isinstance(value, Image):
            value = value.id
        elif isinstance(value, tuple) and value and isinstance(value[0], Container):
            value = [container.name for container in value]
        elif isinstance(value, Container | Network | Volume):
            value = value.name
        facts[name] = value
    return facts
