"""In a real Jupyter kernel: displays that live, cells that run in containers, and the stop button."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from lxcwrap import Host
from tests.kernels import Kernel, Message, printed, running_kernel, shown
from tests.polling import eventually
from tests.registries import Exchange, fake_registry


@pytest.fixture(scope="module")
def kernel(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One for all: what a test defines there it does not leave running."""
    if find_spec("jupyter_client") is None or find_spec("ipykernel") is None:
        missing = "needs Jupyter: pip install lxcwrap[notebook]"
        pytest.fail(missing, pytrace=False) if os.environ.get("CI") else pytest.skip(missing)
    with running_kernel(shared_root, tmp_path_factory.mktemp("kernel")) as kernel:
        kernel.run("import sys, time\nfrom pathlib import Path\n%load_ext lxcwrap")
        # Cells open what stays open: connections, a history.
        kernel.run("%%lxc busybox\ntrue")
        yield kernel


def interrupted(kernel: Kernel, code: str) -> list[Message]:
    """The messages of a cell that is stopped as soon as it has written something."""
    kernel.start(code)
    found: list[Message] = []
    for message in kernel.messages():
        if message["type"] == "stream" and not any(each["type"] == "stream" for each in found):
            kernel.interrupt()
        found.append(message)
    return found


def error_of(messages: list[Message]) -> tuple[str, list[str]]:
    """What kind, and what is shown of it."""
    content = messages[-1]["content"]
    assert content["status"] == "error"
    return content["ename"], content["traceback"]


def failed(kernel: Kernel, code: str) -> tuple[str, list[str]]:
    kernel.start(code)
    return error_of(list(kernel.messages()))


# --- cells in containers ---


def test_a_cell_runs_in_a_container_of_its_own(kernel: Kernel, host: Host) -> None:
    """Its output is the cell's, by stream; the container is gone."""
    messages = kernel.run(
        '%%lxc busybox -e WORD=hello -e NONE --memory 64MiB\necho "$WORD ü ${NONE-none}"\nhostname >&2'
    )
    assert printed(messages) == "hello ü none\n"
    assert printed(messages, "stderr") not in ("", os.uname().nodename)
    assert not list(host.containers)


def test_a_cell_runs_in_a_container_that_there_is(kernel: Kernel, host: Host) -> None:
    """With its user and directory; what the cell wrote stays."""
    with host.containers.launch("busybox", ["sleep", "1000"], name="web") as web:
        messages = kernel.run("%%lxc -c web -w /tmp -u 33\npwd; id -u; echo kept > kept")
        assert printed(messages) == "/tmp\n33\n"
        assert web.path("/tmp/kept").read_text() == "kept\n"


def test_the_result_is_kept_in_a_variable(kernel: Kernel) -> None:
    """Shown or not, failed or not."""
    messages = kernel.run("%%lxc busybox -q -o done --no-check\necho out; exit 3")
    assert printed(messages) == ""
    assert kernel.value("[done.exit_code, done.stdout]") == [3, "out\n"]


def test_another_program_takes_the_cell(kernel: Kernel) -> None:
    """As the last of its arguments."""
    assert printed(kernel.run("%%lxc busybox --with 'printf %s/'\nthe cell")) == "the cell\n/"


def test_directories_and_volumes_are_mounted(kernel: Kernel, host: Host, tmp_path: Path) -> None:
    """As `Mount.bind` and `Mount.volume` would."""
    tmp_path.chmod(0o755)
    (tmp_path / "data").write_text("from the host\n")
    assert printed(kernel.run(f"%%lxc busybox -v {tmp_path}:/data:ro\ncat /data/data")) == "from the host\n"
    kernel.run("%%lxc busybox -v cells:/v\necho 1 > /v/kept")
    assert (host.volumes["cells"].files / "kept").read_text() == "1\n"
    host.volumes.remove("cells")


def test_a_cell_that_fails_says_so_in_a_line(kernel: Kernel) -> None:
    """Without the code of ours that noticed it."""
    name, lines = failed(kernel, "%%lxc busybox\nexit 7")
    assert name == "CommandFailedError" and len(lines) == 1 and "7" in lines[0]
    name, lines = failed(kernel, "%%lxc busybox --memory lots\ntrue")
    assert name == "InvalidSpecError" and len(lines) == 1 and "lots" in lines[0]


@pytest.mark.parametrize(
    "line", ["", "busybox -c web", "busybox --unknown", "busybox -v x", "-c web --pids 3"]
)
def test_a_line_that_cannot_be_meant_is_refused(kernel: Kernel, line: str) -> None:
    """Before anything is started."""
    assert failed(kernel, f"%%lxc {line}\ntrue")[0] == "UsageError"


def test_output_comes_while_the_cell_runs_and_stopping_it_kills_it(kernel: Kernel, host: Host) -> None:
    """Nothing of it is left."""
    messages = interrupted(kernel, "%%lxc busybox\necho begins; sleep 1000; echo ends")
    assert error_of(messages)[0] == "KeyboardInterrupt" and printed(messages) == "begins\n"
    assert not list(host.containers)


def test_stopping_a_cell_in_a_container_leaves_that_running(kernel: Kernel, host: Host) -> None:
    """Without the command and what that had started."""
    with host.containers.launch("busybox", ["sleep", "1000"], name="web") as web:
        before = {process.pid for process in web.top()}
        messages = interrupted(kernel, "%%lxc -c web\necho begins; sleep 1001; echo ends")
        assert error_of(messages)[0] == "KeyboardInterrupt"
        eventually(lambda: {process.pid for process in web.top()} == before)
        assert web.exec(["echo", "well"]).stdout == "well\n"


# --- the stop button ---

WAITS = {
    "run": "host.containers.run('busybox', ['sleep', '1000'])",
    "exec": "web.exec(sh='sleep 1001; true')",
    "wait": "web.wait()",
    "wait_ready": "web.wait_ready(lxcwrap.ready.log('never'))",
    "wait_ready_tcp": "web.wait_ready(lxcwrap.ready.tcp(1))",
    "log_lines": "list(web.log_lines(follow=True))",
    "stats": "list(web.stats_stream())",
    "events": "list(host.events())",
    "live": "web.live_stats().wait()",
    "live_logs": "web.live_logs().wait()",
}


@pytest.mark.parametrize("what", WAITS)
def test_the_stop_button_ends_a_wait(kernel: Kernel, host: Host, what: str) -> None:
    """And the container is as it was: it runs, nothing more is in it, and it does what one asks."""
    with host.containers.launch("busybox", ["sleep", "1000"], name="web") as web:
        before = {process.pid for process in web.top()}
        kernel.run("web = host.containers['web']")
        messages = interrupted(kernel, f"print('now', flush=True)\n{WAITS[what]}")
        assert error_of(messages)[0] == "KeyboardInterrupt"
        eventually(lambda: {process.pid for process in web.top()} == before)
        assert kernel.value("[str(web.state), web.exec(['echo', 'well']).stdout]") == ["running", "well\n"]
        assert [each.name for each in host.containers] == ["web"]


def test_the_stop_button_ends_a_build(kernel: Kernel, host: Host, tmp_path: Path) -> None:
    """With the step that ran; the next build does well."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo now && sleep 1000\n")
    build = f"host.images.build({str(tmp_path)!r}, progress=lambda event: print(event, flush=True))"
    images = {image.id for image in host.images}
    kernel.start(build)
    for message in kernel.messages():
        if message["type"] == "stream" and "StepOutput" in message["content"]["text"]:
            kernel.interrupt()
    assert error_of([message])[0] == "KeyboardInterrupt"
    assert {image.id for image in host.images} == images and not list(host.containers)


def test_the_stop_button_ends_a_pull(kernel: Kernel, host: Host) -> None:
    """From a registry that does not answer: the store is as it was."""
    images = {image.id for image in host.images}
    with fake_registry() as registry:
        asked = False

        def stall(exchange: Exchange) -> None:
            nonlocal asked
            if not asked:
                asked = True
                kernel.interrupt()
            exchange.connection.settimeout(30)
            exchange.connection.recv(1)  # until the other side has had enough
            exchange.close_connection = True

        registry.misbehave(stall)
        assert failed(kernel, f"host.images.pull('{registry.name}/any:1')")[0] == "KeyboardInterrupt"
        assert asked
    assert {image.id for image in host.images} == images


# --- what lives ---


def test_live_displays_do_not_keep_the_kernel_waiting(kernel: Kernel, host: Host) -> None:
    """Cells run meanwhile; each display is updated in its own place, and ends with its container."""
    with host.containers.launch("busybox", sh="echo first; sleep 1000", name="web") as web:
        kernel.run("web = host.containers['web']")
        messages = kernel.run(
            "with web.live_stats(interval_s=0.05) as live, web.live_logs() as logs:\n"
            "    while len(live.samples) < 4 or not logs.lines: time.sleep(0.01)"
        )
        kinds = [message["type"] for message in messages]
        assert kinds.count("display_data") == 2 and kinds.count("update_display_data") >= 4
        assert any("<polyline" in html for html in shown(messages))
        assert any("first" in text for text in shown(messages, "text/plain"))
        kernel.run("live, logs = web.live_stats(interval_s=0.05), web.live_logs()")
        assert kernel.value("[live.is_running, logs.is_running]") == [True, True]
        web.kill()
        kernel.run("live.wait(30); logs.wait(30)")
        assert kernel.value("[live.is_running, logs.is_running]") == [False, False]


def test_stopping_a_cell_ends_what_lives(kernel: Kernel, host: Host) -> None:
    """The button does not reach other threads: they are ended for it."""
    with host.containers.launch("busybox", ["sleep", "1000"], name="web"):
        kernel.run("web = host.containers['web']\nlive = host.containers.live_stats(interval_s=0.05)")
        interrupted(kernel, "print('now', flush=True)\ntime.sleep(1000)")
        assert kernel.value("live.is_running") is False


def test_a_live_display_is_shown_once_in_its_cell(kernel: Kernel, host: Host) -> None:
    """Though it is the cell's value as well; in another cell it is shown again."""
    with host.containers.launch("busybox", ["sleep", "1000"], name="web"):
        messages = kernel.run("live = host.containers['web'].live_stats(interval_s=60, window_s=60)\nlive")
        assert len(shown(messages)) == 1
        assert len(shown(kernel.run("live"))) == 1
        kernel.run("live.stop()")


def test_progress_of_a_build_is_shown_in_its_cell(kernel: Kernel, host: Host, tmp_path: Path) -> None:
    """One output, updated."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo said && sleep 1.5\n")
    messages = kernel.run(f"host.images.build({str(tmp_path)!r}, tags=['progress:1'], no_cache=True)")
    kinds = [message["type"] for message in messages]
    assert kinds.count("display_data") == 1 and "update_display_data" in kinds
    assert any("said" in text for text in shown(messages, "text/plain"))
    host.images.remove("progress:1")
