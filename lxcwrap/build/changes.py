"""Steps that change files: the key of each, and the function that carries it out.

All that a step depends on is in its key, and nothing else is: not the times of files, nor secrets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import field, frozen

from ..digests import Digest
from ..errors import ExecError, InvalidSpecError, LxcwrapError, describe_exit
from ..storage.layers import LayerDraft
from ..storage.merged import merged
from . import instructions as given
from .cache import Tree, step_key
from .calls import Call
from .configs import Settings
from .context import Source
from .layering import lowers
from .mounting import Mounting, TreeOf
from .options import Workshop
from .placement import Placement
from .placing import key, place
from .step import BuildCancelled, Network, OnOutput, RunStep, SecretMount
from .workdirs import make_directory

SCRIPTS = "/run/scripts"


class CommandFailed(ExecError):
    """The command of a step ended with another exit code than 0."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(describe_exit(exit_code))
        self.exit_code = exit_code


@frozen(kw_only=True)
class Change:
    """
    One step, ready to be carried out. key: what names its result.

    write: writes to a draft on top of the tree it was made for. alike, always: see `make_layer`.
    """

    key: Digest
    write: Callable[[LayerDraft, OnOutput], object]
    alike: bool = True
    always: bool = False


@frozen
class Changes:
    """The steps of a stage where it stands: `tree` and `settings` before the next instruction."""

    shop: Workshop
    tree: Tree
    settings: Settings
    tree_of: TreeOf = field(repr=False)

    def of(self, instruction: given.Instruction) -> Change | None:
        """What `instruction`, its variables replaced, does to files; None: nothing."""
        match instruction:
            case given.Run():
                return self._run(instruction)
            case given.Copy() | given.Add():
                return self._transfer(instruction)
            case given.Workdir(path=path):
                return self._directory(self.settings.path(path))
            case Call():
                return self._call(instruction)
            case _:
                return None

    def _key(self, **facts: object) -> Digest:
        return step_key(below=self.tree.id, epoch=self.shop.options.epoch_s, **facts)

    @property
    def _lowers(self) -> tuple[Path, ...]:
        return lowers(self.shop.store, self.tree)

    # --- RUN ------------------------------------------------------------------------------------------------

    def _run(self, run: given.Run) -> Change:
        shop, settings = self.shop, self.settings
        mounting = Mounting(shop, run.mounts, settings.path, self.tree_of)
        network = shop.options.network if run.network == "default" else run.network
        argv, script = self._argv(run.command)

        def write(draft: LayerDraft, on_output: OnOutput) -> None:
            with mounting.mounted() as mounts:
                step = self._step(
                    draft,
                    argv,
                    secret_env=mounting.secret_env(),
                    mounts=(*mounts, *([script] if script else [])),
                    network=network,
                )
                if exit_code := shop.runner.run(step, on_output, shop.cancelled):
                    raise CommandFailed(exit_code)

        facts = self._facts(network)
        return Change(
            key=self._key(run=settings.argv(run.command), mounts=mounting.facts(), **facts), write=write
        )

    def _call(self, call: Call) -> Change:
        shop = self.shop

        def write(draft: LayerDraft, _: OnOutput) -> None:
            step = self._step(draft, (), network=shop.options.network)
            try:
                shop.runner.call(step, call.function, call.args, call.kwargs, shop.cancelled)
            except (BuildCancelled, LxcwrapError):
                raise
            except Exception as error:  # of the function
                raise ExecError(f"{type(error).__name__}: {error}") from error

        return Change(key=self._key(call=call.digest, **self._facts(shop.options.network)), write=write)

    def _step(self, draft: LayerDraft, argv: tuple[str, ...], **more: Any) -> RunStep:
        settings = self.settings
        return RunStep(
            argv=argv,
            lowers=self._lowers,
            draft=draft,
            env={**self.shop.unnoticed_env, **settings.env},
            cwd=settings.working_dir,
            user=settings.config.user,
            limits=self.shop.options.limits,
            **more,
        )

    def _facts(self, network: Network) -> dict[str, object]:
        """What decides of a command beside itself and the files."""
        settings = self.settings
        return {
            "env": settings.env,
            "cwd": settings.working_dir,
            "user": settings.config.user,
            "network": network,
            "platform": str(settings.config.platform),
        }

    def _argv(self, command: given.Command) -> tuple[tuple[str, ...], SecretMount | None]:
        """The words to execute, and the file that they need."""
        if isinstance(command, given.ShellForm) and (program := command.program):
            # As the kernel reads the first line: an interpreter, and all that follows as one argument. It may
            # not execute the file itself, which is on a file system without programs.
            words = program.content.split("\n")[0].removeprefix("#!").strip(" \t").split(None, 1)
            if not words:
                raise InvalidSpecError("the script's first line is #! without an interpreter")
            path = f"{SCRIPTS}/{program.name}"
            return (*words, path), SecretMount(target=path, content=program.content.encode(), mode=0o555)
        return self.settings.argv(command), None

    # --- COPY, ADD, WORKDIR ---------------------------------------------------------------------------------

    def _transfer(self, transfer: given.Copy | given.Add) -> Change:
        placement, working_dir = Placement.of(transfer), self.settings.working_dir
        with self._source(transfer) as source:
            content = key(source, placement, working_dir=working_dir)

        def write(draft: LayerDraft, _: OnOutput) -> None:
            drafts = self.shop.store.layers
            with (
                self._source(transfer) as source,
                self._target(draft, placement.link) as target,
                drafts.draft(None) as scratch,
            ):
                place(
                    source,
                    placement,
                    target,
                    working_dir=working_dir,
                    expected=content,
                    scratch=scratch.layer,
                )

        below = "" if placement.link else self.tree.id  # --link makes the same on top of whatever
        name = step_key(below=below, epoch=self.shop.options.epoch_s, copy=content)
        return Change(key=name, write=write, alike=not placement.link)

    @contextmanager
    def _source(self, transfer: given.Copy | given.Add) -> Iterator[Source | None]:
        name = getattr(transfer, "from_", "")
        if not name:
            yield self.shop.context
            return
        tree = self.tree_of(name)
        with ExitStack() as stack:
            yield Source(
                lambda: stack.enter_context(merged(lowers(self.shop.store, tree))),
                name=name,
                digests=self.shop.digests,
                owner=None,
                identity=tree.id,
            )

    @contextmanager
    def _target(self, draft: LayerDraft, linked: bool) -> Iterator[int]:
        if not linked:
            with merged(self._lowers, draft) as fd:
                yield fd
            return
        fd = os.open(draft.layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _directory(self, path: str) -> Change:
        user = self.settings.config.user

        def write(draft: LayerDraft, _: OnOutput) -> None:
            with self._target(draft, False) as target:
                make_directory(target, path, user)

        return Change(key=self._key(directory=path, user=user), write=write)
