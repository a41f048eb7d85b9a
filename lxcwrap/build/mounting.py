"""What ``RUN --mount`` asks for: what of it counts for the cache, and the mounts of the step."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import asdict, frozen

from ..digests import Digest
from ..drivers.paths import open_in_root
from ..errors import InvalidSpecError
from ..storage.layerwriter import read_tree, tar_chunks
from ..storage.merged import merged
from ..storage.tarstream import TarReader
from ..storage.unpack import unpack_tar
from . import mounts, step
from .cache import Tree, step_key
from .cachedirs import cache_directory
from .context import Source
from .layering import lowers
from .options import Workshop
from .placement import Placement
from .placing import key, place

TreeOf = Callable[[str], Tree]
"""The tree of a stage or an image, by what ``from=`` calls it."""


@frozen
class _Mount:
    """A mount with an absolute target, and the tree that it is from; None: from the context or nowhere."""

    asked: mounts.RunMount
    target: str
    tree: Tree | None


class Mounting:
    """The mounts of one RUN. path: makes a target absolute. Raises BuildError from `tree_of`."""

    def __init__(
        self,
        shop: Workshop,
        asked: tuple[mounts.RunMount, ...],
        path: Callable[[str], str],
        tree_of: TreeOf,
    ) -> None:
        self._shop = shop
        self._mounts = [
            _Mount(each, path(each.target) if each.target else "", _tree(each, tree_of)) for each in asked
        ]

    def facts(self) -> list[dict[str, object]]:
        """All that they mean for what the command finds, but for secrets and what caches hold."""
        return [self._fact(mount) for mount in self._mounts]

    def _fact(self, mount: _Mount) -> dict[str, object]:
        asked = mount.asked
        fact = {"type": type(asked).__name__, **asdict(asked), "target": mount.target}
        fact["from_"] = mount.tree.id if mount.tree else ""
        if isinstance(asked, mounts.BindMount) and mount.tree is None:
            fact["content"] = self._context_key(asked)
        return fact

    def secret_env(self) -> dict[str, str]:
        """The secrets that are wanted as variables."""
        asked = (each.asked for each in self._mounts)
        wanted = [each for each in asked if isinstance(each, mounts.SecretMount) and each.env]
        return {
            each.env: _text(each.id, content)
            for each in wanted
            if (content := self._secret(each)) is not None
        }

    def _secret(self, asked: mounts.SecretMount) -> bytes | None:
        """Raises InvalidSpecError: it is required and was not given."""
        content = self._shop.options.secrets.get(asked.id)
        if content is None and asked.required:
            raise InvalidSpecError(f"the secret {asked.id!r} is needed: give it by secrets=")
        return content

    @contextmanager
    def mounted(self) -> Iterator[tuple[step.StepMount, ...]]:
        """The mounts for the step, there as long as the block lasts."""
        with ExitStack() as stack:
            found = [self._mounted(mount, stack) for mount in self._mounts]
            yield tuple(mount for mount in found if mount)

    def _mounted(self, mount: _Mount, stack: ExitStack) -> step.StepMount | None:
        match mount.asked:
            case mounts.BindMount() as asked:
                trees = self._trees(mount, stack)
                return step.TreeMount(
                    target=mount.target, trees=trees, subpath=asked.source, read_only=asked.read_only
                )
            case mounts.CacheMount() as asked:
                directory = stack.enter_context(self._cache(asked, mount.tree))
                return step.CacheMount(target=mount.target, directory=directory, read_only=asked.read_only)
            case mounts.TmpfsMount(size_bytes=size):
                return step.TmpfsMount(target=mount.target, size=size)
            case mounts.SecretMount() as asked:
                content = self._secret(asked)
                if content is None or not asked.target:
                    return None
                return step.SecretMount(
                    target=mount.target, content=content, uid=asked.uid, gid=asked.gid, mode=asked.mode
                )

    # --- bind ---------------------------------------------------------------------------------------------

    def _trees(self, mount: _Mount, stack: ExitStack) -> tuple[Path, ...]:
        store = self._shop.store
        if mount.tree is not None:
            return lowers(store, mount.tree)
        # A copy, as of the context only what is not ignored may be seen, and all of it belongs to root.
        assert isinstance(mount.asked, mounts.BindMount)
        draft = stack.enter_context(store.layers.draft(None))
        fd = os.open(draft.layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        place(self._context, _placement(mount.asked), fd)
        return (draft.layer,)

    @property
    def _context(self) -> Source:
        if self._shop.context is None:
            raise InvalidSpecError("a bind mount without from= is of the context, and this build has none")
        return self._shop.context

    def _context_key(self, asked: mounts.BindMount) -> Digest:
        return key(self._context, _placement(asked))

    # --- cache --------------------------------------------------------------------------------------------

    @contextmanager
    def _cache(self, asked: mounts.CacheMount, tree: Tree | None) -> Iterator[Path]:
        def fill(directory: Path) -> None:
            if tree is not None:
                self._copy(tree, asked.source, directory)
            os.chown(directory, asked.uid, asked.gid)
            directory.chmod(asked.mode)

        origin = (tree.id, asked.source) if tree else ("", "")
        name = step_key(id=asked.id, origin=origin, owner=(asked.uid, asked.gid, asked.mode)).hex
        with cache_directory(
            self._shop.store.root.cache / "mounts",
            name,
            layers=self._shop.store.layers,
            fill=fill,
            sharing=asked.sharing,
            cancelled=self._shop.cancelled,
        ) as directory:
            yield directory

    def _copy(self, tree: Tree, source: str, directory: Path) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with merged(lowers(self._shop.store, tree)) as root, ExitStack() as stack:
            here = open_in_root(root, source, flags)
            stack.callback(os.close, here)
            target = os.open(directory, flags)
            stack.callback(os.close, target)
            unpack_tar(TarReader(tar_chunks(read_tree(here))), target)


def _text(name: str, secret: bytes) -> str:
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidSpecError(f"the secret {name!r} is no text without NUL: it cannot be in a variable")
    return text


def _tree(asked: mounts.RunMount, tree_of: TreeOf) -> Tree | None:
    from_ = asked.from_ if isinstance(asked, mounts.BindMount | mounts.CacheMount) else ""
    return tree_of(from_) if from_ else None


def _placement(asked: mounts.BindMount) -> Placement:
    """`source` of the context where it is, below the root."""
    source = re.sub(r"([*?[\\])", r"\\\1", asked.source.strip("/"))  # no pattern
    return Placement(sources=(source or ".",), destination="/", parents=bool(source))
