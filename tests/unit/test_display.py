"""How things are shown: nothing of theirs is markup, nothing steers a terminal, and the figures are right."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lxcwrap
from lxcwrap import Change, Completed, Host, Limits, LogLine, Port, Stats, display
from lxcwrap.check import Item, Report, Status
from lxcwrap.display import words
from lxcwrap.display.blocks import Cell, Facts, Output, Page, Table
from lxcwrap.display.markup import tag, text
from lxcwrap.display.written import as_html, as_text
from lxcwrap.errors import InvalidSpecError, WrongStateError
from lxcwrap.testing import fake_host
from tests.polling import eventually
from tests.shop import ATTACK

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TAGS = frozenset(
    "div style b span table thead tbody tr th td dl dt dd pre i svg g path polygon polyline text".split()
)
TAGS |= frozenset("tspan circle rect title".split())


class Markup(HTMLParser):
    """What a browser would find: tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.said = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.said += data


def assert_harmless(html: str) -> Markup:
    found = Markup(html)
    assert found.tags <= TAGS, found.tags - TAGS
    assert not {name for name in found.attributes if name.startswith("on") or name in ("href", "src")}
    return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    serve = "print('ready', flush=True); import time; time.sleep(60)"
    with fake_host(tmp_path, programs={"serve": serve}) as host:
        yield host


def stats(second: float, *, cpu_s: float = 0.0, memory: int = 1 << 20, rx: int = 0) -> Stats:
    nothing: dict[str, Any] = dict.fromkeys(
        "cpu_user_s cpu_system_s throttled_s memory_working_set memory_peak swap_usage oom_kills pids"
        " read_bytes write_bytes tx_bytes".split(),
        0,
    )
    return Stats(
        time=NOON + timedelta(seconds=second),
        cpu_s=cpu_s,
        memory_usage=memory,
        rx_bytes=rx,
        memory_limit=4 << 20,
        pids_limit=None,
        **nothing,
    )


# --- markup ---


@given(st.text())
def test_text_never_becomes_markup(value: str) -> None:
    """Whatever it is: in cells, hints, titles, facts, output and drawings."""
    cell = Cell(value, "state", hint=value, tone="bad")
    page: Page = [
        Table(title=value, note=value, heads=[value], rows=[[cell]]),
        Facts(title=cell, note=value, facts=[(value, cell)]),
        Output(title=value, lines=[(value, value, "bad")]),
    ]
    assert_harmless(as_html(page))
    assert Markup(tag("b", value)).tags == {"b"}


@given(st.text())
def test_plain_text_does_not_steer_a_terminal(value: str) -> None:
    """Neither in tables nor in output."""
    page: Page = [Table(heads=["x"], rows=[[Cell(value)]]), Output(lines=[("", value, "")])]
    assert not set(as_text(page)) & {chr(code) for code in (*range(9), *range(11, 32), 127, 0x202E, 0x9B)}


def test_what_markup_cannot_hold_is_replaced() -> None:
    """Control characters, and those that turn text around."""
    assert text("a\0b\u202ec<&>\"'") == "a\ufffdb\ufffdc&lt;&amp;&gt;&quot;&#x27;"


def test_nouns_are_shown_harmlessly(host: Host) -> None:
    """Names of things are checked; labels, commands, users and output are a container's own."""
    host.networks.create("front", labels={"label": ATTACK})
    host.volumes.create("data", labels={"label": ATTACK})
    with host.containers.launch(
        "busybox",
        ["serve", ATTACK],
        name="web",
        network="front",
        publish=[Port(80)],
        limits=Limits(memory="64MiB", pids=50),
        labels={"label": ATTACK, ATTACK: "label"},
    ) as web:
        image = web.commit("made:1", pause=False, labels={"label": ATTACK}, cmd=[ATTACK])
        snapshot = web.snapshot("kept", pause=False)
        nouns = (
            snapshot,
            host.snapshots,
            host,
            host.containers,
            web,
            host.images,
            image,
            host.networks,
            host.networks["front"],
        )
        values = (
            host.volumes,
            host.volumes["data"],
            host.graph(),
            host.disk_usage(),
            web.stats(),
            host.check(),
        )
        for shown in (*nouns, *values):
            bundle = shown._repr_mimebundle_()
            assert set(bundle) == {"text/html", "text/plain"}
            assert_harmless(bundle["text/html"])
            assert shown._repr_html_().startswith("<div")
        assert ATTACK in assert_harmless(web._repr_html_()).said
        table = host.containers._repr_mimebundle_()["text/plain"].split("\n")
        assert [line.split()[0] for line in table] == ["Containers", "Name", "web"]
        assert "64 MiB, 50 pids" in table[2]


def test_output_is_shown_as_a_terminal_would() -> None:
    """Without colours, and what ends the lines of terminals."""
    done = Completed(
        argv=("ls",), exit_code=0, stdout_bytes=b"\x1b[32mgreen\x1b[0m\r\nplain\r\n", stderr_bytes=b""
    )
    assert "<pre>green\nplain</pre>" in done._repr_html_()


def test_what_was_removed_says_so(host: Host) -> None:
    """Instead of raising in the middle of a notebook."""
    container, network = host.containers.create("busybox", ["true"]), host.networks.create("front")
    volume, snapshot = host.volumes.create("data"), container.snapshot()
    for noun in (snapshot, container, network, volume):
        noun.remove()
        assert "removed" in noun._repr_mimebundle_()["text/plain"]


def test_a_container_that_failed_says_how(host: Host) -> None:
    """With its exit code."""
    container = host.containers.launch("busybox", ["exit", "3"])
    container.wait()
    assert "exit code 3" in host.containers._repr_mimebundle_()["text/plain"]
    assert "lx-bad" in container._repr_html_().partition("</style>")[2]


@pytest.mark.parametrize(
    "value",
    [
        Completed(
            argv=("sh", ATTACK), exit_code=1, stdout_bytes=ATTACK.encode(), stderr_bytes=b"\x1b[31m\xff"
        ),
        Report((Item("init", Status.MISSING, ATTACK, ATTACK),)),
        lxcwrap.Pruned(images=("sha256:00",), build_steps=2, freed=5),
        lxcwrap.Health(status="unhealthy", results=(lxcwrap.HealthResult(NOON, NOON, 1, ATTACK),)),
        lxcwrap.events.Renamed(time=NOON, container_id="0" * 64, name=ATTACK),
        display.table([LogLine(NOON, "stderr", ATTACK)]),
        display.table([Change(path=f"/{ATTACK}", kind="added")]),
        display.table([stats(0)]),
        display.table([]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_results_are_shown_harmlessly(value: Any) -> None:
    """Both ways."""
    bundle = value._repr_mimebundle_()
    assert_harmless(bundle["text/html"])
    assert bundle["text/plain"] and "\x1b" not in bundle["text/plain"]


def test_long_tables_and_outputs_are_cut() -> None:
    """They say how much is missing."""
    page: Page = [Table(heads=["x"], rows=[[Cell("y")]] * 1000)]
    assert Markup(as_html(page)).said.endswith("... and 500 more")
    assert as_text(page).endswith("... and 940 more")
    done = Completed(argv=("yes",), exit_code=0, stdout_bytes=b"y\n" * 100_000, stderr_bytes=b"")
    assert len(done._repr_html_()) < 20_000


def test_values_without_columns_make_no_table() -> None:
    """TypeError says which."""
    with pytest.raises(TypeError, match="int"):
        str(display.table([1]))


# --- figures ---


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KiB"),
        (1 << 20, "1 MiB"),
        (1.5 * 2**20, "1.5 MiB"),
        (300 << 20, "300 MiB"),
    ],
)
def test_sizes_have_three_digits(count: float, said: str) -> None:
    """In the unit that leaves no more."""
    assert words.size(count) == said


def test_times_that_have_passed_are_in_their_largest_unit() -> None:
    """Of what is very old, the date."""
    assert [words.span(seconds) for seconds in (0, 59, 60, 7200, 90_000)] == [
        "0 s",
        "59 s",
        "1 min",
        "2 h",
        "1 d",
    ]
    assert words.ago(datetime(1970, 1, 1, tzinfo=UTC)) == "1970-01-01"
    assert [words.duration(seconds) for seconds in (0.012, 3.21, 75)] == ["12 ms", "3.2 s", "1 min 15 s"]


def test_a_plot_shows_rates_of_what_is_counted() -> None:
    """By the time between two samples; less than before means that it was started anew."""
    figure = display.plot([stats(0), stats(2, cpu_s=1, rx=4096), stats(3, cpu_s=0.5, rx=0)])
    track = figure._track
    assert list(track.cpu.values) == [0.5, 0.0] and list(track.rx.values) == [2048.0, 0.0]
    assert_harmless(figure._repr_html_())
    assert "1 MiB of 4 MiB" in str(figure)
    assert ElementTree.fromstring(figure.svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_plot_takes_two_samples_in_their_order() -> None:
    """Else it is refused."""
    for samples in ([], [stats(0)], [stats(1), stats(0)]):
        with pytest.raises(InvalidSpecError):
            display.plot(samples)


# --- what lives ---


def test_live_statistics_are_recorded_without_a_notebook(host: Host) -> None:
    """Until the container ends; the last of the window are kept."""
    with host.containers.launch("busybox", ["serve"]) as web:
        with (
            web.live_stats(interval_s=0.01, window_s=0.04) as live,
            host.containers.live_stats(interval_s=0.01) as all_,
        ):
            eventually(lambda: len(live.samples) == 5)
            assert_harmless(live._repr_html_())
            assert_harmless(all_._repr_html_())
            assert live.figure().samples[-1] in live.samples
            web.kill()
            live.wait(10)
        assert not live.is_running and "ended" in repr(live)


def test_live_statistics_of_what_does_not_run_are_refused(host: Host) -> None:
    """And an interval that cannot be."""
    container = host.containers.create("busybox", ["serve"])
    with pytest.raises(WrongStateError):
        container.live_stats()
    for interval_s, window_s in ((0, 1), (2, 1), (-1, 1)):
        with pytest.raises(InvalidSpecError):
            host.containers.live_stats(interval_s=interval_s, window_s=window_s)
    with pytest.raises(InvalidSpecError):
        container.live_logs(lines=0)


def test_live_logs_keep_the_last_lines_and_end_with_the_container(host: Host) -> None:
    """Or when they are stopped."""
    with host.containers.launch("busybox", ["serve"]) as web:
        with web.live_logs(lines=1) as stopped:
            eventually(lambda: [line.text for line in stopped.lines] == ["ready"])
        assert not stopped.is_running
        live = web.live_logs()
        web.kill()
        live.wait(10)
        assert not live.is_running
        assert "ready" in assert_harmless(live._repr_html_()).said


def test_the_graph_has_networks_and_who_is_on_them(host: Host) -> None:
    """As text: each network, and below it those that are there."""
    host.networks.create("front", subnet="10.99.0.0/24")
    host.networks.create("back", subnet="10.99.1.0/24", internal=True)
    host.containers.create(
        "busybox", ["serve"], name="web", network=["front", "back"], publish=[Port(80, host_port=18081)]
    )
    host.containers.create("busybox", ["serve"], name="alone")
    lines = str(host.graph()).split("\n")
    assert lines == [
        "front  10.99.0.0/24",
        "  web  10.99.0.2  18081 \u2192 80",
        "back  10.99.1.0/24  internal",
        "  web  10.99.1.2  18081 \u2192 80",
    ]
    assert "web" in assert_harmless(host.graph()._repr_html_()).said
    assert ElementTree.fromstring(host.graph().svg).tag == "{http://www.w3.org/2000/svg}svg"


def test_displays_cost_nothing_until_one_is_shown() -> None:
    """No module of them, and IPython never."""
    code = (
        "import sys; from lxcwrap import Host, Container, Stats;"
        "print([name for name in sys.modules if name.startswith(('lxcwrap.display', 'IPython'))])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
