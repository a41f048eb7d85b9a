"""What a caller of `Images.build` may give, and where the images of FROM come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lxcwrap.errors import ImageNotFoundError, InvalidSpecError, UnsupportedError
from lxcwrap.image import Image
from lxcwrap.images import Images
from lxcwrap.oci import Platform
from lxcwrap.specs import Limits
from tests.unit.fakelayers import image_host

HERE = Platform("linux", "amd64")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    """With the image ``app:1`` for `HERE`; what is pulled is noted, and is that image."""
    from tests.archives import oci_layout
    from tests.unit.fakelayers import load

    host = image_host(tmp_path / "root")
    (tmp_path / "app.tar").write_bytes(oci_layout(b"x" * 512 + bytes(1024)).tar())
    load(host.image_store, tmp_path / "app.tar")
    images = Images(host)
    monkeypatch.setattr(images, "pulled", [], raising=False)

    def pull(reference: str, *, platform: str, progress: object) -> Image:
        images.pulled.append((reference, platform))  # type: ignore[attr-defined]  # of this test
        return images["app:1"]

    monkeypatch.setattr(images, "pull", pull)
    return images


def base(images: Images, key: str, pull: Any, platform: Platform = HERE) -> list[tuple[str, str]]:
    """What was pulled."""
    images._base(key, platform, pull, lambda event: None)
    pulled: list[tuple[str, str]] = images.pulled  # type: ignore[attr-defined]  # of this test
    return pulled


def test_an_image_that_is_stored_is_not_pulled(images: Images) -> None:
    """By name, and by id; unless it always is."""
    assert base(images, "app:1", "missing") == base(images, images["app:1"].id, "missing") == []
    assert base(images, "app:1", "never") == []
    assert base(images, "app:1", "always") == [("app:1", "linux/amd64")]


def test_an_image_that_is_not_stored_for_the_platform_is_pulled(images: Images) -> None:
    """Unless it never is."""
    arm = Platform("linux", "arm64")
    assert base(images, "other:1", "missing") == [("other:1", "linux/amd64")]
    assert base(images, "app:1", "missing", arm)[1:] == [("app:1", "linux/arm64")]
    with pytest.raises(ImageNotFoundError):
        base(images, "other:1", "never")
    with pytest.raises(UnsupportedError):
        base(images, "app:1", "never", arm)


@pytest.mark.parametrize(
    "options",
    [
        {"pull": "sometimes"},
        {"network": "bridge"},
        {"platform": "a/b/c/d"},
        {"tags": ["UPPER"]},
        {"tags": ["a@sha256:" + "0" * 64]},
        {"build_args": {"A=B": "1"}},
        {"secrets": {"a": Path("/nonexistent")}},
        {"secrets": {"a": b"x" * (2 << 20)}},
        {"build_args": {"SOURCE_DATE_EPOCH": "soon"}},
        {"dockerfile": "missing"},
        {"target": "missing"},
        {"limits": Limits(disk="1GiB")},
        {"limits": Limits(network_rate="1Mbit")},
    ],
)
def test_what_cannot_be_right_is_refused(images: Images, tmp_path: Path, options: dict[str, Any]) -> None:
    """Before anything is done."""
    (tmp_path / "Dockerfile").write_text("FROM app:1\nRUN true\n")
    with pytest.raises(InvalidSpecError):
        images.build(tmp_path, **options)


@pytest.mark.parametrize("options", [{"tags": "app:1"}, {"limits": {"memory": 1}}, {"secrets": {"a": 3}}])
def test_what_is_of_a_wrong_type_is_refused(images: Images, tmp_path: Path, options: dict[str, Any]) -> None:
    """With a TypeError."""
    (tmp_path / "Dockerfile").write_text("FROM app:1\n")
    with pytest.raises(TypeError):
        images.build(tmp_path, **options)


def test_a_context_that_is_missing_is_refused(images: Images, tmp_path: Path) -> None:
    """Or is neither a directory nor an archive."""
    for context in (tmp_path / "none", "/dev/null"):
        with pytest.raises(InvalidSpecError):
            images.build(context)
