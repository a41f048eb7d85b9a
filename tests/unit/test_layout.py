"""Loading images: OCI archives and layout directories, docker save archives; honest and hostile ones."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from lxcwrap.errors import ContentError, DigestMismatchError, FormatError, InvalidSpecError, UnsupportedError
from lxcwrap.oci import Platform
from lxcwrap.storage.images import ImageStore
from tests import archives
from tests.archives import Layout, config_of, digest, docker_save, oci_layout
from tests.unit.fakelayers import contents, image_store, load

BASE = archives.tar({"etc/base": b"base"})
TOP = archives.tar({"etc/top": b"top"})
AMD64 = Platform("linux", "amd64")


@pytest.fixture
def store(roots: Path) -> ImageStore:
    return image_store(Path(tempfile.mkdtemp(dir=roots)))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "app.tar"
        path.write_bytes(data)
        return path

    return write


def tags(store: ImageStore, image_id: str) -> list[str]:
    return [reference.familiar for reference in store.tags(image_id)]


Write = Callable[[bytes], Path]


# --- what is accepted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_an_oci_archive_is_loaded_with_its_tag(store: ImageStore, write: Write, compression: str) -> None:
    """Layers may be plain, gzip or zstd."""
    (image_id,) = load(store, write(oci_layout(BASE, TOP, compression=compression).tar()))
    assert tags(store, image_id) == ["app:1"]
    assert [(path / "archive").read_bytes() for path in store.lower_dirs(image_id)] == [TOP, BASE]
    assert image_id == digest(config_of((BASE, TOP)))


def test_an_oci_layout_directory_is_loaded(store: ImageStore, tmp_path: Path) -> None:
    """Symbolic links to blobs, as build tools make, are followed."""
    directory = oci_layout(BASE).write(tmp_path / "layout")
    blob = directory / "blobs/sha256" / digest(BASE)[7:]
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    (image_id,) = load(store, directory)
    assert tags(store, image_id) == ["app:1"]


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, zstandard.compress])
def test_the_archive_itself_may_be_compressed(
    store: ImageStore, write: Write, compress: Callable[[bytes], bytes]
) -> None:
    """By gzip, xz or zstd; nothing of the spooled copy remains."""
    (image_id,) = load(store, write(compress(oci_layout(BASE).tar())))
    assert tags(store, image_id) == ["app:1"]
    assert contents(store)["cache"] == []


@pytest.mark.parametrize("old", [False, True])
def test_a_docker_save_archive_is_loaded(store: ImageStore, write: Write, old: bool) -> None:
    """In the shape of Docker 25 and in that of those before."""
    (image_id,) = load(store, write(archives.tar(docker_save(BASE, TOP, old=old))))
    assert tags(store, image_id) == ["app:1"]
    assert image_id == digest(config_of((BASE, TOP)))
    assert len(store.manifest(image_id).layers) == 2


def test_links_between_layers_are_followed_inside_the_archive(store: ImageStore, write: Write) -> None:
    """Old Dockers stored a layer that two images share once."""
    members = docker_save(BASE, old=True)
    name = next(name for name in members if name.endswith("/layer.tar"))
    members["shared/layer.tar"] = members.pop(name)
    (image_id,) = load(store, write(archives.tar(members, links={name: "../shared/layer.tar"})))
    assert tags(store, image_id) == ["app:1"]


def test_several_images_come_in_together(store: ImageStore, write: Write) -> None:
    """Each with its own names; what they share is stored once."""
    layout = Layout()
    layout.name(layout.image(BASE), "base:1")
    layout.name(layout.image(BASE, TOP), "example.org/top:2")
    layout.name(layout.image(TOP))
    ids = load(store, write(layout.tar()))
    assert sorted(tags(store, image_id) for image_id in ids) == [[], ["base:1"], ["example.org/top:2"]]
    assert len(contents(store)["blobs"]) == 3 + 3 + 2


def test_a_name_that_is_no_reference_brings_no_tag(store: ImageStore, write: Write) -> None:
    """A layout may name its images as it likes."""
    (image_id,) = load(store, write(oci_layout(BASE, name="My Image!").tar()))
    assert tags(store, image_id) == []


def test_long_names_and_pax_headers_are_understood(store: ImageStore, write: Write) -> None:
    """Docker writes both."""
    members = docker_save(BASE, old=True)
    name = next(name for name in members if name.endswith("/layer.tar"))
    longer = f"{'d' * 120}/{name}"
    members = {
        key.replace(name, longer): value.replace(name.encode(), longer.encode())
        for key, value in members.items()
    }
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tar_format) as archive:
            for key, data in members.items():
                info = tarfile.TarInfo(f"./{key}")
                info.size = len(data)
                if tar_format == tarfile.PAX_FORMAT:
                    info.pax_headers = {"comment": "é" * 300}
                archive.addfile(info, io.BytesIO(data))
        assert load(store, write(stream.getvalue()))


def test_loading_twice_changes_nothing(store: ImageStore, write: Write) -> None:
    """The same image is the same image."""
    archive = write(oci_layout(BASE, TOP, compression="gzip").tar())
    first = load(store, archive)
    before = contents(store)
    assert load(store, archive) == first
    assert contents(store) == before


def test_an_image_compressed_otherwise_is_the_same_image(store: ImageStore, write: Write) -> None:
    """The blobs that are here already serve; the others are not kept."""
    first = load(store, write(oci_layout(BASE, compression="gzip").tar()))
    before = contents(store)
    assert load(store, write(oci_layout(BASE, compression="zstd").tar())) == first
    assert contents(store) == before


# --- platforms ------------------------------------------------------------------------------------------


def multi_platform(*architectures: str) -> Layout:
    layout = Layout()
    items = []
    for architecture in architectures:
        item = layout.image(BASE, config=config_of([BASE], architecture=architecture))
        items.append({**item, "platform": {"os": "linux", "architecture": architecture}})
    attestation = layout.manifest({"schemaVersion": 2, "config": items[0], "layers": []})
    items.append({**attestation, "platform": {"os": "unknown", "architecture": "unknown"}})
    layout.name(layout.nested(*items), "app:1")
    return layout


def test_the_platform_wanted_is_chosen(store: ImageStore, write: Write) -> None:
    """Of a nested index; attestations count for nothing."""
    archive = write(multi_platform("s390x", "amd64", "arm64").tar())
    for architecture in ("amd64", "arm64"):
        (image_id,) = load(store, archive, platform=Platform("linux", architecture))
        assert store.config(image_id).architecture == architecture


def test_blobs_of_other_platforms_may_be_absent(store: ImageStore, write: Write) -> None:
    """`docker save` writes the whole index, but only the blobs it has."""
    layout = multi_platform("s390x", "amd64")
    del layout.members[f"blobs/sha256/{digest(config_of([BASE], architecture='s390x'))[7:]}"]
    (image_id,) = load(store, write(layout.tar()), platform=AMD64)
    assert store.config(image_id).architecture == "amd64"


@pytest.mark.parametrize(
    "data", [multi_platform("s390x", "arm64").tar(), oci_layout(BASE).tar(), archives.tar(docker_save(BASE))]
)
def test_a_platform_that_is_not_there_is_refused(store: ImageStore, write: Write, data: bytes) -> None:
    """The error says which are."""
    before = contents(store)
    with pytest.raises(UnsupportedError):
        load(store, write(data), platform=Platform("linux", "riscv64"))
    assert contents(store) == before


# --- what is refused ------------------------------------------------------------------------------------


def broken_layouts() -> dict[str, Layout]:
    cases: dict[str, Layout] = {}

    def case(name: str, *layers: bytes) -> Layout:
        cases[name] = oci_layout(*(layers or (BASE, TOP)))
        return cases[name]

    layer, config = f"blobs/sha256/{digest(TOP)[7:]}", f"blobs/sha256/{digest(config_of((BASE, TOP)))[7:]}"
    case("a missing layer").members.pop(layer)
    case("a missing config").members.pop(config)
    case("a layer with other content").members[layer] = BASE
    case("a layer cut short").members[layer] = TOP[:-1]
    case("a layer with more").members[layer] = TOP + b"\0"
    case("a config with other content").members[config] = config_of([BASE, BASE])
    case("an index without images").manifests.clear()
    case("a layer that cannot be unpacked", BASE, archives.tar({"HOSTILE ENTRY": b""}))

    def manifest(name: str, change: Callable[[dict[str, list[dict[str, object]]]], object]) -> None:
        layout = Layout()
        item = layout.image(BASE, TOP)
        document = json.loads(layout.members[f"blobs/sha256/{str(item['digest'])[7:]}"])
        change(document)
        layout.name(layout.manifest(document), "app:1")
        cases[name] = layout

    manifest("a layer size that lies", lambda document: document["layers"][0].update(size=10))
    manifest("a huge layer size", lambda document: document["layers"][0].update(size=1 << 40))
    manifest("fewer layers than the config has", lambda document: document["layers"].pop())
    manifest("layers in another order", lambda document: document["layers"].reverse())
    manifest(
        "a digest that is a path", lambda document: document["layers"][0].update(digest="sha256:../../x")
    )
    manifest("no layers", lambda document: document.update(layers=[]))

    config_of_windows = config_of([BASE]).replace(b"linux", b"windows")
    cases["another system"] = Layout()
    cases["another system"].name(cases["another system"].image(BASE, config=config_of_windows))
    cases["a config of gigabytes"] = Layout()
    cases["a config of gigabytes"].name(cases["a config of gigabytes"].image(BASE, config=b" " * (5 << 20)))
    nest = cases["indexes in indexes"] = Layout()
    item = nest.image(BASE)
    for _ in range(8):
        item = nest.nested(item)
    nest.name(item)
    return cases


@pytest.mark.parametrize("name", broken_layouts())
@pytest.mark.parametrize("form", ["archive", "directory"])
def test_a_broken_layout_is_refused_and_leaves_nothing(
    store: ImageStore, write: Write, tmp_path: Path, name: str, form: str
) -> None:
    """The store is as it was, with the image that it had."""
    load(store, write(oci_layout(BASE, name="kept:1").tar()))
    before = contents(store)
    layout = broken_layouts()[name]
    path = write(layout.tar()) if form == "archive" else layout.write(tmp_path / "layout")
    with pytest.raises(ContentError):
        load(store, path)
    assert contents(store) == before


def test_one_broken_image_keeps_the_others_out(store: ImageStore, write: Write) -> None:
    """All or nothing."""
    layout = oci_layout(BASE, name="a:1")
    layout.name(layout.image(archives.tar({"HOSTILE ENTRY": b""})), "z:1")
    with pytest.raises(FormatError):
        load(store, write(layout.tar()))
    assert store.ids() == [] and contents(store)["blobs"] == []


def test_known_layers_do_not_vouch_for_other_blobs(store: ImageStore, write: Write) -> None:
    """A manifest may name the diff_ids of a layer that is here, and bring a blob that is something else."""
    load(store, write(oci_layout(BASE, name="kept:1").tar()))
    before = contents(store)
    layout = Layout()
    layout.name(layout.image(TOP, config=config_of([BASE], Cmd=["x"])))
    with pytest.raises(DigestMismatchError):
        load(store, write(layout.tar()))
    assert contents(store) == before


def broken_docker_saves() -> dict[str, dict[str, bytes]]:
    members = docker_save(BASE, TOP)
    config, layer, _, manifest = members
    listed = json.loads(members[manifest])[0]

    def listing(**change: object) -> dict[str, bytes]:
        return {**members, manifest: json.dumps([{**listed, **change}]).encode()}

    return {
        "another layer": {**members, layer: TOP},
        "a missing layer": {name: data for name, data in members.items() if name != layer},
        "a missing config": {name: data for name, data in members.items() if name != config},
        "a layer that is no archive": {**members, layer: b"x" * 2000},
        "a layer with an endless name": listing(Layers=["x" * 5000, "y"]),
        "a layer outside": listing(Layers=["../../../../../../etc/passwd", "/etc/passwd"]),
        "a config outside": listing(Config="/etc/passwd"),
        "no layers": listing(Layers=None),
        "no config": listing(Config=None),
        "a tag that is none": listing(RepoTags=["App:1"]),
        "an empty list": {**members, manifest: b"[]"},
        "no list": {**members, manifest: b"{}"},
        "numbers": {**members, manifest: b"[1]"},
    }


@pytest.mark.parametrize("name", broken_docker_saves())
@pytest.mark.parametrize("form", ["archive", "directory"])
def test_a_broken_docker_save_is_refused_and_leaves_nothing(
    store: ImageStore, write: Write, tmp_path: Path, name: str, form: str
) -> None:
    """Names in it are names of members, whatever they look like."""
    before = contents(store)
    members = broken_docker_saves()[name]
    path = write(archives.tar(members))
    if form == "directory":
        path = tmp_path / "saved"
        for member, data in members.items():
            (path / member).parent.mkdir(parents=True, exist_ok=True)
            (path / member).write_bytes(data)
    with pytest.raises(ContentError):
        load(store, path)
    assert contents(store) == before


def test_links_out_of_the_archive_lead_nowhere(store: ImageStore, write: Write) -> None:
    """Nor do loops."""
    members = docker_save(BASE, old=True)
    name = next(name for name in members if name.endswith("/layer.tar"))
    del members[name]
    for target in ("/etc/passwd", "../../../etc/passwd", "layer.tar"):
        with pytest.raises(FormatError):
            load(store, write(archives.tar(members, links={name: target})))


def header(**fields: object) -> bytes:
    info = tarfile.TarInfo("x")
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 1024,
        bytes(1024),
        gzip.compress(b"x" * 3000),
        gzip.compress(oci_layout(BASE).tar())[:-20],
        oci_layout(BASE).tar()[:2048],
        header(size=1 << 50),
        header(size=-512),
        header(type=tarfile.XHDTYPE, size=1 << 30) + bytes(2048),
        header(type=tarfile.XHDTYPE, size=512) + b"9 size=-5\n".ljust(512, b"\0") + header(),
        header(type=tarfile.XHDTYPE, size=512) + b"0 a=b\n".ljust(512, b"\0") + header(),
        header(type=tarfile.XHDTYPE, size=512) + b"x a=b\n".ljust(512, b"\0") + header(),
        header(type=tarfile.GNUTYPE_LONGNAME, size=1 << 30) + bytes(2048),
        header(type=tarfile.GNUTYPE_SPARSE) + bytes(1024),
        header(type=tarfile.XHDTYPE, size=22) + b"22 GNU.sparse.major=1\n".ljust(512, b"\0") + header(),
        archives.tar({"etc/passwd": b"root"}),
    ],
    ids=range(16),
)
def test_what_is_no_image_archive_is_refused(store: ImageStore, write: Write, data: bytes) -> None:
    """Not a tar, a damaged one, one made to make us read or keep too much, or one of something else."""
    before = contents(store)
    with pytest.raises(FormatError):
        load(store, write(data))
    assert contents(store) == before


def test_only_files_and_directories_are_opened(store: ImageStore, tmp_path: Path) -> None:
    """A FIFO would block, a device could be anything."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "nothing", Path("/dev/zero")):
        with pytest.raises(InvalidSpecError):
            load(store, path)
    layout = oci_layout(BASE).write(tmp_path / "layout")
    (layout / "index.json").unlink()
    os.mkfifo(layout / "index.json")
    with pytest.raises(FormatError):
        load(store, layout)
