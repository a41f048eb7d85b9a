"""The tree of errors: as it is drawn, catchable as builtins, complete in what they say, and fit to travel."""

from __future__ import annotations

import builtins
import copy
import errno
import inspect
import pickle
import re

import pytest

from lxcwrap import errors
from lxcwrap.errors import (
    AddressInUseError,
    BuildError,
    CallError,
    CommandFailedError,
    ContainerNotFoundError,
    DigestMismatchError,
    DockerfileError,
    ExecError,
    ExhaustedError,
    FormatError,
    ImageNotFoundError,
    InvalidSpecError,
    KernelError,
    LxcwrapError,
    NameInUseError,
    NetworkNotFoundError,
    NotReadyError,
    PathDeniedError,
    PathError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    PortInUseError,
    RegistryAuthError,
    RegistryError,
    SnapshotNotFoundError,
    StartError,
    StillUsedError,
    SupervisorError,
    TimeoutExpired,
    UnsupportedError,
    VolumeNotFoundError,
    WrongStateError,
    describe_exit,
    path_error,
)

ALL = {
    name: cls
    for name, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, BaseException) and cls.__module__ == errors.__name__
}
EXAMPLES = [
    ImageNotFoundError("nginx"),
    ImageNotFoundError("ab", ["sha256:ab1", "sha256:ab2"]),
    ImageNotFoundError("registry.example/app:9", registry="registry.example"),
    ContainerNotFoundError("web"),
    ContainerNotFoundError("ab", ["ab1", "ab2"]),
    SnapshotNotFoundError("warm"),
    VolumeNotFoundError("data"),
    NetworkNotFoundError("front"),
    PathNotFoundError("web", "/etc/nginx"),
    InvalidSpecError("memory=-1: must be greater than zero"),
    DockerfileError("Dockerfile", 3, 7, "no such instruction"),
    NameInUseError("container", "web"),
    StillUsedError("image", "nginx", ["web", "db"]),
    WrongStateError("web", "running", "remove"),
    AddressInUseError("10.88.1.5", "web"),
    PortInUseError("tcp", "127.0.0.1", 8080, "web"),
    ExhaustedError("address", "10.88.1.0/24"),
    StartError("web", "no such layer", "lxc 123 ERROR start"),
    KernelError(errno.EPERM, "mount", "/x"),
    PathError(errno.EIO, "web", "/etc/x"),
    PathExistsError(errno.EEXIST, "web", "/etc/x"),
    PathIsDirectoryError(errno.EISDIR, "web", "/etc"),
    PathNotDirectoryError(errno.ENOTDIR, "web", "/etc/x"),
    PathDeniedError(errno.EACCES, "web", "/proc/1", "leads out of the container"),
    SupervisorError("start of web", "its process ended"),
    RegistryError("registry.example", "pull app:1", "connection refused"),
    RegistryAuthError("registry.example", "push app:1", "no credentials", 401),
    DigestMismatchError("layer", "sha256:aa", "sha256:bb"),
    FormatError("app.tar", "no index.json"),
    ExecError("attach: stdin is no terminal"),
    CommandFailedError(("sh", "-c", "x"), 3, "out", "err", "web"),
    TimeoutExpired("wait for web", 1.5, "out", b"err"),
    BuildError(3, "RUN make", "exit code 2", line=7, exit_code=2, log="no rule"),
    NotReadyError("web", "port 80", 3, "no configuration"),
    CallError("getpid", "cannot be sent", "Traceback ..."),
    UnsupportedError("no seccomp", "apt install libseccomp2"),
]


def drawn() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name to drawn parent and builtins, from the drawing in the docstring of errors.py."""
    tree: dict[str, tuple[str, tuple[str, ...]]] = {"LxcwrapError": ("Exception", ())}
    above = ["LxcwrapError"]
    assert errors.__doc__
    for line in errors.__doc__.splitlines():
        branch = re.match(r"([│├└ ]*)(?:[├└]── )(\w+)(?:\((\w+)\))?", line)
        names = re.findall(r"(\w+(?:Error|Expired))(?:\((\w+)\))?", line)
        if branch:
            depth = line.index("── ") // 4 + 1
            above = [*above[:depth], branch[2]]
            tree[branch[2]] = (above[depth - 1], (branch[3],) if branch[3] else ())
            names = names[1:]
        elif not line.startswith("│") or not names:
            continue
        for name, builtin in names:
            if name not in tree and name in ALL:
                tree[name] = (above[-1], (builtin,) if builtin else ())
    return tree


def test_the_drawing_is_true() -> None:
    """The docstring shows every error once, below its parent, with the builtin it also is."""
    tree = drawn()
    assert set(tree) == set(ALL)
    for name, (parent, also) in tree.items():
        assert issubclass(ALL[name], ALL.get(parent, Exception)), (name, parent)
        if name != "LxcwrapError":
            assert ALL[parent] in ALL[name].__bases__, (name, parent)
        for builtin in also:
            assert issubclass(ALL[name], getattr(builtins, builtin)), (name, builtin)


def test_every_error_has_an_example_here() -> None:
    """So that what follows speaks of all of them."""
    abstract = {cls.__base__ for cls in ALL.values()} | {LxcwrapError}
    assert {type(error) for error in EXAMPLES} | abstract >= set(ALL.values())


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ImageNotFoundError("x"), LookupError),
        (ContainerNotFoundError("x"), KeyError),
        (PathNotFoundError("web", "/x"), FileNotFoundError),
        (PathExistsError(errno.EEXIST, "web", "/x"), FileExistsError),
        (PathIsDirectoryError(errno.EISDIR, "web", "/x"), IsADirectoryError),
        (PathNotDirectoryError(errno.ENOTDIR, "web", "/x"), NotADirectoryError),
        (PathDeniedError(errno.EACCES, "web", "/x"), PermissionError),
        (InvalidSpecError("x"), ValueError),
        (KernelError(errno.EPERM, "mount"), OSError),
        (FormatError("x", "y"), ValueError),
        (TimeoutExpired("x", 1), TimeoutError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_callers_may_expect_a_builtin(error: LxcwrapError, builtin: type[Exception]) -> None:
    """Whoever catches what pathlib, dict or subprocess raise, catches ours."""
    assert isinstance(error, builtin)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_travel(error: LxcwrapError) -> None:
    """Copied and pickled (pools of processes do it) they say the same and hold the same."""
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert getattr(twin, "errno", None) == getattr(error, "errno", None)
        for name in getattr(type(error), "__match_args__", ()):
            assert getattr(twin, name) == getattr(error, name)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_messages_are_sentences_with_the_facts(error: LxcwrapError) -> None:
    """What failed and on what is in the text; no representation of objects, no empty parts."""
    text = str(error)
    assert text and "None" not in text and not text.endswith((":", " "))
    for name in ("container", "path", "name", "reference", "function", "what", "operation"):
        fact = getattr(error, name, "")
        assert not isinstance(fact, str) or fact in text or isinstance(error, CommandFailedError)


def test_os_errors_have_the_facts_of_os_errors() -> None:
    """errno, strerror and filename are where code for OSError looks for them."""
    error = KernelError(errno.ENOSPC, "mount overlay", "/merged")
    assert (error.errno, error.filename, error.operation) == (errno.ENOSPC, "/merged", "mount overlay")
    missing = PathNotFoundError("web", "/x")
    assert (missing.errno, missing.container, missing.path) == (errno.ENOENT, "web", "/x")


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, PathNotFoundError),
        (errno.EEXIST, PathExistsError),
        (errno.EISDIR, PathIsDirectoryError),
        (errno.ENOTDIR, PathNotDirectoryError),
        (errno.EPERM, PathDeniedError),
        (errno.EACCES, PathDeniedError),
        (errno.EIO, PathError),
    ],
)
def test_path_errors_are_chosen_by_errno(number: int, kind: type[Exception]) -> None:
    """As OSError itself chooses."""
    error = path_error(number, "web", "/x")
    assert type(error) is kind and error.errno == number


def test_a_start_error_shows_the_log() -> None:
    """It is liblxc's only explanation."""
    assert "ERROR start" in str(StartError("web", log_tail="x ERROR start\n"))
    assert "liblxc refused" in str(StartError("web"))


def test_a_failed_command_shows_the_end_of_its_stderr() -> None:
    """The end, because there programs say why; and bytes as well as text."""
    assert str(CommandFailedError(["x"], 1, stderr=b"a" * 5000 + b"\xff the end\n")).endswith(
        "\ufffd the end"
    )
    assert len(str(CommandFailedError(["x"], 1, stderr="a" * 5000))) < 1200
    assert "memory" in str(CommandFailedError(["x"], 137, oom_killed=True))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "unknown"),
        (0, "0"),
        (3, "3"),
        (126, "cannot be run"),
        (127, "not found"),
        (137, "SIGKILL"),
        (128 + 63, "191"),
        (255, "255"),
    ],
)
def test_exit_codes_in_words(code: int | None, text: str) -> None:
    """What shells mean by them."""
    assert text in describe_exit(code)
