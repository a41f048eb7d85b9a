"""What an index of an image server says, and the metadata of an image: read, or refused."""

from __future__ import annotations

import json
import lzma
import tarfile
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.errors import FormatError, InvalidSpecError, UnsupportedError
from lxcwrap.formats.simplestreams import Wanted, document_paths, find_image, read_properties
from lxcwrap.oci import Platform
from tests.imageservers import metadata_tar


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no tar",
        metadata_tar("x: ["),
        metadata_tar("- a list"),
        metadata_tar("properties: text"),
        metadata_tar("properties: {}", name="other.yaml"),
        metadata_tar("a: &a [*a]\nproperties: 3"),
        metadata_tar("", kind=tarfile.SYMTYPE),
        metadata_tar("", kind=tarfile.DIRTYPE),
        metadata_tar("!!python/object/apply:os.system [true]"),
        lzma.compress(bytes(64 << 20)),
    ],
    ids="empty text yaml list properties missing loop link directory object bomb".split(),
)
def test_metadata_that_cannot_be_read_is_refused(data: bytes) -> None:
    """Whatever it is instead."""
    with pytest.raises(FormatError):
        read_properties(data, "metadata")


def test_properties_are_text_or_numbers() -> None:
    """Others are no labels."""
    found = read_properties(
        metadata_tar('properties: {os: x, "n": 1, list: [1], nul: "a\\0b", 3: x}'), "metadata"
    )
    assert found == {"os": "x", "n": "1", "3": "x"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                "index images products versions items path size sha256 ftype os release arch 1".split()
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_no_document_is_a_surprise(document: object) -> None:
    """Any JSON is read, or refused by one of the errors that say so."""
    data = json.dumps(document).encode()
    wanted = Wanted("alpine", "3.20", Platform("linux", "amd64"))
    for read in (lambda: document_paths(data, "index"), lambda: find_image([data], wanted, "images")):
        with suppress(FormatError, InvalidSpecError, UnsupportedError):
            read()


@given(st.text(max_size=30))
def test_paths_stay_on_the_server(path: str) -> None:
    """A path that is accepted has nothing in it that a server, or an address, reads as another."""
    index = {"index": {"images": {"datatype": "image-downloads", "path": path}}}
    try:
        (found,) = document_paths(json.dumps(index).encode(), "index")
    except FormatError:
        return
    assert found == path and not path.startswith("/")
    assert not set(path.split("/")) & {"", ".", ".."} and not set("?#%\\ ") & set(path)
