"""The embedded default image: the machine's own static busybox and a few files around it.

The same busybox gives the same image, whoever builds it: its bytes depend on nothing else.
"""

from __future__ import annotations

import fcntl
import io
import subprocess
import tarfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..errors import DriverError, ImageNotFoundError, UnsupportedError
from ..oci import Digest, History, ImageConfig, Platform, Reference
from ..storage.images import ImageStore, locked
from ..storage.layers import ingest_layer

REFERENCE: Final = Reference.parse("busybox")
_REMEDY: Final = "install the package busybox-static"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_DIRECTORIES: Final = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "lib": 0o755, "mnt": 0o755, "proc": 0o555,
    "root": 0o700, "run": 0o755, "sbin": 0o755, "srv": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755,
    "usr/bin": 0o755, "usr/lib": 0o755, "usr/local": 0o755, "usr/local/bin": 0o755, "usr/sbin": 0o755,
    "var": 0o755, "var/cache": 0o755, "var/lib": 0o755, "var/log": 0o755, "var/spool": 0o755,
    "var/tmp": 0o1777, "var/www": 0o755,
}  # fmt: skip
_FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
    "bin:x:2:2:bin:/bin:/bin/false\n"
    "mail:x:8:8:mail:/var/spool/mail:/bin/false\n"
    "www-data:x:33:33:www-data:/var/www:/bin/false\n"
    "nobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\ndaemon:x:1:\nbin:x:2:\ntty:x:5:\nmail:x:8:\nwww-data:x:33:\n"
    "users:x:100:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hostname": "",
    "etc/resolv.conf": "",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "etc/shells": "/bin/sh\n/bin/ash\n",
}


def add_busybox(store: ImageStore, *, binary: Path = Path("/bin/busybox")) -> str:
    """
    Build the image from `binary` and tag it busybox:latest; its id.

    Raises UnsupportedError: there is no such program, or it is not linked statically.
    """
    rootfs = build_rootfs(_read_static(binary), _applets(binary))
    with store.adding() as addition:
        layer = ingest_layer(store.blobs, io.BytesIO(rootfs))
        return addition.add_built(_config(layer.diff_id).to_json(), [layer], [REFERENCE], what="busybox")


def _read_static(binary: Path) -> bytes:
    try:
        program = binary.read_bytes()
    except FileNotFoundError:
        raise UnsupportedError(f"the busybox image needs a static {binary}", _REMEDY) from None
    if not program.startswith(b"\x7fELF") or is_dynamic(program):
        raise UnsupportedError(
            f"{binary} is not linked statically, so it cannot run alone in an image", _REMEDY
        )
    return program


def is_dynamic(elf: bytes) -> bool:
    """Whether an ELF program asks for a dynamic loader, in a program header of type PT_INTERP."""
    wide = elf[4] == 2
    little = elf[5] == 1

    def number(offset: int, size: int) -> int:
        return int.from_bytes(elf[offset : offset + size], "little" if little else "big")

    table = number(32, 8) if wide else number(28, 4)
    entry_size, count = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
    return any(number(table + index * entry_size, 4) == 3 for index in range(count))


def _applets(binary: Path) -> list[str]:
    done = subprocess.run([binary, "--list-full"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DriverError(f"{binary} --list-full failed: {done.stderr.strip()[-500:]}")
    return sorted(set(done.stdout.split()) - {"bin/busybox"})


def build_rootfs(program: bytes, applets: Iterable[str]) -> bytes:
    """The image's only layer, as a tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, mode in _DIRECTORIES.items():
            _add(tar, name, mode, tarfile.DIRTYPE)
        _add(tar, "bin/busybox", 0o755, data=program)
        for applet in applets:
            # Hard links, as in Docker's busybox: nothing but names, and no link to follow at each start.
            _add(tar, applet, 0o755, tarfile.LNKTYPE, target="bin/busybox")
        for name, text in _FILES.items():
            _add(tar, name, 0o644, data=text.encode())
        _add(tar, "var/run", 0o777, tarfile.SYMTYPE, target="../run")
    return stream.getvalue()


def _add(
    tar: tarfile.TarFile,
    name: str,
    mode: int,
    kind: bytes = tarfile.REGTYPE,
    *,
    data: bytes = b"",
    target: str = "",
) -> None:
    member = tarfile.TarInfo(name)  # root's, of 1970
    member.type, member.mode, member.linkname, member.size = kind, mode, target, len(data)
    tar.addfile(member, io.BytesIO(data))


def _config(diff_id: str) -> ImageConfig:
    platform = Platform.host()
    return ImageConfig(
        diff_ids=(Digest(diff_id),),
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        created=_EPOCH,
        cmd=("sh",),
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        history=(History(created=_EPOCH, created_by="busybox-static of the system"),),
    )


def ensure_busybox(store: ImageStore) -> str:
    """The id of busybox:latest, built if there is none: once, however many processes want it at once."""
    with locked(store.root.run / "busybox.lock", fcntl.LOCK_EX):
        try:
            return store.find(str(REFERENCE))
        except ImageNotFoundError:
            return add_busybox(store)
