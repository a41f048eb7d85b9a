"""The other commands of ``lxcwrap``, on real containers, images, networks and volumes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcwrap import Container, Host, State
from lxcwrap.cli.main import main
from tests.integration.commanding import COMMAND, TIMEOUT_S, cli, started
from tests.polling import eventually

Cli = Callable[..., str]


@pytest.fixture
def box(host: Host) -> Iterator[Container]:
    script = "echo one; echo two >&2; echo three; exec sleep 1000"
    with host.containers.launch("busybox", sh=script, name="box") as container:
        eventually(lambda: container.logs().count("\n") == 3)
        yield container


@pytest.fixture
def tell(host: Host, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process, which is faster; what it prints, if it ends as it should."""

    def tell(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(words) == code
        return capsys.readouterr().out

    return tell


def told(text: str) -> Any:
    return json.loads(text)


def test_a_life(host: Host, tell: Cli) -> None:
    """From run -d to rm, each told by name."""
    container = host.containers[tell("run", "-d", "--name", "life", "busybox", "sleep", "1000").strip()]
    for command, state in (
        (("pause",), State.PAUSED),
        (("unpause",), State.RUNNING),
        (("update", "-m", "64m"), State.RUNNING),
        (("restart", "-t", "0"), State.RUNNING),
        (("stop", "-t", "30s"), State.STOPPED),
        (("start",), State.RUNNING),
        (("kill", "-s", "KILL"), None),
    ):
        assert tell(*command, "life") == "life\n"
        assert state is None or container.state is state
    assert tell("wait", "life") == "137\n"
    assert container.spec.limits.memory == 64 << 20
    tell("rename", "life", "after")
    assert tell("rm", "after") == "after\n"
    assert container not in host.containers


def test_all_are_tried(box: Container, tell: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever happens to one of them; then the exit code says so."""
    assert main(["rm", "-f", "none-such", box.name]) == 1
    printed = capsys.readouterr()
    assert printed.out == "box\n" and printed.err == "lxcwrap: no container 'none-such'\n"


def test_ps(host: Host, box: Container, tell: Cli) -> None:
    """Those that run, or all; as a table, ids, JSON."""
    with host.containers.create("busybox", ["true"], name="idle") as idle:
        head, line = tell("ps").splitlines()
        assert head.split()[0] == "ID" and line.split()[0] == box.id[:12] and line.endswith("  box")
        assert set(tell("ps", "-aq").split()) == {box.id[:12], idle.id[:12]}
        (facts,) = told(tell("ps", "--json"))
        assert (facts["name"], facts["state"], facts["exit_code"]) == ("box", "running", None)
        assert {each["state"] for each in told(tell("ps", "-a", "--json"))} == {"running", "created"}


def test_logs(box: Container) -> None:
    """Streams apart; the last lines; as JSON with times; following to the end."""
    done = cli("logs", "box")
    assert (done.stdout, done.stderr) == ("one\nthree\n", "two\n")
    last = cli("logs", "--tail", "1", "-t", "box")
    assert (last.stdout + last.stderr).count("\n") == 1 and "+00:00 t" in last.stdout + last.stderr
    lines = [told(line) for line in cli("logs", "--json", "box").stdout.splitlines()]
    assert sorted(line["stream"] for line in lines) == ["stderr", "stdout", "stdout"]
    with started("logs", "-f", "box") as process:
        assert process.stdout and process.stdout.readline() == "one\n"
        box.kill()
        assert process.stdout.read() == "three\n"
        assert process.wait(TIMEOUT_S) == 0


def test_inspect(box: Container, tell: Cli) -> None:
    """Whatever has the name, all about it."""
    tell("network", "create", "seen")
    tell("volume", "create", "store")
    found = told(tell("inspect", "box", "busybox", "seen", "store"))
    assert [each["kind"] for each in found] == ["container", "image", "network", "volume"]
    assert found[0]["id"] == box.id and found[0]["spec"]["argv"][:2] == ["/bin/sh", "-c"]
    assert found[1]["id"] == box.image.id and "config" in found[1]
    tell("network", "rm", "seen")
    tell("volume", "rm", "store")
    tell("inspect", "none-such", code=1)


def test_stats(box: Container, tell: Cli) -> None:
    """Once, of those named or of all that run."""
    (facts,) = told(tell("stats", "--no-stream", "--json"))
    assert facts["name"] == "box" and facts["memory_usage"] > 0 and facts["cpu_share"] is not None
    assert "box" in tell("stats", "--no-stream", "box")


def test_events(box: Container) -> None:
    """What has been, and what comes until Ctrl-C."""
    past = cli("events", "--since", "10m", "--no-follow", "--json").stdout.splitlines()
    assert "Started" in {told(line)["kind"] for line in past}
    assert cli("events", "--no-follow", "--json").stdout.splitlines()[-len(past) :] == past
    with started("events", "--since", "1h") as process:
        assert process.stdout
        box.kill()
        assert any("Exited" in line and "exit_code=137" in line for line in process.stdout)
        process.send_signal(2)
        assert process.wait(TIMEOUT_S) == 130
        assert process.stderr and process.stderr.read() == ""


def test_what_a_container_has(box: Container, tell: Cli, tmp_path: Path) -> None:
    """Files in and out, changes, processes, an image of it."""
    (tmp_path / "in").write_text("hello")
    tell("cp", str(tmp_path / "in"), "box:/tmp/x")
    assert "A /tmp/x" in tell("diff", "box").splitlines()
    tell("cp", "box:/tmp/x", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "hello"
    assert "sleep 1000" in tell("top", "box")
    tell("commit", "-m", "with x", "box", "kept:1")
    tell("cp", "a", "b", code=1)
    assert tell("rmi", "kept:1") == "kept:1\n"


def test_names_of_files_steer_no_terminal(box: Container) -> None:
    """Nor need they be UTF-8, whatever our output is; as JSON they are complete."""
    box.exec(sh=r"""cd /tmp; touch "$(printf 'a\033[31m\nb')" "$(printf 'bad\377')" """)
    for encoding in ("utf-8:strict", "ascii"):
        environ = {**os.environ, "PYTHONIOENCODING": encoding}
        words = [*COMMAND, "diff", "box"]
        done = subprocess.run(words, env=environ, capture_output=True, timeout=TIMEOUT_S, check=True)
        assert {b"A /tmp/ab", b"A /tmp/bad?"} <= set(done.stdout.splitlines())
        done = subprocess.run(
            [*words, "--json"], env=environ, capture_output=True, timeout=TIMEOUT_S, check=True
        )
        paths = {each["path"] for each in json.loads(done.stdout)}
        assert {"/tmp/a\x1b[31m\nb", "/tmp/bad\udcff"} <= paths


def test_closed_streams_are_as_dev_null(box: Container) -> None:
    """Nothing that is opened instead is written to."""
    for word in ("ps", "exec box echo x", "run busybox echo x", "stats --no-stream", "exec -i box cat"):
        line = f"exec <&- >&-; exec {sys.executable} -m lxcwrap {word}"
        done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=TIMEOUT_S)
        assert (done.returncode, done.stderr) == (0, ""), word


def test_images(host: Host, tell: Cli, tmp_path: Path) -> None:
    """Named, saved, removed, loaded."""
    tell("tag", "busybox", "other:1")
    archive = str(tmp_path / "other.tar")
    tell("save", "-o", archive, "other:1")
    tell("rmi", "other:1")
    assert "other:1" not in host.images
    assert tell("load", "-i", archive).strip().split(", ").count("other:1") == 1
    assert "other:1" in {tag for image in told(tell("images", "--json")) for tag in image["tags"]}
    assert "other:1" in tell("images")
    tell("rmi", "other:1")


def test_archives_in_a_pipeline(host: Host) -> None:
    """As ``save | load``."""
    with subprocess.Popen([*COMMAND, "save", "busybox"], stdout=subprocess.PIPE) as saving:
        done = subprocess.run([*COMMAND, "load"], stdin=saving.stdout, capture_output=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout) == (0, b"busybox:latest\n")


def test_build(host: Host, tell: Cli, tmp_path: Path) -> None:
    """What a Dockerfile says; the id is on stdout, alone."""
    (tmp_path / "Dockerfile").write_text('FROM busybox\nARG WHO=you\nRUN echo "hi $WHO" > /said\n')
    image_id = tell("build", "-q", "-t", "built:1", "--build-arg", "WHO=me", str(tmp_path)).strip()
    assert host.images["built:1"].id == image_id
    assert tell("build", "-f", "none-such", str(tmp_path), code=1) == ""
    assert cli("run", "built:1", "cat", "/said").stdout == "hi me\n"
    tell("rmi", "built:1")
    host.prune(build_cache_keep=0)


def test_networks(host: Host, box: Container, tell: Cli) -> None:
    """Made, connected, listed, removed; with ports."""
    tell("network", "create", "--label", "a=b", "web")
    tell("network", "connect", "--alias", "www", "web", "box")
    assert box.networks["web"].aliases == ("www",)
    assert "box" in tell("networks") and "box" in tell("network", "ls")
    (binding,) = told(tell("port", "-p", "127.0.0.1::80", "--json", "box"))
    assert (binding["container_port"], binding["host_ip"]) == (80, "127.0.0.1")
    assert f":{binding['host_port']}->80/tcp" in tell("ps")
    box.unpublish(*box.ports)
    tell("network", "rm", "web", code=1)  # still used
    tell("network", "disconnect", "web", "box")
    assert tell("network", "rm", "web") == "web\n"


def test_volumes(host: Host, tell: Cli, tmp_path: Path) -> None:
    """Made, used, listed, removed."""
    tell("volume", "create", "data")
    (tmp_path / "given").write_text("given")
    mounts = ["-v", "data:/data", "-v", f"{tmp_path}:/here:ro", "--tmpfs", "/fast:size=1m"]
    done = cli("run", *mounts, "busybox", "sh", "-c", "cat /here/given > /data/kept; touch /here/x /fast/x")
    assert done.returncode == 1 and (host.volumes["data"].files / "kept").read_text() == "given"
    assert [each["name"] for each in told(tell("volumes", "--json"))] == ["data"]
    assert tell("volume", "rm", "data") == "data\n"


def test_prune_asks_first(fresh_host: Host, tell: Cli) -> None:
    """And without a terminal does nothing unless forced."""
    fresh_host.containers.run("busybox", ["true"])
    fresh_host.containers.create("busybox", ["true"], name="old")
    root = str(fresh_host.root)
    done = cli("prune", "--root", root)
    assert done.returncode == 1 and "-f" in done.stderr
    assert "containers: old" in tell("prune", "-f", "--all", "--root", root)
    assert not fresh_host.containers.list() and not fresh_host.images.list()
    assert "total" in tell("df", "--root", root)


def test_output_to_nobody_is_no_error(box: Container) -> None:
    """As with ``| head``."""
    line = f"{sys.executable} -m lxcwrap inspect box box box box | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", line], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stdout in ("0\n", "141\n") and done.stderr == ""


def test_without_rights_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["ps"]) == 1
    said = capsys.readouterr().err
    assert "sudo" in said and said.count("\n") == 1
