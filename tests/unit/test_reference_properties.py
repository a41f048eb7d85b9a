"""Whatever a reference is made of: printing and parsing are inverse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.errors import InvalidSpecError
from lxcwrap.oci import Reference

_words = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
_components = st.lists(
    st.tuples(_words, st.sampled_from([".", "_", "__", "-", "---"])), min_size=1, max_size=3
).map(lambda pairs: "".join(word + separator for word, separator in pairs[:-1]) + pairs[-1][0])
_registries = st.sampled_from(
    ["", "docker.io/", "localhost/", "localhost:5000/", "a.example/", "X/", "[::1]:1/"]
)
_tags = st.from_regex(r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?", fullmatch=True)
_digests = st.from_regex(r"(@sha256:[0-9a-f]{64})?", fullmatch=True)
# Without a registry before it, a first component with a dot is one, and then may hold no "_".
texts = st.builds(
    lambda registry, path, tag, digest: registry + "/".join(path) + tag + digest,
    _registries,
    st.lists(_components, min_size=1, max_size=3),
    _tags,
    _digests,
).filter(lambda text: not {".", "_"} <= set(text.partition("/")[0].partition("@")[0]))


@given(texts)
def test_printing_and_parsing_are_inverse(text: str) -> None:
    """In the complete and in the familiar form."""
    reference = Reference.parse(text)
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
    assert len(reference.familiar) <= len(str(reference))


@given(st.text(alphabet="aA0.:/@_-[] \n", max_size=20))
def test_arbitrary_text_is_parsed_or_refused(text: str) -> None:
    """There is no third way out, and what is accepted is stable."""
    try:
        reference = Reference.parse(text)
    except InvalidSpecError:
        return
    assert Reference.parse(str(reference)) == reference
