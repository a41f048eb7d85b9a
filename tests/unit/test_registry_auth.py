"""Authentication: challenges, tokens, and who gets what of ours."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.errors import FormatError, RegistryAuthError, RegistryError
from lxcwrap.oci import OCI_MANIFEST, Reference, digest_of
from lxcwrap.registry.auth import parse_challenges
from lxcwrap.registry.client import Repository, connect
from lxcwrap.registry.config import RegistrySettings
from lxcwrap.registry.credentials import Credentials
from tests.middlemen import make_certificates
from tests.registries import PASSWORD, QUICK, USER, Exchange, FakeRegistry, be_nobody, fake_registry

KNOWN = Credentials(username=USER, password=PASSWORD)
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_nobody(monkeypatch, tmp_path)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry(log_in="token") as server:
        server.add_manifest("1", b"{}", OCI_MANIFEST)
        yield server


def opened(server: FakeRegistry, credentials: Credentials | None = None) -> Repository:
    reference = Reference.parse(f"{server.name}/app")
    return connect(reference, config=QUICK, actions="pull,push", credentials=credentials)


def fails(server: FakeRegistry, credentials: Credentials | None = KNOWN) -> RegistryAuthError:
    """How asking for a manifest fails."""
    with opened(server, credentials) as repository, pytest.raises(RegistryAuthError) as error:
        repository.manifest("1")
    return error.value


def asked_for_tokens(server: FakeRegistry) -> list[dict[str, list[str]]]:
    """What was asked of /token, by GET or POST."""
    asked = [seen for seen in server.seen if seen.target.startswith("/token")]
    return [parse_qs(urlsplit(seen.target).query) or parse_qs(seen.body.decode()) for seen in asked]


# --- challenges -----------------------------------------------------------------------------------------

BEARER = ("bearer", {"realm": "https://a/token", "service": "r"})


@pytest.mark.parametrize(
    ("headers", "challenges"),
    [
        ([], []),
        ([""], []),
        (["Basic"], [("basic", {})]),
        (['Basic realm="a, b"'], [("basic", {"realm": "a, b"})]),
        (['BEARER Realm="https://a/token",SERVICE=r'], [BEARER]),
        (['Bearer realm = "https://a/token" , service = "r"'], [BEARER]),
        (['Bearer realm="https://a/token",service="r", Basic realm=x'], [BEARER, ("basic", {"realm": "x"})]),
        (['Bearer realm="https://a/token",service="r"', "Basic"], [BEARER, ("basic", {})]),
        ([r'Basic realm="a \"b\" \\"'], [("basic", {"realm": 'a "b" \\'})]),
        (['Bearer realm="one",realm="two"'], [("bearer", {"realm": "one"})]),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (['Basic realm="not closed'], [("basic", {}), ("realm", {})]),
        (['realm="nobody"'], []),
    ],
)
def test_challenges(headers: list[str], challenges: list[tuple[str, dict[str, str]]]) -> None:
    """As RFC 9110 has them, several in one header or in several."""
    assert [(found.scheme, dict(found.parameters)) for found in parse_challenges(headers)] == challenges


@given(st.lists(st.text(alphabet='Bearer realm=",\\ \t'), max_size=3))
def test_no_challenge_is_too_strange(headers: list[str]) -> None:
    """They come from strangers."""
    parse_challenges(headers)


def test_long_challenges_are_read_quickly() -> None:
    """Also where a pattern could try in many ways."""
    for text in (
        " " * 60_000,
        "a" * 60_000,
        'a="' + "\\" * 60_000,
        "a =" * 20_000,
        "a " * 30_000,
        '"' * 60_000,
    ):
        parse_challenges([f"Basic {text}\0"])


# --- tokens ---------------------------------------------------------------------------------------------


def test_a_token_is_fetched_once(server: FakeRegistry) -> None:
    """For what we do in this repository and nothing else, whatever the challenge names; and kept."""
    with opened(server, KNOWN) as repository:
        repository.manifest("1")
        repository.put_manifest("2", b"{}", OCI_MANIFEST)
    assert asked_for_tokens(server) == [
        {"service": ["test"], "scope": ["repository:app:pull,push"], "account": [USER]}
    ]
    assert [seen.authorization for seen in server.seen] == ["", BASIC, "Bearer t0ken", "Bearer t0ken"]


def test_threads_share_a_token(server: FakeRegistry) -> None:
    """One fetches it for all."""
    with opened(server, KNOWN) as repository, ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(repository.manifest, ["1"] * 20))) == 20
    assert len(asked_for_tokens(server)) == 1


def test_anybody_may_get_a_token(server: FakeRegistry) -> None:
    """Where the token server gives them away."""
    server.log_in = "anonymous"
    with opened(server) as repository:
        assert repository.manifest("1").data == b"{}"
    assert asked_for_tokens(server) == [{"service": ["test"], "scope": ["repository:app:pull,push"]}]
    assert server.seen[1].authorization == ""


def test_an_identity_token_stands_for_a_log_in(server: FakeRegistry) -> None:
    """It goes by POST, in the body."""
    with opened(server, Credentials(identity_token="identity")) as repository:
        repository.manifest("1")
    assert server.seen[1].method == "POST"
    assert asked_for_tokens(server)[0]["grant_type"] == ["refresh_token"]


def test_a_token_that_does_no_longer_is_replaced(server: FakeRegistry) -> None:
    """Also in the midst of pushing."""
    with opened(server, KNOWN) as repository:
        repository.manifest("1")
        server.token = "an0ther"
        repository.upload(digest_of(b"data"), 4, lambda offset: iter([b"data"[offset:]]))
    assert server.blobs[digest_of(b"data")] == b"data"
    assert len(asked_for_tokens(server)) == 2


def test_tokens_expire(server: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is about to is not sent."""
    with opened(server, KNOWN) as repository:
        repository.manifest("1")
        later = time.monotonic() + 280
        monkeypatch.setattr("lxcwrap.registry.auth.time", SimpleNamespace(monotonic=lambda: later))
        repository.manifest("1")
    assert len(asked_for_tokens(server)) == 2
    assert [seen.authorization for seen in server.seen].count("") == 1


def test_mounting_needs_a_token_for_both(server: FakeRegistry) -> None:
    """To read the one repository, to write the other."""
    with opened(server, KNOWN) as repository:
        repository.mount(digest_of(b"data"), "other")
    assert asked_for_tokens(server)[0]["scope"] == ["repository:app:pull,push", "repository:other:pull"]


def test_a_token_server_in_trouble_is_asked_again(server: FakeRegistry) -> None:
    """As the registry would be."""
    server.misbehave(lambda exchange: exchange.refuse(503, "UNAVAILABLE"), path="/token", times=2)
    with opened(server, KNOWN) as repository:
        assert repository.manifest("1").data == b"{}"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 1}',
        b'{"token": "a\\r\\nX: y"}',
        b'{"token": "\xc3\xa9"}',
        b'{"token": ""}',
    ],
)
def test_a_malformed_token_is_refused(server: FakeRegistry, answer: bytes) -> None:
    """It becomes a header: it must not become two."""
    server.misbehave(lambda exchange: exchange.reply(200, answer), path="/token")
    with opened(server, KNOWN) as repository, pytest.raises((RegistryAuthError, FormatError)):
        repository.manifest("1")


def test_a_token_has_a_largest_size(server: FakeRegistry) -> None:
    """A server may write for ever."""

    def endless(exchange: Exchange) -> None:
        exchange.begin(200, None)
        while True:
            exchange.wfile.write(b" " * 65536)

    server.misbehave(endless, path="/token")
    with opened(server, KNOWN) as repository, pytest.raises(FormatError):
        repository.manifest("1")


# --- refusals -------------------------------------------------------------------------------------------


def test_wrong_credentials_are_told(server: FakeRegistry) -> None:
    """With the registry and the token server's answer; the password is not."""
    error = fails(server, Credentials(username=USER, password="wr0ng"))
    assert (error.registry, error.status) == (server.name, 401)
    assert "incorrect username or password" in error.reason
    assert "wr0ng" not in str(error)


def test_nobody_is_told_to_log_in(server: FakeRegistry) -> None:
    """With the command for it."""
    assert f"docker login {server.name}" in fails(server, None).reason


def test_what_is_forbidden_is_told(server: FakeRegistry) -> None:
    """The credentials are right, and do not suffice: nothing is tried again."""
    server.misbehave(lambda exchange: exchange.refuse(403, "DENIED", "not yours"), path="/manifests/")
    error = fails(server)
    assert (error.status, len(server.seen)) == (403, 1)
    assert "not yours" in error.reason


def test_a_token_that_does_not_do_is_not_tried_for_ever(server: FakeRegistry) -> None:
    """A registry that refuses whatever it gets."""
    server.misbehave(
        lambda exchange: exchange.refuse(
            401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{server.realm}"'
        ),
        path="/manifests/",
    )
    fails(server)
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    "challenge", ["", "Negotiate", "Bearer", 'Bearer realm=""', 'Bearer realm="file:///x"']
)
def test_strange_challenges_are_refused(server: FakeRegistry, challenge: str) -> None:
    """What we cannot do, or where we do not go."""
    server.misbehave(lambda exchange: exchange.refuse(401, "UNAUTHORIZED", WWW_Authenticate=challenge))
    with opened(server, KNOWN) as repository, pytest.raises((RegistryError, FormatError)):
        repository.manifest("1")


# --- who gets what --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 503])
@pytest.mark.parametrize("log_in", ["token", "basic"])
def test_secrets_are_not_told(
    server: FakeRegistry, status: int, log_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A registry may repeat what it was sent, in any form: errors and logs have none of it."""
    caplog.set_level("DEBUG")
    server.log_in = log_in
    with opened(server, KNOWN) as repository:
        repository.manifest("1")
        told = f"you are {BASIC} {PASSWORD} Bearer {server.token}"
        server.misbehave(lambda exchange: exchange.refuse(status, "NO", told))
        with pytest.raises(RegistryError) as error:
            repository.manifest("1")
    secrets = [BASIC.removeprefix("Basic "), PASSWORD] + ([server.token] if log_in == "token" else [])
    for secret in secrets:
        assert secret not in f"{error.value!r} {error.value} {error.value.__cause__} {caplog.text}"
    assert PASSWORD not in repr(KNOWN)


def test_a_realm_without_tls_gets_nothing(tmp_path: Path) -> None:
    """A registry with TLS must not have us send a password, or fetch a token, in the clear."""
    certificates = make_certificates(tmp_path)
    with fake_registry() as eavesdropper, fake_registry(log_in="token", tls=certificates.server) as server:
        server.realm = eavesdropper.realm
        settings = RegistrySettings(plain_http=False, ca_file=str(certificates.authority))
        config = evolve(QUICK, registries={server.name: settings})
        reference = Reference.parse(f"{server.name}/app")
        with (
            connect(reference, config=config, actions="pull", credentials=KNOWN) as repository,
            pytest.raises(RegistryError),
        ):
            repository.manifest("1")
        assert not eavesdropper.seen


def test_credentials_do_not_follow_a_redirect(server: FakeRegistry) -> None:
    """Neither from the token server nor, by basic authentication, from the registry."""
    with fake_registry() as other:
        other.misbehave(lambda exchange: exchange.reply(200, json.dumps({"token": server.token}).encode()))
        server.misbehave(lambda exchange: exchange.reply(307, Location=f"{other.url}/token"), path="/token")
        with opened(server, KNOWN) as repository:
            repository.manifest("1")
        server.log_in = "basic"
        with opened(server, KNOWN) as repository:
            repository.manifest("1")
            server.misbehave(
                lambda exchange: exchange.reply(307, Location=f"{other.url}/x"), path="/manifests/"
            )
            repository.manifest("1")
        assert [seen.authorization for seen in other.seen] == ["", ""]


def test_an_upload_elsewhere_is_without_credentials(server: FakeRegistry) -> None:
    """The registry may keep uploads at another server."""
    with fake_registry() as other:
        other.uploads["u"] = bytearray()
        place = f"{other.url}/v2/app/blobs/uploads/u"
        with opened(server, KNOWN) as repository:
            repository.manifest("1")
            server.misbehave(lambda exchange: exchange.reply(202, Location=place), method="POST")
            repository.upload(digest_of(b"data"), 4, lambda offset: iter([b"data"[offset:]]))
        assert [seen.authorization for seen in other.seen] == [""]
        assert digest_of(b"data") in other.blobs


def test_mirrors_have_credentials_of_their_own(
    server: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry's are not theirs, even if given for this call."""
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    with fake_registry(log_in="basic") as mirror:
        entry = {"auth": base64.b64encode(b"mirror:own").decode()}
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {mirror.name: entry}}))
        config = evolve(QUICK, registries={server.name: RegistrySettings(mirrors=(mirror.url,))})
        reference = Reference.parse(f"{server.name}/app")
        with connect(reference, config=config, actions="pull", credentials=KNOWN) as repository:
            assert repository.manifest("1").data == b"{}"
        assert [seen.authorization for seen in mirror.seen] == ["", f"Basic {entry['auth']}"]
