"""How registries are reached: the files, the environment, and what follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcwrap.errors import InvalidSpecError
from lxcwrap.oci import Reference
from lxcwrap.registry import config as module
from lxcwrap.registry.config import RegistryConfig, RegistrySettings
from lxcwrap.registry.proxies import proxy_for
from tests.registries import be_nobody


@pytest.fixture(autouse=True)
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The machine's own file, which is not there yet."""
    be_nobody(monkeypatch, tmp_path)
    monkeypatch.setattr(module, "SYSTEM_FILE", tmp_path / "etc" / "registries.yaml")
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc" / "registries.yaml"


def origins(reference: str, config: RegistryConfig | None = None) -> list[tuple[str, str]]:
    endpoints = (config or RegistryConfig()).endpoints(Reference.parse(reference))
    return [(endpoint.origin, endpoint.repository) for endpoint in endpoints]


# --- where a registry is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "origin", "repository"),
    [
        ("nginx", "https://registry-1.docker.io", "library/nginx"),
        ("docker.io/team/app:1", "https://registry-1.docker.io", "team/app"),
        ("r.example/app", "https://r.example", "app"),
        ("r.example:5000/app", "https://r.example:5000", "app"),
        ("localhost/app", "http://localhost", "app"),
        ("localhost:5000/app", "http://localhost:5000", "app"),
        ("127.0.0.1:5000/app", "http://127.0.0.1:5000", "app"),
        ("127.9.9.9/app", "http://127.9.9.9", "app"),
        ("[::1]:5000/app", "http://[::1]:5000", "app"),
        ("[2001:db8::1]/app", "https://[2001:db8::1]", "app"),
        ("localhost.example/app", "https://localhost.example", "app"),
        ("128.0.0.1/app", "https://128.0.0.1", "app"),
    ],
)
def test_where_a_registry_is(reference: str, origin: str, repository: str) -> None:
    """https, but for this machine's own."""
    assert origins(reference) == [(origin, repository)]


def test_mirrors_come_before_their_registry() -> None:
    """Each with its own scheme, settings and prefix."""
    config = RegistryConfig(
        registries={
            "docker.io": RegistrySettings(mirrors=("m.example", "http://c.example:5000/hub/", "localhost:1")),
            "m.example": RegistrySettings(plain_http=True, ca_file="/ca.pem"),
            "localhost:1": RegistrySettings(plain_http=False),
        }
    )
    assert origins("nginx", config) == [
        ("http://m.example", "library/nginx"),
        ("http://c.example:5000", "hub/library/nginx"),
        ("https://localhost:1", "library/nginx"),
        ("https://registry-1.docker.io", "library/nginx"),
    ]
    assert config.endpoints(Reference.parse("nginx"))[0].settings.ca_file == "/ca.pem"


# --- the files ------------------------------------------------------------------------------------------


def test_without_files_all_is_usual(tmp_path: Path) -> None:
    """None has to be there."""
    assert RegistryConfig.read() == RegistryConfig.read(tmp_path) == RegistryConfig()


def test_a_root_directory_s_file_is_over_the_machine_s(system: Path, tmp_path: Path) -> None:
    """Registry by registry, member by member; paths are relative to the file."""
    system.write_text(
        "registries:\n  a.example: {plain_http: true}\n  b.example: {plain_http: true}\nread_timeout_s: 5\n"
    )
    (tmp_path / "registries.yaml").write_text(
        "registries:\n  b.example: {mirrors: [m.example], ca_file: ca.pem, client_cert: /c.pem}\n"
    )
    config = RegistryConfig.read(tmp_path)
    assert config.settings("a.example") == RegistrySettings(plain_http=True)
    assert config.settings("b.example") == RegistrySettings(
        mirrors=("m.example",), ca_file=str(tmp_path / "ca.pem"), client_cert="/c.pem"
    )
    assert (config.read_timeout_s, config.connect_timeout_s) == (5, 10)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "x",
        "{",
        "\0",
        "!!python/object:os.system {}",
        "registry: {}",
        "registries: []",
        "registries: {1: {}}",
        "registries: {r.example: []}",
        "registries: {r.example: {insecure: true}}",
        "registries: {r.example: {plain_http: 'yes'}}",
        "registries: {r.example: {plain_http: 1}}",
        "registries: {r.example: {mirrors: m.example}}",
        "registries: {r.example: {mirrors: [1]}}",
        "registries: {r.example: {mirrors: ['ftp://m.example']}}",
        "registries: {r.example: {mirrors: ['https://u:p@m.example']}}",
        "registries: {r.example: {mirrors: ['m.example/../x']}}",
        "registries: {r.example: {mirrors: ['m.example?x']}}",
        "registries: {r.example: {ca_file: 1}}",
        "registries: {r.example: {client_key: k.pem}}",
        "registries: {https://r.example: {}}",
        "registries: {r.example/app: {}}",
        "registries: {nginx: {}}",
        "registries: {index.docker.io: {}}",
        "read_timeout_s: 0",
        "read_timeout_s: -1",
        "read_timeout_s: '5'",
        "read_timeout_s: true",
        "read_timeout_s: .nan",
        "connect_timeout_s: .inf",
        "tries: 1.5",
        "#" * (1 << 21),
    ],
)
def test_a_malformed_file_is_named(system: Path, text: str) -> None:
    """It is refused as a whole, with the place of the mistake."""
    system.write_text(text)
    with pytest.raises(InvalidSpecError) as error:
        RegistryConfig.read()
    assert str(system) in str(error.value)
    assert len(str(error.value)) < 1000


def test_a_file_that_cannot_be_read_is_named(system: Path) -> None:
    """It may say what must be kept to."""
    system.mkdir()
    with pytest.raises(InvalidSpecError):
        RegistryConfig.read()


# --- proxies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "scheme", "expected"),
    [
        ({}, "https", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https", "http://p:1"),
        ({"https_proxy": "p:1"}, "https", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:1"}, "https", "http://p:1"),
        ({"HTTPS_PROXY": "", "https_proxy": "http://q:1"}, "https", "http://q:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http", None),
        ({"HTTP_PROXY": "https://p:1"}, "http", "https://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https", None),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, "http", None),
        ({"HTTP_PROXY": "http://[::1]:1"}, "http", "http://[::1]:1"),
    ],
)
def test_proxies_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], scheme: str, expected: str | None
) -> None:
    """By the scheme of the request, uppercase first; a web server's client names none."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(scheme, "r.example", 443)
    assert (found.url if found else None) == expected


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "used"),
    [
        ("", "r.example", 443, True),
        ("*", "r.example", 443, False),
        ("r.example", "r.example", 443, False),
        ("example", "r.example", 443, False),
        (".example", "r.example", 443, False),
        ("*.example", "r.example", 443, False),
        ("other, R.Example ", "r.example", 443, False),
        ("xample", "r.example", 443, True),
        ("r.example:5000", "r.example", 443, True),
        ("r.example:443", "r.example", 443, False),
        ("10.0.0.0/8", "10.1.2.3", 443, False),
        ("10.0.0.0/8", "11.1.2.3", 443, True),
        ("10.1.2.3", "10.1.2.3", 443, False),
        ("2001:db8::/32", "2001:db8::1", 443, False),
        ("", "localhost", 443, False),
        ("", "127.0.0.1", 443, False),
        ("", "::1", 443, False),
    ],
)
def test_who_is_reached_without(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, port: int, used: bool
) -> None:
    """Names with all below them, addresses, networks; and this machine."""
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for("https", host, port) is not None) == used


def test_a_proxy_s_password_is_not_in_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor shown."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:p%40ss@p.example:1")
    found = proxy_for("https", "r.example", 443)
    assert found
    assert (found.url, found.authorization) == ("http://p.example:1", "user:p@ss")
    assert "p@ss" not in repr(found)


@pytest.mark.parametrize(
    "text", ["socks5://u:s3cret@p:1", "http://", "http://u:s3cret@p:x", "http://[u:s3cret"]
)
def test_a_proxy_that_cannot_be_used_is_named_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """No request goes round it unnoticed."""
    monkeypatch.setenv("HTTPS_PROXY", text)
    with pytest.raises(InvalidSpecError) as error:
        proxy_for("https", "r.example", 443)
    assert "HTTPS_PROXY" in str(error.value)
    assert "s3cret" not in str(error.value)
