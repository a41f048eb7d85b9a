"""Real services, each in a container of its own: the examples of them, and what they promise."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lxcwrap import Container, Host
from tests import notebooks

EXAMPLES = Path(__file__).parents[2] / "examples"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


web_app = load(EXAMPLES / "web_app" / "web_app.py")
cluster = load(EXAMPLES / "cluster_on_one_host.py")


@pytest.fixture(scope="module")
def images(shared_root: Path, debian_system: str) -> Iterator[None]:
    """Those that the examples make, made at once; upon a base that other tests have, too."""
    with Host(shared_root) as host, ThreadPoolExecutor() as pool:
        before = {image.id for image in host.images}
        host.images[debian_system].tag(web_app.BASE)
        for done in (pool.submit(web_app.make_images, host), pool.submit(cluster.make_image, host)):
            done.result()
    yield
    with Host(shared_root) as host:
        host.images[debian_system].untag(web_app.BASE)
        for image in host.images:
            if image.id not in before:
                image.remove()


@pytest.fixture
def site(host: Host, images: None) -> Iterator[Any]:
    with web_app.running_site(host) as site:
        yield site


def dom(url: str, directory: Path) -> str:
    """The page as a browser has it, when all of it is there."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.fail("there is no chromium: install the package, or on Ubuntu the snap", pytrace=False)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory}", "--dump-dom"]
    done = subprocess.run([browser, *options, url], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@contextmanager
def reading(site: Any) -> Iterator[list[str]]:
    """All the while the page is read, one time after the other; these are the pages."""
    pages: list[str] = []
    failures: list[Exception] = []
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            try:
                pages.append(site.read())
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield pages
    finally:
        ended.set()
        reader.join()
    assert not failures


def takes_connections(database: Container, *, by: Container) -> bool:
    address = database.networks["guests-inner"].ip
    assert address
    try:
        by.socket(5432, host=address, timeout_s=1).close()
    except OSError:
        return False
    return True


def knows(container: Container, name: str) -> bool:
    return container.exec(["getent", "hosts", name], check=False).exit_code == 0


def test_a_page_in_a_browser(site: Any, tmp_path: Path) -> None:
    """Through the published port, nginx, gunicorn and the database; what was entered is text, not markup."""
    entered = "<b>Ada</b> & Charles"
    assert "&lt;b&gt;Ada" in site.read({"text": entered})
    page = dom(site.url, tmp_path)
    assert "<h1>1 guests</h1><ul><li>&lt;b&gt;Ada&lt;/b&gt; &amp; Charles</li></ul>" in page
    assert "served by guests-application-1" in page


def test_the_database_is_reached_from_the_application_only(site: Any) -> None:
    """By name and by address; and it reaches nothing but that."""
    (application,) = site.applications
    assert knows(application, "database") and takes_connections(site.database, by=application)
    assert not knows(site.front, "database") and not takes_connections(site.database, by=site.front)
    assert not knows(site.database, "guests-front")
    with pytest.raises(OSError):
        site.database.socket(80, host=site.front.ip, timeout_s=1)


def test_another_database_container_has_the_data(site: Any) -> None:
    """As a volume keeps them: after a stop, and after kill -9."""
    site.read({"text": "before"})
    former = site.database
    former.kill()
    site.database = site.start_database()
    assert site.database != former and former not in list(site.host.containers)
    page = site.read({"text": "after"})
    assert page.index("<li>before") < page.index("<li>after")


def test_the_application_scaled_to_three_and_back(site: Any) -> None:
    """While it is read, and no request fails."""
    with reading(site) as pages:
        site.scale(3)
        assert site.servers() == [f"guests-application-{number}" for number in (1, 2, 3)]
        site.scale(1)
        assert site.servers() == ["guests-application-1"]
    assert len(pages) > 10


def test_what_a_former_run_left_is_replaced(host: Host, site: Any) -> None:
    """The services are made anew, the data stay, and nothing is left of it at the end."""
    site.read({"text": "of the former run"})
    again = web_app.Site(host)
    assert "of the former run" in again.read()
    web_app.remove(host)
    names = [each.name for group in (host.containers, host.networks, host.volumes) for each in group]
    assert not [name for name in names if name.startswith("guests-")]


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (
            "web_app/web_app.py",
            [
                "<h1>1 guests</h1><ul><li>Ada &amp; Charles</ul>",
                "scaled to 1: served by guests-application-1\n",
            ],
        ),
        (
            "cluster_on_one_host.py",
            ["store-5 was added", "the lesser part takes changes: False", "8 values in each of 5"],
        ),
    ],
)
def test_the_example_as_a_program(host: Host, images: None, example: str, expected: list[str]) -> None:
    """It does all it says, and removes all but the images."""
    before = len(host.containers), len(host.networks), len(host.volumes)
    command = [sys.executable, "-W", "error", str(EXAMPLES / example)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [text for text in expected if text not in done.stdout] == []
    assert (len(host.containers), len(host.networks), len(host.volumes)) == before


@pytest.mark.parametrize("name", ["web_application", "distributed_store_with_faults"])
def test_the_notebook(host: Host, images: None, shared_root: Path, tmp_path: Path, name: str) -> None:
    """It runs to its end, shows what the site shows, and removes all but what was there."""
    before = [set(each) for each in (host.containers, host.networks, host.volumes, host.images)]
    notebooks.run(name, shared_root, tmp_path)
    assert [set(each) for each in (host.containers, host.networks, host.volumes, host.images)] == before
