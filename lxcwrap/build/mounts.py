"""``RUN --mount``: its flag as written, and the mounts it asks for.

Source: Dockerfile reference, "RUN --mount".
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen


@frozen(kw_only=True)
class MountFlag:
    """The value of one flag. options: key (in lower case, the long name) and text, None for a bare key."""

    text: str
    options: tuple[tuple[str, str | None], ...]
    from_: str = ""


@frozen(kw_only=True)
class BindMount:
    """Files of the context, of a stage or an image (`from_`). What is written there is dropped."""

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
    sharing: Literal["shared", "private", "locked"] = "shared"
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
