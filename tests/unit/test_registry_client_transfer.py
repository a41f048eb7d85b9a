"""Blobs on their way, from and to a registry that misbehaves."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from attrs import evolve

from lxcwrap.errors import FormatError, ImageNotFoundError, RegistryError
from lxcwrap.oci import Digest, Reference, digest_of
from lxcwrap.registry.client import Repository, connect
from lxcwrap.registry.config import RegistrySettings
from tests.registries import QUICK, Exchange, FakeRegistry, be_nobody, fake_registry

DATA = Random(3).randbytes(2 << 20)
SIZE = len(DATA)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_nobody(monkeypatch, tmp_path)


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with fake_registry() as server:
        yield server


@pytest.fixture
def repository(server: FakeRegistry) -> Iterator[Repository]:
    with connect(Reference.parse(f"{server.name}/app"), config=QUICK, actions="pull,push") as repository:
        yield repository


def pull(repository: Repository, digest: Digest, size: int | None = SIZE) -> bytes:
    return b"".join(repository.blob(digest, size=size))


def rest(exchange: Exchange) -> int:
    """The byte from which on a blob is wanted."""
    return int((re.findall(r"\d+", exchange.headers.get("Range", "")) or ["0"])[0])


def break_off(exchange: Exchange, after: int = 300_000) -> None:
    """Give some of what was asked for, and no more."""
    begin = rest(exchange)
    place = {"Content_Range": f"bytes {begin}-{SIZE - 1}/{SIZE}"} if begin else {}
    exchange.begin(206 if begin else 200, SIZE - begin, **place)
    exchange.wfile.write(DATA[begin : begin + after])
    exchange.hang_up()


# --- downloads ------------------------------------------------------------------------------------------


def test_a_broken_download_goes_on_where_it_ended(server: FakeRegistry, repository: Repository) -> None:
    """As often as it comes further, also more often than it tries without."""
    server.misbehave(break_off, path="/blobs/")
    digest = server.add_blob(DATA)
    assert pull(repository, digest) == DATA
    begins = [int((re.findall(r"\d+", seen.range) or ["0"])[0]) for seen in server.seen]
    assert begins == sorted(set(begins))
    assert len(begins) > QUICK.tries


def test_a_trickle_does_not_keep_us_for_ever(server: FakeRegistry, repository: Repository) -> None:
    """Some bytes at a time are no progress."""
    server.misbehave(lambda exchange: break_off(exchange, 100), path="/blobs/")
    with pytest.raises(RegistryError):
        pull(repository, server.add_blob(DATA))
    assert len(server.seen) == QUICK.tries


def test_what_is_there_is_skipped_if_ranges_are_ignored(server: FakeRegistry, repository: Repository) -> None:
    """Such a registry sends all again."""
    digest = server.add_blob(DATA)
    server.misbehave(break_off, path="/blobs/", times=1)
    server.misbehave(lambda exchange: exchange.reply(200, DATA), path="/blobs/")
    assert pull(repository, digest) == DATA
    assert server.seen[-1].range


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_registry_in_trouble_is_asked_again(
    server: FakeRegistry, repository: Repository, status: int
) -> None:
    """For manifests and blobs alike."""
    server.misbehave(lambda exchange: exchange.refuse(status, "TOOMANYREQUESTS"), times=2)
    assert pull(repository, server.add_blob(DATA)) == DATA
    server.misbehave(lambda exchange: exchange.refuse(status, "TOOMANYREQUESTS"), times=2)
    server.add_manifest("1", b"{}", "x/y")
    assert repository.manifest("1").data == b"{}"


def test_it_gives_up_in_the_end(server: FakeRegistry, repository: Repository) -> None:
    """With what the registry said last."""
    server.misbehave(lambda exchange: exchange.refuse(503, "UNAVAILABLE", "in the workshop"))
    with pytest.raises(RegistryError) as error:
        pull(repository, server.add_blob(DATA))
    assert (error.value.status, len(server.seen)) == (503, QUICK.tries)
    assert "in the workshop" in error.value.reason


def test_retry_after_is_kept(server: FakeRegistry, repository: Repository) -> None:
    """It is not asked again earlier."""
    server.misbehave(lambda exchange: exchange.refuse(429, "TOOMANYREQUESTS", Retry_After="1"), times=1)
    begin = time.monotonic()
    assert pull(repository, server.add_blob(DATA)) == DATA
    assert time.monotonic() - begin >= 1


@pytest.mark.parametrize("wanted", ["3600", "9" * 5000, "Fri, 31 Dec 2199 23:59:59 GMT"])
def test_nobody_waits_for_hours(server: FakeRegistry, repository: Repository, wanted: str) -> None:
    """A registry that asks for it is given up at once; a nonsensical number is none."""
    server.misbehave(lambda exchange: exchange.refuse(429, "TOOMANYREQUESTS", Retry_After=wanted))
    with pytest.raises(RegistryError) as error:
        pull(repository, server.add_blob(DATA))
    assert error.value.status == 429
    assert len(server.seen) == (QUICK.tries if len(wanted) > 100 else 1)


def test_never_more_than_announced(server: FakeRegistry, repository: Repository) -> None:
    """A body without end is left after as many bytes as there should be."""

    def endless(exchange: Exchange) -> None:
        exchange.begin(200, None)
        while True:
            exchange.wfile.write(bytes(1 << 16))

    server.misbehave(endless, path="/blobs/")
    got = 0
    with pytest.raises(FormatError):
        for chunk in repository.blob(digest_of(DATA), size=100_000):
            got += len(chunk)
    assert got == 100_000


def test_a_length_that_lies_is_refused(server: FakeRegistry, repository: Repository) -> None:
    """What has another length cannot be the blob: nothing of it is read."""
    digest = server.add_blob(DATA)
    for size in (SIZE - 1, SIZE + 1):
        with pytest.raises(FormatError):
            next(repository.blob(digest, size=size))


@pytest.mark.parametrize(
    "place",
    [
        "",
        "bytes x",
        f"bytes 0-{SIZE - 1}/{SIZE}",
        f"bytes 300001-{SIZE - 1}/{SIZE}",
        f"bytes 300000-{SIZE - 1}/{SIZE + 1}",
    ],
)
def test_another_range_than_asked_for_is_refused(
    server: FakeRegistry, repository: Repository, place: str
) -> None:
    """It would be put together wrongly."""
    server.misbehave(break_off, path="/blobs/", times=1)
    server.misbehave(lambda exchange: exchange.reply(206, b"x" * 100, Content_Range=place), path="/blobs/")
    with pytest.raises(FormatError):
        pull(repository, server.add_blob(DATA))


def test_a_blob_that_shrank_is_refused(server: FakeRegistry, repository: Repository) -> None:
    """No such range: there is nothing more to be had."""
    server.misbehave(break_off, path="/blobs/", times=1)
    server.misbehave(lambda exchange: exchange.refuse(416, "RANGE_INVALID"), path="/blobs/")
    with pytest.raises(FormatError):
        pull(repository, server.add_blob(DATA))


def test_garbage_instead_of_an_answer_is_an_error(server: FakeRegistry, repository: Repository) -> None:
    """Also headers without end."""

    def garbage(exchange: Exchange) -> None:
        exchange.wfile.write(b"\0" * 1000 + b"\r\n\r\n")
        exchange.hang_up()

    def headers(exchange: Exchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            exchange.wfile.write(b"X-More: and more\r\n" * 100)

    for behaviour in (garbage, headers):
        server.misbehave(behaviour, path="/blobs/", times=QUICK.tries)
        with pytest.raises(RegistryError):
            pull(repository, server.add_blob(DATA))


def test_closing_ends_the_transfer(server: FakeRegistry, repository: Repository) -> None:
    """Whoever stops reading is not kept by what is left."""
    chunks = repository.blob(server.add_blob(DATA), size=SIZE)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert pull(repository, digest_of(DATA)) == DATA


def test_a_mirror_that_breaks_off_is_followed_by_the_registry(server: FakeRegistry) -> None:
    """From the byte reached."""
    with fake_registry() as mirror:
        config = evolve(QUICK, registries={server.name: RegistrySettings(mirrors=(mirror.url,))})
        mirror.misbehave(break_off, path="/blobs/", times=1)
        digest = server.add_blob(DATA)
        with connect(Reference.parse(f"{server.name}/app"), config=config, actions="pull") as repository:
            assert pull(repository, digest) == DATA
        assert (len(mirror.seen), [seen.range for seen in server.seen]) == (1, ["bytes=300000-"])


# --- uploads --------------------------------------------------------------------------------------------


class Source:
    """Content to push, which notes from where on it is wanted."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.offsets: list[int] = []

    def open(self, offset: int) -> Iterator[bytes]:
        self.offsets.append(offset)
        yield from (self.data[begin : begin + 65536] for begin in range(offset, len(self.data), 65536))


def take_some(exchange: Exchange) -> None:
    """Take a part of what is sent, and hang up."""
    registry, upload = exchange.server.registry, exchange.path.rpartition("/")[2]
    registry.uploads[upload] += exchange.rfile.read(500_000)
    exchange.hang_up()


def test_a_broken_upload_goes_on_where_it_ended(server: FakeRegistry, repository: Repository) -> None:
    """The registry is asked how far it came."""
    server.misbehave(take_some, method="PATCH", times=2)
    source = Source()
    repository.upload(digest_of(DATA), SIZE, source.open)
    assert source.offsets == [0, 500_000, 1_000_000]
    assert server.blobs[digest_of(DATA)] == DATA


@pytest.mark.parametrize("status", [404, 204])
def test_an_upload_that_is_forgotten_begins_again(
    server: FakeRegistry, repository: Repository, status: int
) -> None:
    """The registry does not know how far it came, or says what cannot be."""

    def forget(exchange: Exchange) -> None:
        exchange.reply(status, Location=exchange.path, Range="0-99999999")

    server.misbehave(take_some, method="PATCH", times=1)
    server.misbehave(forget, method="GET", times=1)
    source = Source()
    repository.upload(digest_of(DATA), SIZE, source.open)
    assert source.offsets == [0, 0]
    assert server.blobs[digest_of(DATA)] == DATA


def test_a_small_upload_begins_again(server: FakeRegistry, repository: Repository) -> None:
    """It is one request."""
    server.misbehave(lambda exchange: exchange.hang_up(), method="PUT", times=2)
    source = Source(b"small")
    repository.upload(digest_of(b"small"), 5, source.open)
    assert source.offsets == [0, 0, 0]
    assert server.blobs[digest_of(b"small")] == b"small"


def test_an_upload_gives_up_in_the_end(server: FakeRegistry, repository: Repository) -> None:
    """After as many tries as any request."""
    server.misbehave(lambda exchange: exchange.hang_up(), method="PATCH")
    source = Source()
    with pytest.raises(RegistryError):
        repository.upload(digest_of(DATA), SIZE, source.open)
    assert source.offsets == [0] * QUICK.tries


@pytest.mark.parametrize("error", [OSError(5, "disk"), KeyboardInterrupt(), ValueError("own")])
def test_what_reading_the_content_raises_comes_through(
    server: FakeRegistry, repository: Repository, error: BaseException
) -> None:
    """It is no failure of the connection, and not tried again."""

    def broken(offset: int) -> Iterator[bytes]:
        yield DATA[:65536]
        raise error

    with pytest.raises(type(error)) as caught:
        repository.upload(digest_of(DATA), SIZE, broken)
    assert caught.value is error


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_content_of_another_length_is_not_sent(
    server: FakeRegistry, repository: Repository, size: int
) -> None:
    """What was announced to the registry has to come."""
    with pytest.raises(FormatError):
        repository.upload(digest_of(DATA), size, Source().open)
    assert not server.blobs


def test_an_upload_without_a_place_is_refused(server: FakeRegistry, repository: Repository) -> None:
    """Where to send it is for the registry to say."""
    server.misbehave(lambda exchange: exchange.reply(202), method="POST")
    with pytest.raises(FormatError):
        repository.upload(digest_of(DATA), SIZE, Source().open)


def test_a_missing_repository_is_an_image_not_found(server: FakeRegistry, repository: Repository) -> None:
    """A blob that is not there is not tried again."""
    with pytest.raises(ImageNotFoundError):
        pull(repository, digest_of(b"no"))
    assert len(server.seen) == 1
