"""From what a caller gives to what the engine takes: a context and its Dockerfile, secrets, options."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, TypedDict, Unpack, get_args

from ..errors import InvalidSpecError, PathNotFoundError
from ..oci import Platform, Reference
from ..progress import Progress, Report, reporting
from ..specs import Limits, StrPath, check_env
from ..storage.images import ImageStore
from ..storage.layerwriter import source_date_epoch
from .context import Context, Source, open_context
from .engine import build
from .filedigests import FileDigests
from .instructions import Dockerfile
from .options import BuildOptions, Workshop
from .parser import parse
from .step import Network, StepRunner

Pull = Literal["missing", "always", "never"]
FindImage = Callable[[str, Platform, Pull, Report], str]
"""See `Workshop.find_image`. Pull: when to pull an image; Report: whom to tell of it."""

Secret = bytes | str | os.PathLike[str]
"""Its content; or, as a path object, the file that holds it."""

_MAX_SECRET = 1 << 20
_DEFAULT = "Dockerfile"


class BuildKeywords(TypedDict):
    """As of `Images.build`."""

    build_args: Mapping[str, str] | None
    target: str | None
    secrets: Mapping[str, Secret] | None
    labels: Mapping[str, str] | None
    platform: str | None
    no_cache: bool
    network: Network
    limits: Limits | None
    pull: Pull
    progress: Progress


def build_image(
    store: ImageStore,
    runner: StepRunner,
    find_image: FindImage,
    context: StrPath | BinaryIO,
    source: StrPath | Dockerfile | None,
    references: Sequence[Reference],
    **keywords: Unpack[BuildKeywords],
) -> str:
    """The id of the image. source: the path of a Dockerfile in the context, or an absolute one; or steps in
    which no variables stand.

    Raises InvalidSpecError, TypeError: something cannot be meant; and what `engine.build` raises.
    """
    options, pull = _options(keywords), keywords["pull"]
    if pull not in get_args(Pull):
        raise InvalidSpecError(f"pull={pull!r}: use one of {', '.join(get_args(Pull))}")
    cache = store.root.cache
    with (
        reporting(keywords["progress"]) as report,
        FileDigests(cache / "digests.db") as digests,
        open_context(context, layers=store.layers, digests=digests) as opened,
    ):
        if isinstance(source, Dockerfile):
            dockerfile, files = source, opened.source()
        else:
            dockerfile, files = _parsed(opened, context, os.fspath(source or _DEFAULT))
        shop = Workshop(
            store=store,
            runner=runner,
            find_image=lambda key, platform: find_image(key, platform, pull, report),
            report=report,
            options=options,
            digests=digests,
            context=files,
        )
        literal, target = isinstance(source, Dockerfile), keywords["target"]
        return build(shop, dockerfile, references=references, target=target, literal=literal)


def _options(keywords: BuildKeywords) -> BuildOptions:
    network, limits, platform = keywords["network"], keywords["limits"], keywords["platform"]
    if network not in get_args(Network):
        raise InvalidSpecError(f"network={network!r}: RUN has 'none' or the 'host''s")
    if not isinstance(limits, Limits | None):
        raise TypeError(f"limits= takes Limits(...), not {limits!r}")
    if limits and limits.disk is not None:
        raise InvalidSpecError("limits=Limits(disk=...): what a build writes is a layer, which has no limit")
    if limits and limits.network_rate is not None:
        raise InvalidSpecError("limits=Limits(network_rate=...): RUN is on no network of its own to limit")
    args = check_env(keywords["build_args"])
    return BuildOptions(
        platform=Platform.parse(platform) if platform else Platform.host(),
        build_args=args,
        secrets={name: _content(name, secret) for name, secret in (keywords["secrets"] or {}).items()},
        labels={str(name): str(value) for name, value in (keywords["labels"] or {}).items()},
        network=network,
        limits=limits or Limits(),
        epoch_s=source_date_epoch({**os.environ, **args}),
        no_cache=keywords["no_cache"],
    )


def _content(name: str, secret: Secret) -> bytes:
    if isinstance(secret, os.PathLike):
        try:
            content = Path(secret).read_bytes()
        except OSError as error:
            raise InvalidSpecError(f"secret {name!r}: {error.filename}: {error.strerror}") from None
    elif isinstance(secret, str | bytes):
        content = secret.encode() if isinstance(secret, str) else secret
    else:
        raise TypeError(f"secret {name!r}: give its content, or a pathlib.Path of the file that holds it")
    if len(content) > _MAX_SECRET:
        raise InvalidSpecError(f"secret {name!r}: has more than {_MAX_SECRET} bytes")
    return content


def _parsed(context: Context, given: StrPath | BinaryIO, path: str) -> tuple[Dockerfile, Source]:
    """The Dockerfile, and what COPY sees."""
    outside = None
    if os.path.isabs(path):
        root = Path(given).absolute() if isinstance(given, str | os.PathLike) else None
        if root and Path(path).is_relative_to(root):
            path = str(Path(path).relative_to(root))
        else:
            outside = Path(path)
    try:
        content = outside.read_bytes() if outside else context.read(path)
    except (FileNotFoundError, PathNotFoundError):
        raise InvalidSpecError(f"there is no {path}: name the Dockerfile by dockerfile=") from None
    return parse(content, path), context.source(dockerfile=path, outside=outside)
