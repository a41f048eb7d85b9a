"""Displays looked at in a browser: in JupyterLab and on an exported page, light and dark.

With LXCWRAP_PICTURES=DIRECTORY the pictures of the documentation are made there.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest

from lxcwrap import Host
from tests.browsers import Page, open_browser
from tests.polling import eventually
from tests.shop import ATTACK, open_shop

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
BEGIN = "%load_ext lxcwrap\nimport lxcwrap, time\nhost = lxcwrap.default_host()"
SHOWN = {
    "containers": "host.containers",
    "container": 'host.containers["api-1"]',
    "graph": "host.graph()",
    "images": "host.images",
    "networks": "host.networks",
    "volumes": "host.volumes",
    "exec": 'host.containers["front"].exec(sh="df -h /; nproc --all")',
}
PICTURED = (
    "containers",
    "container",
    "graph",
    "exec",
    "live",
    "many",
    "logs",
    "magic",
)  # for docs/notebooks.md
LIVE = {
    "live": 'live = host.containers["front"].live_stats(interval_s=0.2, window_s=12)',
    "many": "host.containers.live_stats(interval_s=0.2, window_s=12)",
    "logs": 'host.containers["api-1"].live_logs()',
    "figure": "time.sleep(4); live.figure()",
    "magic": "%%lxc shop/api:2.4 --memory 64MiB --pids 32\nfor n in 1 2 3; do echo step $n of 3; done\n"
    "cat /sys/fs/cgroup/memory.max 2>/dev/null || echo on $(uname -sr)",
}
KERNEL = "jupyterapp.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status"
# The least contrast between any text and what is behind it, and that text.
CONTRAST = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, i) => a * v + (1 - a) * below[i]);
  const behind = (e) =>
    e ? over(parts(getComputedStyle(e).backgroundColor), behind(e.parentElement)) : [255, 255, 255];
  const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => c.reduce((sum, v, i) => sum + linear(v / 255) * [.2126, .7152, .0722][i], 0);
  let worst = [99, ''];
  for (const e of document.querySelectorAll('.lxcwrap :not(style, title)')) {
    if (![...e.childNodes].some((n) => n.nodeType == 3 && n.data.trim())) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const [a, b] = [light(parts(svg ? style.fill : style.color)), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, e.textContent];
  }
  return worst;
})()"""


@pytest.fixture(scope="module", autouse=True)
def jupyter() -> None:
    if find_spec("jupyterlab") is None:
        missing = "needs Jupyter: pip install lxcwrap[notebook]"
        pytest.fail(missing, pytrace=False) if os.environ.get("CI") else pytest.skip(missing)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Page]:
    with open_browser(tmp_path / "profile") as page:
        yield page


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    made: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path.write_text(
        json.dumps({"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})
    )


def environment(root: Path, scratch: Path) -> dict[str, str]:
    own = "HOME IPYTHONDIR JUPYTER_RUNTIME_DIR JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR"
    repository = str(Path(__file__).parents[2])
    return {
        **os.environ,
        **{name: str(scratch) for name in own.split()},
        "LXCWRAP_ROOT": str(root),
        "PYTHONPATH": repository,
    }


def keep(picture: bytes, name: str) -> None:
    """For the documentation, if that is what this is run for."""
    assert picture.startswith(b"\x89PNG") and len(picture) < 150_000
    if directory := os.environ.get("LXCWRAP_PICTURES"):
        Path(directory, f"{name}.png").write_bytes(picture)


# --- an exported page ---


# One process: what it imports takes longer than what it does.
EXPORT = """
import sys
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

notebook = nbformat.read("look.ipynb", as_version=4)
NotebookClient(notebook, timeout=240).execute()
nothing = {f"{name}_url": "data:," for name in ("mathjax", "require_js", "jquery")}
for theme in sys.argv[1:]:
    page, _ = HTMLExporter(theme=theme, **nothing).from_notebook_node(notebook)
    Path(f"{theme}.html").write_text(page)
"""


def exported(root: Path, scratch: Path, cells: Sequence[str]) -> dict[str, Path]:
    """The pages of a notebook that has been run, by theme."""
    write_notebook(scratch / "look.ipynb", cells)
    command = [sys.executable, "-c", EXPORT, *SCHEMES]
    subprocess.run(command, cwd=scratch, env=environment(root, scratch), check=True, timeout=240)
    return {scheme: scratch / f"{scheme}.html" for scheme in SCHEMES}


def test_an_exported_page_is_legible_and_runs_nothing(
    host: Host, shared_root: Path, tmp_path: Path, browser: Page
) -> None:
    """In both themes, though names, labels, commands and output are hostile."""
    hostile = [
        f"host.containers.run('busybox', ['echo', {ATTACK!r}])",
        f"host.containers['front'].exec(sh='cat >&2; exit 3', input={ATTACK!r}, check=False)",
        "lxcwrap.display.table(host.containers['api-1'].top())",
        "host.volumes['orders']",
        "host",
    ]
    with open_shop(host, attack=ATTACK):
        pages = exported(shared_root, tmp_path, [BEGIN, *SHOWN.values(), *hostile])
    for scheme in SCHEMES:
        browser.look(scheme=scheme)
        browser.open(pages[scheme].as_uri())
        assert browser.value("document.querySelectorAll('.lxcwrap').length") == len(SHOWN) + len(hostile)
        assert browser.value("typeof pwned") == "undefined"
        assert browser.value("document.querySelectorAll('.lxcwrap :is(script, img, [onload])').length") == 0
        assert browser.value("document.querySelectorAll('.lxcwrap svg circle').length") > 8
        assert browser.value(CONTRAST)[0] >= 4.0, browser.value(CONTRAST)


def test_a_page_without_a_theme_follows_the_reader(host: Host, tmp_path: Path, browser: Page) -> None:
    """Also where the page itself stays white: each display brings what is behind it."""
    with open_shop(host):
        html = f"{host.containers._repr_html_()}{host.graph()._repr_html_()}"
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{html}")
    for scheme in SCHEMES:
        browser.look(scheme=scheme)
        browser.open((tmp_path / "page.html").as_uri())
        assert browser.value(CONTRAST)[0] >= 4.0, browser.value(CONTRAST)
        behind = browser.value("getComputedStyle(document.querySelector('.lxcwrap')).backgroundColor")
        assert (behind == "rgb(255, 255, 255)") == (scheme == "light")


# --- JupyterLab ---


@contextmanager
def running_lab(root: Path, scratch: Path) -> Iterator[str]:
    """The URL of a JupyterLab whose files are in `scratch`."""
    token = secrets.token_hex(16)
    options = [
        *("--no-browser", "--allow-root", "--expose-app-in-browser", "--ip=127.0.0.1", "--ServerApp.port=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={scratch}", "--log-level=ERROR"),
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=",
    ]
    with (scratch / "lab.log").open("wb") as log:
        command = [sys.executable, "-m", "jupyterlab", *options]
        process = subprocess.Popen(command, env=environment(root, scratch), stdout=log, stderr=log)
    try:
        eventually(lambda: list(scratch.glob("jpserver-*.json")), within_s=60)
        (about,) = scratch.glob("jpserver-*.json")
        eventually(lambda: about.stat().st_size and json.loads(about.read_text()), within_s=10)
        yield f"{json.loads(about.read_text())['url']}lab/tree/look.ipynb?token={token}"
    finally:
        process.terminate()
        process.wait(60)


def command(browser: Page, name: str, **arguments: object) -> None:
    browser.value(f"jupyterapp.commands.execute({name!r}, {json.dumps(arguments)}).then(() => 1)")


def cell(number: int) -> str:
    return f"document.querySelectorAll('.jp-Notebook .jp-CodeCell')[{number}]"


def test_everything_in_jupyterlab(host: Host, shared_root: Path, tmp_path: Path, browser: Page) -> None:
    """Cells run, displays live on, both themes are legible, and the stop button stops."""
    names = [*SHOWN, *LIVE]
    (tmp_path / "lab").mkdir()
    write_notebook(
        tmp_path / "lab" / "look.ipynb", [BEGIN, *SHOWN.values(), *LIVE.values(), "%%lxc busybox\nsleep 1000"]
    )
    with open_shop(host) as shop, running_lab(shared_root, tmp_path / "lab") as url:
        browser.look(scheme="light", width=1240, height=6000)
        browser.open(url)
        browser.until(f"window.jupyterapp && {cell(len(names) + 1)} && {KERNEL} == 'idle'")
        command(browser, "application:toggle-left-area")
        browser.value("jupyterapp.commands.execute('notebook:run-all-cells'), 1")
        browser.until(f"{cell(names.index('magic') + 1)}.textContent.includes('step 3 of 3')")
        # The last cell sleeps; what lives goes on meanwhile.
        eventually(lambda: len(host.containers) == len(shop) + 1, within_s=60)
        live = f"{cell(names.index('live') + 1)}.querySelector('polyline').getAttribute('points')"
        before = browser.value(live)
        browser.until(f"{live} != {before!r}")
        for scheme, theme in zip(SCHEMES, ("JupyterLab Light", "JupyterLab Dark"), strict=True):
            command(browser, "apputils:change-theme", theme=theme)
            browser.until(f"document.body.dataset.jpThemeName == '{theme}'")
            assert browser.value(CONTRAST)[0] >= 4.0, browser.value(CONTRAST)
            assert browser.value("document.querySelectorAll('.lxcwrap mjx-container').length") == 0
            for name in PICTURED:
                picture = browser.picture(cell(names.index(name) + 1), margin=0)
                keep(picture, f"notebook-{name}-{scheme}")
        browser.value("jupyterapp.commands.execute('notebook:interrupt-kernel'), 1")
        browser.until(f"{cell(len(names) + 1)}.textContent.includes('KeyboardInterrupt')")
        eventually(lambda: len(host.containers) == len(shop), within_s=60)
