"""Python functions called inside running containers; how they are sent is told in `supervisor.call`."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import wraps
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from attrs import frozen

from . import inside
from .errors import CallError, SupervisorError, TimeoutExpired
from .execution import PIPE, OnOutput, Streams, Transfer
from .machinery import Machinery
from .options import check_user
from .specs import check_env
from .supervisor import call as sending
from .supervisor.client import Conversation
from .supervisor.entry import filter_file
from .supervisor.plan import capability_mask
from .waiting import Steps, Wait, finish

P = ParamSpec("P")
T = TypeVar("T")
_KILL_S = 5.0  # of waiting for a callee that is to be killed to begin
_CHUNK = 1 << 20


@frozen(kw_only=True)
class Called(Generic[T]):
    """What a function has returned, and what was written meanwhile; the text is UTF-8, what is none is
    replaced."""

    value: T
    stdout: str
    stderr: str
    duration_s: float


class _Options(NamedTuple):
    timeout_s: float | None
    user: str | int | None
    env: Mapping[str, str] | None
    imports: Sequence[str]


class Calls:
    """How functions are called in a container, from `Container.calling`; can be used any number of times."""

    def __init__(
        self,
        machinery: Machinery,
        container_id: str,
        *,
        timeout_s: float | None = None,
        user: str | int | None = None,
        env: Mapping[str, str] | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        if isinstance(imports, str):
            raise TypeError(f"imports= takes a list: [{imports!r}]")
        self._machinery = machinery
        self._id = container_id
        self._options = _Options(timeout_s, user, env, imports)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Container.call`."""
        result: T = finish(self._steps(function, args, kwargs, passing_on())).value
        return result

    def captured(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Called[T]:
        """The same, with what it has written, which is not passed on; if it raises, that is a note on the
        exception."""
        return finish(self._steps(function, args, kwargs, None))

    def function(self, function: Callable[P, T], /) -> Callable[P, T]:
        """Decorator: the function is called in the container."""

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.call(function, *args, **kwargs)

        return called

    def _steps(
        self,
        function: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        on_output: OnOutput | None,
    ) -> Steps[Called[T]]:
        return call(self._machinery, self._id, function, args, kwargs, self._options, on_output)


DEFAULT = _Options(None, None, None, ())


def call(
    machinery: Machinery,
    container_id: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: _Options = DEFAULT,
    on_output: OnOutput | None = None,
) -> Steps[Called[Any]]:
    began = time.monotonic()
    deadline = None if options.timeout_s is None else began + options.timeout_s
    spec = inside.running(machinery, container_id, "call in")
    payload = sending.encode_call(function, args, kwargs, options.imports)
    name = sending.function_name(function)
    message = {
        "op": "call",
        "id": container_id,
        "lxc_path": str(machinery.root.containers),
        "netns_of": inside.lender(machinery, container_id, spec),
        "env": [f"{key}={value}" for key, value in {**spec.env, **check_env(options.env)}.items()],
        "user": None if options.user is None else check_user(options.user, spec.security),
        "seccomp": filter_file(machinery.root.cache, spec),
        "capabilities": capability_mask(spec.security),
    }
    with ExitStack() as stack:
        streams = stack.enter_context(Streams(None, PIPE, PIPE))
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        results = stack.enter_context(os.fdopen(reader, "rb", buffering=0))
        with os.fdopen(writer, "wb"), os.fdopen(os.memfd_create("lxcwrap-call"), "w+b") as file:
            os.set_blocking(writer, True)
            file.write(payload)
            file.seek(0)
            conversation = machinery.supervisor.ask(
                {**message, "stdio": streams.names},
                [file.fileno(), writer, *streams.fds],
                what=f"call of {name} in {spec.name}",
            )
        streams.sent()
        answer = stack.enter_context(_Answer(stack.enter_context(conversation), results.fileno()))
        transfer = Transfer(None, streams.files["stdout"], streams.files["stderr"], None, on_output)
        try:
            yield from transfer.run(deadline, answer, answer.has_come)
            while not answer.is_over:  # it has closed its streams
                remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not (yield Wait(answer.fileno(), remaining)):
                    raise TimeoutExpired("", 0.0)
                answer.has_come()
        except BaseException as error:
            answer.kill()
            if not isinstance(error, TimeoutExpired):
                raise
            what = f"call of {name} in {spec.name}"
            raise TimeoutExpired(what, options.timeout_s or 0.0, *_texts(transfer)) from None
        stdout, stderr = _texts(transfer)
        try:
            value = sending.decode_result(answer.bytes(name), name)
        except Exception as error:
            if on_output is None and (written := stdout + stderr):
                error.add_note(f"It had written:\n{written.rstrip()}")
            raise
        return Called(value=value, stdout=stdout, stderr=stderr, duration_s=time.monotonic() - began)


def _texts(transfer: Transfer) -> tuple[str, str]:
    stdout, stderr = (data.decode(errors="replace") for data in transfer.result())
    return stdout, stderr


class _Answer:
    """What comes of a call: by the conversation, and by the pipe for its result."""

    def __init__(self, conversation: Conversation, results: int) -> None:
        self._conversation, self._results = conversation, results
        self._data = bytearray()
        self._end: Mapping[str, Any] | None = None
        self._pidfd = -1
        self._epoll = select.epoll()
        for fd in (conversation.fileno(), results):
            self._epoll.register(fd, select.EPOLLIN)

    def __enter__(self) -> _Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def is_over(self) -> bool:
        return self._end is not None or sending.is_whole(self._data)

    def has_come(self) -> bool:
        """Take in what there is; whether no more is to come."""
        for fd, _ in self._epoll.poll(0):
            if fd == self._results:
                self._read()
            else:
                self._hear()
        if self._end is not None:
            while self._read():  # what it wrote before
                continue
        return self.is_over

    def _read(self) -> bool:
        try:
            data = os.read(self._results, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            with suppress(FileNotFoundError):  # done before
                self._epoll.unregister(self._results)
        self._data += data
        return bool(data) and not sending.is_whole(self._data)

    def _hear(self) -> None:
        try:
            message, fds = self._conversation.receive()
        except SupervisorError:
            message, fds = {"event": "exited", "error": "its process was killed"}, []
        if message["event"] == "exited":
            self._end = message
            self._epoll.unregister(self._conversation.fileno())
        elif fds:
            self._pidfd = fds[0]

    def bytes(self, function: str) -> bytes:
        """Raises CallError when there are none."""
        if self._end is not None and not self._data:
            code = self._end.get("exit_code")
            reason = self._end.get("error") or f"its process ended with exit code {code} and no result"
            raise CallError(function, str(reason))
        return bytes(self._data)

    def kill(self) -> None:
        """The function, if it runs still."""
        while self._pidfd < 0 and self._end is None and self._conversation.ready(_KILL_S):
            self._hear()
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def passing_on() -> OnOutput:
    """To the streams of this process, or of the notebook's cell."""
    decoders = {name: getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}

    def write(name: str, data: bytes) -> None:
        stream = getattr(sys, name)
        if stream is not None:
            stream.write(decoders[name].decode(data))
            stream.flush()

    return write
