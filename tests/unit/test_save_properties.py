"""Whatever images are saved, in whatever form: what is loaded is the same."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcwrap.images import Images
from tests.archives import Layout, config_of
from tests.strategies import archive, tar_trees
from tests.unit.fakelayers import contents, image_host

NAMES = ("a:1", "a:2", "example.org:5000/b/c:x", "localhost/d__e:latest", "docker.io/f/g:1.0-rc_1")
LAYERS = st.lists(tar_trees().map(lambda members: archive(*members)), min_size=1, max_size=4)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
FORMATS = st.sampled_from(["docker", "oci", "oci-dir"])
numbers = itertools.count()


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Images of few layers, which they may share and repeat, with any names or none."""
    made, pool = Layout(), draw(LAYERS)
    for names in draw(st.lists(st.lists(st.sampled_from(NAMES), unique=True), min_size=1, max_size=3)):
        layers = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=4))
        compression = draw(st.sampled_from(["", "gzip", "zstd"]))
        env = [f"VALUE={text}" for text in draw(st.lists(TEXT))]
        item = made.image(*layers, compression=compression, config=config_of(layers, Env=env))
        for name in names or [""]:
            made.name(item, name)
    return made


@pytest.fixture(scope="module")
def space(roots: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=roots))


def kept(images: Images) -> dict[str, Any]:
    """All that is stored, without the times at which it came."""
    found = contents(images._store)
    return {**found, "images": sorted((image.id, image.digest, image.tags) for image in images)}


@given(made=layouts(), form=FORMATS, compression=st.sampled_from(["none", "gzip", "zstd"]))
@settings(max_examples=60, deadline=None)
def test_what_is_saved_is_what_is_loaded(space: Path, made: Layout, form: Any, compression: Any) -> None:
    """Images, names, manifests, layers and blobs; saved again, the bytes are the same."""
    here = space / str(next(numbers))
    here.mkdir()
    (here / "in").write_bytes(made.tar())
    ours, theirs = Images(image_host(here / "ours")), Images(image_host(here / "theirs"))
    ours.load(here / "in")
    options = {"format": form, "compression": "none" if form == "oci-dir" else compression}
    ours.save(ours, here / "saved", **options)
    theirs.load(here / "saved")
    assert kept(theirs) == kept(ours)
    if form != "oci-dir":
        theirs.save(theirs, here / "again", **options)
        assert (here / "again").read_bytes() == (here / "saved").read_bytes()
    shutil.rmtree(here)
