"""Variables, quotes and escapes in a Dockerfile's words."""

from __future__ import annotations

import pytest

from lxcwrap.build.words import MAX_LENGTH, WordError, check, expand, split_words

VARIABLES = {"name": "web", "empty": "", "path": "/srv/www/site", "größe": "12", "spaced": " a  b "}
VARIABLES["stars"] = "a*b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain text", "plain text"),
        ("$name", "web"),
        ("${name}", "web"),
        ("$name-1", "web-1"),
        ("$names", ""),
        ("${name}s", "webs"),
        ("$name$name", "webweb"),
        ("$größe", "12"),
        ("$unset", ""),
        ("${unset}", ""),
        # A dollar sign that begins no name is text; numbers and signs are names that nobody sets.
        ("$", "$"),
        ("a$", "a$"),
        ("$.", "$."),
        ("$ name", "$ name"),
        ('$"name"', "$name"),
        ("$1st", "st"),
        ("$12a", "a"),
        ("$$name", "name"),
        ("$@@", "@"),
        ("${1:-one}", "one"),
        ("${@:-at}", "at"),
        ("${-:-minus}", "minus"),
        ("${?}", ""),
        # Braces that do not follow a dollar sign are text.
        ("{name}", "{name}"),
        ("${name}}", "web}"),
        ("<$name>", "<web>"),
        ("<< $name", "<< web"),
    ],
)
def test_names(text: str, expected: str) -> None:
    """Names are replaced by their values; those not set are empty."""
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${name:-other}", "web"),
        ("${empty:-other}", "other"),
        ("${unset:-other}", "other"),
        ("${name-other}", "web"),
        ("${empty-other}", ""),
        ("${unset-other}", "other"),
        ("${name:+other}", "other"),
        ("${empty:+other}", ""),
        ("${unset:+other}", ""),
        ("${name+other}", "other"),
        ("${empty+other}", "other"),
        ("${unset+other}", ""),
        ("${name:?no}", "web"),
        ("${name?no}", "web"),
        ("${empty?no}", ""),
        ("${unset:-}", ""),
        ("${unset:-$name}", "web"),
        ("${unset:-${empty:-${name}}}", "web"),
        ("${unset:-a b}", "a b"),
        ("${unset:-{}", "{"),
        ("${unset:-'}'}", "}"),
        ("${unset:-\\}}", "}"),
        ('${unset:-"a}b"}', "a}b"),
        ("${unset:-\\$name}", "$name"),
        ("${name:+$name:}$path", "web:/srv/www/site"),
        ("${unset:-a:b}", "a:b"),
    ],
)
def test_defaults_and_alternatives(text: str, expected: str) -> None:
    """With a colon an empty value counts as none."""
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${path#*/}", "srv/www/site"),
        ("${path##*/}", "site"),
        ("${path%/*}", "/srv/www"),
        ("${path%%/*}", ""),
        ("${path#/srv}", "/www/site"),
        ("${path#srv}", "/srv/www/site"),
        ("${path%site}", "/srv/www/"),
        ("${path%?}", "/srv/www/sit"),
        ("${path#?s?v}", "/www/site"),
        ("${path#}", "/srv/www/site"),
        ("${path##}", "/srv/www/site"),
        ("${path%%}", "/srv/www/site"),
        ("${path#*}", "/srv/www/site"),
        ("${path##*}", ""),
        ("${name#$name}", ""),
        ("${name#$empty}", "web"),
        ("${unset#*}", ""),
        ("${stars#a\\*}", "b"),
        ("${stars%\\**}", "a"),
        ("${stars#a\\?}", "a*b"),
        ("${größe%2}", "1"),
        ("${path%%w*w*}", "/srv/"),
        ("${path##*w?w}", "/site"),
        ("${path##*w*w}", "/site"),
    ],
)
def test_ends_cut_off(text: str, expected: str) -> None:
    """One sign takes the shortest match away, two the longest."""
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${path/w/W}", "/srv/Www/site"),
        ("${path//w/W}", "/srv/WWW/site"),
        ("${path//w/}", "/srv//site"),
        ("${path/x/y}", "/srv/www/site"),
        ("${path/s*w/-}", "/-/site"),
        ("${path//?w/-}", "/srv--/site"),
        ("${path//\\//:}", ":srv:www:site"),
        ("${path///}", "/srv/www/site"),
        ("${path//*/-}", "-"),
        ("${name/$name/$path}", "/srv/www/site"),
        ("${name/e/\\}}", "w\\}b"),
        ("${unset/a/b}", ""),
        ("${stars/\\*/+}", "a+b"),
        ("${name/$empty/x}", "xweb"),
        ("${name//$empty/-}", "-w-e-b-"),
        ("${name/e/$0\\1}", "w\\1b"),
    ],
)
def test_replacements(text: str, expected: str) -> None:
    """One slash replaces the first match, two replace every one; a match is as long as it can be."""
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'$name'", "$name"),
        ('"$name"', "web"),
        ("'a'\"b\"c", "abc"),
        ('"it\'s"', "it's"),
        ("'\"'", '"'),
        ("''", ""),
        (r"\$name", "$name"),
        (r"\\$name", "\\web"),
        (r"\${name}", "${name}"),
        (r"a\ b", "a b"),
        (r"\n", "n"),
        ("a\\", "a"),
        ("\\\\", "\\"),
        (r'"\n"', r"\n"),
        (r'"\\n"', r"\n"),
        (r'"\"\$name\""', '"$name"'),
        ('"\\\'"', "\\'"),
        (r"'\n'", r"\n"),
        (r"'\'", "\\"),
        (r"\'a", "'a"),
        ("a'b c'd", "ab cd"),
    ],
)
def test_quotes_and_escapes(text: str, expected: str) -> None:
    """Quotes go away; within double ones the escape takes the meaning of few signs, else it stays."""
    assert expand(text, VARIABLES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("`$name", "$name"), ("C:\\$name", "C:\\web"), ('"`"\\"', '"\\'), ("a`", "a"), ("``", "`"), ("`n", "n")],
)
def test_another_escape_character(text: str, expected: str) -> None:
    """With a backquote as the escape, a backslash is text."""
    assert expand(text, VARIABLES, escape="`") == expected


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("'open", 1),
        ("a 'open", 3),
        ('a"b', 2),
        ('"a\\"', 1),
        ("${name", 1),
        ("x${name", 2),
        ("${", 1),
        ("${}", 1),
        ("${:}", 1),
        ("${:-a}", 1),
        ("${{name}}", 1),
        ("${.}", 1),
        ("${name!}", 1),
        ("${name:x}", 1),
        ("${name:=x}", 1),
        ("${name=x}", 1),
        ("${name:#x}", 1),
        ("${name:%x}", 1),
        ("${name:/a/b}", 1),
        ("${name^}", 1),
        ("${name@Q}", 1),
        ("${#name}", 1),
        ("${name:-${path}", 1),
        ("${name/a}", 1),
        ("${name/a/b", 1),
        ("${+x}", 1),
        ("ok ${unset?}", 4),
        ("ok ${empty:?}", 4),
        ("${name#\\x}", 1),
        ("${name:-'}", 9),
    ],
)
def test_errors_tell_the_column(text: str, column: int) -> None:
    """What is malformed is refused, with the column it begins at."""
    with pytest.raises(WordError) as failure:
        expand(text, VARIABLES)
    assert failure.value.column == column
    assert failure.value.reason


def test_missing_values_tell_why() -> None:
    """``:?`` fails with the message given, itself expanded."""
    with pytest.raises(WordError) as failure:
        expand("${unset:?give $name a version}", VARIABLES)
    assert failure.value.reason == "unset: give web a version"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a b", ["a", "b"]),
        ("  a \t b  ", ["a", "b"]),
        ("'a b' c", ["a b", "c"]),
        (r"a\ b", ["a b"]),
        ("$spaced", ["a", "b"]),
        ("x${spaced}y", ["x", "a", "b", "y"]),
        ('x"$spaced"y', ["x a  b y"]),
        ("$unset", []),
        ("'' a", ["a"]),
        ("${unset:-80 81}", ["80", "81"]),
        ("a\u00a0b\u3000c", ["a", "b", "c"]),
        ("a\x1cb", ["a\x1cb"]),
    ],
)
def test_words_are_split(text: str, expected: list[str]) -> None:
    """Space parts words, also space out of variables; quoted and escaped space does not."""
    assert split_words(text, VARIABLES) == expected


def test_a_document_keeps_its_quotes() -> None:
    """In a document quotes are text, and the escape still works."""
    text = "say \"$name\" and 'it''s \\$name' \\\\"
    assert expand(text, VARIABLES, quotes=False) == "say \"web\" and 'it''s $name' \\"


def test_checking_needs_no_values() -> None:
    """What only values could make wrong passes; what no values could make right does not."""
    check("${unset:?needed} ${a/$b/$c} ${d#$e}")
    with pytest.raises(WordError):
        check("${unset:?needed")


@pytest.mark.parametrize(
    "text",
    [
        "$big" * 100,
        '"' + "$big" * 100 + '"',
        "${a:-" * 100 + "}" * 100,
        "${big//a/$big}",
        "${big///$big}",
        "${big#" + "a" * 2000 + "}",
        "${unset:+${big#" + "?" * 1000 + "}}",
    ],
)
def test_bombs_are_refused(text: str) -> None:
    """Neither length, depth nor work can be made to grow without bound."""
    with pytest.raises(WordError):
        expand(text, {"big": "a" * (MAX_LENGTH // 8)})


@pytest.mark.parametrize("text", ["${big##*a*a*a*b}", "${big%%b*a*a*a*}", "${big//" + "?" * 400 + "b/c}"])
def test_patterns_do_not_backtrack(text: str) -> None:
    """A pattern that fails late fails soon."""
    big = "a" * (1 << 16)
    assert expand(text, {"big": big}) == big
