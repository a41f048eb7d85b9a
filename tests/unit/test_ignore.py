"""The rules of .dockerignore."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.build import ignore
from lxcwrap.build.ignore import Patterns
from lxcwrap.errors import DockerfileError, InvalidSpecError

# One pattern, a path, and whether it is selected: what is documented, and what moby's matcher is known for.
SINGLE = """
** file yes
**/ file yes
** dir/file yes
**/** dir/file yes
dir/** dir/file yes
dir/** dir/dir2/file yes
dir/** dir no
**/dir dir yes
**/dir dir/file yes
**/dir2/* dir/dir2/file yes
**/dir2/** dir/dir2/dir3/file yes
**/dir2/** dir2 no
**file file yes
**file dir/file yes
**file dir/otherfile yes
**/file dir/otherfile no
**/file dir/dir/file yes
**/file* dir/dir/file.txt yes
**/file*txt dir/dir/file.txt yes
**/file*.txt* dir/dir/file.txt yes
**/**/*.txt dir/dir/file.txt yes
**/**/*.txt2 dir/dir/file.txt no
**/*.txt file.txt yes
a**/*.txt a/file.txt yes
a**/*.txt a/dir/dir/file.txt yes
a/**/b a/b yes
a/**/b a/x/y/b yes
a/**/b ab no
a/*.txt a/dir/file.txt no
a/*.txt a/file.txt yes
a/*.txt** a/file.txt yes
a[b-d]e ae no
a[b-d]e ace yes
a[^b-d]e aze yes
.* .foo yes
.* foo no
abc.def abcZdef no
abc?def abcZdef yes
a\\\\ a\\ yes
a\\*b a*b yes
a\\*b axb no
**/foo/bar dir/dir2/foo/bar yes
abc/** abc no
**/.foo .foo yes
**/.foo bar.foo no
a(b)c/def a(b)c/xyz no
a.|)$(}+{bc a.|)$(}+{bc yes
a^b a^b yes
dist/*.whl dist/p-2.4.0rc3.dev36+g08acad9-py3.whl yes
* a/b/c yes
*/b a/b/c yes
*/b b no
docs docs/README.md yes
docs docsx no
docs x/docs no
docs/ docs/a yes
./docs docs yes
docs//a docs/a yes
a/../b b yes
a/.. a no
. a no
/ a no
.. a no
../a a no
""".split("\n")[1:-1]


@pytest.mark.parametrize("row", SINGLE)
def test_a_pattern_selects(row: str) -> None:
    """A path, and all that is in a directory it fits."""
    pattern, path, expected = row.split(" ")
    assert Patterns([pattern]).match(path) == (expected == "yes")


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        ("docs !docs/README.md", "docs/README.md", False),
        ("docs !docs/README.md", "docs/x", True),
        ("docs/* !docs/README.md", "docs/README.md", False),
        ("!a.go *.go", "a.go", True),
        ("*.go !a.go", "a.go", False),
        ("** !util/web", "util/web/foo", False),
        ("** !util/web util/web/foo", "util/web/foo", True),
        ("*.md !README*.md README-secret.md", "README-secret.md", True),
        ("*.md README-secret.md !README*.md", "README-secret.md", False),
        ("a !a/b a", "a/b", True),
        ("!a", "a", False),
        ("* !src !src/**", "src/x/y", False),
        ("!!a", "a", False),
        ("** !!a", "!a", False),
    ],
)
def test_the_last_that_fits_decides(patterns: str, path: str, expected: bool) -> None:
    """Exceptions among them, whether they fit the path or a directory it is in."""
    assert Patterns(patterns.split()).match(path) == expected


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("# comment\n\n  \na", "a", True),
        ("#a", "#a", False),
        (" #a", "#a", True),
        ("\\#a", "#a", True),
        ("  a  ", "a", True),
        ("a b", "a b", True),
        ("a\r\nb\r\n", "b", True),
        ("/a", "a", True),
        ("//a", "a", True),
        ("/a/b/", "a/b", True),
        ("a\n!/a", "a", False),
        ("a\n! a", "a", False),
        ("a\n!./a/", "a", False),
        ("\ufeffa", "a", True),
        ("a\ufeff", "a", False),
        ("a\n\ufeff#b", "\ufeff#b", True),
        ("a\x0bb", "b", False),
        ("", "a", False),
    ],
)
def test_lines_are_read_as_by_docker(text: str, path: str, expected: bool) -> None:
    """Comments begin in the first column; blanks at both ends and slashes before a path do not count."""
    assert ignore.parse(text, ".dockerignore").match(path) == expected


@pytest.mark.parametrize("line", ["!", "! ", "!/", "a[", "[]a]", "\\", "!b["])
def test_a_malformed_pattern_is_told_with_its_place(line: str) -> None:
    """File and line are on the error."""
    with pytest.raises(DockerfileError) as caught:
        ignore.parse(f"# fine\na\n{line}\nb", "web.dockerignore")
    assert (caught.value.file, caught.value.line) == ("web.dockerignore", 3)


def test_malformed_patterns_without_a_file_are_refused() -> None:
    """As given to ``--exclude``."""
    with pytest.raises(InvalidSpecError):
        Patterns(["a", "[-]"])


# --- against a slow reading of the rules --------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "ab", "a.b"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PARTS = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "?", "**", "[ab]", "a.b", "**b", "a**"])
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
LISTS = st.lists(st.builds("{}{}".format, st.sampled_from(["", "!"]), PATTERNS), max_size=6)


def fits(pattern: str, path: str) -> bool:
    """One pattern against one path, character by character; ``**/`` is nothing, or names and a slash."""
    if pattern.startswith("**"):
        rest = pattern[2:].removeprefix("/")
        starts = [0, *(at + 1 for at, character in enumerate(path) if character == "/")]
        return not rest or any(fits(rest, path[start:]) for start in starts)
    if not pattern or not path:
        return not path and not pattern.strip("*")
    if pattern[0] == "*":
        return fits(pattern[1:], path) or (path[0] != "/" and fits(pattern, path[1:]))
    if pattern[0] == "[":
        return path[0] in "ab" and fits(pattern[4:], path[1:])
    return (
        path[0] != "/" * (pattern[0] == "?") and pattern[0] in (path[0], "?") and fits(pattern[1:], path[1:])
    )


def selected(patterns: list[str], path: str) -> bool:
    """Each pattern in turn, each directory on the way."""
    names = path.split("/")
    ways = ["/".join(names[:count]) for count in range(1, len(names) + 1)]
    result = False
    for pattern in patterns:
        plain = pattern.removeprefix("!")
        if plain.startswith("**") and plain[2:3] not in ("", "/") and not set(plain[2:]) & set("*?["):
            # patternmatcher takes it for the end of a path
            hit = any(way.endswith(plain[2:]) for way in ways)
        else:
            hit = any(fits(plain, way) for way in ways)
        if hit:
            result = not pattern.startswith("!")
    return result


@given(LISTS, PATHS)
def test_agrees_with_a_slow_reading(patterns: list[str], path: str) -> None:
    """Of any list of patterns."""
    assert Patterns(patterns).match(path) == selected(patterns, path)


@given(LISTS, PATHS)
def test_what_is_skipped_could_not_have_come_back(patterns: list[str], path: str) -> None:
    """A directory that is selected, and in which no exception may fit, holds nothing that is not selected."""
    rules = Patterns(patterns)
    names = path.split("/")
    for count in range(1, len(names)):
        above = "/".join(names[:count])
        if rules.match(above) and not rules.may_match_below(above, exceptions=True):
            assert rules.match(path)


@given(st.lists(PATTERNS, max_size=4), PATHS)
def test_what_is_not_entered_could_not_have_been_wanted(patterns: list[str], path: str) -> None:
    """Where nothing is selected and no pattern may fit below, nothing below is selected."""
    rules = Patterns(patterns)
    names = path.split("/")
    for count in range(1, len(names)):
        above = "/".join(names[:count])
        if not rules.match(above) and not rules.may_match_below(above, exceptions=False):
            assert not rules.match(path)


def test_skipping_is_not_idle() -> None:
    """Directories without exceptions in them are not entered."""
    rules = Patterns(["**", "!src/*.py", "!docs"])
    assert not rules.may_match_below("node_modules", exceptions=True)
    assert not rules.may_match_below("src/deep", exceptions=True)
    assert rules.may_match_below("src", exceptions=True)
