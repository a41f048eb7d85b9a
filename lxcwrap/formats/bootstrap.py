"""Images from Debian packages, by mmdebstrap.

Packages come from where this machine gets its own: the entries of its apt sources that offer the suite are
passed on, so mirrors, keys and proxies need no second configuration. Without any mmdebstrap takes the
distribution's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from ..errors import ContentError, DriverError, InvalidSpecError, UnsupportedError
from ..imageconfig import ImageConfig
from ..platforms import Platform
from ..reference import Reference
from ..storage.images import ImageStore
from .rootfs import add_rootfs

_APT: Final = Path("/etc/apt")
_SUITE: Final = re.compile(r"[a-z][a-z0-9.-]*")
_PACKAGE: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?([=/][A-Za-z0-9.+~:-]+)?")
_MIRROR: Final = re.compile(r"(https?|ftp|file|copy):/[!-~]+")
_POCKETS: Final = ("", "-updates", "-security", "/updates")
_PASSED_ON: Final = re.compile(r"(https?|ftp|no)_proxy|TMPDIR|SOURCE_DATE_EPOCH|APT_CONFIG", re.IGNORECASE)
# mmdebstrap copies these from this machine, whose name and name servers are nobody's business.
_FORGET_HOST: Final = '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"'
_LOG_TAIL: Final = 2000


def bootstrap(
    store: ImageStore,
    suite: str,
    *,
    packages: Sequence[str] = (),
    mirror: str | None = None,
    references: Sequence[Reference] = (),
) -> str:
    """
    Build an image of `suite`, such as ``bookworm``: its essential packages, apt and `packages`; its id.

    Raises InvalidSpecError: a malformed argument. UnsupportedError: mmdebstrap is not installed. DriverError:
    it failed, with the end of its log. Nothing is kept then.
    """
    _check(suite, packages, mirror)
    program = shutil.which("mmdebstrap")
    if program is None:
        raise UnsupportedError("bootstrap() needs mmdebstrap", "install the package mmdebstrap")
    platform = Platform.host()
    config = ImageConfig(
        diff_ids=(),
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        cmd=("bash",),
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    with (
        tempfile.TemporaryDirectory(prefix="sources-", dir=store.root.cache) as directory,
        store.adding() as addition,
    ):
        sources = [f"deb {mirror} {suite} main"] if mirror else write_sources(suite, _APT, Path(directory))
        options = _options(packages)
        made_by = " ".join(["mmdebstrap", *options, suite])  # without the name of a temporary file
        with _running([program, *options, _FORGET_HOST, suite, "-", *sources]) as tar:
            return add_rootfs(
                addition,
                _with_dev(tar),
                config,
                references,
                what=f"mmdebstrap {suite}",
                created_by=made_by,
                compress=True,
            )


def _check(suite: str, packages: Iterable[str], mirror: str | None) -> None:
    # Each of these becomes a word of a command line or a line of a file.
    if not _SUITE.fullmatch(suite):
        raise InvalidSpecError(f"suite {suite!r}: write it as 'bookworm'")
    if isinstance(packages, str):
        raise TypeError("packages must be a list of names, not a str")
    for package in packages:
        if not _PACKAGE.fullmatch(package):
            raise InvalidSpecError(
                f"package {package!r}: write it as 'nginx-light' or 'nginx-light=1.22.1-9'"
            )
    if mirror is not None and not _MIRROR.fullmatch(mirror):
        raise InvalidSpecError(f"mirror {mirror!r}: write it as 'http://deb.debian.org/debian'")


def _with_dev(tar: BinaryIO) -> Iterator[bytes]:
    """The tar with an empty /dev: the one mmdebstrap would write holds device nodes, as no image should."""
    directory = tarfile.TarInfo("./dev")
    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
    yield directory.tobuf()
    while chunk := tar.read(1 << 20):
        yield chunk


def _options(packages: Sequence[str]) -> list[str]:
    options = ["--mode=root", "--variant=minbase", "--format=tar", "--skip=output/dev"]
    return [*options, f"--include={','.join(packages)}"] if packages else options


@contextmanager
def _running(argv: Sequence[str]) -> Iterator[BinaryIO]:
    """The standard output of a command, which must have succeeded when the block ends."""
    environment = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    environment |= {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment
        ) as process,
    ):
        try:
            yield cast(BinaryIO, process.stdout)
        except ContentError:
            cast(BinaryIO, process.stdout).close()
            # A tar cut short is the consequence of a failure there, which says more.
            if process.wait() == 0:
                raise
        except BaseException:
            process.terminate()  # not killed: it has mounts and a directory to clean up
            raise
        if process.wait():
            raise DriverError(f"mmdebstrap failed:\n{_tail(log)}")


def _tail(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL))
    return log.read().decode(errors="replace").strip()


# --- the machine's own sources ------------------------------------------------------------------------------


def write_sources(suite: str, apt: Path, directory: Path) -> list[str]:
    """Write what of /etc/apt offers `suite` to files in `directory`, in both formats; their paths."""
    wanted = {suite + pocket for pocket in _POCKETS}
    lists = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]
    lines = [line for path in lists if path.is_file() for line in path.read_text().splitlines()]
    stanzas = [
        stanza
        for path in sorted(apt.glob("sources.list.d/*.sources"))
        for stanza in re.split(r"\n[ \t]*(?:\n|$)", path.read_text())
    ]
    chosen = {
        "host.list": [line for line in lines if _line_offers(line, wanted)],
        "host.sources": [stanza.strip("\n") + "\n" for stanza in stanzas if _stanza_offers(stanza, wanted)],
    }
    for name, entries in chosen.items():
        (directory / name).write_text("".join(entry + "\n" for entry in entries))
    return [str(directory / name) for name, entries in chosen.items() if entries]


def _line_offers(line: str, wanted: set[str]) -> bool:
    """``deb [option=value ...] uri suite component ...``"""
    match = re.fullmatch(r"\s*deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(\S+)(\s.*)?", line)
    return match is not None and match[1] in wanted


def _stanza_offers(stanza: str, wanted: set[str]) -> bool:
    """Lines of ``Field: values``, as sources.list(5) says of deb822; field names in any case."""
    text = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
    pairs = re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", text, re.MULTILINE)
    fields = {name.lower(): value.split() for name, value in pairs}
    enabled = fields.get("enabled", ["yes"])[:1] not in (["no"], ["false"])
    return enabled and "deb" in fields.get("types", ()) and bool(wanted & set(fields.get("suites", ())))
