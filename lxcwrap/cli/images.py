"""Commands on images."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from .creation import pairs
from .output import Column, show
from .parsing import Commands, completed_by
from .targets import each, host_of, listed, say


def add(commands: Commands) -> None:
    images = commands.add("images", _images, "list images", json=True)
    images.add_argument("-q", "--quiet", action="store_true", help="ids alone")
    pull = commands.add("pull", _pull, "bring in images from a registry")
    pull.add_argument("--platform", metavar="OS/ARCHITECTURE")
    pull.add_argument("image", nargs="+")
    push = commands.add("push", _push, "store an image at a registry")
    completed_by(push.add_argument("image"), "images")
    push.add_argument("target", nargs="?", metavar="reference")
    build = commands.add("build", _build, "build an image that a Dockerfile describes")
    build.add_argument("-f", "--file", metavar="PATH", help="the Dockerfile")
    build.add_argument("-t", "--tag", action="append", default=[], metavar="NAME")
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    build.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    build.add_argument("--secret", action="append", default=[], metavar="id=NAME,src=FILE")
    build.add_argument("--target", metavar="STAGE")
    build.add_argument("--platform", metavar="OS/ARCHITECTURE")
    build.add_argument("--network", choices=("none", "host"), default="none", help="of RUN; default: none")
    build.add_argument("--no-cache", action="store_true")
    build.add_argument("--pull", action="store_const", const="always", default="missing")
    build.add_argument("-q", "--quiet", action="store_true", help="the id alone")
    build.add_argument("context", nargs="?", default=".", help="directory or tar; -: a tar on stdin")
    load = commands.add("load", _load, "bring in images from an archive or OCI layout")
    load.add_argument("-i", "--input", metavar="FILE", help="default: stdin")
    save = commands.add("save", _save, "write images into an archive")
    save.add_argument("-o", "--output", metavar="FILE", help="default: stdout")
    save.add_argument("--format", choices=("docker", "oci", "oci-dir"))
    completed_by(save.add_argument("image", nargs="+"), "images")
    rmi = commands.add("rmi", _remove, "remove images, or names of them")
    completed_by(rmi.add_argument("image", nargs="+"), "images")
    tag = commands.add("tag", _tag, "give an image a further name")
    completed_by(tag.add_argument("image"), "images")
    tag.add_argument("name")


def _images(given: Namespace) -> int:
    from ..display.words import ago, size

    with host_of(given) as host:
        found = listed(host.images, _facts)
    if given.quiet and not given.json:
        for facts in found:
            print(facts["id"][7:19])
        return 0
    columns = (
        Column("NAME", lambda facts: ", ".join(facts["tags"]) or "-"),
        Column("ID", lambda facts: facts["id"][7:19]),
        Column("CREATED", lambda facts: ago(facts["created_at"])),
        Column("SIZE", lambda facts: size(facts["size"]), is_number=True),
    )
    show(found, columns, as_json=given.json)
    return 0


def _facts(image: Any) -> dict[str, Any]:
    return {
        "id": image.id,
        "tags": image.tags,
        "digest": image.digest,
        "created_at": image.created_at,
        "size": image.size,
        "platform": str(image.config.platform),
    }


def _pull(given: Namespace) -> int:
    with host_of(given) as host:
        return each(given.image, lambda name: host.images.pull(name, platform=given.platform).id)


def _push(given: Namespace) -> int:
    with host_of(given) as host:
        print(host.images.push(given.image, given.target))
    return 0


def _build(given: Namespace) -> int:
    with host_of(given) as host:
        image = host.images.build(
            sys.stdin.buffer if given.context == "-" else given.context,
            dockerfile=given.file,
            tags=given.tag,
            build_args=pairs(given.build_arg, "--build-arg"),
            labels=pairs(given.label, "--label"),
            secrets=dict(map(_secret, given.secret)),
            target=given.target,
            platform=given.platform,
            network=given.network,
            no_cache=given.no_cache,
            pull=given.pull,
            progress=False if given.quiet else None,
        )
        print(image.id)
    return 0


def _secret(text: str) -> tuple[str, Path]:
    given = pairs(text.split(","), "--secret")
    path = given.get("src") or given.get("source")
    if not given.get("id") or not path:
        raise ValueError(f"--secret {text!r}: write id=NAME,src=FILE")
    return given["id"], Path(path)


def _load(given: Namespace) -> int:
    from tempfile import NamedTemporaryFile

    with host_of(given) as host:
        if given.input:
            images = host.images.load(given.input)
        else:
            with NamedTemporaryFile(prefix="lxcwrap-load-") as file:
                while data := sys.stdin.buffer.read(1 << 20):
                    file.write(data)
                file.flush()
                images = host.images.load(file.name)
        for image in images:
            print(", ".join(image.tags) or image.id)
    return 0


def _save(given: Namespace) -> int:
    if not given.output and sys.stdout.isatty():
        say("save: nobody reads an archive on a terminal: use -o FILE, or a pipe")
        return 1
    with host_of(given) as host:
        host.images.save(given.image, given.output or sys.stdout.buffer, format=given.format)
    return 0


def _remove(given: Namespace) -> int:
    with host_of(given) as host:
        return each(given.image, host.images.remove)


def _tag(given: Namespace) -> int:
    with host_of(given) as host:
        host.images[given.image].tag(given.name)
    return 0
