"""Whatever is written: words are expanded as a shell would, or refused."""

from __future__ import annotations

import fnmatch
import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcwrap.build.words import WordError, check, expand, split_words

_SIGNS = "$${{}}:-+?#%/'\"\\`ab_1 <*"
_VARIABLES = {"a": "aab", "b": "", "ab": "b a"}


@given(st.text(alphabet=_SIGNS, max_size=40), st.sampled_from("\\`"))
def test_anything_is_expanded_or_refused(text: str, escape: str) -> None:
    """There is no third way out, and the column of an error is within the text."""
    try:
        expanded = expand(text, _VARIABLES, escape=escape)
        words = split_words(text, _VARIABLES, escape=escape)
    except WordError as error:
        assert 1 <= error.column <= len(text)
        return
    check(text, escape=escape)
    assert all(words)
    assert set("".join(words)) <= set(expanded)


@given(st.text(max_size=40), st.sampled_from("\\`"))
def test_quoting_gives_any_text_back(text: str, escape: str) -> None:
    """Single quotes, double quotes and escapes can each carry any text."""
    single = "'" + text.replace("'", f"'{escape}''") + "'"
    double = text.replace(escape, escape * 2).replace('"', f'{escape}"').replace("$", f"{escape}$")
    escaped = "".join(escape + character for character in text)
    for quoted in (single, f'"{double}"', escaped):
        assert expand(quoted, {}, escape=escape) == text


@given(st.text(alphabet="ab*?", max_size=6), st.text(alphabet="ab", max_size=10))
def test_patterns_cut_what_matches(pattern: str, value: str) -> None:
    """The shortest and the longest prefix and suffix that match, found by trying all."""
    fits = {n for n in range(len(value) + 1) if fnmatch.fnmatchcase(value[:n], pattern)}
    ends = {n for n in range(len(value) + 1) if fnmatch.fnmatchcase(value[len(value) - n :], pattern)}
    results = {sign: expand(f"${{v{sign}{pattern}}}", {"v": value}) for sign in ("#", "##", "%", "%%")}
    assert results["#"] == value[min(fits, default=0) :]
    assert results["##"] == value[max(fits, default=0) :]
    assert results["%"] == value[: len(value) - min(ends, default=0)]
    assert results["%%"] == value[: len(value) - max(ends, default=0)]


# What a shell and a Dockerfile read alike: no command substitution, no field splitting, no tilde.
_names = st.sampled_from(["a", "b", "ab", "unset"])
_plain = st.text(alphabet="xyz/.:,=+ ", min_size=1, max_size=5)
_globs = st.text(alphabet="ab*?", max_size=4)
_escaped = st.sampled_from(["\\$", "\\\\", '\\"', "$ "])


def _with_operators(words: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    conditions = st.tuples(_names, st.sampled_from([":-", "-", ":+", "+"]), words)
    cuts = st.tuples(_names, st.sampled_from(["#", "##", "%", "%%"]), _globs)
    variables = st.one_of(conditions, cuts).map(lambda parts: f"${{{''.join(parts)}}}")
    return st.lists(st.one_of(words, variables), max_size=3).map("".join)


_words = st.one_of(_plain, _escaped, _names.map(lambda name: f"${{{name}}}"))
_double = _with_operators(_with_operators(_words)).map(lambda text: f'"{text}"')
_stays = st.just('"\\x"')
_single = st.text(alphabet='ab$"\\ {}', max_size=5).map(lambda text: f"'{text}'")
_texts = st.lists(st.one_of(_double, _single, _stays), min_size=1, max_size=4).map("".join)


@settings(max_examples=20)
@given(st.lists(_texts, min_size=10, max_size=30))
def test_a_shell_agrees(texts: list[str]) -> None:
    """Quoted text with variables is the same to /bin/sh."""
    script = "".join(f"printf '%s\\n' {text}\n" for text in texts)
    argv = ["/bin/sh", "-c", script]
    done = subprocess.run(argv, env=_VARIABLES, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [expand(text, _VARIABLES) for text in texts]
