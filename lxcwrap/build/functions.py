"""What a Python function does, as a digest: for steps that call one.

It counts what the function consists of: its code, constants, defaults, what it closes over, its arguments,
and in turn the functions, classes and values that it names. Comments, line numbers and file names do not. Of
the standard library and of installed packages the name and version count, as they do for modules; so does the
version of Python. Of what cannot be pickled the type counts.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

_PLAIN: Final = (str, bytes, int, float, complex, bool, type(None), type(...))
_INSTALLED: Final = ("/site-packages/", "/dist-packages/")


def function_digest(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Equal for calls that do the same. Values whose pickle varies make it another each time."""
    return _Fingerprint().of((sys.version_info[:2], function, args, dict(kwargs)))


class _Fingerprint:
    """Digests of values. What refers to itself is told by how long ago it was met."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def of(self, value: Any) -> str:
        if isinstance(value, _PLAIN):
            return _digest(type(value).__name__, repr(value))
        if id(value) in self._open:
            return _digest("again", str(len(self._open) - self._open.index(id(value))))
        self._open.append(id(value))
        try:
            return self._of_object(value)
        finally:
            self._open.pop()

    def _of_object(self, value: Any) -> str:
        match value:
            case tuple() | list():
                return self._all(type(value).__name__, value)
            case set() | frozenset():
                return _digest("set", *sorted(self.of(each) for each in value))
            case dict():
                return self._all("dict", (part for item in value.items() for part in item))
            case ModuleType():
                return _digest("module", value.__name__, _version(value.__name__))
            case CodeType():
                return self._code(value)
            case MethodType():
                return self._all("method", (value.__func__, value.__self__))
            case FunctionType() | type() if not _is_installed(value.__module__):
                return self._function(value) if isinstance(value, FunctionType) else self._class(value)
            case FunctionType() | BuiltinFunctionType() | type():
                module = value.__module__ or ""
                return _digest("name", module, value.__qualname__, _version(module))
        try:
            return _digest("pickle", pickle.dumps(value, 5))
        except Exception:  # anybody's __reduce__ may raise anything
            return _digest("opaque", type(value).__module__, type(value).__qualname__)

    def _all(self, kind: str, values: Any) -> str:
        return _digest(kind, *(self.of(each) for each in values))

    def _function(self, function: FunctionType) -> str:
        cells = [_content(cell) for cell in function.__closure__ or ()]
        named = {name: function.__globals__.get(name) for name in sorted(_names(function.__code__))}
        parts = (function.__code__, function.__defaults__, function.__kwdefaults__, cells, named)
        return self._all("function", parts)

    def _class(self, value: type) -> str:
        own = {
            name: getattr(member, "__func__", member)  # of class and static methods
            for name, member in sorted(vars(value).items())
            if not name.startswith("__") or isinstance(member, FunctionType)
        }
        return self._all("class", (value.__qualname__, value.__bases__, own))

    def _code(self, code: CodeType) -> str:
        parts = (
            (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
            (code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars),
            code.co_consts,
        )
        return self._all("code", parts)


def _names(code: CodeType) -> set[str]:
    """The global names and attributes in `code`, and in the functions it defines."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _is_installed(module: str | None) -> bool:
    name = module or ""
    if name.partition(".")[0] in sys.stdlib_module_names and name != "__main__":
        return True
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return any(part in file for part in _INSTALLED)


def _version(module: str) -> str:
    return str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", ""))


def _digest(kind: str, *parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in (kind, *parts):
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
