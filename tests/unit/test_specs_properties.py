"""Values that a user asks with: what they mean survives being written down, whatever is in them."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcwrap.errors import InvalidSpecError
from lxcwrap.specjson import spec_from_json, spec_to_json
from lxcwrap.specs import (
    ContainerSpec,
    check_argv,
    check_env,
    check_name,
    parse_signal,
    parse_size,
)
from tests import spec_strategies as some

UNITS = {"": 1, "b": 1, "k": 1 << 10, "kb": 1000, "kib": 1 << 10, "m": 1 << 20, "MB": 10**6, "MiB": 1 << 20}
UNITS |= {"g": 1 << 30, "GB": 10**9, "GiB": 1 << 30, "TiB": 1 << 40, "PB": 10**15}


@settings(max_examples=40)
@given(some.specs)
def test_a_spec_is_read_as_it_was_written(spec: ContainerSpec) -> None:
    """All of it: nested values, tuples, surrogates of names that are no UTF-8."""
    text = spec_to_json(spec)
    assert spec_from_json(text) == spec
    text.encode()  # what SQLite is given must be encodable
    assert json.loads(text)["name"] == spec.name


@given(st.integers(0, 1 << 62))
def test_bytes_are_bytes(size: int) -> None:
    """An int is taken as it is, and so is its text."""
    assert parse_size(size) == size
    assert parse_size(str(size)) == size


@given(st.integers(0, 9999), st.sampled_from(sorted(UNITS)), st.sampled_from(("", " ")))
def test_units(number: int, unit: str, space: str) -> None:
    """SI with B, binary with i, and a bare letter as Docker has it."""
    for spelling in (unit, unit.upper(), unit.lower()):
        assert parse_size(f"{number}{space}{spelling}") == number * UNITS[unit]


@given(st.text() | st.floats() | st.none() | st.booleans() | st.binary() | st.integers(max_value=-1))
def test_any_other_size_is_refused(value: object) -> None:
    """InvalidSpecError or a size that is not negative; never another error."""
    with suppress(InvalidSpecError):
        assert parse_size(value) >= 0  # type: ignore[arg-type]  # on purpose


@given(st.text() | st.integers())
def test_a_signal_is_a_number_from_1_to_64(value: str | int) -> None:
    """Or InvalidSpecError."""
    with suppress(InvalidSpecError):
        assert 1 <= parse_signal(value) <= 64


@given(st.text())
def test_names_are_plain(name: str) -> None:
    """What passes cannot be taken for a path, an option, an id with a digest or more than a line."""
    try:
        check_name(name)
    except InvalidSpecError:
        return
    assert name.isascii() and 0 < len(name) <= 128
    assert not set(name) & set("/\\ \n\t:@=,'\"$") and name[0] not in "-."


@given(st.lists(st.text(), max_size=4))
def test_a_command_passes_whole_or_is_refused(argv: list[str]) -> None:
    """Every word as it was; words with NUL, which execve would cut, are refused."""
    try:
        assert check_argv(argv) == tuple(argv)
        assert argv and argv[0] and not any("\0" in word for word in argv)
    except InvalidSpecError:
        assert not argv or not argv[0] or any("\0" in word for word in argv)


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.floats()))
def test_an_environment_can_be_one(env: dict[str, str]) -> None:
    """Each name and value comes apart at the first '=' as it was put together, and no value ends early."""
    try:
        checked = check_env(env)
    except InvalidSpecError:
        return
    for name, value in checked.items():
        assert f"{name}={value}".partition("=") == (name, "=", str(env[name]))
        assert "\0" not in name + value


@given(
    some.specs,
    st.sampled_from(("name", "cwd", "log_max_bytes", "shm_size")),
    st.sampled_from((None, -1, "", "..")),
)
def test_a_damaged_record_is_not_taken(spec: ContainerSpec, key: str, value: object) -> None:
    """Reading checks again: a store changed by hand gives an error, not a wrong container."""
    document = json.loads(spec_to_json(spec))
    document[key] = value
    with pytest.raises((InvalidSpecError, TypeError)):
        spec_from_json(json.dumps(document))
