"""Carrying out stages: one step after the other within a stage, stages side by side.

A stage is walked as far as the cache knows its steps, without threads; only where that ends work begins. Who
needs another stage waits for it, or completes it: a stage needs earlier ones only, so nobody waits for ever.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock, Semaphore
from typing import Final, NamedTuple

from attrs import evolve

from ..digests import Digest, chain_ids
from ..errors import BuildError, DockerfileError, LxcwrapError
from ..imageconfig import History, ImageConfig
from ..platforms import Platform
from ..progress import StepFinished, StepStarted
from ..storage.images import ImageStore
from ..storage.layers import IngestedLayer
from ..supervisor.plan import environment
from . import instructions as given
from .cache import BuildCache, Made, Tree, step_key
from .changes import Change, Changes, CommandFailed
from .configs import Settings, configured, described
from .layering import make_layer
from .options import Workshop
from .output import Output
from .parser import parse_trigger
from .scopes import Scopes
from .step import BuildCancelled
from .substitution import substitute

_MAX_SAID: Final = 16 << 20


class _NotYet(Exception):
    """Another stage is needed that is not complete, and nothing is to be carried out now."""


class _Step(NamedTuple):
    """`number` is counted from 1 over all stages. literal: no variables stand in the instruction."""

    number: int
    instruction: given.Instruction
    literal: bool


class Stages:
    """The stages of one build, by their index. literal: no variables stand in their instructions."""

    def __init__(
        self,
        shop: Workshop,
        dockerfile: given.Dockerfile,
        scopes: Scopes,
        needed: Sequence[int],
        *,
        literal: bool,
    ) -> None:
        self.shop = shop
        self.dockerfile = dockerfile
        self.scopes = scopes
        self.literal = literal
        self.cache = BuildCache(shop.store.state)
        self.slots = Semaphore(len(os.sched_getaffinity(0)))
        self.total = 0
        self.triggers: list[given.Instruction] = []
        self.said = 0  # characters of all that is kept of instructions
        self.failure: BaseException | None = None
        self._made: dict[str, Made] = {}
        self._lock = Lock()
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)
        self._stages: dict[int, StageBuild] = {}
        for index in needed:
            self[index]

    def __getitem__(self, index: int) -> StageBuild:
        with self._lock:
            if index not in self._stages:
                stage = self.dockerfile.stages[index]
                self._stages[index] = StageBuild(self, stage, self.total + 1)
                self.total += 1 + len(stage.instructions)
            return self._stages[index]

    def __iter__(self) -> Iterator[StageBuild]:
        return iter(list(self._stages.values()))

    def find(self, change: Change) -> Made | None:
        """What is known to come of a step."""
        if made := self._made.get(change.key):
            return made
        if self.shop.options.no_cache:
            return None
        made = self.cache.find(change.key)
        if made and made.layer and not self.shop.store.blobs.has(made.layer.digest):
            return None
        return made

    def make(self, change: Change, tree: Tree, output: Output) -> Made:
        """Carry out a step. If another stage is about to do the same, it takes what comes of it."""
        with self._lock:
            lock = self._locks[change.key]
        with lock:
            if made := self.find(change):
                return made
            with self.slots:
                self.check()
                layer = make_layer(
                    self.shop.store,
                    tree,
                    lambda draft: change.write(draft, output),
                    newest_s=self.shop.options.epoch_s,
                    alike=change.alike,
                    always=change.always,
                )
            epoch_s = self.shop.options.epoch_s
            made = Made(layer, time.time() if epoch_s is None else float(epoch_s))
            self.cache.keep(change.key, tree.above(layer) if layer else None, made)
            self._made[change.key] = made
            return made

    def fail(self, error: BaseException) -> None:
        """Let all stages end. The first one to fail says why."""
        # Without the lock, which an interrupt may have left locked. If two fail at once, either may say why.
        self.failure = self.failure or error
        self.shop.cancelled.set()

    def check(self) -> None:
        """Raises BuildCancelled after a failure."""
        if self.shop.cancelled.is_set():
            raise BuildCancelled


class StageBuild:
    """One stage, and how far it is: `tree`, `settings` and `history` are those after the last step done."""

    def __init__(self, stages: Stages, stage: given.Stage, first_number: int) -> None:
        self._stages = stages
        self._shop = stages.shop
        self._stage = stage
        self._name = stage.alias or str(stage.index)
        instructions = (stage.base, *stage.instructions)
        self._pending = deque(
            _Step(number, instruction, stages.literal)
            for number, instruction in enumerate(instructions, first_number)
        )
        self._lock = Lock()
        self.tree = Tree()
        self.settings = Settings(config=ImageConfig(diff_ids=()), args={})
        self.history: tuple[History, ...] = ()
        self.created: datetime | None = None

    def complete(self, *, run: bool) -> bool:
        """Carry out what is left of it; whether that is done. run: also steps that are not in the cache.

        Raises BuildCancelled: the build has failed already.
        """
        with self._lock:
            self._stages.check()
            try:
                while self._pending and self._advance(run):
                    pass
            except _NotYet:
                return False
            except BaseException as error:
                self._stages.fail(error)
                raise
            return not self._pending

    def config(self) -> ImageConfig:
        """The config of an image of this stage."""
        return evolve(
            self.settings.config,
            diff_ids=tuple(Digest(layer.diff_id) for layer in self.tree.layers),
            history=self.history,
            created=self.created,
        )

    def ensure_layer(self) -> None:
        """An image has at least one: if no step made any, an empty one stands for its FROM."""
        if self.tree.layers:
            return
        change = Change(key=step_key(empty=True), write=lambda draft, output: None, always=True)
        made = self._stages.make(change, self.tree, Output(0, self._shop.report))
        self.tree = self.tree.with_layer(made.layer)
        self.created = datetime.fromtimestamp(made.created_at, UTC)
        self.history = (History(created=self.created, created_by="FROM scratch"), *self.history)

    # --- steps ----------------------------------------------------------------------------------------------

    def _advance(self, run: bool) -> bool:
        """Carry out the next step; False, or an error: it is still the next one."""
        step, done = self._pending.popleft(), False
        try:
            done = self._do(step, run)
        finally:
            if not done:
                self._pending.appendleft(step)
        return done

    def _do(self, step: _Step, run: bool) -> bool:
        """Carry out one step; False: it is not in the cache, and not to be run now."""
        instruction = step.instruction
        if isinstance(instruction, given.From):
            self._begin(step, instruction, run)
            return True
        if not step.literal:
            escape = self._stages.dockerfile.escape
            instruction = substitute(instruction, self.settings.variables, escape=escape)
            self._check_network(instruction)
        output = Output(step.number, self._shop.report)
        with self._failing(step, output):
            change = self._change(instruction, run)
            made = self._stages.find(change) if change else None
            if change and not made and not run:
                return False
            with self._told(step, cached=made is not None):
                if change and not made:
                    made = self._stages.make(change, self.tree, output)
        self._apply(instruction, made)
        return True

    def _check_network(self, instruction: given.Instruction) -> None:
        # Files and base images may be a stranger's: only who builds can give them the host's network.
        if getattr(instruction, "network", "") == "host" != self._shop.options.network:
            raise instruction.at.error("--network=host: allow it to this build by network='host'")

    def _change(self, instruction: given.Instruction, run: bool) -> Change | None:
        def tree_of(name: str) -> Tree:
            return self._tree_of(name, run)

        return Changes(self._shop, self.tree, self.settings, tree_of).of(instruction)

    def _apply(self, instruction: given.Instruction, made: Made | None) -> None:
        """Go on behind an instruction that was carried out."""
        before = self.settings
        if isinstance(instruction, given.Arg):
            values = self._stages.scopes.declare(instruction, before.variables, self._stage.alias)
            self.settings = evolve(before, args={**before.args, **values})
            self._count(instruction, values.values())
        else:
            self.settings = configured(before, instruction)
        layer = made.layer if made else None
        if made:
            self.created = datetime.fromtimestamp(made.created_at, UTC)
        self.tree = self.tree.with_layer(layer)
        entry = History(
            created=self.created, created_by=described(before, instruction), empty_layer=layer is None
        )
        self.history += (entry,)
        self._count(instruction, (entry.created_by,))

    def _count(self, instruction: given.Instruction, texts: Iterable[str]) -> None:
        self._stages.said += sum(map(len, texts))
        if self._stages.said > _MAX_SAID:
            raise instruction.at.error(f"variables bring more than {_MAX_SAID} characters into this build")

    @contextmanager
    def _told(self, step: _Step, *, cached: bool = False) -> Iterator[None]:
        text, report = step.instruction.text, self._shop.report
        report(StepStarted(step=step.number, total=self._stages.total, stage=self._name, instruction=text))
        began = time.monotonic()
        yield
        report(StepFinished(step=step.number, cached=cached, duration_s=time.monotonic() - began))

    @contextmanager
    def _failing(self, step: _Step, output: Output) -> Iterator[None]:
        """Errors within the block become the BuildError of this step."""
        try:
            yield
        except (BuildError, DockerfileError):
            raise  # of another stage, or says itself where
        except (LxcwrapError, OSError) as error:
            failed = error if isinstance(error, CommandFailed) else None
            raise BuildError(
                step=step.number,
                instruction=step.instruction.text,
                reason=str(error),
                line=step.instruction.at.line or None,
                exit_code=failed.exit_code if failed else None,
                log=output.tail,
            ) from (None if failed else error)

    # --- bases ----------------------------------------------------------------------------------------------

    def _begin(self, step: _Step, base: given.From, run: bool) -> None:
        if not step.literal:
            base = substitute(base, self._stages.scopes.file, escape=self._stages.dockerfile.escape)
        stage = self._stages.dockerfile.find(base.image, before=self._stage.index, by_number=False)
        other = self._completed(stage.index, run) if stage else None
        with self._told(step):
            self.tree, config = (other.tree, other.config()) if other else self._base(base)
        self.history, self.created = config.history, config.created
        if (epoch_s := self._shop.options.epoch_s) is not None:
            self.created = datetime.fromtimestamp(epoch_s, UTC)
        self.settings = Settings(config=evolve(config, on_build=()), args={})
        triggers = [parse_trigger(expression, base.at) for expression in config.on_build]
        self._stages.triggers += triggers
        self._pending.extendleft(_Step(step.number, trigger, False) for trigger in reversed(triggers))

    def _base(self, base: given.From) -> tuple[Tree, ImageConfig]:
        platform = Platform.parse(base.platform) if base.platform else self._shop.options.platform
        if base.image == "scratch":
            return Tree(), _empty(platform)
        return _image(self._shop.store, self._shop.find_image(base.image, platform))

    def _completed(self, index: int, run: bool) -> StageBuild:
        stage = self._stages[index]
        if not stage.complete(run=run):
            raise _NotYet
        return stage

    def _tree_of(self, name: str, run: bool) -> Tree:
        if stage := self._stages.dockerfile.find(name, before=self._stage.index):
            return self._completed(stage.index, run).tree
        if name == "scratch":
            return Tree()
        image_id = self._shop.find_image(name, self._shop.options.platform)
        return _image(self._shop.store, image_id)[0]


def _empty(platform: Platform) -> ImageConfig:
    """What ``FROM scratch`` begins with."""
    return ImageConfig(
        diff_ids=(),
        os=platform.os,
        architecture=platform.architecture,
        variant=platform.variant,
        env=environment({}),
        working_dir="/",
    )


def _image(store: ImageStore, image_id: str) -> tuple[Tree, ImageConfig]:
    config, manifest = store.config(image_id), store.manifest(image_id)
    layers = tuple(
        IngestedLayer(layer.digest, layer.size, diff_id, layer.media_type)
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    )
    return Tree(layers, chain_ids(config.diff_ids)), config
