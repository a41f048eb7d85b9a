"""call(): what is sent, what runs in the child, and what is accepted as the answer."""

from __future__ import annotations

import datetime
import decimal
import fractions
import functools
import ipaddress
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import lxcwrap.supervisor
from lxcwrap.errors import CallError
from lxcwrap.supervisor.call import decode_result, encode_call

from . import called

ROOT = Path(lxcwrap.supervisor.__file__).parents[2]
CHILD = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from lxcwrap.supervisor import call
sys.exit(call.run_call(call.prepare_call(sys.stdin.buffer.read()), int(sys.argv[1]), ["HOME=/root", "X=a=b"]))
"""


def run_child(payload: bytes) -> tuple[bytes, str]:
    """The answer to `payload` and what was printed, from a process like the fork-server's child."""
    reader, writer = os.pipe()
    argv = [sys.executable, "-I", "-S", "-c", CHILD, str(writer)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[writer]) as child:
        os.close(writer)
        assert child.stdin and child.stdout
        child.stdin.write(payload)
        child.stdin.close()
        with os.fdopen(reader, "rb") as file:
            answer = file.read()
        return answer, child.stdout.read().decode()


def call(fn: Callable[..., object], *args: object, **kwargs: object) -> Any:
    return decode_result(run_child(encode_call(fn, args, kwargs))[0], fn.__name__)


def answer(value: object) -> bytes:
    """An answer as the child would write it."""
    return framed(pickle.dumps(("value", value), 5))


def framed(body: bytes) -> bytes:
    return struct.pack(">Q", len(body)) + body


PLAIN = [
    None,
    [1, -(10**100), 1.5, 2j, True, "ä", b"\xff", bytearray(b"x")],
    {"a": {1, 2}, (1, 2): frozenset({3}), None: range(3)},
    slice(1, None, 2),
    deque([1, 2], maxlen=5),
    Counter("abba"),
    OrderedDict(a=1),
    datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.UTC),
    datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "X")),
    [datetime.date(2024, 1, 2), datetime.time(1), datetime.timedelta(1)],
    [decimal.Decimal("1.50"), fractions.Fraction(-2, 3), fractions.Fraction(5)],
    [PurePosixPath("/a/b"), Path("/etc"), PurePosixPath("a")],
    [ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("fd00::/8")],
    [os.stat("/"), os.statvfs("/"), os.uname(), os.times(), time.gmtime(0), os.terminal_size((80, 24))],
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data_comes_back_equal(value: object) -> None:
    """Containers, scalars, dates, numbers, paths, addresses and the records of os."""
    back = decode_result(answer(value))
    assert back == value and type(back) is type(value)


def test_function_runs_in_the_child_with_its_arguments() -> None:
    """Arguments and results travel both ways, UUIDs too; large ones as well."""
    this = uuid.uuid4()
    assert call(called.echo, 1, key=[this]) == ((1,), {"key": [this]})
    assert call(os.getpid) != os.getpid()
    assert call(functools.partial(called.echo, 1).func, 2) == (2,)
    big = os.urandom(20 << 20)
    assert call(called.echo, big) == (big,)


def test_builtin_exception_is_raised_as_itself() -> None:
    """With its attributes, and the traceback from inside as a note."""
    with pytest.raises(FileNotFoundError) as caught:
        call(os.listdir, "/no/such/directory")
    assert (caught.value.errno, caught.value.filename) == (2, "/no/such/directory")
    with pytest.raises(ZeroDivisionError) as divided:
        call(called.fail, ZeroDivisionError("zero"))
    assert "called.py" in divided.value.__notes__[0] and "in fail" in divided.value.__notes__[0]


@pytest.mark.parametrize(
    ("fn", "args", "reason"),
    [
        (called.fail_custom, (), "CustomError: ours"),
        (called.fail_with_custom_argument, (), "ValueError"),
        (called.fail, (SystemExit(3),), "SystemExit: 3"),
        (called.fail, (KeyboardInterrupt(),), "KeyboardInterrupt"),
        (called.fail, (StopIteration(1),), "StopIteration: 1"),  # would be taken for the end of something
    ],
)
def test_other_exceptions_become_call_errors(
    fn: Callable[..., object], args: tuple[object], reason: str
) -> None:
    """Types that are not builtin, arguments that are not plain, and what would end the caller's program."""
    with pytest.raises(CallError) as caught:
        call(fn, *args)
    assert reason in caught.value.reason
    assert "called.py" in caught.value.traceback and caught.value.function == fn.__name__


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (called.custom, "called.Custom"),
        (called.a_class, "class"),
        (called.unpicklable, "cannot be sent"),
        (called.leave, "before it answered"),
    ],
)
def test_results_that_are_no_plain_data_are_named(fn: Callable[..., object], reason: str) -> None:
    """The error says what was returned, and what to return instead."""
    with pytest.raises(CallError) as caught:
        call(fn)
    assert reason in caught.value.reason


def test_nothing_is_imported_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules must be loaded before; the error says so. Builtin and loaded ones can be had."""
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        call(called.import_late, "evil")
    assert caught.value.name == "evil" and "top of the module" in str(caught.value)
    assert "pathlib" in call(called.import_late, "pathlib")


def test_child_keeps_no_descriptor_and_cannot_be_traced() -> None:
    """Of the host's descriptors only stdio and the answer's pipe go inside; the process is not dumpable."""
    payload = encode_call(called.open_fds)
    data, _printed = run_child(payload)
    assert len(decode_result(data)) == 5  # 0, 1, 2, the answer's, and the directory being listed
    assert call(called.is_dumpable) == 0


def test_environment_is_the_one_given() -> None:
    """The function sees the container's environment, not that of the host's processes."""
    assert call(called.environment) == {"HOME": "/root", "X": "a=b"}


def test_output_is_flushed() -> None:
    """What the function prints is not lost when the child ends."""
    assert run_child(encode_call(called.say, ("hello",)))[1] == "hello"


def test_a_function_that_forks_answers_once() -> None:
    """The process that was waited for answers; its children do not."""
    assert call(called.fork_and_return) > 0


def test_module_unknown_to_the_child_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is gone, or fails to import, makes a CallError with the traceback."""
    module = tmp_path / "vanishing.py"
    module.write_text("def fn(): pass")
    monkeypatch.syspath_prepend(tmp_path)
    import vanishing  # type: ignore[import-not-found]

    module.write_text("import sys; sys.exit('gone')")
    with pytest.raises(CallError) as caught:
        call(vanishing.fn)
    assert "SystemExit: gone" in caught.value.reason and "vanishing.py" in caught.value.traceback


def test_another_python_version_is_refused() -> None:
    """Code and modules of one version cannot run in another."""
    body = pickle.loads(encode_call(os.getpid))
    with pytest.raises(CallError, match=r"it was sent by Python 3\.2"):
        decode_result(run_child(pickle.dumps(((3, 2), *body[1:])))[0])


# --- functions without an importable name ----------------------------------------------------------------


def test_lambdas_travel_by_value() -> None:
    """With cloudpickle lambdas and closures work."""
    factor = 7
    assert call(lambda number: number * factor, 6) == 42


def test_functions_of_main_travel_by_value(tmp_path: Path) -> None:
    """A script's own functions and classes are not looked up in the child's __main__."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from lxcwrap.supervisor.call import encode_call\n"
        "class Point:\n    x = 4\n"
        "def double(point): return point.x * 2\n"
        "sys.stdout.buffer.write(encode_call(double, [Point()]))\n"
    )
    payload = subprocess.run([sys.executable, script], capture_output=True, check=True).stdout
    assert decode_result(run_child(payload)[0]) == 8


def test_without_cloudpickle_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lambdas are refused before anything is sent."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(CallError) as caught:
        encode_call(lambda: 1)
    assert "install cloudpickle" in caught.value.reason


@pytest.mark.parametrize("fn", [3, "os.getpid"])
def test_what_is_no_function_is_refused(fn: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(CallError):
        encode_call(fn)


def test_argument_that_cannot_be_pickled_is_refused() -> None:
    """Files, locks, generators and the like stay here."""
    with pytest.raises(CallError) as caught:
        encode_call(called.echo, [threading.Lock()])
    assert "cannot be sent" in caught.value.reason


# --- hostile answers -------------------------------------------------------------------------------------


class Reduce:
    """Pickles as a call of `fn`."""

    def __init__(self, fn: object, *args: object) -> None:
        self.reduced = (fn, args)

    def __reduce__(self) -> Any:
        return self.reduced


def _networks() -> Reduce:
    return Reduce(deque, ipaddress.ip_network("::/0"))


HOSTILE = {
    "os.system": pickle.dumps(Reduce(os.system, "touch marker")),
    "nested": pickle.dumps([{"a": (Reduce(os.system, "touch marker"),)}]),
    "subprocess": pickle.dumps(Reduce(subprocess.Popen, ["touch", "marker"])),
    "eval": pickle.dumps(Reduce(eval, "open('marker', 'w')")),
    "getattr": pickle.dumps(Reduce(getattr, Reduce(__import__, "os"), "system")),
    "dotted name": b"\x80\x04\x8c\x08datetime\x8c\x0asys.exit__\x93.",
    "dotted plain name": b"\x80\x04\x8c\x08datetime\x8c\x0cdate.__new__\x93.",
    "submodule": b"cos.path\njoin\n.",
    "copyreg": pickle.dumps(Reduce(__import__("copyreg").add_extension, "os", "system", 1)),
    "extension": b"\x80\x02\x82\x01.",
    "old INST": b"(S'touch marker'\nios\nsystem\n.",
    "BaseException": pickle.dumps(Reduce(SystemExit, 1)),
    "attribute of a class": b"\x80\x02cuuid\nUUID\nN}X\x07\x00\x00\x00__str__K\x01s\x86b.",
    "endless iterable": pickle.dumps(_networks()),
    "huge deque": pickle.dumps(Reduce(deque, range(10**12))),
    "huge bytearray": pickle.dumps(Reduce(bytearray, 10**13)),
    "huge fraction": pickle.dumps(Reduce(fractions.Fraction, "1e999999999")),
    "persistent id": b"Pos\n.",
    "truncated": pickle.dumps(list(range(99)))[:-9],
    "announced too large": b"\x80\x05\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "not a pickle": b"hello",
    "empty": b"",
    "wrong shape": pickle.dumps({"value": 1}),
    "wrong types": pickle.dumps(("exception", "text", 1, 2)),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answers_do_nothing(body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a CallError, and none has had an effect; neither has one packed up as an exception."""
    monkeypatch.chdir(tmp_path)
    text = uuid.UUID.__str__
    for hostile in (body, pickle.dumps(("exception", body, "Error", ""))):
        with pytest.raises(CallError):
            decode_result(framed(hostile))
    assert not list(tmp_path.iterdir()) and uuid.UUID.__str__ is text


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 30])
def test_cut_answers_are_refused(cut: int) -> None:
    """A child killed while it writes has not answered."""
    with pytest.raises(CallError, match="before it answered"):
        decode_result(answer(list(range(100)))[:cut])


def test_results_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than MAX_RESULT bytes are not looked at."""
    monkeypatch.setattr("lxcwrap.supervisor.call.MAX_RESULT", 1000)
    assert decode_result(answer(b"x" * 900)) == b"x" * 900
    with pytest.raises(CallError, match="larger"):
        decode_result(answer(b"x" * 1000))
