"""Commands on the whole: ``check``, ``df``, ``prune``, ``resume``, ``completion``."""

from __future__ import annotations

import sys
from argparse import Namespace

from .output import print_json
from .parsing import Commands
from .targets import host_of, say


def add(commands: Commands) -> None:
    commands.add(
        "check", _check, "say what this machine has and lacks, with the commands that mend it", json=True
    )
    commands.add("df", _usage, "what everything takes up", json=True)
    prune = commands.add("prune", _prune, "remove what is of no use: stopped containers, networks, content")
    prune.add_argument(
        "-a", "--all", action="store_true", help="also images that have names, but no containers"
    )
    prune.add_argument("--volumes", action="store_true", help="also volumes that no container has")
    prune.add_argument("-f", "--force", action="store_true", help="do not ask")
    commands.add("resume", _resume, "start what should run and does not, as after a boot")
    completion = commands.add("completion", _completion, "print what makes a shell complete words")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))


def _check(given: Namespace) -> int:
    """0 when containers can run on this machine, else 1."""
    from ..check import check

    report = check(given.root)
    if given.json:
        print_json({"ok": report.ok, "items": report.items})
    else:
        print(report)
    return 0 if report.ok else 1


def _resume(given: Namespace) -> int:
    """0 when all that should run does."""
    with host_of(given) as host:
        host.resume()
    return 0


def _usage(given: Namespace) -> int:
    with host_of(given) as host:
        usage = host.disk_usage()
    if given.json:
        print_json(usage)
    else:
        print(usage)
    return 0


def _prune(given: Namespace) -> int:
    from ..display.words import size

    if not given.force and not _is_sure(given):
        return 1
    with host_of(given) as host:
        removed = {"containers": host.containers.prune(), "networks": host.networks.prune()}
        if given.volumes:
            removed["volumes"] = host.volumes.prune()
        pruned = host.prune(all_images=given.all)
    removed["images"] = [image[7:19] for image in pruned.images]
    for kind, names in removed.items():
        if names:
            print(f"{kind}: {', '.join(names)}")
    print(f"{size(pruned.freed)} freed")
    return 0


def _is_sure(given: Namespace) -> bool:
    what = ["stopped containers", "networks without containers", "images without names"]
    what += ["images without containers"] if given.all else []
    what += ["volumes without containers, with their files"] if given.volumes else []
    if not sys.stdin.isatty():
        say(f"prune: would remove {', '.join(what)}; -f does so without asking")
        return False
    print(f"Remove {', '.join(what)}? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _completion(given: Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        say("completion needs argcomplete: pip install 'lxcwrap[cli]'")
        return 1
    print(shellcode(["lxcwrap"], shell=given.shell))
    return 0
