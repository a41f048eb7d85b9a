"""Names of images: the cases of distribution/reference, and what Docker makes of short ones."""

from __future__ import annotations

import pytest

from lxcwrap.errors import InvalidSpecError
from lxcwrap.oci import Digest, Reference

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"

COMPLETED = [
    ("nginx", "docker.io/library/nginx:latest"),
    ("nginx:1.25", "docker.io/library/nginx:1.25"),
    ("library/nginx", "docker.io/library/nginx:latest"),
    ("user/app", "docker.io/user/app:latest"),
    ("docker.io/nginx", "docker.io/library/nginx:latest"),
    ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
    ("docker.io/user/app:v1", "docker.io/user/app:v1"),
    ("localhost/app", "localhost/app:latest"),
    ("localhost:5000/app:x", "localhost:5000/app:x"),
    ("registry:5000/a/b/c", "registry:5000/a/b/c:latest"),
    ("registry.example/app", "registry.example/app:latest"),
    ("Registry/app", "Registry/app:latest"),
    ("127.0.0.1:80/app", "127.0.0.1:80/app:latest"),
    ("[::1]:5000/app", "[::1]:5000/app:latest"),
    ("[2001:db8::1]/app", "[2001:db8::1]/app:latest"),
    ("a.b--c__d_e-f", "docker.io/library/a.b--c__d_e-f:latest"),
    ("xn--n3h.com/app", "xn--n3h.com/app:latest"),
    ("app:V1.0_x-y", "docker.io/library/app:V1.0_x-y"),
    ("app:_", "docker.io/library/app:_"),
    ("app:" + "t" * 128, "docker.io/library/app:" + "t" * 128),
    (f"app@{DIGEST}", f"docker.io/library/app@{DIGEST}"),
    (f"app:1@{DIGEST}", f"docker.io/library/app:1@{DIGEST}"),
    (f"localhost:1/app@{DIGEST}", f"localhost:1/app@{DIGEST}"),
    ("sha256:" + HEX, "docker.io/library/sha256:" + HEX),
    (HEX[:63], f"docker.io/library/{HEX[:63]}:latest"),
    ("1", "docker.io/library/1:latest"),
]

REFUSED = [
    "", " ", "App", "user/App", "localhost/App", ":1", "app:", "app:-x", "app:.x", "app:a b",
    "app:" + "t" * 129, "app:1:2", "app:ü", "/app", "app/", "a//b", "-app", "app-", "a___b", "a..b", "a._b",
    "_a", "http://x/app", "registry.example:port/app", "registry.example:/app", "registry_x.example/app",
    "-x.example/app", "[::1/app", "[zz]/app", "app@", "app@sha256:abc", f"app@sha512:{HEX}",
    f"app@{DIGEST.upper()}", f"app@{DIGEST}@{DIGEST}", HEX, "a" * 256, "app\n", "app:1\n", "a\0b", "ä",
]  # fmt: skip


@pytest.mark.parametrize(("text", "full"), COMPLETED)
def test_short_names_are_completed(text: str, full: str) -> None:
    """The complete name has a registry, and a tag or a digest; it stands for itself."""
    reference = Reference.parse(text)
    assert str(reference) == full
    assert Reference.parse(full) == reference


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """Nothing is guessed or mended."""
    with pytest.raises(InvalidSpecError):
        Reference.parse(text)


def test_anything_but_text_is_a_type_error() -> None:
    """As for any str argument."""
    with pytest.raises(TypeError):
        Reference.parse(b"app")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("docker.io/library/nginx:latest", "nginx:latest"),
        ("docker.io/user/app:1", "user/app:1"),
        ("localhost/app:1", "localhost/app:1"),
        # Shortened, these would mean something else.
        ("docker.io/localhost/app:1", "docker.io/localhost/app:1"),
        ("docker.io/foo.bar/app:1", "docker.io/foo.bar/app:1"),
        (f"docker.io/library/{HEX}:1", f"library/{HEX}:1"),
    ],
)
def test_familiar_is_short_but_never_ambiguous(text: str, short: str) -> None:
    """People see what they would write, and it gives the same reference back."""
    reference = Reference.parse(text)
    assert reference.familiar == short
    assert Reference.parse(short) == reference


def test_the_parts_are_attributes() -> None:
    """Of a reference with everything."""
    reference = Reference.parse(f"localhost:5000/a/b:1@{DIGEST}")
    assert (reference.registry, reference.repository, reference.tag) == ("localhost:5000", "a/b", "1")
    assert reference.digest == Digest(DIGEST)
