"""What a tree holds, in all that an image keeps of it; and an image that has some of everything."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests import archives
from tests.archives import Layout

Facts = dict[str, tuple[object, ...]]


def facts_of(root: Path) -> Facts:
    """Of each path: mode, owner, time if no directory, content, device, attributes, its first name."""
    first: dict[int, str] = {}
    facts: Facts = {}
    for path in [root, *sorted(root.rglob("*"))]:
        name, status = str(path.relative_to(root)), path.stat() if path == root else path.lstat()
        mode = status.st_mode
        facts[name] = (
            oct(mode),
            (status.st_uid, status.st_gid),
            None if stat.S_ISDIR(mode) else int(status.st_mtime),
            _content(path, mode),
            status.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
            () if stat.S_ISLNK(mode) else _attributes(path),
            name if stat.S_ISDIR(mode) else first.setdefault(status.st_ino, name),
        )
    return facts


def _content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(mode) else ""


def _attributes(path: Path) -> tuple[tuple[str, bytes], ...]:
    kept = [name for name in os.listxattr(path) if name in ("security.capability", "user.a")]
    return tuple((name, os.getxattr(path, name)) for name in sorted(kept))


# --- an image that has some of everything ---------------------------------------------------------------

_CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
_LONG = "d" * 90 + "/" + "e" * 90 + "/" + "f" * 200
_TIME = 1_600_000_000


class _Layer:
    def __init__(self) -> None:
        self._stream = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._stream, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, data: bytes = b"", mode: int = 0o644, *, kind: bytes = tarfile.REGTYPE,
            link: str = "", owner: tuple[int, int] = (0, 0), device: tuple[int, int] = (0, 0),
            xattrs: dict[str, bytes] | None = None) -> None:  # fmt: skip
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname, info.size, info.mtime = kind, mode, link, len(data), _TIME
        info.uid, info.gid = owner
        info.devmajor, info.devminor = device
        info.pax_headers = {
            f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
            for key, value in (xattrs or {}).items()
        }
        self._tar.addfile(info, io.BytesIO(data))

    def directories(self, *names: str, mode: int = 0o755) -> None:
        for name in names:
            self.add(name, mode=mode, kind=tarfile.DIRTYPE)

    def done(self) -> bytes:
        """Without the zeros that fill the last record: skopeo loses them when it writes zstd:chunked."""
        size = self._tar.offset + 2 * tarfile.BLOCKSIZE
        self._tar.close()
        return self._stream.getvalue()[:size]


def _base() -> bytes:
    layer = _Layer()
    layer.directories("./", "bin", "etc", "etc/deep", "dev", "opt", "opt/gone", "opt/hidden", "srv", "data")
    layer.directories("d" * 90, "d" * 90 + "/" + "e" * 90)
    layer.directories("tmp", mode=0o1777)
    busybox = shutil.which("busybox")
    assert busybox
    layer.add("bin/busybox", Path(busybox).read_bytes(), 0o755)
    layer.add("bin/sh", kind=tarfile.SYMTYPE, link="busybox", mode=0o777)
    layer.add("bin/ping", b"ping", 0o755, xattrs={"security.capability": _CAPABILITY, "user.a": b"1"})
    layer.add("bin/su", b"su", 0o4755)
    layer.add("bin/wall", b"wall", 0o2755, owner=(0, 5))
    layer.add("bin/wall-too", kind=tarfile.LNKTYPE, link="bin/wall", mode=0o2755, owner=(0, 5))
    layer.add("etc/passwd", b"root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    layer.add("etc/deleted", b"below")
    layer.add("etc/returns", b"below")
    layer.add("etc/becomes-directory", b"below")
    layer.add("opt/gone/file", b"below")
    layer.add("opt/hidden/file", b"below")
    layer.add("data/owned", b"x", 0o600, owner=(1000, 65534))
    layer.add("data/pipe", kind=tarfile.FIFOTYPE, mode=0o640)
    layer.add("dev/null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3))
    layer.add("dev/loop", kind=tarfile.BLKTYPE, mode=0o660, device=(7, 0))
    layer.add("data/ünïcödé ☃", b"name")
    layer.add("data/dangling", kind=tarfile.SYMTYPE, link="../../nowhere", mode=0o777)
    layer.add(_LONG, b"long")
    layer.add("data/empty")
    layer.add("data/zeros", bytes(1 << 20))
    return layer.done()


def _middle() -> bytes:
    layer = _Layer()
    layer.directories("etc", "opt", "opt/hidden", "etc/becomes-directory")
    layer.add("etc/.wh.deleted")
    layer.add("etc/.wh.returns")
    layer.add("opt/.wh.gone")
    layer.add("opt/hidden/.wh..wh..opq")
    layer.add("opt/hidden/new", b"middle")
    layer.add("etc/becomes-directory/file", b"middle")
    layer.add("opt/one", b"linked")
    layer.add("opt/two", kind=tarfile.LNKTYPE, link="opt/one")
    return layer.done()


def _top() -> bytes:
    layer = _Layer()
    layer.directories("etc", "opt")
    layer.add("etc/returns", b"above", 0o640, owner=(1000, 1000))
    layer.add("opt/.wh.one")
    layer.add("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
    return layer.done()


def rich_image(name: str = "docker.io/library/rich:1", *, compression: str = "gzip") -> Layout:
    """Three layers: every type of file, links, modes, owners, attributes, names, and ways to delete."""
    layers = (_base(), _middle(), _top())
    layout = Layout()
    layout.name(layout.image(*layers, compression=compression, config=_config(layers)), name)
    return layout


def _config(layers: Sequence[bytes]) -> bytes:
    config = json.loads(
        archives.config_of(
            layers,
            Cmd=["/bin/sh", "-c", "echo hello from $WHO; cat /etc/returns"],
            Env=["PATH=/bin", "WHO=rich"],
            Labels={"org.example.label": "välue"},
            ExposedPorts={"80/tcp": {}},
            WorkingDir="/srv",
            StopSignal="SIGINT",
        )
    )
    config["created"] = "2024-01-02T03:04:05Z"
    config["history"] = [
        {"created": "2024-01-02T03:04:05Z", "created_by": f"step {step}"} for step in range(len(layers))
    ]
    config["history"].append({"created_by": "CMD", "empty_layer": True})
    return json.dumps(config).encode()
