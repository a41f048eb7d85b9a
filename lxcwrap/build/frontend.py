"""From what a caller gives to what the engine takes: a context and its Dockerfile, secrets, options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, get_args

from ..errors import InvalidSpecError, PathNotFoundError
from ..oci import Platform, Reference
from ..progress import Report
from ..specs import Limits, StrPath, check_env
from ..storage.images import ImageStore
from ..storage.layerwriter import source_date_epoch
from .context import Context, Source, open_context
from .engine import build
from .filedigests import FileDigests
from .options import BuildOptions, Workshop
from .parser import parse
from .step import Network, StepRunner

Secret = bytes | str | os.PathLike[str]
"""Its content; or, as a path object, the file that holds it."""

_MAX_SECRET = 1 << 20
_DEFAULT = "Dockerfile"


def build_options(
    *,
    build_args: Mapping[str, str] | None,
    secrets: Mapping[str, Secret] | None,
    labels: Mapping[str, str] | None,
    platform: str | None,
    network: Network,
    limits: Limits | None,
    no_cache: bool,
) -> BuildOptions:
    """Checked. Raises InvalidSpecError, TypeError: something cannot be meant."""
    if network not in get_args(Network):
        raise InvalidSpecError(f"network={network!r}: RUN has 'none' or the 'host''s")
    if not isinstance(limits, Limits | None):
        raise TypeError(f"limits= takes Limits(...), not {limits!r}")
    args = check_env(build_args)
    return BuildOptions(
        platform=Platform.parse(platform) if platform else Platform.host(),
        build_args=args,
        secrets={name: _content(name, secret) for name, secret in (secrets or {}).items()},
        labels={str(name): str(value) for name, value in (labels or {}).items()},
        network=network,
        limits=limits or Limits(),
        epoch_s=source_date_epoch({**os.environ, **args}),
        no_cache=no_cache,
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


def build_dockerfile(
    store: ImageStore,
    runner: StepRunner,
    find_image: Callable[[str, Platform], str],
    context: StrPath | BinaryIO,
    dockerfile: StrPath | None,
    options: BuildOptions,
    *,
    references: Sequence[Reference],
    target: str | None,
    report: Report,
) -> str:
    """The id of the image. dockerfile: its path in the context, or an absolute one.

    Raises InvalidSpecError: no such context or file; and what `engine.build` raises.
    """
    with _opened(store, context) as (opened, digests):
        content, source = _read(opened, context, dockerfile or _DEFAULT)
        shop = Workshop(
            store=store,
            runner=runner,
            find_image=find_image,
            report=report,
            options=options,
            digests=digests,
            context=source,
        )
        parsed = parse(content, os.fspath(dockerfile or _DEFAULT))
        return build(shop, parsed, references=references, target=target)


@contextmanager
def _opened(store: ImageStore, context: StrPath | BinaryIO) -> Iterator[tuple[Context, FileDigests]]:
    cache = store.root.cache
    with (
        FileDigests(cache / "digests.db") as digests,
        open_context(context, cache=cache, digests=digests) as opened,
    ):
        yield opened, digests


def _read(context: Context, given: StrPath | BinaryIO, dockerfile: StrPath) -> tuple[bytes, Source]:
    """The content of the Dockerfile, and what COPY sees."""
    path, outside = os.fspath(dockerfile), None
    if os.path.isabs(path):
        inside = isinstance(given, str | os.PathLike) and Path(path).is_relative_to(Path(given).absolute())
        if inside:
            path = os.path.relpath(path, Path(os.fspath(given)).absolute())  # type: ignore[arg-type]  # a path
        else:
            outside = Path(path)
    try:
        content = outside.read_bytes() if outside else context.read(path)
    except (FileNotFoundError, PathNotFoundError):
        raise InvalidSpecError(f"there is no {path}: name the Dockerfile by dockerfile=") from None
    return content, context.source(dockerfile=path, outside=outside)
