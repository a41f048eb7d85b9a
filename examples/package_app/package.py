"""Packs a web application into an image, tested by the build, and runs it from an archive. Needs root and a
package mirror.

sudo .venv/bin/python examples/package_app/package.py
"""

import http.client
import tempfile
from pathlib import Path

from lxcwrap import Host, ImageNotFoundError, Limits

HERE = Path(__file__).parent
BASE = "debian-gunicorn:bookworm"


def request(method: str, path: str, body: str | None = None) -> tuple[int, str]:
    """Runs inside the container, so 127.0.0.1 is the container's."""
    connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=5)
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.headers.get("Location") or response.read().decode()


def ensure_base(host: Host) -> None:
    try:
        host.images[BASE]
    except ImageNotFoundError:
        print(f"making {BASE} from packages, once ...")
        host.images.bootstrap(BASE, suite="bookworm", packages=["gunicorn"])


def main() -> None:
    with Host() as host, tempfile.TemporaryDirectory() as directory:
        ensure_base(host)
        image = host.images.build(HERE, tags=["links:1"], build_args={"BASE": BASE})
        print(f"built {image.tags[0]} of {len(image.layers)} layers, which runs {image.config.cmd[0]}")

        archive = Path(directory, "links.tar")
        host.images.save(image, archive)
        print(f"saved {archive.stat().st_size >> 20} MiB, for Docker, Podman and containerd too")
        image.remove()

        (image,) = host.images.load(archive)
        with host.containers.launch(
            image, limits=Limits(memory="256MiB", cpus=1, pids=32), read_only=True
        ) as app:
            next(line for line in app.log_lines(follow=True, timeout_s=30) if "Booting worker" in line.text)
            status, location = app.call(request, "POST", "/", "url=https://linuxcontainers.org/")
            print(f"{status}: {location} leads to {app.call(request, 'GET', location)[1]}")
            print(app.call(request, "GET", "/")[1], end="")
            app.stop()
            print(app.logs(tail=3), end="")
        image.remove()


if __name__ == "__main__":
    main()
