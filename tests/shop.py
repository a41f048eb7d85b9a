"""Containers, networks and volumes that make something to look at. With `attack` what they say is hostile."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lxcwrap import Container, Host, Limits, Mount, Port

ATTACK = (
    "<script>pwned=1</script><img src=x onerror=pwned=1>\"'><svg onload=pwned=1>"
    " $\\href{javascript:pwned=1}{x}$"
)
_BUSY = "while true; do i=0; while [ $i -lt 9000 ]; do i=$((i+1)); done; sleep 0.{pause}; done"
_CHATTY = (
    "echo listening on port 8080; n=0; while sleep 0.3; do n=$((n+1));"
    ' echo "GET /orders/$((n*37%101)) 200 $((n*7%13+2)) ms";'
    " wget -qO /dev/null http://front/orders;"
    ' [ $((n%7)) = 3 ] && echo "warn: slow query, 412 ms" >&2; done'
)


@contextmanager
def open_shop(host: Host, *, attack: str = "") -> Iterator[dict[str, Container]]:
    """A small shop: two networks, a database in the inner one, an application twice, a job that failed."""
    with ExitStack() as stack:
        for image in ("shop/front:2.4", "shop/api:2.4", "shop/db:15"):
            with host.containers.launch(
                "busybox", sh=f"echo {image} > /srv/name; head -c 9999 /dev/zero > /srv/orders"
            ) as made:
                made.wait()
                stack.callback(made.commit(image).remove)
        for name, options in (("front", {}), ("back", {"internal": True})):
            stack.callback(host.networks.create(name, **options).remove)  # type: ignore[arg-type]
        stack.callback(host.volumes.create("orders", labels={"backup": attack or "daily"}).remove)

        def launch(name: str, image: str, sh: str, **options: object) -> Container:
            container = host.containers.launch(image, sh=sh, name=name, **options)  # type: ignore[arg-type]
            return stack.enter_context(container)

        labels = {"app": attack or "shop"}
        shop = {
            "front": launch(
                "front",
                "shop/front:2.4",
                "httpd -h /srv; " + _BUSY.format(pause=4),
                network="front",
                publish=[Port(80, host_port=18080)],
                limits=Limits(memory="128MiB", cpus=1),
                labels=labels,
            )
        }
        for name in ("api-1", "api-2"):
            shop[name] = launch(
                name,
                "shop/api:2.4",
                _CHATTY + (f"; : {shlex.quote(attack)}" if attack else ""),
                network=["front", "back"],
                limits=Limits(memory="256MiB", pids=64),
                labels=labels,
            )
        shop["db"] = launch(
            "db",
            "shop/db:15",
            _BUSY.format(pause=9),
            network="back",
            mounts=[Mount.volume("orders", "/var/lib/db")],
            limits=Limits(memory="512MiB", pids=200),
        )
        shop["migrate"] = launch("migrate", "shop/api:2.4", "echo no such table: orders >&2; exit 1")
        shop["migrate"].wait()
        shop["cron"] = launch("cron", "busybox", "sleep 1000")
        shop["cron"].pause()
        stack.callback(shop["cron"].unpause)
        yield shop
