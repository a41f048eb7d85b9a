"""The client against Debian's docker-registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from lxcwrap.errors import ImageNotFoundError, RegistryAuthError, RegistryError
from lxcwrap.oci import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Digest, Reference, digest_of
from lxcwrap.registry.client import Repository, connect
from lxcwrap.registry.credentials import Credentials
from tests.middlemen import cut_line
from tests.registries import PASSWORD, QUICK, USER, be_nobody, docker_registry

SMALL, LARGE = Random(1).randbytes(10_000), Random(2).randbytes(3 << 20)
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
MISSING = digest_of(b"missing")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_nobody(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as name:
        yield name


@pytest.fixture
def repository(server: str, request: pytest.FixtureRequest) -> Iterator[Repository]:
    """One of its own for each test."""
    name = request.node.originalname.replace("_", "-")
    with connect(Reference.parse(f"{server}/{name}"), config=QUICK, actions="pull,push") as repository:
        yield repository


def upload(repository: Repository, data: bytes) -> Digest:
    digest = digest_of(data)
    repository.upload(digest, len(data), lambda offset: pieces(data[offset:]))
    return digest


def pieces(data: bytes) -> Iterator[bytes]:
    yield from (data[begin : begin + 50_000] for begin in range(0, len(data), 50_000))


def manifest() -> bytes:
    config = {"mediaType": OCI_CONFIG, "digest": digest_of(CONFIG), "size": len(CONFIG)}
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
    ).encode()


@pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_blobs_come_back_as_they_were_sent(repository: Repository, data: bytes) -> None:
    """Small ones go in one request, large ones by PATCH."""
    assert not repository.has_blob(digest_of(data))
    digest = upload(repository, data)
    assert repository.has_blob(digest)
    assert b"".join(repository.blob(digest, size=len(data))) == data
    assert b"".join(repository.blob(digest, size=None)) == data


def test_manifests_come_back_by_tag_and_digest(repository: Repository) -> None:
    """Byte for byte, with their type."""
    upload(repository, CONFIG)
    digest = repository.put_manifest("1", manifest(), OCI_MANIFEST)
    by_tag, by_digest = repository.manifest("1"), repository.manifest(digest)
    assert by_tag == by_digest
    assert (by_tag.data, by_tag.media_type, by_tag.digest) == (manifest(), OCI_MANIFEST, digest)


def test_an_index_comes_back(repository: Repository) -> None:
    """The registry is told that we take indexes, and gives one as it is."""
    upload(repository, CONFIG)
    digest = repository.put_manifest(digest_of(manifest()), manifest(), OCI_MANIFEST)
    entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(manifest())}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    repository.put_manifest("all", index, OCI_INDEX)
    assert (repository.manifest("all").data, repository.manifest("all").media_type) == (index, OCI_INDEX)


def test_tags_are_listed(repository: Repository) -> None:
    """All of them."""
    upload(repository, CONFIG)
    for tag in ("1", "2", "latest"):
        repository.put_manifest(tag, manifest(), OCI_MANIFEST)
    assert sorted(repository.tags()) == ["1", "2", "latest"]


def test_blobs_are_mounted_from_other_repositories(repository: Repository, server: str) -> None:
    """Without being sent; what is not there is not mounted, and leaves no upload behind."""
    digest = upload(repository, SMALL)
    with connect(Reference.parse(f"{server}/other"), config=QUICK, actions="pull,push") as other:
        assert other.mount(digest, repository.name)
        assert other.has_blob(digest)
        assert not other.mount(MISSING, repository.name)
        assert not other.mount(digest, "no/such/repository")


@pytest.mark.parametrize("what", ["manifest of a tag", "manifest of a digest", "blob", "tags"])
def test_what_is_missing_is_not_found(repository: Repository, what: str) -> None:
    """The error names the registry."""
    ask = {
        "manifest of a tag": lambda: repository.manifest("no"),
        "manifest of a digest": lambda: repository.manifest(MISSING),
        "blob": lambda: b"".join(repository.blob(MISSING, size=1)),
        "tags": repository.tags,
    }
    with pytest.raises(ImageNotFoundError) as error:
        ask[what]()
    assert error.value.registry == repository.registry
    assert repository.name in error.value.reference


def test_a_manifest_of_missing_blobs_is_refused(repository: Repository) -> None:
    """With the registry's reason."""
    with pytest.raises(RegistryError) as error:
        repository.put_manifest("1", manifest(), OCI_MANIFEST)
    assert error.value.status == 400
    assert "MANIFEST_BLOB_UNKNOWN" in error.value.reason


def test_content_of_another_digest_is_refused(repository: Repository) -> None:
    """The registry finds it out; nothing is stored."""
    for data in (SMALL, LARGE):
        with pytest.raises(RegistryError) as error:
            repository.upload(MISSING, len(data), lambda offset, data=data: pieces(data[offset:]))  # type: ignore[misc]
        assert "DIGEST_INVALID" in error.value.reason
    assert not repository.has_blob(MISSING)


def test_threads_share_a_repository(repository: Repository) -> None:
    """Each has a connection to itself."""
    blobs = [Random(number).randbytes(400_000) for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        digests = list(pool.map(lambda data: upload(repository, data), blobs))
        found = pool.map(lambda digest: b"".join(repository.blob(digest, size=400_000)), digests)
        assert list(found) == blobs


def test_basic_authentication(tmp_path: Path) -> None:
    """Nobody and the wrong password are refused, and told so; the right one may push."""
    with docker_registry(tmp_path, log_in=True) as server:
        reference = Reference.parse(f"{server}/app")
        for credentials in (None, Credentials(username=USER, password="wrong")):
            with (
                connect(reference, config=QUICK, actions="pull", credentials=credentials) as repository,
                pytest.raises(RegistryAuthError) as error,
            ):
                repository.manifest("1")
            assert (error.value.registry, error.value.status) == (server, 401)
            assert "wrong" not in str(error.value)
        known = Credentials(username=USER, password=PASSWORD)
        with connect(reference, config=QUICK, actions="pull,push", credentials=known) as repository:
            assert b"".join(repository.blob(upload(repository, SMALL), size=len(SMALL))) == SMALL


def test_a_line_that_is_cut_is_made_again(server: str) -> None:
    """This registry gives up an upload that broke off, so it begins again; a download goes on."""
    with (
        cut_line(server, [1_000_000] * 2) as line,
        connect(Reference.parse(f"{line}/cut"), config=QUICK, actions="pull,push") as repository,
    ):
        digest = upload(repository, LARGE)
    with (
        cut_line(server, [1_000_000] * 3) as line,
        connect(Reference.parse(f"{line}/cut"), config=QUICK, actions="pull") as repository,
    ):
        assert b"".join(repository.blob(digest, size=len(LARGE))) == LARGE
