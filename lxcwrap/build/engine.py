"""From parsed steps to an image in the store.

The whole build holds the store's lock for those who add content. Layers become rows of the build cache one by
one as steps succeed, so that after a failure the next build goes on from there; the image is recorded last,
and only that of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from attrs import evolve

from ..digests import digest_of
from ..errors import ImageNotFoundError, InvalidSpecError
from ..oci import Reference
from ..storage.addition import Addition
from ..storage.images import ImageStore
from ..storage.parallel import Stop, side_by_side
from . import instructions as given
from .options import Workshop
from .scopes import Scopes
from .stages import StageBuild, Stages
from .step import BuildCancelled


def build(
    shop: Workshop,
    dockerfile: given.Dockerfile,
    *,
    references: Sequence[Reference] = (),
    target: str | None = None,
    literal: bool = False,
) -> str:
    """
    The id of the image that the stage `target` makes, by name or number; None: the last one.

    Only stages that it needs are built, independent ones side by side. literal: no variables stand in the
    instructions.

    Raises InvalidSpecError: no such stage, or unused build arguments; DockerfileError, BuildError; what
    `find_image` raises for a FROM. No step that failed or was interrupted leaves anything behind.
    """
    stage = _target(dockerfile, target)
    scopes = Scopes(dockerfile, shop.options.build_args, shop.options.platform)
    # Each image is looked for once: a name means the same throughout a build.
    shop = evolve(shop, unnoticed_env=scopes.predefined, find_image=cache(shop.find_image))
    with shop.store.adding() as addition:
        stages = Stages(shop, dockerfile, scopes, needed(dockerfile, stage), literal=literal)
        built = _carry_out(stages, stage)
        stages.cache.touch()
        if shop.options.no_cache:
            shop.store.sweep()  # what the rows named before; when the lock is free
        return _record(shop, addition, built, references)


def _target(dockerfile: given.Dockerfile, target: str | None) -> given.Stage:
    if target is None:
        return dockerfile.stages[-1]
    if stage := dockerfile.find(target):
        return stage
    names = ", ".join(stage.alias or str(stage.index) for stage in dockerfile.stages)
    raise InvalidSpecError(f"target {target!r}: {dockerfile.file} has no such stage, only {names}")


def needed(dockerfile: given.Dockerfile, target: given.Stage) -> list[int]:
    """The indexes of the stages that `target` is made of, itself too, as they stand in the file.

    Those that triggers of base images name are not among them.
    """
    found, pending = {target.index}, [target]
    while pending:
        stage = pending.pop()
        others = [dockerfile.find(name, before=stage.index) for name in _sources(stage)]
        others.append(dockerfile.find(stage.base.image, before=stage.index, by_number=False))
        new = [other for other in others if other and other.index not in found]
        found |= {other.index for other in new}
        pending += new
    return sorted(found)


def _sources(stage: given.Stage) -> list[str]:
    names = []
    for instruction in stage.instructions:
        match instruction:
            case given.Copy(from_=name):
                names.append(name)
            case given.Run(mount_flags=flags, mounts=mounts):
                names += [flag.from_ for flag in flags]
                names += [getattr(mount, "from_", "") for mount in mounts]
    return [name for name in names if name]


def _carry_out(stages: Stages, target: given.Stage) -> StageBuild:
    built = stages[target.index]
    left = [stage for stage in stages if not stage.complete(run=False)]
    stages.scopes.check_used(stages.triggers)
    if len(left) == 1:
        left[0].complete(run=True)
    elif left:
        stop = Stop(stages.shop.cancelled.set)
        tasks = [partial(stage.complete, run=True) for stage in left]
        try:
            side_by_side(tasks, threads=len(tasks), stop=stop)
        except BuildCancelled:
            assert stages.failure
            raise stages.failure from None
    built.ensure_layer()
    return built


def _record(shop: Workshop, addition: Addition, built: StageBuild, references: Sequence[Reference]) -> str:
    config = built.config()
    data = evolve(config, labels={**config.labels, **shop.options.labels}).to_json()
    image_id = digest_of(data)
    if not _tagged(shop.store, image_id, references):
        addition.add_built(data, built.tree.layers, references)
    return image_id


def _tagged(store: ImageStore, image_id: str, references: Sequence[Reference]) -> bool:
    """Let `references` name the image, if it is there already."""
    try:
        store.tag(image_id, *references)
    except ImageNotFoundError:
        return False
    return True
