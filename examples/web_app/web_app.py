"""A web application of three services, each in a container of its own: PostgreSQL, Python under gunicorn, and
nginx in front. Needs root, a package mirror and dnsmasq.

sudo .venv/bin/python examples/web_app/web_app.py

Readers reach nginx, nginx reaches the application, and that alone reaches the database. The data are in a
volume, so the database can be replaced; of the application there can be several.
"""

import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from lxcwrap import Container, Endpoint, Host, Limits, Mount, Port, RestartPolicy, ready

HERE = Path(__file__).parent
BASE = "debian-base:bookworm"
SCHEMA = "CREATE TABLE IF NOT EXISTS entries (id serial PRIMARY KEY, text text NOT NULL)"


def make_images(host: Host) -> None:
    """The base once, and the others at each change of the files beside this one."""
    if BASE not in host.images:
        print(f"making {BASE} from packages, once ...")
        host.images.bootstrap(BASE, suite="bookworm")

    def build(service: str) -> None:
        host.images.build(HERE, target=service, tags=[f"guests-{service}"], network="host")

    with ThreadPoolExecutor() as pool:
        list(pool.map(build, ("database", "application", "front")))


class Site:
    """The services as they run. Who had their names is replaced; the data are kept."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.password = secrets.token_urlsafe()
        for name, internal in (("guests-outer", False), ("guests-inner", True)):
            if name not in host.networks:
                host.networks.create(name, internal=internal)
        self.database = self.start_database()
        self.applications = [self.start_application(1)]
        self.front = self.create("front", network="guests-outer", publish=[Port(80)])
        self.write_upstreams()
        self.front.start().wait_ready(ready.http(80))

    def create(self, service: str, number: str = "", **options: Any) -> Container:
        name = f"guests-{service}{number}"
        if name in self.host.containers:
            self.host.containers[name].remove(force=True)
        return self.host.containers.create(
            f"guests-{service}",
            name=name,
            hostname=name,
            limits=Limits(memory="256MiB", pids=64),
            restart=RestartPolicy.unless_stopped(),
            **options,
        )

    def start_database(self) -> Container:
        """With the data of the one before, if there was one. The first fills the volume from its image."""
        database = self.create(
            "database",
            network={"guests-inner": Endpoint(aliases=["database"])},
            mounts=[Mount.volume("guests-data", "/var/lib/postgresql"), Mount.tmpfs("/run/postgresql")],
        )
        database.start().wait_ready(ready.command(["pg_isready", "--quiet"]))
        if not sql(database, "SELECT 1 FROM pg_roles WHERE rolname = 'guests'"):
            sql(database, "CREATE ROLE guests LOGIN")
            sql(database, "CREATE DATABASE guests OWNER guests")
            sql(database, f"SET ROLE guests; {SCHEMA}", "guests")
        sql(database, f"ALTER ROLE guests PASSWORD '{self.password}'")
        return database

    def start_application(self, number: int) -> Container:
        application = self.create(
            "application",
            f"-{number}",
            network=["guests-inner", "guests-outer"],
            env={"DATABASE": f"host=database dbname=guests user=guests password={self.password}"},
        )
        return application.start().wait_ready(ready.http(8000))

    def scale(self, count: int) -> None:
        """Have `count` servers of the application: nginx knows before others end, so no request fails."""
        running = len(self.applications)
        self.applications += [self.start_application(number + 1) for number in range(running, count)]
        leaving, self.applications = self.applications[count:], self.applications[:count]
        self.write_upstreams()
        before = workers(self.front)
        self.front.kill("HUP")
        # Those there were finish what they have begun.
        self.front.wait_ready(
            lambda front: lambda _: "not reloaded yet" if before & workers(self.front) else ""
        )
        for application in leaving:
            application.stop()
            application.remove()

    def write_upstreams(self) -> None:
        lines = [f"server {application.name}:8000;\n" for application in self.applications]
        self.front.path("/etc/nginx/upstreams.conf").write_text("".join(lines))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.front.ports[0].host_port}/"

    def read(self, form: dict[str, str] | None = None) -> str:
        """The page; with a form, after that was sent."""
        with urlopen(self.url, urlencode(form).encode() if form else None, timeout=10) as answer:
            return str(answer.read().decode())

    def servers(self) -> list[str]:
        """Who answers."""
        return sorted({re.findall("served by ([^<]*)", self.read())[0] for _ in range(30)})


def workers(front: Container) -> set[int]:
    return {process.pid for process in front.top() if "worker" in process.argv[0]}


def sql(database: Container, statement: str, name: str = "postgres") -> str:
    """Runs inside, as PostgreSQL's own user."""
    command = ["psql", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", name]
    return database.exec(command, input=statement).stdout


def remove(host: Host) -> None:
    """All of it but the images."""
    for container in host.containers:
        if container.name.startswith("guests-"):
            container.remove(force=True)
    for name in ("guests-outer", "guests-inner"):
        if name in host.networks:
            host.networks[name].remove()
    if "guests-data" in host.volumes:
        host.volumes["guests-data"].remove()


@contextmanager
def running_site(host: Host) -> Iterator[Site]:
    try:
        make_images(host)
        yield Site(host)
    finally:
        remove(host)


def main() -> None:
    with Host() as host, running_site(host) as site:
        print(f"{site.url} shows:\n{site.read({'text': 'Ada & Charles'})}")
        site.database.stop()
        site.database = site.start_database()
        print(f"with another database container, on the same volume:\n{site.read()}")
        for count in (3, 1):
            site.scale(count)
            print(f"scaled to {count}: served by {', '.join(site.servers())}")


if __name__ == "__main__":
    main()
