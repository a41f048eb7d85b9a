"""What a build is asked for beside its steps, and what it works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event

from attrs import field, frozen

from ..platforms import Platform
from ..progress import Report
from ..specs import Limits
from ..storage.images import ImageStore
from .context import Source
from .filedigests import FileDigests
from .step import Network, StepRunner


@frozen(kw_only=True)
class BuildOptions:
    """
    How to build. platform: what the image is for. secrets: content by id. network, limits: of RUN. epoch_s:
    the time of all records, and the latest of files; None: as it is. no_cache: nothing is taken from the
    cache, but all that is made goes into it.
    """

    platform: Platform
    build_args: Mapping[str, str] = field(factory=dict)
    secrets: Mapping[str, bytes] = field(factory=dict, repr=False)
    labels: Mapping[str, str] = field(factory=dict)
    network: Network = "none"
    limits: Limits = field(factory=Limits)
    epoch_s: int | None = None
    no_cache: bool = False


@frozen(kw_only=True)
class Workshop:
    """
    What the steps of one build share.

    find_image: the id of the stored image that a reference names on a platform; it is brought in first if
    need be. context: what COPY sees; None: there is none. unnoticed_env: what commands see beside ENV and
    ARG; it counts for neither cache nor history. cancelled: set when the build has failed.
    """

    store: ImageStore
    runner: StepRunner
    find_image: Callable[[str, Platform], str]
    report: Report
    options: BuildOptions
    digests: FileDigests
    context: Source | None = None
    unnoticed_env: Mapping[str, str] = field(factory=dict)
    cancelled: Event = field(factory=Event)
