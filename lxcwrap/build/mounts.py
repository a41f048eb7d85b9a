"""``RUN --mount``: its flag as written, and the mounts it asks for.

Source: Dockerfile reference, "RUN --mount".
"""

from __future__ import annotations

import csv
import difflib
import posixpath
import re
from collections.abc import Callable
from typing import Final, Literal, get_args

from attrs import frozen

from ..errors import InvalidSpecError
from ..ids import RANGE_SIZE
from ..specs import parse_size

Sharing = Literal["shared", "private", "locked"]


@frozen(kw_only=True)
class MountFlag:
    """The value of one flag. options: key (the long name, lower case) and text, None for a key alone."""

    text: str
    options: tuple[tuple[str, str | None], ...]
    from_: str = ""


@frozen(kw_only=True)
class BindMount:
    """Files of the context, of a stage or an image (`from_`). What is written there is dropped.

    `target`, here and below, is relative to the working directory, if it is not absolute.
    """

    target: str
    source: str = "/"
    from_: str = ""
    read_only: bool = True


@frozen(kw_only=True)
class CacheMount:
    """A directory that outlives builds, named `id`; at first it is empty, or holds `source` of `from_`.

    sharing: ``shared``: several at once; ``private``: another one, if it is in use; ``locked``: one waits.
    """

    target: str
    id: str
    source: str = "/"
    from_: str = ""
    read_only: bool = False
    sharing: Sharing = "shared"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@frozen(kw_only=True)
class TmpfsMount:
    """Memory. `size_bytes`: None: as the kernel has it."""

    target: str
    size_bytes: int | None = None


@frozen(kw_only=True)
class SecretMount:
    """The secret `id`, as the file `target` (``""``: none), as the variable `env` (``""``: none), or both.

    required: without the secret the step fails; otherwise it runs without it.
    """

    id: str
    target: str = ""
    env: str = ""
    required: bool = False
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


RunMount = BindMount | CacheMount | TmpfsMount | SecretMount

_ALIASES: Final = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_SWITCHES: Final = ("readonly", "readwrite", "required")
_FILES: Final = ("mode", "uid", "gid")
_KEYS: Final = {
    "bind": ("type", "target", "source", "from", "readonly", "readwrite"),
    "cache": ("type", "target", "source", "from", "readonly", "readwrite", "id", "sharing", *_FILES),
    "tmpfs": ("type", "target", "size", "readwrite"),
    "secret": ("type", "target", "source", "id", "env", "required", "readonly", *_FILES),
}
_ALL_KEYS: Final = tuple(dict.fromkeys((*_ALIASES, *(key for keys in _KEYS.values() for key in keys))))
_TRUE: Final = ("1", "t", "true")
_FALSE: Final = ("0", "f", "false")


def parse_flag(text: str) -> MountFlag:
    """``type=cache,target=/var/cache``; variables are left as they are. Raises ValueError."""
    try:
        (fields,) = csv.reader([text], strict=True) if '"' in text else [text.split(",")]
    except (csv.Error, ValueError):
        raise ValueError("--mount: quote a whole 'key=value', with double quotes") from None
    options = tuple(_option(field) for field in fields)
    source = dict(options).get("from") or ""
    if "$" in source:
        raise ValueError("--mount: from= takes no variables: name a stage by FROM, and that stage here")
    return MountFlag(text=text, options=options, from_=source)


def _option(field: str) -> tuple[str, str | None]:
    key, equals, value = field.partition("=")
    name = _ALIASES.get(key.lower(), key.lower())
    if name not in _ALL_KEYS:
        near = difflib.get_close_matches(name[:32], _ALL_KEYS, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(_ALL_KEYS)}"
        raise ValueError(f"--mount: unknown key {key!r}: {hint}")
    if not equals and name not in _SWITCHES:
        raise ValueError(f"--mount: {key} needs a value: {key}=...")
    return name, value if equals else None


def resolve(flag: MountFlag, expand: Callable[[str], str]) -> RunMount:
    """The mount, its values passed through `expand`. Raises ValueError."""
    options = {key: value if value is None else expand(value) for key, value in flag.options}
    kind = (options.get("type") or "bind").lower()
    if kind not in _KEYS:
        raise ValueError(f"--mount: type={kind!r}: use one of {', '.join(_KEYS)}")
    if wrong := [key for key in options if key not in _KEYS[kind]]:
        raise ValueError(f"--mount: type={kind} takes no {wrong[0]}: it takes {', '.join(_KEYS[kind])}")
    return _MAKERS[kind](_Options(options))


class _Options:
    """Typed access to the options of one mount."""

    def __init__(self, options: dict[str, str | None]) -> None:
        self._options = options

    def text(self, key: str, default: str = "") -> str:
        return self._options.get(key) or default

    def switch(self, key: str) -> bool | None:
        if key not in self._options:
            return None
        value = self._options[key]
        if value is None or value.lower() in _TRUE:
            return True
        if value.lower() in _FALSE:
            return False
        raise ValueError(f"--mount: {key}={value!r}: use true or false")

    def read_only(self, default: bool) -> bool:
        readonly, readwrite = self.switch("readonly"), self.switch("readwrite")
        if readonly is not None:
            return readonly
        return default if readwrite is None else not readwrite

    def number(self, key: str, base: int, most: int, default: int) -> int:
        value = self._options.get(key)
        if not value:
            return default
        digits = "[0-7]" if base == 8 else "[0-9]"
        if not re.fullmatch(f"{digits}{{1,12}}", value) or int(value, base) > most:
            raise ValueError(f"--mount: {key}={value!r}: must be {'octal' if base == 8 else 'a number'}")
        return int(value, base)

    def owner(self, key: str) -> int:
        return self.number(key, 10, RANGE_SIZE - 1, 0)  # what a container has

    def mode(self, default: int) -> int:
        return self.number("mode", 8, 0o7777, default)

    def target(self) -> str:
        target = posixpath.normpath(self.text("target"))
        if target in (".", "/", "//"):
            raise ValueError("--mount: it needs target=: a path other than /")
        return target

    def source(self) -> str:
        return posixpath.normpath("/" + self.text("source").lstrip("/"))


def _bind(options: _Options) -> BindMount:
    return BindMount(
        target=options.target(),
        source=options.source(),
        from_=options.text("from"),
        read_only=options.read_only(True),
    )


def _cache(options: _Options) -> CacheMount:
    sharing = options.text("sharing", "shared").lower()
    for known in get_args(Sharing):
        if known == sharing:
            return CacheMount(
                target=options.target(),
                id=options.text("id", options.target()),
                source=options.source(),
                from_=options.text("from"),
                read_only=options.read_only(False),
                sharing=known,
                mode=options.mode(0o755),
                uid=options.owner("uid"),
                gid=options.owner("gid"),
            )
    raise ValueError(f"--mount: sharing={sharing!r}: use shared, private or locked")


def _tmpfs(options: _Options) -> TmpfsMount:
    size = options.text("size")
    try:
        return TmpfsMount(target=options.target(), size_bytes=parse_size(size) if size else None)
    except InvalidSpecError as error:
        raise ValueError(f"--mount: {error}") from None


def _secret(options: _Options) -> SecretMount:
    target, env = options.text("target"), options.text("env")
    if options.text("source") and options.text("id"):
        raise ValueError("--mount: id and source are the same for a secret: write id= only")
    secret_id = options.text("id") or options.text("source") or posixpath.basename(target)
    if not secret_id:
        raise ValueError("--mount: type=secret needs id=, or target= that ends with a name")
    if not target and not env:
        target = f"/run/secrets/{posixpath.basename(secret_id)}"
    return SecretMount(
        id=secret_id,
        target=target,
        env=env,
        required=bool(options.switch("required")),
        mode=options.mode(0o400),
        uid=options.owner("uid"),
        gid=options.owner("gid"),
    )


_MAKERS: Final[dict[str, Callable[[_Options], RunMount]]] = {
    "bind": _bind,
    "cache": _cache,
    "tmpfs": _tmpfs,
    "secret": _secret,
}
