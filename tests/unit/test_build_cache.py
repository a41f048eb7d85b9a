"""What makes a step another one: the cache is keyed by all that decides what a step makes, and no more."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lxcwrap.oci import Platform, Reference
from tests.unit.fakebuild import Builder
from tests.unit.fakelayers import contents

STEP = "RUN write f"


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    builder = Builder(tmp_path, monkeypatch)
    builder.base("other")
    return builder


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{STEP}", f"{STEP} "),
        (f"{STEP}", f"# a comment\n{STEP}"),
        (f"{STEP}", f"LABEL a=b\nEXPOSE 80\nVOLUME /v\nCMD x\nENTRYPOINT y\nSTOPSIGNAL 9\n{STEP}"),
        (f"ENV A=1\nENV B=2\n{STEP}", f"ENV B=2\nENV A=1\n{STEP}"),
        (f"ENV A=1\n{STEP}", f"ARG X=1\nARG A=1\nENV A=$A\n{STEP}".replace("ARG X=1\n", "")),
        (f"{STEP}\nENV A=1", f"{STEP}\nENV A=2"),
        (f"WORKDIR /a\n{STEP}", f"WORKDIR /\nWORKDIR a\n{STEP}"),
        ("RUN --mount=type=tmpfs,target=/t write f", "RUN --mount=target=/t,type=tmpfs write f"),
        ("RUN --network=none write f", STEP),
        ("RUN write f", 'RUN ["/bin/sh", "-c", "write f"]'),
        (f'SHELL ["/bin/sh", "-c"]\n{STEP}', STEP),
    ],
)
def test_what_decides_nothing_changes_nothing(builder: Builder, before: str, after: str) -> None:
    """The step is found in the cache."""
    builder.build(f"FROM base\n{before}\n")
    assert builder.ran(f"FROM base\n{after}\n") == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (STEP, "RUN write  f"),
        (STEP, 'RUN ["write", "write f"]'),
        (STEP, f"ENV A=1\n{STEP}"),
        (f"ENV A=1\n{STEP}", f"ENV A=2\n{STEP}"),
        (STEP, f"ARG A=1\n{STEP}"),
        (f"ARG A=1\n{STEP}", f"ARG A=2\n{STEP}"),
        (f"USER 1\n{STEP}", f"USER 2\n{STEP}"),
        (f"WORKDIR /a\n{STEP}", f"WORKDIR /b\n{STEP}"),
        (STEP, f'SHELL ["/bin/ash", "-c"]\n{STEP}'),
        (STEP, "RUN --mount=type=tmpfs,target=/t write f"),
        (STEP, "RUN --mount=type=secret,id=s write f"),
        ("RUN --mount=type=cache,target=/t write f", "RUN --mount=type=cache,target=/t,id=x write f"),
        ("RUN --mount=from=base,target=/t write f", "RUN --mount=from=other,target=/t write f"),
        ("RUN write a\nRUN write f", "RUN write b\nRUN write f"),
        ("RUN write a\nRUN write f", "RUN write f"),
    ],
)
def test_what_decides_makes_it_another_step(builder: Builder, before: str, after: str) -> None:
    """It is run again."""
    builder.build(f"FROM base\n{before}\n")
    assert builder.ran(f"FROM base\n{after}\n")
    assert builder.ran(f"FROM base\n{after}\n") == builder.ran(f"FROM base\n{before}\n") == []


def test_another_base_is_another_step(builder: Builder) -> None:
    """But not another name of the same base."""
    builder.build(f"FROM base\n{STEP}\n")
    builder.store.tag(builder.store.find("base"), Reference.parse("again"))
    assert builder.ran(f"FROM again\n{STEP}\n") == []
    assert builder.ran(f"FROM other\n{STEP}\n") == ["write f"]


def test_what_comes_to_the_same_goes_on_the_same(builder: Builder) -> None:
    """A step that was run again and made the same files leaves those behind it in the cache."""
    builder.build("FROM base\nRUN write f\nRUN write g\n")
    assert builder.ran("FROM base\nRUN write  f\nRUN write g\n") == ["write  f"]


def test_build_arguments_count_only_where_they_are_declared(builder: Builder) -> None:
    """Not before, and not in other stages."""
    text = "FROM base\nRUN write a\nARG V\nRUN write b\n"
    builder.build(text, build_args={"V": "1"})
    assert builder.ran(text, build_args={"V": "2"}) == ["write b"]


def test_secrets_proxies_and_tags_do_not_count(builder: Builder) -> None:
    """With other ones the same image comes from the cache."""
    text = "FROM base\nRUN --mount=type=secret,id=s write f\n"
    one = builder.build(text, secrets={"s": b"1"}, build_args={"http_proxy": "1"}, tags=["a"])
    two = builder.build(text, secrets={"s": b"2"}, build_args={"http_proxy": "2"}, tags=["b"])
    assert one == two and len(builder.runner.steps) == 1


def test_the_network_and_platform_of_the_build_count(builder: Builder) -> None:
    """As they decide what a command finds."""
    text = f"FROM base\n{STEP}\n"
    builder.build(text)
    assert builder.ran(text, network="host") == ["write f"]
    scratch = "FROM scratch\nRUN write f\n"
    builder.build(scratch)
    assert builder.ran(scratch, platform=Platform.parse("linux/arm64")) == ["write f"]


def test_a_build_from_the_cache_gives_the_very_same_image(builder: Builder) -> None:
    """Its times too; and nothing is written."""
    text = "FROM base\nENV A=1\nRUN write f\nLABEL a=b\nRUN true\nCMD x\n"
    image = builder.build(text, tags=["app:1"])
    before = contents(builder.store)
    changes = builder.store.state.connection.total_changes
    assert builder.build(text, tags=["app:1"]) == image
    assert contents(builder.store) == before
    assert builder.store.state.connection.total_changes == changes
    assert len(builder.runner.steps) == 2


def test_without_the_cache_all_is_run_anew_and_remembered(builder: Builder) -> None:
    """What was remembered before is garbage then, if no image has it."""
    text = "FROM base\nRUN write f\n"
    builder.runner.act = lambda step: (step.draft.layer / "time").write_text(str(time.time_ns()))
    first = builder.build(text)
    second = builder.build(text, no_cache=True)
    assert first != second
    assert builder.build(text) == second
    builder.store.remove(first)
    assert len(list(builder.store.layers.chain_ids())) == 3  # of the two bases, and the second


def test_what_was_lost_is_made_again(builder: Builder) -> None:
    """A blob that is not there any more is no hit."""
    text = "FROM base\nRUN write f\n"
    image = builder.build(text)
    builder.store.blobs.remove(builder.store.manifest(image).layers[-1].digest)
    assert builder.ran(text) == ["write f"]


def test_a_lost_directory_is_unpacked_again(builder: Builder) -> None:
    """From its blob, when a step needs it."""
    text = "FROM base\nRUN write f\n"
    image = builder.build(text)
    builder.store.layers.remove(builder.store.chain_ids(image)[0])
    assert builder.ran(text + "RUN write g\n") == ["write g"]
    assert all(path.is_dir() for path in builder.store.lower_dirs(image))


def test_rows_note_when_they_were_of_use(builder: Builder) -> None:
    """Once an hour at most."""
    text = "FROM base\nRUN write f\n"
    builder.build(text)
    connection = builder.store.state.connection

    def used_at() -> float:
        return float(connection.execute("SELECT used_at FROM build_cache").fetchone()[0])

    for age_s, is_noted in ((60, False), (7200, True)):
        connection.execute("UPDATE build_cache SET used_at = ?", (time.time() - age_s,))
        builder.build(text)
        assert (time.time() - used_at() < 30) == is_noted


def test_an_epoch_makes_all_times_the_same(builder: Builder) -> None:
    """Of records and files: the same content is the same image, whenever it is made."""
    text = "FROM base\nRUN write f\nENV A=1\n"
    builder.runner.act = lambda step: os.utime(step.draft.layer)
    images = set()
    for number in range(2):
        images.add(builder.build(text, epoch_s=1_000_000_000, no_cache=True))
        time.sleep(0.02 * number)
    (image,) = images
    config = builder.store.config(image)
    assert {entry.created and entry.created.timestamp() for entry in config.history} == {1_000_000_000}
    assert config.created and config.created.timestamp() == 1_000_000_000
    assert builder.ran(text) == ["write f"]  # those with other times are others


def test_two_builds_at_once_share_the_cache(builder: Builder) -> None:
    """Whoever comes last finds what the first one made; both images are whole."""
    from concurrent.futures import ThreadPoolExecutor

    text = "FROM base\nRUN write f\nRUN write g\n"
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: builder.build(text, epoch_s=1), range(8)))
    assert len(set(images)) == 1
    assert all(path.is_dir() for path in builder.store.lower_dirs(images[0]))
