"""Credentials: Podman's and Docker's files, and the programs these name."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from lxcwrap.errors import InvalidSpecError, RegistryAuthError
from lxcwrap.registry import credentials
from lxcwrap.registry.credentials import Credentials, find_credentials
from tests.registries import be_nobody


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    be_nobody(monkeypatch, tmp_path)
    return tmp_path


def write(path: Path, **members: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(members))


def entry(user: str, password: str = "p:w") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def user(registry: str = "r.example", repository: str = "team/app") -> str | None:
    found = find_credentials(registry, repository)
    return found.username if found else None


def helper(directory: Path, name: str, script: str) -> None:
    path = directory / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of helpers, on the path."""
    (home / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    return home / "bin"


def test_nobody_has_none() -> None:
    """Without files there is nothing to find."""
    assert find_credentials("r.example", "app") is None


@pytest.mark.parametrize(
    "file", ["run/containers/auth.json", ".config/containers/auth.json", ".docker/config.json"]
)
def test_all_usual_files_are_read(home: Path, file: str) -> None:
    """Podman's and Docker's; the password may have colons."""
    write(home / file, auths={"r.example": entry("u")})
    assert find_credentials("r.example", "app") == Credentials(username="u", password="p:w")
    assert find_credentials("other.example", "app") is None


def test_the_first_file_that_knows_the_registry_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Podman's before Docker's; REGISTRY_AUTH_FILE instead of them all."""
    write(home / ".docker/config.json", auths={"r.example": entry("docker"), "d.example": entry("docker")})
    write(home / "run/containers/auth.json", auths={"r.example": entry("podman")})
    assert (user(), user("d.example")) == ("podman", "docker")
    write(home / "docker/config.json", auths={"d.example": entry("moved")})
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    assert user("d.example") == "moved"
    write(home / "only.json", auths={"r.example": entry("only")})
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "only.json"))
    assert (user(), user("d.example")) == ("only", None)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "no.json"))
    with pytest.raises(InvalidSpecError):
        user()


def test_the_longest_name_wins(home: Path) -> None:
    """Podman keeps credentials for parts of a registry."""
    auths = {
        name: entry(name) for name in ("r.example", "r.example/team", "r.example/team/app", "r.example/te")
    }
    write(home / "run/containers/auth.json", auths=auths)
    assert user() == "r.example/team/app"
    assert user(repository="team/other") == "r.example/team"
    assert user(repository="teams/app") == "r.example"


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("https://r.example/v2/", "r.example"),
        ("http://r.example:5000", "r.example:5000"),
        ("r.example:5000", "r.example:5000"),
        ("[::1]:5000", "[::1]:5000"),
    ],
)
def test_docker_writes_names_in_many_ways(home: Path, key: str, registry: str) -> None:
    """All of them mean the registry; nobody else's name does."""
    write(home / ".docker/config.json", auths={key: entry("u")})
    assert user(registry) == "u"
    assert user("example") is user("r.example:5001") is None


def test_identity_tokens_and_plain_members(home: Path) -> None:
    """What older and other clients write."""
    auths = {
        "token.example": {"identitytoken": "t"},
        "plain.example": {"username": "u", "password": "p"},
        "empty.example": {},
    }
    write(home / ".docker/config.json", auths=auths)
    assert find_credentials("token.example", "a") == Credentials(identity_token="t")
    assert find_credentials("plain.example", "a") == Credentials(username="u", password="p")
    assert find_credentials("empty.example", "a") is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": []}',
        '{"auths": {"r.example": 1}}',
        '{"auths": {"r.example": {"auth": ["s3cret"]}}}',
        '{"auths": {"r.example": {"auth": "s3cret!"}}}',
        '{"credHelpers": {"r.example": 1}}',
    ],
)
def test_a_malformed_file_is_named_and_not_quoted(home: Path, text: str) -> None:
    """It holds secrets, perhaps in the wrong place."""
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(text)
    with pytest.raises(InvalidSpecError) as error:
        user()
    assert "config.json" in str(error.value)
    assert "s3cret" not in str(error.value)


def test_a_helper_is_asked(home: Path, programs: Path) -> None:
    """For one registry or for all; by name, or by URL for Docker's; a log-in comes as a user of its own."""
    helper(
        programs,
        "one",
        'read server; printf \'{"ServerURL":"","Username":"%s","Secret":"s"}\' "${server#*:}"',
    )
    helper(programs, "all", 'echo \'{"Username":"<token>","Secret":"identity"}\'')
    write(
        home / ".docker/config.json", credHelpers={"r.example": "one", "docker.io": "one"}, credsStore="all"
    )
    assert find_credentials("r.example", "a") == Credentials(username="r.example", password="s")
    assert user("docker.io") == "//index.docker.io/v1/"
    assert find_credentials("else.example", "a") == Credentials(identity_token="identity")


def test_a_helper_may_have_nothing(home: Path, programs: Path) -> None:
    """That is no failure: the next file may know."""
    helper(programs, "none", "echo credentials not found in native keychain; exit 1")
    write(home / "run/containers/auth.json", credHelpers={"r.example": "none"})
    assert user() is None
    write(home / ".docker/config.json", auths={"r.example": entry("u")})
    assert user() == "u"


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("missing", ""),
        ("../../../bin/sh", ""),
        ("-x", ""),
        ("a b", ""),
        ("fails", "echo s3cret; echo s3cret >&2; exit 2"),
        ("garbles", "echo s3cret"),
        ("lists", 'echo \'{"Username": ["s3cret"]}\''),
        ("sleeps", "exec sleep 60"),
        ("colons", 'echo \'{"Username": "a:b", "Secret": "s3cret"}\''),
    ],
)
def test_a_helper_that_fails_is_named_and_not_quoted(
    home: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str
) -> None:
    """No silent attempt as nobody; what it wrote may be the secret."""
    monkeypatch.setattr(credentials, "_HELPER_TIMEOUT_S", 0.2)
    if script:
        helper(programs, name, script)
    write(home / ".docker/config.json", credHelpers={"r.example": name})
    with pytest.raises(RegistryAuthError) as error:
        user()
    assert error.value.registry == "r.example"
    assert name in error.value.reason
    assert "s3cret" not in f"{error.value} {error.value.__cause__}"


@pytest.mark.parametrize("wrong", [{}, {"username": "a:b"}, {"password": "p"}])
def test_credentials_name_somebody(wrong: dict[str, str]) -> None:
    """A user whose name can be sent, or a token."""
    with pytest.raises(InvalidSpecError):
        Credentials(**wrong)


def test_a_helper_s_name_is_no_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the current directory is not run."""
    (home / "docker-credential-x").mkdir()
    (home / "docker-credential-x/y").write_text('#!/bin/sh\necho \'{"Username":"u","Secret":"s"}\'\n')
    (home / "docker-credential-x/y").chmod(0o755)
    monkeypatch.chdir(home)
    write(home / ".docker/config.json", credHelpers={"r.example": "x/y"})
    with pytest.raises(RegistryAuthError):
        user()
