"""`container.call(fn)`: a Python function of the caller, run inside a container that needs no Python.

caller                          child of the fork-server, on the host       the same, inside the container
encode_call -> payload -------> prepare_call: imports what fn needs ------> run_call: fn(*args, **kwargs)
decode_result <----------------------------------------------------- length: u64 big-endian | pickle

The caller and the child trust each other: the payload is an ordinary pickle. The answer comes from a process
that was exposed to the container: it is read by an unpickler that makes plain data and nothing else. Inside,
that process has the container's rights, cannot be traced from there, and imports nothing from the container's
files. (The C library may: resolving a host name can load what /etc/nsswitch.conf names. That is then code of
the container with the rights of the container, and the answer is as little trusted as before.)
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import importlib
import io
import linecache
import os
import pickle
import sys
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn

from ..drivers import syscalls
from .becoming import become

if TYPE_CHECKING:
    from ..errors import CallError

MAX_RESULT = 256 << 20
_LENGTH_SIZE = 8
_PROTOCOL = 5
_ADVICE = "return plain data: numbers, text, bytes, containers of them, dates, paths"

# --- the caller ------------------------------------------------------------------------------------------


def encode_call(
    fn: Callable[..., object],
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    imports: Sequence[str] = (),
) -> bytes:
    """What `prepare_call` needs to run ``fn(*args, **kwargs)``; `imports` are modules to be imported before.

    Functions and classes are sent by name; those without an importable one (lambdas, nested ones, those of
    ``__main__`` or a notebook) by value, if cloudpickle is installed.

    Raises:
        CallError: something cannot be sent.
    """
    name = function_name(fn)
    if not callable(fn):
        raise _error(name, "it is not callable")
    call = (fn, tuple(args), dict(kwargs or {}))
    path = [os.path.abspath(entry) for entry in sys.path]
    return pickle.dumps((sys.version_info[:2], path, list(imports), _pickle_call(name, call)), _PROTOCOL)


def function_name(fn: object) -> str:
    """How errors call it."""
    return getattr(fn, "__qualname__", None) or repr(fn)


def is_whole(data: bytes | bytearray) -> bool:
    """Whether this is all of an answer, for `decode_result`; or too much of one."""
    length = min(int.from_bytes(data[:_LENGTH_SIZE], "big"), MAX_RESULT + 1)
    return len(data) >= _LENGTH_SIZE + length


def decode_result(data: bytes, function: str = "the function") -> Any:
    """What the function returned; raise what it raised.

    Builtin exceptions are raised as themselves, with the traceback from inside as a note. Hostile data cannot
    run code or change objects of this program; they can cost memory and time.

    Raises:
        CallError: the function was not run to its end, its result is more than plain data, or it raised an
            exception that is not a builtin one.
    """
    length, body = int.from_bytes(data[:_LENGTH_SIZE], "big"), memoryview(data)[_LENGTH_SIZE:]
    if len(body) > MAX_RESULT:
        raise _error(function, f"its result is larger than {MAX_RESULT >> 20} MiB")
    if len(data) < _LENGTH_SIZE or length > len(body):
        raise _error(function, "its process ended before it answered")
    match _load_plain(body[:length], function):
        case ("value", value):
            return value
        case ("exception", bytes() as pickled, str() as what, str() as inside):
            raise _exception(function, pickled, what, inside)
        case ("failure", str() as reason, str() as inside):
            raise _error(function, reason, inside)
    raise _error(function, "its answer is malformed")


def _error(function: str, reason: str, inside: str = "") -> CallError:
    from ..errors import CallError  # here, for the child has no attrs

    return CallError(function, reason, inside)


class _ByReference(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        # By name it would be looked up in the child's own __main__.
        if isinstance(obj, type | FunctionType) and obj.__module__ == "__main__":
            raise pickle.PicklingError(f"{obj.__qualname__} is defined in __main__")
        if isinstance(obj, FunctionType) and _decorated(obj.__module__, obj.__qualname__) is obj:
            return _decorated, (obj.__module__, obj.__qualname__)
        return NotImplemented


def _decorated(module: str, name: str) -> object:
    """The function that a decorator, such as `Container.function`, has wrapped under this name; if any."""
    found: object = sys.modules.get(module) or importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return getattr(found, "__wrapped__", None)


def _pickle_call(name: str, call: tuple[object, ...]) -> bytes:
    buffer = io.BytesIO()
    try:
        _ByReference(buffer, _PROTOCOL).dump(call)
        return buffer.getvalue()
    except Exception as error:  # __reduce__ of anybody's class may raise anything
        by_reference = error
    try:
        cloudpickle = importlib.import_module("cloudpickle")
    except ImportError:
        advice = "define it in a module that can be imported, or install cloudpickle: lxcwrap[call]"
        raise _error(name, f"cannot be sent into the container: {by_reference}; {advice}") from by_reference
    try:
        pickled: bytes = cloudpickle.dumps(call, _PROTOCOL)
        return pickled
    except Exception as error:
        raise _error(name, f"cannot be sent into the container: {error}") from error


def _exception(function: str, pickled: bytes, what: str, inside: str) -> Exception:
    from ..errors import CallError

    try:
        error: object = _load_plain(memoryview(pickled), function)
        if isinstance(error, Exception) and not isinstance(error, StopIteration):  # no generator can raise it
            error.add_note(f"Raised inside the container:\n{inside.rstrip()}")
            return error
    except (CallError, TypeError):
        pass  # it holds more than plain data: its traceback has to do
    return _error(function, f"it raised {what}", inside)


# --- what may come back ----------------------------------------------------------------------------------

_PLAIN = {
    "builtins": "complex range slice",
    "collections": "Counter OrderedDict deque",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "grp": "struct_group",
    "ipaddress": "IPv4Address IPv4Interface IPv4Network IPv6Address IPv6Interface IPv6Network",
    "os": "stat_result statvfs_result terminal_size",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath",
    "posix": "times_result uname_result",
    "pwd": "struct_passwd",
    "resource": "struct_rusage",
    "time": "struct_time",
    "uuid": "UUID",
}
# A constructor may walk over its arguments: networks and ranges are short to write and endless to walk.
_FINITE = (bytes, dict, list, str, tuple)


class _Constructor:
    """What a pickle holds in place of a class. It can be called, but not changed: BUILD on a class would set
    attributes of it, for the whole program."""

    __slots__ = ("__weakref__", "_make")

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *args: object) -> object:
        if any(hasattr(type(arg), "__iter__") and type(arg) not in _FINITE for arg in args):
            raise pickle.UnpicklingError("it is malformed")
        return self._make(*args)

    def __setstate__(self, state: object) -> NoReturn:
        raise pickle.UnpicklingError("it is malformed")


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, data: memoryview) -> None:
        super().__init__(io.BytesIO(data))
        self.constructors: list[weakref.ref[_Constructor]] = []

    def find_class(self, module: str, name: str) -> Any:
        constructor = _Constructor(_plain_class(module, name))
        self.constructors.append(weakref.ref(constructor))
        return constructor


def _plain_class(module: str, name: str) -> Callable[..., object]:
    if name in _PLAIN.get(module, "").split():
        found: Callable[..., object] = getattr(importlib.import_module(module), name)
        return _fraction if module == "fractions" else found
    if module == "builtins":
        error = getattr(importlib.import_module(module), name, None)
        if isinstance(error, type) and issubclass(error, Exception):
            return error
    raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _fraction(numerator: int | str, denominator: int | None = None) -> object:
    from fractions import Fraction

    if isinstance(numerator, str) and not set(numerator) <= set("-/0123456789"):
        raise pickle.UnpicklingError("it is malformed")  # 1e999999999 would be computed
    return Fraction(numerator) if denominator is None else Fraction(int(numerator), denominator)


def _load_plain(data: memoryview, function: str) -> Any:
    unpickler = _PlainUnpickler(data)
    constructors = unpickler.constructors
    try:
        value = unpickler.load()
    except Exception as error:  # of malformed data anything may come
        reason = str(error) if isinstance(error, pickle.UnpicklingError) else f"it is malformed ({error!r})"
        raise _error(function, f"its result is not accepted: {reason}; {_ADVICE}") from None
    del unpickler
    if any(constructor() for constructor in constructors):
        raise _error(function, f"its result is not accepted: it holds a class; {_ADVICE}")
    return value


# --- the child -------------------------------------------------------------------------------------------


def prepare_call(payload: bytes) -> Callable[[], bytes]:
    """In the child, before it enters the container: import what the call needs. The result is for `run_call`.

    Changes the process for good. Never raises: what went wrong becomes the answer.
    """
    # Before entering: nobody inside may ever trace this process, or reach its files through /proc.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    try:
        version, path, imports, body = pickle.loads(payload)
        if version != sys.version_info[:2]:
            ours, theirs = (".".join(map(str, each)) for each in (sys.version_info[:2], version))
            reason = f"it was sent by Python {theirs}, but the fork-server runs {ours}: use the same"
            return functools.partial(_dump, ("failure", reason, ""))
        sys.path[:] = path
        sys.path_importer_cache.clear()
        for name in imports:
            importlib.import_module(name)
        fn, args, kwargs = pickle.loads(body)
        if "socket" in sys.modules:
            importlib.import_module("encodings.idna")  # which getaddrinfo would import inside
    except BaseException as error:  # modules may raise anything, SystemExit too, when they are imported
        reason = f"cannot be loaded outside its program: {type(error).__name__}: {error}"
        return functools.partial(_dump, ("failure", reason, _format(error)))
    return functools.partial(_run, functools.partial(fn, *args, **kwargs))


def run_call(
    call: Callable[[], bytes], result_fd: int, env: Sequence[str] | None = None, user: str | None = None
) -> int:
    """In the child, inside the container: run what `prepare_call` gave, and write the answer to `result_fd`.

    All other descriptors from 3 on are closed: they belong to the host. env: ``NAME=value`` each, in place of
    `os.environ`, which liblxc cannot change. user: whom to become. Returns 0 if the answer was taken.
    """
    if env is not None:
        os.environ.clear()
        os.environ.update({name: value for name, _, value in (entry.partition("=") for entry in env)})
    os.closerange(3, result_fd)
    os.closerange(result_fd + 1, os.sysconf("SC_OPEN_MAX"))
    _import_no_more()
    pid = os.getpid()
    answer = call() if user is None else _run_as(user, call)
    if os.getpid() != pid:  # the function forked, and this is not the process the caller waits for
        os._exit(0)
    view = memoryview(len(answer).to_bytes(_LENGTH_SIZE, "big") + answer)
    try:
        while view:
            view = view[os.write(result_fd, view) :]
    except BrokenPipeError:
        return 1
    return 0


def _run_as(user: str, call: Callable[[], bytes]) -> bytes:
    try:
        become(user)
    except (LookupError, OSError) as error:
        return _dump(("failure", f"cannot become user {user!r}: {error}", ""))
    return call()


class _ImportNoMore:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        raise ModuleNotFoundError(
            f"{name!r} is not loaded, and nothing is imported inside a container: "
            "import it at the top of the module that defines the function, or name it in imports=",
            name=name,
        )


def _import_no_more() -> None:
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, _ImportNoMore]
    # Nor read source lines for tracebacks: the paths mean other files here, or a FIFO to hang on.
    linecache.checkcache = lambda filename=None: None
    linecache.updatecache = lambda filename, module_globals=None: []


def _run(call: Callable[[], object]) -> bytes:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # it may be killed
    try:
        value = call()
    except BaseException as error:
        answer = _describe(error)
    else:
        if uuid := sys.modules.get("uuid"):  # by default a UUID is made without its constructor
            copyreg.pickle(uuid.UUID, lambda each: (type(each), (str(each),)))
        try:
            answer = _dump(("value", value))
        except Exception as error:  # __reduce__ may raise anything
            answer = _dump(("failure", f"its result cannot be sent: {error}; {_ADVICE}", ""))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, or the function closed it
            stream.flush()
    return answer


def _describe(error: BaseException) -> bytes:
    what = "".join(traceback.format_exception_only(error)).rstrip()
    try:
        # Only Exceptions: a SystemExit from inside must not end the caller's program.
        pickled = _dump(error) if isinstance(error, Exception) else b""
    except Exception:
        pickled = b""
    return _dump(("exception", pickled, what, _format(error)))


def _format(error: BaseException) -> str:
    """The traceback, without our own frame."""
    trace = error.__traceback__ and error.__traceback__.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def _dump(answer: object) -> bytes:
    return pickle.dumps(answer, _PROTOCOL)
