"""A Debian image made from packages, and a Python web application in it. Needs root and a package mirror.

sudo .venv/bin/python examples/debian_app.py
"""

import http.client
from pathlib import Path

from lxcwrap import Host, ImageNotFoundError, Limits, Mount

APPLICATION = Path(__file__).with_name("guestbook.py")
IMAGE = "debian-python:bookworm"


def request(method: str, body: str | None = None) -> str:
    """Runs inside the container, so 127.0.0.1 is the container's."""
    connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=5)
    connection.request(method, "/", body)
    return connection.getresponse().read().decode()


def ensure_image(host: Host) -> None:
    try:
        host.images[IMAGE]
    except ImageNotFoundError:
        print(f"making {IMAGE} from packages, once ...")
        host.images.bootstrap(IMAGE, suite="bookworm", packages=["python3-minimal", "libpython3-stdlib"])


def main() -> None:
    with Host() as host:
        ensure_image(host)
        with host.containers.launch(
            IMAGE,
            ["python3", "-u", "/srv/guestbook.py", "/data/guests.db"],
            user="www-data",
            mounts=[Mount.bind(APPLICATION, "/srv/guestbook.py", read_only=True), Mount.tmpfs("/data")],
            limits=Limits(memory="128MiB", cpus=1, pids=32),
            read_only=True,
        ) as app:
            next(line for line in app.log_lines(follow=True) if "serving" in line.text)
            app.call(request, "POST", "Ada & Charles")
            print(app.call(request, "GET"), end="")
            print(f"memory: {app.stats().memory_working_set >> 20} MiB")
            app.stop()
            print(app.logs(), end="")


if __name__ == "__main__":
    main()
