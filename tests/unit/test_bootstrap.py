"""What of the machine's apt sources a bootstrap uses, and which arguments it refuses."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from lxcwrap.errors import InvalidSpecError, UnsupportedError
from lxcwrap.formats.bootstrap import write_sources
from lxcwrap.images import Images
from tests.unit.fakelayers import contents, image_host

LIST = """\
# deb http://old.example/debian bookworm main
deb http://one.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian-security bookworm-security main
deb-src http://one.example/debian bookworm main
deb http://one.example/debian bookworm-backports main
deb http://other.example/node nodistro main
"""
SOURCES = """\
Types: deb
# a comment
URIs: http://two.example/debian
Suites: bookworm
  bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm

types: deb
URIs: http://three.example/debian
suites: trixie
"""


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "apt/sources.list").write_text(LIST)
    (tmp_path / "apt/sources.list.d/two.sources").write_text(SOURCES)
    (tmp_path / "apt/sources.list.d/three.list").write_text("deb http://list.example/debian trixie main\n")
    (tmp_path / "apt/sources.list.d/off.sources.disabled").write_text(SOURCES.replace("two", "disabled"))
    return tmp_path / "apt"


def test_only_the_entries_of_the_suite_are_passed_on(apt: Path, tmp_path: Path) -> None:
    """With its updates and security fixes; options and keys go along."""
    one, two = (Path(path).read_text() for path in write_sources("bookworm", apt, tmp_path))
    assert one.splitlines() == [LIST.splitlines()[1], LIST.splitlines()[2]]
    assert two.strip() == SOURCES.partition("\n\n")[0]


def test_another_suite_gets_other_entries(apt: Path, tmp_path: Path) -> None:
    """From both kinds of files."""
    one, two = (Path(path).read_text() for path in write_sources("trixie", apt, tmp_path))
    assert one == "deb http://list.example/debian trixie main\n"
    assert "three.example" in two and "two.example" not in two


def test_without_entries_no_file_is_passed_on(apt: Path, tmp_path: Path) -> None:
    """mmdebstrap then knows the distribution's own mirror."""
    assert write_sources("sid", apt, tmp_path) == []


@pytest.mark.parametrize(
    "options",
    [
        {"name": "debian"},
        {"name": "Debian:bookworm"},
        {"suite": "--help"},
        {"suite": "a b"},
        {"packages": ["--x"]},
        {"packages": ["a,b"]},
        {"packages": ["a b"]},
        {"packages": ["?essential"]},
        {"mirror": "/etc/passwd"},
        {"mirror": "http://x y"},
        {"mirror": "http://x\ndeb http://y"},
        {"tag": "App"},
    ],
)
def test_words_that_could_be_options_are_refused(roots: Path, options: dict[str, object]) -> None:
    """They would end up on a command line, or in a sources file."""
    host = image_host(Path(tempfile.mkdtemp(dir=roots)))
    before = contents(host.image_store)
    with pytest.raises(InvalidSpecError):
        Images(host).bootstrap(**{"name": "debian:bookworm", **options})  # type: ignore[arg-type]
    assert contents(host.image_store) == before


def test_one_text_is_no_list_of_packages(roots: Path) -> None:
    """As nobody means the packages "n", "g", "i", "n" and "x"."""
    with pytest.raises(TypeError):
        Images(image_host(Path(tempfile.mkdtemp(dir=roots)))).bootstrap("debian:bookworm", packages="nginx")


def test_a_missing_mmdebstrap_is_told_with_the_remedy(roots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package to install."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UnsupportedError) as caught:
        Images(image_host(Path(tempfile.mkdtemp(dir=roots)))).bootstrap("debian:bookworm")
    assert "mmdebstrap" in caught.value.remedy
