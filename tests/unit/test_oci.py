"""Values of the OCI specifications: lenient where real images are, strict in type, canonical when written."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from lxcwrap import oci
from lxcwrap.errors import FormatError, InvalidSpecError, UnsupportedError
from lxcwrap.oci import Descriptor, Digest, Healthcheck, History, ImageConfig, Index, Manifest, Platform

A, B, C = (Digest("sha256:" + digit * 64) for digit in "abc")


def config_json(**members: object) -> bytes:
    return json.dumps({"rootfs": {"type": "layers", "diff_ids": [A]}, **members}).encode()


def manifest_json(**members: object) -> bytes:
    config = {"mediaType": oci.OCI_CONFIG, "digest": A, "size": 1}
    return json.dumps({"schemaVersion": 2, "config": config, "layers": [], **members}).encode()


# --- digests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "sha256:" + "g" * 64,
        "sha256:" + "A" * 64,
        "sha512:" + "a" * 64,
        "a" * 64,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 64 + "\n",
        "sha256:../" + "a" * 61,
        None,
        3,
    ],
)
def test_only_sha256_in_lowercase_is_a_digest(text: str) -> None:
    """It becomes a file name."""
    with pytest.raises(FormatError):
        Digest(text)


def test_a_digest_is_its_text() -> None:
    """It can be compared, stored and looked up as a str."""
    assert Digest(str(A)) == "sha256:" + "a" * 64
    assert A.hex == "a" * 64
    assert oci.digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_chain_ids_are_those_of_the_specification() -> None:
    """ChainID(L0) = DiffID(L0); ChainID(L0|..|Ln) = digest of "ChainID(L0|..|Ln-1) DiffID(Ln)"."""
    assert oci.chain_id([A]) == A
    two = oci.digest_of(f"{A} {B}".encode())
    assert oci.chain_ids([A, B, C]) == (A, two, oci.digest_of(f"{two} {C}".encode()))
    with pytest.raises(InvalidSpecError):
        oci.chain_id([])


# --- configs --------------------------------------------------------------------------------------------


def test_a_config_is_read_completely() -> None:
    """Every field that says how a container starts."""
    config = ImageConfig.parse(
        config_json(
            architecture="arm64",
            os="linux",
            variant="v8",
            created="2024-02-03T04:05:06.123456789Z",
            author="me",
            config={
                "Entrypoint": ["/init"],
                "Cmd": ["a", "b"],
                "Env": ["PATH=/bin", "A=b=c", "EMPTY="],
                "WorkingDir": "/w",
                "User": "1:2",
                "Labels": {"k": "v"},
                "Volumes": {"/data": {}},
                "ExposedPorts": {"80/tcp": {}},
                "StopSignal": "SIGQUIT",
                "Shell": ["/bin/ash", "-c"],
                "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_500_000_000, "Retries": 2},
                "OnBuild": ["RUN make"],
            },
            history=[{"created_by": "x", "empty_layer": True}, {"created": "2024-01-01T00:00:00Z"}],
        )
    )
    assert config == ImageConfig(
        diff_ids=(A,),
        architecture="arm64",
        variant="v8",
        created=datetime(2024, 2, 3, 4, 5, 6, 123456, UTC),
        author="me",
        entrypoint=("/init",),
        cmd=("a", "b"),
        env={"PATH": "/bin", "A": "b=c", "EMPTY": ""},
        working_dir="/w",
        user="1:2",
        labels={"k": "v"},
        volumes=("/data",),
        exposed_ports=("80/tcp",),
        stop_signal="SIGQUIT",
        shell=("/bin/ash", "-c"),
        healthcheck=Healthcheck(test=("CMD", "true"), interval_s=1.5, retries=2),
        on_build=("RUN make",),
        history=(
            History(created_by="x", empty_layer=True),
            History(created=datetime(2024, 1, 1, tzinfo=UTC)),
        ),
    )
    assert ImageConfig.parse(config.to_json()) == config
    assert config.platform == Platform("linux", "arm64", "v8")


def test_null_and_missing_are_the_same() -> None:
    """Go programs write null for what is empty."""
    nulls = dict.fromkeys(
        ("Entrypoint", "Cmd", "Env", "Labels", "Volumes", "ExposedPorts", "Healthcheck", "User")
    )
    read = ImageConfig.parse(config_json(config=nulls, history=None, created=None, author=None))
    assert read == ImageConfig.parse(config_json()) == ImageConfig(diff_ids=(A,))


def test_what_old_dockers_wrote_is_understood() -> None:
    """Text for a list of words, variables without '=', which no program can see, and an empty time."""
    config = ImageConfig.parse(
        config_json(created="", config={"Entrypoint": "/init", "Env": ["A", "=b", "C=d"]})
    )
    assert (config.entrypoint, dict(config.env), config.created) == (("/init",), {"C": "d"}, None)


@pytest.mark.parametrize(
    "members",
    [
        {"config": []},
        {"config": {"Cmd": {"a": 1}}},
        {"config": {"Cmd": [1]}},
        {"config": {"Cmd": ["a\0b"]}},
        {"config": {"Cmd": ["\ud800"]}},
        {"config": {"Env": "A=b"}},
        {"config": {"User": 0}},
        {"config": {"Labels": {"a": None}}},
        {"config": {"Healthcheck": {"Interval": True}}},
        {"config": {"Healthcheck": {"Interval": -1}}},
        {"created": "yesterday"},
        {"history": [None]},
        {"os": 1},
        {"rootfs": {"type": "squashfs", "diff_ids": [A]}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"rootfs": {"diff_ids": "x"}},
    ],
)
def test_wrong_types_are_refused(members: dict[str, object]) -> None:
    """A value that was parsed can be relied on."""
    with pytest.raises(FormatError):
        ImageConfig.parse(config_json(**members))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"nul",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":NaN}',
        b'{"a":' + b"1" * 5000 + b"}",
        b" " * (oci.MAX_DOCUMENT + 1),
    ],
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    """Whatever the JSON parser makes of it."""
    with pytest.raises(FormatError):
        ImageConfig.parse(data)
    with pytest.raises(FormatError):
        Manifest.parse(data)


def test_a_config_cannot_be_changed() -> None:
    """It is cached and shared."""
    config = ImageConfig(diff_ids=(A,), env={"A": "b"})
    with pytest.raises(TypeError):
        config.env["A"] = "c"  # type: ignore[index]


# --- manifests and indexes ------------------------------------------------------------------------------


def test_manifests_survive_writing() -> None:
    """And equal ones are equal bytes."""
    layer = Descriptor(media_type=oci.OCI_LAYER + "+gzip", digest=B, size=7, annotations={"a": "b"})
    manifest = Manifest(config=Descriptor(media_type=oci.OCI_CONFIG, digest=A, size=3), layers=(layer,))
    assert Manifest.parse(manifest.to_json()) == manifest
    assert Manifest.parse(manifest.to_json()).to_json() == manifest.to_json()


def test_indexes_survive_writing() -> None:
    """With platforms."""
    item = Descriptor(media_type=oci.OCI_MANIFEST, digest=A, size=3, platform=Platform("linux", "arm", "v7"))
    index = Index(manifests=(item,), annotations={"a": "b"})
    assert Index.parse(index.to_json()) == index


def test_a_manifest_without_types_is_accepted() -> None:
    """umoci writes no mediaType."""
    manifest = Manifest.parse(manifest_json(config={"digest": A, "size": 1}, layers=None))
    assert (manifest.media_type, manifest.layers) == (oci.OCI_MANIFEST, ())


@pytest.mark.parametrize("compression", ["", ".gzip", ".zstd"])
def test_docker_types_are_accepted(compression: str) -> None:
    """The types from before the OCI."""
    layer = {
        "mediaType": f"application/vnd.docker.image.rootfs.diff.tar{compression}",
        "digest": B,
        "size": 1,
    }
    config = {"mediaType": oci.DOCKER_CONFIG, "digest": A, "size": 1}
    assert Manifest.parse(manifest_json(config=config, layers=[layer])).media_type == oci.DOCKER_MANIFEST


@pytest.mark.parametrize(
    "members",
    [
        {"schemaVersion": 1},
        {"mediaType": oci.OCI_INDEX},
        {"config": None},
        {"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": A, "size": 1}},
        {"config": {"digest": A}},
        {"config": {"digest": A, "size": -1}},
        {"config": {"digest": A, "size": 1 << 63}},
        {"config": {"digest": A, "size": "1"}},
        {"config": {"digest": A, "size": True}},
        {"config": {"digest": A, "size": 1.5}},
        {"config": {"size": 1}},
        {"layers": [{"mediaType": oci.OCI_LAYER + "+encrypted", "digest": B, "size": 1}]},
        {"layers": {"0": 1}},
    ],
)
def test_other_manifests_are_refused(members: dict[str, object]) -> None:
    """Signatures, charts, encrypted layers, and nonsense."""
    with pytest.raises(FormatError):
        Manifest.parse(manifest_json(**members))


# --- platforms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("x86_64", Platform("linux", "amd64")),
        ("linux/aarch64", Platform("linux", "arm64")),
        ("linux/arm/v6", Platform("linux", "arm", "v6")),
        ("armv7l", Platform("linux", "arm", "v7")),
        ("riscv64", Platform("linux", "riscv64")),
    ],
)
def test_platforms_go_by_many_names(text: str, platform: Platform) -> None:
    """Those of Go and those of the kernel."""
    assert Platform.parse(text) == platform
    assert Platform.parse(str(platform)) == platform


@pytest.mark.parametrize("text", ["", "linux/", "a/b/c/d", "linux/a b"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    """Instead of finding nothing later."""
    with pytest.raises(InvalidSpecError):
        Platform.parse(text)


def test_lower_variants_run_but_higher_ones_do_not() -> None:
    """And the highest that runs is the best."""
    v7 = Platform.parse("linux/arm/v7")
    ranks = [v7.rank(Platform("linux", "arm", variant)) for variant in ("v5", "v6", "v7", "v8")]
    assert 0 < ranks[0] < ranks[1] < ranks[2]
    assert ranks[3] == 0
    assert Platform.parse("amd64").rank(Platform("linux", "amd64", "v3")) == 0
    assert Platform.parse("arm64").rank(Platform("linux", "arm64", "v8")) > 0
    assert Platform.parse("amd64").rank(Platform("windows", "amd64")) == 0


def test_an_unfit_offer_names_the_choices() -> None:
    """So that the next call can be right."""
    with pytest.raises(UnsupportedError) as caught:
        Platform.parse("amd64").require([Platform("linux", "s390x"), Platform("linux", "arm64")], "app.tar")
    assert "linux/arm64, linux/s390x" in caught.value.remedy
