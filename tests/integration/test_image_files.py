"""Files of images, read without a container."""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from lxcwrap import ContainerPath, Host, Image, ImagePath
from lxcwrap.errors import ImageNotFoundError, InvalidSpecError, PathError, PathNotFoundError
from lxcwrap.ids import IDENTITY
from tests.archives import oci_layout, tar
from tests.integration.test_images import layer, member


@pytest.fixture
def image(fresh_host: Host, tmp_path: Path) -> Iterator[Image]:
    """Of two layers: the upper one replaces, deletes, hides a directory, and leads astray."""
    lower = tar(
        {"etc/name": b"lower\n", "etc/gone": b"", "srv/old/deep": b"", "etc/kept": b"kept\n"},
        links={"etc/link": "name"},
    )
    upper = layer(
        "etc/name",
        "etc/.wh.gone",
        "srv/old/.wh..wh..opq",
        "srv/old/new.txt",
        member("out", tarfile.SYMTYPE, "/etc/../../../etc/kept"),
        member("loop", tarfile.SYMTYPE, "loop"),
        member("magic", tarfile.SYMTYPE, "/proc/self/fd/0"),
        member("pipe", tarfile.FIFOTYPE),
    )
    (image,) = fresh_host.images.load(oci_layout(lower, upper).write(tmp_path / "layout"))
    yield image


def test_layers_are_seen_as_one(image: Image) -> None:
    """As a container would see them: replaced, deleted, opaque."""
    etc = image.files / "etc"
    assert [path.name for path in etc.iterdir()] == ["kept", "link", "name"]
    assert ((etc / "name").read_text(), (etc / "kept").read_bytes()) == ("data\n", b"kept\n")
    assert (etc / "link").read_text() == "data\n" and (etc / "link").readlink() == PurePosixPath("name")
    assert [str(path) for path in image.files.glob("srv/**/*")] == ["/srv/old", "/srv/old/new.txt"]
    assert not (etc / "gone").exists() and (image.files / "srv/old").is_dir()
    with (image.files / "etc/name").open("rb") as file:
        assert file.read() == b"data\n"


def test_what_is_known_of_a_file(image: Image) -> None:
    """With the ids inside."""
    status = (image.files / "etc/name").stat()
    assert (status.size, status.uid, status.gid) == (5, 0, 0)


def test_nothing_leads_out_of_the_image(image: Image) -> None:
    """Links end inside; what is no file is not opened."""
    assert (image.files / "out").read_text() == "kept\n"
    for name, number in (("loop", errno.ELOOP), ("pipe", errno.EINVAL)):
        with pytest.raises(PathError) as caught:
            (image.files / name).read_bytes()
        assert (caught.value.errno, caught.value.path) == (number, f"/{name}")
    for name in ("magic", "nowhere"):
        with pytest.raises(PathNotFoundError) as missing:
            (image.files / name).read_bytes()
        assert missing.value.container == f"image {image.id.hex[:12]}"


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_text("x"),
        lambda path: path.unlink(),
        lambda path: path.chmod(0o777),
        lambda path: path.chown(1),
        lambda path: path.touch(),
        lambda path: path.with_name("new").touch(),
        lambda path: path.with_name("new").mkdir(),
        lambda path: path.with_name("new").symlink_to("x"),
        lambda path: path.rename("/x"),
        lambda path: path.parent.remove_tree(),
    ],
    ids="write unlink chmod chown touch new mkdir link rename tree".split(),
)
def test_an_image_cannot_be_changed(image: Image, change: Callable[[ImagePath], object]) -> None:
    """Whatever is tried: the error of a read-only file system."""
    with pytest.raises(PathError) as caught:
        change(image.files / "etc/kept")
    assert caught.value.errno == errno.EROFS
    assert (image.files / "etc/kept").read_text() == "kept\n"


def test_a_path_is_of_its_image(image: Image, fresh_host: Host) -> None:
    """It equals the same one in the same image, and none of a container, or the host."""
    other = fresh_host.images.resolve("busybox").files
    path = image.files / "etc/name"
    assert path == image.files.joinpath("etc", "name") and path != other / "etc/name"
    assert (
        isinstance(path, ImagePath)
        and path.image == image.id
        and repr(path).startswith("ImagePath('/etc/name'")
    )
    elsewhere: object = ContainerPath(image._open_root, "/etc/name", container=image.id)
    assert path != elsewhere
    assert not hasattr(path, "__fspath__")
    with pytest.raises(InvalidSpecError):
        path.relative_to(other)
    with image._open_root() as root:
        assert root.read_only and root.idmap == IDENTITY


def test_a_removed_image_has_no_files(image: Image) -> None:
    """It is looked up at each access."""
    path = image.files / "etc/name"
    image.remove()
    with pytest.raises(ImageNotFoundError):
        path.read_text()
