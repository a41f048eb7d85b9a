"""Permissions as ``--chmod`` says them: octal, or symbolic as in chmod(1).

>>> f"{parse('u=rwX,go=rX').apply(0o600, is_dir=True):o}"
'755'
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ..errors import InvalidSpecError

_OCTAL: Final = re.compile(r"[0-7]{1,5}")
_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_ACTION: Final = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_WHO: Final = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}
_BITS: Final = {"r": 0o444, "w": 0o222, "x": 0o111, "s": 0o6000, "t": 0o1000}
_SHIFT: Final = {"u": 6, "g": 3, "o": 0}


class _Action(NamedTuple):
    who: int
    operator: str
    permissions: str


class FileMode(NamedTuple):
    """What is done to the permissions of each file: they become `octal`, or `actions` change them."""

    octal: int | None = None
    actions: tuple[_Action, ...] = ()

    def apply(self, mode: int, *, is_dir: bool) -> int:
        if self.octal is not None:
            return self.octal
        for who, operator, permissions in self.actions:
            value = who & _value(permissions, mode, is_dir)
            if operator == "+":
                mode |= value
            elif operator == "-":
                mode &= ~value
            else:
                mode = mode & ~who | value
        return mode


def _value(permissions: str, mode: int, is_dir: bool) -> int:
    if permissions in _SHIFT:
        return (mode >> _SHIFT[permissions] & 0o7) * 0o111
    if "X" in permissions and (is_dir or mode & 0o111):
        permissions += "x"
    return sum({_BITS[letter] for letter in permissions if letter != "X"})


def parse(text: str) -> FileMode:
    """Raises InvalidSpecError: neither octal, 07777 at most, nor symbolic. The umask does not count."""
    if _OCTAL.fullmatch(text) and int(text, 8) <= 0o7777:
        return FileMode(int(text, 8))
    actions = []
    for clause in text.split(","):
        found = _CLAUSE.fullmatch(clause)
        if not found:
            raise InvalidSpecError(f"mode {text!r}: write it octal, '755', or symbolic, 'u=rwX,go=rX'")
        who = 0
        for letter in found[1] or "a":
            who |= _WHO[letter]
        actions += [_Action(who, *action) for action in _ACTION.findall(found[2])]
    return FileMode(actions=tuple(actions))
