"""How requests travel: redirects, TLS, proxies, mirrors; and what of them is told."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from lxcwrap.errors import DigestMismatchError, FormatError, InvalidSpecError, RegistryError
from lxcwrap.oci import OCI_MANIFEST, Reference, digest_of
from lxcwrap.registry import transport
from lxcwrap.registry.client import Repository, connect
from lxcwrap.registry.config import Endpoint, RegistrySettings
from tests.middlemen import Certificates, make_certificates, proxy
from tests.registries import QUICK, Exchange, FakeRegistry, be_nobody, fake_registry

DATA = bytes(range(256)) * 100
DIGEST = digest_of(DATA)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_nobody(monkeypatch, tmp_path)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def opened(name: str, **settings: Any) -> Repository:
    config = evolve(QUICK, registries={name: RegistrySettings(**settings)})
    return connect(Reference.parse(f"{name}/app"), config=config, actions="pull,push")


def pull(repository: Repository) -> bytes:
    with repository:
        return b"".join(repository.blob(DIGEST, size=len(DATA)))


def redirect(exchange: Exchange, location: str, status: int = 307) -> None:
    exchange.reply(status, Location=location)


# --- redirects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_blobs_may_be_elsewhere(server: FakeRegistry, status: int) -> None:
    """Registries keep them at others, who are not told who we are."""
    server.log_in = "anonymous"
    with fake_registry() as storage:
        storage.misbehave(lambda exchange: exchange.reply(200, DATA), path="/blob")
        place = f"{storage.url}/blob?signature=1"
        with opened(server.name) as repository:
            server.add_manifest("1", b"{}", OCI_MANIFEST)
            repository.manifest("1")  # brings the token
            server.misbehave(lambda exchange: redirect(exchange, place, status), path="/blobs/")
            assert pull(repository) == DATA
        assert server.seen[-1].authorization
        assert [seen.authorization for seen in storage.seen] == [""]


def test_a_redirect_to_the_same_registry_keeps_the_authorization(server: FakeRegistry) -> None:
    """It is still the one that we identify ourselves to."""
    server.log_in = "anonymous"
    server.add_blob(DATA)
    server.misbehave(lambda exchange: redirect(exchange, f"/v2/moved/blobs/{DIGEST}"), path="/v2/app/blobs")
    with opened(server.name) as repository:
        server.add_manifest("1", b"{}", OCI_MANIFEST)
        repository.manifest("1")
        assert pull(repository) == DATA
    assert server.seen[-1].authorization == "Bearer t0ken"


def test_redirects_end(server: FakeRegistry) -> None:
    """A circle is left."""
    server.misbehave(lambda exchange: redirect(exchange, exchange.path))
    with pytest.raises(RegistryError):
        pull(opened(server.name))
    assert len(server.seen) == 6


@pytest.mark.parametrize(
    ("origin", "location"),
    [
        ("http://registry.example", "file:///etc/passwd"),
        ("http://registry.example", "ftp://other.example/"),
        ("http://registry.example", "gopher://x"),
        ("http://registry.example", "http://169.254.169.254/latest/meta-data"),
        ("http://registry.example", "http://[fe80::1]/"),
        ("http://registry.example", "http://127.0.0.1:8080/"),
        ("http://registry.example", "http://localhost/"),
        ("http://registry.example", "http://[::1]/"),
        ("http://registry.example", "http://user@127.0.0.1/"),
        ("http://registry.example", "http://0.0.0.0/"),
        ("http://registry.example", "http://[::ffff:127.0.0.1]/"),
        ("http://127.0.0.1:5000", "http://[::ffff:169.254.169.254]/"),
        ("http://registry.example", "http://x:99999999/"),
        ("http://registry.example", "http://[::1"),
        ("https://registry.example", "http://registry.example/"),
        ("https://registry.example", "http://other.example/"),
        ("http://127.0.0.1:5000", "http://169.254.169.254/"),
        ("http://127.0.0.1:5000", "file:///etc/passwd"),
    ],
)
def test_where_we_are_not_sent(origin: str, location: str) -> None:
    """Not out of HTTP or TLS, not to this machine's own services, not to what clouds keep for it."""
    endpoint = Endpoint(name="r", origin=origin, repository="app", settings=RegistrySettings())
    with pytest.raises(RegistryError):
        transport.Transport(endpoint, QUICK).resolve("pull", f"{origin}/v2/", location)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "other.example"])
def test_what_a_name_resolves_to_is_looked_at(
    server: FakeRegistry, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A stranger's address is that of its connection, however it is written. Nothing is sent there."""
    real = socket.getaddrinfo
    here = {"registry.example": "127.0.0.1", "other.example": "127.0.0.1"}
    monkeypatch.setattr("socket.getaddrinfo", lambda name, *rest: real(here.get(name, name), *rest))
    port = server.name.partition(":")[2]
    server.misbehave(lambda exchange: redirect(exchange, f"http://{host}:{port}/"))
    with pytest.raises(RegistryError):
        pull(opened(f"registry.example:{port}", plain_http=True))
    assert {seen.target for seen in server.seen} == {f"/v2/app/blobs/{DIGEST}"}


def test_an_upload_is_not_redirected(server: FakeRegistry) -> None:
    """What is sent goes where it was to go, or nowhere."""
    server.misbehave(lambda exchange: redirect(exchange, "/elsewhere"), method="POST")
    with opened(server.name) as repository, pytest.raises(RegistryError) as error:
        repository.upload(DIGEST, len(DATA), lambda offset: iter([DATA[offset:]]))
    assert error.value.status == 307


# --- TLS ------------------------------------------------------------------------------------------------


def test_certificates_are_verified(certificates: Certificates) -> None:
    """An unknown authority is refused, at once; one named in the configuration is trusted."""
    with fake_registry(tls=certificates.server) as server:
        server.add_blob(DATA)
        with pytest.raises(RegistryError) as error:
            pull(opened(server.name, plain_http=False))
        assert "ca_file" in error.value.reason
        assert type(error.value) is RegistryError
        assert pull(opened(server.name, plain_http=False, ca_file=str(certificates.authority))) == DATA


def test_we_identify_ourselves_by_certificate(certificates: Certificates) -> None:
    """Where the registry wants that."""
    with fake_registry(tls=certificates.server, client_authority=certificates.authority) as server:
        server.add_blob(DATA)
        trusting: dict[str, Any] = {"plain_http": False, "ca_file": str(certificates.authority)}
        with pytest.raises(RegistryError):
            pull(opened(server.name, **trusting))
        certificate, key = certificates.client
        known = {"client_cert": str(certificate), "client_key": str(key)}
        assert pull(opened(server.name, **trusting, **known)) == DATA


def test_a_certificate_that_cannot_be_used_is_named(certificates: Certificates) -> None:
    """A wrong path is the configuration's mistake."""
    with pytest.raises(InvalidSpecError) as error:
        pull(opened("127.0.0.1:1", plain_http=False, ca_file="/no/such.pem"))
    assert "/no/such.pem" in str(error.value)


# --- proxies --------------------------------------------------------------------------------------------


def test_plain_requests_go_through_the_proxy(server: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the registry, and is told who we are."""
    server.add_blob(DATA)
    with proxy(server.name) as (address, heads):
        monkeypatch.setenv("http_proxy", f"http://user:pa%20ss@{address}")
        assert pull(opened("registry.invalid", plain_http=True)) == DATA
    assert heads[0].startswith("GET http://registry.invalid/v2/app/blobs/")
    assert "Basic dXNlcjpwYSBzcw==" in heads[0]


def test_tls_goes_through_the_proxy(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a tunnel: the certificate is the registry's."""
    with fake_registry(tls=certificates.server) as server, proxy(server.name) as (address, heads):
        server.add_blob(DATA)
        monkeypatch.setenv("HTTPS_PROXY", address)
        assert pull(opened("registry.invalid", ca_file=str(certificates.authority))) == DATA
    assert heads[0].startswith("CONNECT registry.invalid:443 ")


def test_the_proxy_may_want_tls_itself(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS within TLS; it can be given up, too."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    with (
        fake_registry(tls=certificates.server) as server,
        proxy(server.name, tls=certificates.server) as (address, heads),
    ):
        server.add_blob(DATA)
        monkeypatch.setenv("HTTPS_PROXY", f"https://{address}")
        with opened("registry.invalid") as repository:
            chunks = repository.blob(DIGEST, size=len(DATA))
            assert next(chunks)
            repository.abort()
            with pytest.raises(RegistryError):
                repository.has_blob(DIGEST)
    assert heads[0].startswith("CONNECT registry.invalid:443 ")


def test_this_machine_is_reached_without_a_proxy(
    server: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so are those that NO_PROXY names."""
    server.add_blob(DATA)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:1")
    assert pull(opened(server.name)) == DATA


# --- mirrors --------------------------------------------------------------------------------------------


def test_mirrors_come_first(server: FakeRegistry) -> None:
    """The registry is not asked for what one of them has; below a mirror's prefix, if it has one."""
    with fake_registry() as mirror:
        mirror.add_manifest("1", b"{}", OCI_MANIFEST)
        with opened_for_pull(server, f"{mirror.url}/hub") as repository:
            assert repository.manifest("1").data == b"{}"
        assert [seen.target for seen in mirror.seen] == ["/v2/hub/app/manifests/1"]
        assert not server.seen


def opened_for_pull(server: FakeRegistry, *mirrors: str) -> Repository:
    config = evolve(QUICK, registries={server.name: RegistrySettings(mirrors=mirrors)})
    return connect(Reference.parse(f"{server.name}/app"), config=config, actions="pull")


def test_the_registry_comes_after_its_mirrors(server: FakeRegistry) -> None:
    """Mirrors that are gone, in trouble, do not have it, or lie are passed over, each after one try."""
    server.add_manifest("1", b"{}", OCI_MANIFEST)
    with fake_registry() as ill, fake_registry() as empty, fake_registry() as liar:
        ill.misbehave(lambda exchange: exchange.refuse(503, "UNAVAILABLE"))
        liar.manifests[digest_of(b"{}")] = OCI_MANIFEST, b"{ }"
        with opened_for_pull(server, "http://127.0.0.1:1", ill.url, empty.url, liar.url) as repository:
            assert repository.manifest(digest_of(b"{}")).data == b"{}"
        assert [len(place.seen) for place in (ill, empty, liar, server)] == [1, 1, 1, 1]


def test_pushing_is_for_the_registry_alone(server: FakeRegistry) -> None:
    """Mirrors only give."""
    with fake_registry() as mirror, opened(server.name, mirrors=(mirror.url,)) as repository:
        repository.put_manifest("1", b"{}", OCI_MANIFEST)
        assert repository.tags() == ("1",)
        assert not mirror.seen


# --- documents ------------------------------------------------------------------------------------------


def test_a_manifest_that_is_not_what_was_asked_for_is_refused(server: FakeRegistry) -> None:
    """By digest it must be that; by tag, what the registry says it is."""
    other = digest_of(b"other")
    server.manifests[other] = OCI_MANIFEST, b"{}"
    server.misbehave(
        lambda exchange: exchange.reply(200, b"{}", Docker_Content_Digest=other), path="manifests/lie"
    )
    with opened(server.name) as repository:
        for reference in (other, "lie"):
            with pytest.raises(DigestMismatchError) as error:
                repository.manifest(reference)
            assert (error.value.expected, error.value.actual) == (other, digest_of(b"{}"))


def test_a_manifest_has_a_largest_size(server: FakeRegistry) -> None:
    """4 MiB, as in registries; whatever length was announced."""

    def endless(exchange: Exchange) -> None:
        exchange.begin(200, None)
        while True:
            exchange.wfile.write(bytes(1 << 16))

    server.misbehave(endless, path="/manifests/")
    with opened(server.name) as repository, pytest.raises(FormatError):
        repository.manifest("1")


def test_a_manifest_that_breaks_off_is_asked_for_again(server: FakeRegistry) -> None:
    """It is short: all of it."""

    def break_off(exchange: Exchange) -> None:
        exchange.begin(200, 100)
        exchange.wfile.write(b"{")
        exchange.hang_up()

    server.add_manifest("1", b"{}", OCI_MANIFEST)
    server.misbehave(break_off, path="/manifests/", times=2)
    with opened(server.name) as repository:
        assert repository.manifest("1").data == b"{}"


def test_tags_come_in_pages(server: FakeRegistry) -> None:
    """The registry says where the next one is."""
    server.misbehave(
        lambda exchange: exchange.reply(
            200, b'{"tags": ["1", "2"]}', Link='</v2/app/tags/list?n=2&last=2>; rel="next"'
        ),
        path="/tags/",
        times=1,
    )
    server.misbehave(lambda exchange: exchange.reply(200, b'{"tags": ["3"]}'), path="/tags/", times=1)
    with opened(server.name) as repository:
        assert repository.tags() == ("1", "2", "3")
    assert server.seen[-1].target == "/v2/app/tags/list?n=2&last=2"


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{", b'{"tags": 1}', b'{"tags": [1]}', b"[" * 100_000, b"\xff"]
)
def test_malformed_documents_are_refused(server: FakeRegistry, answer: bytes) -> None:
    """As malformed, not as a failure of ours."""
    server.misbehave(lambda exchange: exchange.reply(200, answer), path="/tags/")
    with opened(server.name) as repository, pytest.raises(FormatError):
        repository.tags()


def test_tags_without_end_are_left(server: FakeRegistry) -> None:
    """Pages that lead to themselves."""
    tags = b'{"tags": [' + b",".join([b'"x"'] * 50_000) + b"]}"
    server.misbehave(lambda exchange: exchange.reply(200, tags, Link=f'<{exchange.path}>; rel="next"'))
    with opened(server.name) as repository, pytest.raises(FormatError):
        repository.tags()
    assert len(server.seen) == 3


# --- what is told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"<html>no</html>", b"{}", b'{"errors": 1}', b'{"errors": [{}]}', b"\xff", b"[" * 50_000]
)
def test_any_refusal_is_told(server: FakeRegistry, body: bytes) -> None:
    """Also one without words, or with too many."""
    server.misbehave(lambda exchange: exchange.reply(418, body))
    with opened(server.name) as repository, pytest.raises(RegistryError) as error:
        repository.manifest("1")
    assert (error.value.registry, error.value.status) == (server.name, 418)
    assert len(str(error.value)) < 1000


def test_a_refusal_cannot_write_on_the_terminal(server: FakeRegistry) -> None:
    """No control characters, no second line, no end of the story."""
    server.misbehave(lambda exchange: exchange.refuse(400, "\x1b[2J", "one\ntwo\u202e" + "x" * 50_000))
    with opened(server.name) as repository, pytest.raises(RegistryError) as error:
        repository.manifest("1")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1000


def test_signatures_stay_out_of_the_log(server: FakeRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """What follows a question mark may open a door."""
    caplog.set_level(logging.DEBUG, "lxcwrap")
    server.add_blob(DATA)
    place = f"/v2/app/blobs/{DIGEST}?signature=s3cret"
    server.misbehave(lambda exchange: redirect(exchange, place), times=1)
    assert pull(opened(server.name)) == DATA
    assert DIGEST in caplog.text
    assert "s3cret" not in caplog.text


def test_a_registry_that_is_not_there(server: FakeRegistry) -> None:
    """Nobody listens, or nobody has the name."""
    for name in ("127.0.0.1:1", "registry.invalid"):
        with pytest.raises(RegistryError) as error:
            pull(opened(name))
        assert (error.value.registry, error.value.status) == (name, None)
