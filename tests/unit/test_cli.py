"""The command line: what its options mean, how it prints, how it fails."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lxcwrap import Device, Endpoint, HealthCheck, Limits, LogLine, Mount, Port, RestartPolicy, State, Ulimit
from lxcwrap.cli.creation import container_options, seconds
from lxcwrap.cli.main import main, parser
from lxcwrap.cli.output import Column, plain, show
from lxcwrap.cli.targets import listed
from lxcwrap.cli.watching import moment
from lxcwrap.errors import ContainerNotFoundError, InvalidSpecError


def options(*words: str) -> Any:
    """Of ``run``, as keywords."""
    return container_options(parser().parse_args(["run", *words, "busybox", "true"]))


# --- options ---


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--name web", "name", "web"),
        ("-e A=1 -e B=x=y", "env", {"A": "1", "B": "x=y"}),
        ("-u 1:2", "user", "1:2"),
        ("-w /srv", "cwd", "/srv"),
        ("-h host", "hostname", "host"),
        ("-l a=b -l c", "labels", {"a": "b", "c": ""}),
        ("--entrypoint /x", "entrypoint", ["/x"]),
        ("--entrypoint=", "entrypoint", []),
        ("--system", "init", "system"),
        ("--no-init", "init", False),
        ("--init", "init", True),
        ("-m 64m --cpus .5", "limits", Limits(memory="64MiB", cpus=0.5)),
        ("-m 64m --memory-swap 96m", "limits", Limits(memory="64MiB", swap="32MiB")),
        ("-m 64m --memory-swap -1", "limits", Limits(memory="64MiB")),
        ("--pids-limit 5 --disk 1GiB", "limits", Limits(pids=5, disk="1GiB")),
        ("--read-only", "read_only", True),
        ("", "network", "none"),
        ("-p 80", "network", "default"),
        ("--network front --network back", "network", ["front", "back"]),
        ("--net host", "network", "host"),
        (
            "--network a --network-alias www --ip 10.0.0.9",
            "network",
            {"a": Endpoint(ip="10.0.0.9", aliases=["www"])},
        ),
        ("-p 80", "publish", [Port(80)]),
        ("-p 8080:80", "publish", [Port(80, host_port=8080)]),
        (
            "-p 127.0.0.1:8080:80/udp",
            "publish",
            [Port(80, host_port=8080, host_ip="127.0.0.1", protocol="udp")],
        ),
        ("-p 127.0.0.1::80", "publish", [Port(80, host_ip="127.0.0.1")]),
        ("-p [::1]:8080:80", "publish", [Port(80, host_port=8080, host_ip="::1")]),
        ("-p 8000-8005:80-85", "publish", [Port("80-85", host_port="8000-8005")]),
        ("--add-host db:fd00::1", "extra_hosts", {"db": "fd00::1"}),
        (
            "--ulimit nofile=5:9 --ulimit core=-1",
            "ulimits",
            [Ulimit(name="nofile", soft=5, hard=9), Ulimit(name="core")],
        ),
        ("--sysctl net.x=1", "sysctls", {"net.x": "1"}),
        ("--device /dev/fuse:/dev/f:rw", "devices", [Device(path="/dev/fuse", target="/dev/f", access="rw")]),
        ("--restart on-failure:3", "restart", RestartPolicy.on_failure(3)),
        ("--restart unless-stopped", "restart", RestartPolicy.unless_stopped()),
        ("--health-cmd x --health-interval 1m30s", "health", HealthCheck.shell("x", interval_s=90)),
        ("--no-healthcheck", "health", HealthCheck.none()),
        ("--security-opt seccomp=unconfined", "seccomp", False),
        ("--log-opt max-size=1m --log-opt max-file=2", "log_max_files", 2),
        ("-it", "tty", True),
    ],
)
def test_options_mean_what_docker_means(words: str, name: str, value: object) -> None:
    """Or what the page says of where they differ."""
    assert options(*words.split())[name] == value


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-v data:/data", Mount.volume("data", "/data")),
        ("-v data:/data:ro,nocopy", Mount.volume("data", "/data", read_only=True, copy=False)),
        ("-v /tmp:/x:ro,rslave", Mount.bind("/tmp", "/x", read_only=True, propagation="slave")),
        ("-v /only", Mount(kind="volume", target="/only")),
        ("--tmpfs /t:size=1m,mode=700,exec", Mount.tmpfs("/t", size="1MiB", mode=0o700, exec=True)),
        ("--mount type=bind,src=/tmp,dst=/x,readonly", Mount.bind("/tmp", "/x", read_only=True)),
        ("--mount type=tmpfs,target=/t,tmpfs-size=1m", Mount.tmpfs("/t", size="1MiB")),
        ("--mount source=data,target=/d,volume-subpath=a", Mount.volume("data", "/d", subpath="a")),
    ],
)
def test_mounts_are_written_in_three_ways(words: str, expected: Mount) -> None:
    """A path of this host begins with / . or ~; else it names a volume."""
    assert options(*words.split())["mounts"] == [expected]


@pytest.mark.parametrize(
    "words",
    [
        "-v /no/such/path:/x",
        "-v data:/x:zz",
        "-v data:relative",
        "--mount type=nfs,target=/x",
        "--mount type=bind,source=/tmp,target=/x,wrong=1",
        "--tmpfs /t:color=red",
        "-p 0",
        "-p x:80",
        "-p 80/xyz",
        "-m much",
        "--memory-swap 1g",
        "-m 1g --memory-swap 1m",
        "--ulimit nofile",
        "--restart on-failure:x",
        "--restart sometimes",
        "--health-interval 1s",
        "--health-cmd x --health-timeout soon",
        "--log-opt what=1",
        "--device a:b:c:d",
        "--add-host nobody",
        "--env-file /no/such/file",
    ],
)
def test_what_cannot_be_meant_is_refused(words: str) -> None:
    """Before anything is made, with an error for users."""
    with pytest.raises((ValueError, OSError)):
        options(*words.split())


def test_the_command_is_left_alone() -> None:
    """Whatever it looks like: ours end with the image."""
    given = parser().parse_args(["run", "-it", "busybox", "sh", "-c", "x", "--name", "--", "-d", "--json"])
    assert given.command == ["sh", "-c", "x", "--name", "--", "-d", "--json"]
    assert (given.image, given.interactive, given.tty, given.detach) == ("busybox", True, True, False)
    given = parser().parse_args(["exec", "-u", "0", "web", "ls", "-la", "-u"])
    assert (given.container, given.user, given.command) == ("web", "0", ["ls", "-la", "-u"])


def test_variables_are_taken_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name alone; and from files, over which single ones win."""
    monkeypatch.setenv("OURS", "here")
    monkeypatch.delenv("NOBODYS", raising=False)
    (tmp_path / "env").write_text("# no\n\nA=file\nB=file\nOURS\n")
    given = options("-e", "OURS", "-e", "NOBODYS", "-e", "A=1", "--env-file", str(tmp_path / "env"))
    assert given["env"] == {"A": "1", "B": "file", "OURS": "here"}


def test_common_options_stand_anywhere() -> None:
    """Before the command, or behind it."""
    for words in (["--root", "/x", "ps"], ["ps", "--root", "/x"]):
        assert parser().parse_args(words).root == "/x"


def test_times() -> None:
    """So long ago, or a moment; here where no zone is named."""
    assert seconds("90") == seconds("1m30s") == 90
    assert abs((datetime.now(UTC) - moment("1h")).total_seconds() - 3600) < 60  # type: ignore[operator]
    assert moment("2026-01-31T12:00:00+00:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert moment(None) is None
    with pytest.raises(ValueError, match="no time"):
        moment("yesterday")


# --- printing ---


COLUMNS = (
    Column("NAME", lambda facts: facts["name"]),
    Column("N", lambda facts: str(facts["n"]), is_number=True),
)
FACTS = ({"name": "web", "n": 5}, {"name": "\x1b[31mdb\x07 日本", "n": 12})


def test_tables_are_aligned_and_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """Also with wide letters; what steers terminals is left out."""
    show(FACTS, COLUMNS, as_json=False)
    assert capsys.readouterr().out == "NAME      N\nweb       5\ndb 日本  12\n"
    show((), COLUMNS, as_json=False)
    assert capsys.readouterr().out == "NAME  N\n"


def test_tables_are_rich_on_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extra, and harmless still."""
    pytest.importorskip("rich")
    monkeypatch.setattr("lxcwrap.cli.output._is_terminal", lambda: True)
    show(FACTS, COLUMNS, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["NAME", "N"], ["web", "5"], ["db", "日本", "12"]]


def test_what_is_removed_while_it_is_listed_is_left_out() -> None:
    """By whomever; the others are listed."""
    names = ContainerNotFoundError, "web"

    def facts(name: Any) -> str:
        if name != "web":
            raise name("db")
        return str(name)

    assert listed(names, facts) == ["web"]


def test_everything_has_a_json_form(capsys: pytest.CaptureFixture[str]) -> None:
    """Our values as objects, times as text."""
    line = LogLine(datetime(2026, 1, 31, tzinfo=UTC), "stdout", "x")
    value = plain({"state": State.RUNNING, "limits": Limits(pids=1), "path": Path("/x"), "lines": (line,)})
    assert value["state"] == "running" and value["limits"]["pids"] == 1 and value["path"] == "/x"
    assert value["lines"] == [{"time": "2026-01-31T00:00:00+00:00", "stream": "stdout", "text": "x"}]
    show(FACTS, COLUMNS, as_json=True)
    assert json.loads(capsys.readouterr().out) == list(FACTS)


# --- failing ---


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InvalidSpecError("name: wrong"), 1, "lxcwrap: name: wrong\n"),
        (ExceptionGroup("all", [InvalidSpecError("one"), InvalidSpecError("two")]), 1, "lxcwrap: one\ntwo\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "lxcwrap: [Errno 2] No such file: 'x'\n"),
        (
            ZeroDivisionError("x"),
            1,
            "lxcwrap: ZeroDivisionError: x: a fault of lxcwrap; --debug shows where\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_failures_are_told(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By exit code and message, without traceback."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("lxcwrap.cli.targets.host_of", fail)
    monkeypatch.setattr("lxcwrap.cli.containers.host_of", fail)
    assert main(["ps"]) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("words", "code"),
    [(["nonsense"], 2), ([], 2), (["ps", "-x"], 2), (["run", "--x", "a"], 125), (["run"], 125)],
)
def test_nonsense_is_told_from_failure(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """By 2; of run and exec, whose exit codes are the command's, by 125."""
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == code
    assert capsys.readouterr().err.count("\n") == 1


def test_completion_needs_an_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says which."""
    monkeypatch.setitem(__import__("sys").modules, "argcomplete", None)
    assert main(["completion", "bash"]) == 1
    assert "lxcwrap[cli]" in capsys.readouterr().err


def test_shells_complete_words() -> None:
    """Commands and options, by argcomplete."""
    argcomplete = pytest.importorskip("argcomplete")
    finder = argcomplete.CompletionFinder(parser())
    assert {"ps", "prune"} <= {word.strip() for word in finder._get_completions(["lxcwrap"], "p", "", None)}
