"""Stages: which are built, in what order, side by side; what is told; how a build fails."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from lxcwrap.errors import BuildError, DockerfileError, ImageNotFoundError, InvalidSpecError
from lxcwrap.progress import ProgressEvent, StepFinished, StepOutput, StepStarted
from tests.unit.fakebuild import Builder
from tests.unit.fakelayers import contents

DIAMOND = """
    FROM base AS deps
    RUN write deps
    FROM deps AS left
    RUN write left
    FROM deps AS right
    RUN write right
    FROM base AS unused
    RUN write unused
    FROM left AS last
    RUN --mount=from=right,target=/mnt write last
"""


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, {"deps", "left", "right", "last"}),
        ("last", {"deps", "left", "right", "last"}),
        ("LAST", {"deps", "left", "right", "last"}),
        ("right", {"deps", "right"}),
        ("2", {"deps", "right"}),
        ("0", {"deps"}),
        ("unused", {"unused"}),
    ],
)
def test_only_what_the_target_needs_is_built(
    builder: Builder, target: str | None, expected: set[str]
) -> None:
    """A target is a stage's name, in any case, or its number."""
    commands = builder.ran(DIAMOND, target=target)
    assert {command.split()[1] for command in commands} == expected
    assert len(commands) == len(expected)


@pytest.mark.parametrize("target", ["nothing", "5", "-1", ""])
def test_an_unknown_target_is_refused(builder: Builder, target: str) -> None:
    """Before anything is run."""
    with pytest.raises(InvalidSpecError):
        builder.build(DIAMOND, target=target)
    assert not builder.runner.steps


def test_a_stage_begins_with_the_files_and_settings_of_another(builder: Builder) -> None:
    """And names of stages are looked up among those before it: a stage may be called as its base is."""
    config = builder.config("FROM base AS base\nENV A=1\nRUN write f\nFROM base\nRUN write g\n")
    assert config.env["A"] == "1"
    assert [len(step.lowers) for step in builder.runner.steps] == [1, 2]
    assert len(config.history) == 3
    assert builder.asked == [("base", "linux/amd64")]


def test_a_number_is_no_stage_for_from(builder: Builder) -> None:
    """It would be an image."""
    with pytest.raises(ImageNotFoundError):
        builder.build("FROM base\nRUN write f\nFROM 0\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("FROM --platform=linux/arm64 base", "linux/arm64"),
        ("FROM --platform=$BUILDPLATFORM base", "linux/amd64"),
        ("FROM --platform=$TARGETPLATFORM base", "linux/s390x"),
        ("FROM base", "linux/s390x"),
    ],
)
def test_bases_are_asked_for_on_a_platform(builder: Builder, line: str, expected: str) -> None:
    """That of the build, if FROM does not say."""
    from lxcwrap.oci import Platform

    builder.build(f"{line}\nLABEL a=b\n", platform=Platform.parse("linux/s390x"))
    assert builder.asked == [("base", expected)]


def test_an_image_is_asked_for_once(builder: Builder) -> None:
    """However many stages begin with it, or copy from it: its name may come to mean another one meanwhile."""
    builder.build(
        "FROM base AS a\nRUN x\nFROM base\nRUN --mount=from=base,target=/b --mount=from=a,target=/a y\n"
    )
    assert builder.asked == [("base", "linux/amd64")]


def test_independent_stages_run_at_the_same_time(builder: Builder) -> None:
    """Each waits for the other here."""
    builder.build("FROM base AS a\nRUN meet\nFROM base\nRUN meet 2\nRUN --mount=from=a,target=/a write f\n")
    assert sorted(builder.runner.commands) == ["meet", "meet 2", "write f"]


def test_two_stages_with_the_same_step_run_it_once(builder: Builder) -> None:
    """Even when they begin at the same time, and nothing may come from the cache."""
    builder.runner.act = lambda step: time.sleep(0.05)
    text = "FROM base AS a\nRUN write same\nFROM base\nRUN write same\nRUN --mount=from=a,target=/a write f\n"
    assert builder.ran(text) == builder.ran(text, no_cache=True) == ["write same", "write f"]


# --- what is told ---------------------------------------------------------------------------------------


def test_every_step_is_told_as_it_begins_and_ends(builder: Builder) -> None:
    """Counted over all stages that are built; what a command writes comes between."""
    builder.build("FROM base AS a\nRUN say hello\nFROM base AS left_out\nRUN x\nFROM a\nENV A=1\n")
    started = [event for event in builder.events if isinstance(event, StepStarted)]
    assert [(event.step, event.total, event.stage, event.instruction) for event in started] == [
        (1, 4, "a", "FROM base AS a"),
        (2, 4, "a", "RUN say hello"),
        (3, 4, "2", "FROM a"),
        (4, 4, "2", "ENV A=1"),
    ]
    kinds = [type(event) for event in builder.events]
    assert kinds[2:5] == [StepStarted, StepOutput, StepFinished]
    assert builder.events[3] == StepOutput(step=2, stream="stdout", text="hello")
    assert len([event for event in builder.events if isinstance(event, StepFinished)]) == 4


def test_steps_from_the_cache_say_so(builder: Builder) -> None:
    """Those that change no file have nothing to be cached."""
    text = "FROM base\nRUN write f\nENV A=1\nRUN true\n"
    for cached in (False, True):
        builder.events.clear()
        builder.build(text)
        finished = [event for event in builder.events if isinstance(event, StepFinished)]
        assert {event.step for event in finished if event.cached} == ({2, 4} if cached else set())


def test_who_is_told_can_end_the_build(builder: Builder) -> None:
    """What it raises is raised."""

    class Enough(Exception):
        pass

    def report(event: ProgressEvent) -> None:
        if isinstance(event, StepOutput):
            raise Enough

    builder.events = type("Events", (), {"append": staticmethod(report)})()
    with pytest.raises(Enough):
        builder.build("FROM base\nRUN say x\n")
    assert threading.active_count() == 1


# --- failure --------------------------------------------------------------------------------------------


def test_a_failed_step_says_all_about_itself(builder: Builder) -> None:
    """And no image is made."""
    with pytest.raises(BuildError) as caught:
        builder.build(
            "FROM base\n\nRUN write f\nRUN say fine && \\\n  really\nRUN fail now\n", tags=["app:1"]
        )
    error = caught.value
    assert (error.step, error.line, error.exit_code) == (4, 6, 3)
    assert error.instruction == "RUN fail now"
    assert error.log == "it went wrong"
    assert builder.store.count() == 1


def test_only_the_end_of_a_log_is_kept(builder: Builder) -> None:
    """Of lines without end, too."""
    runner = builder.runner

    def run(step: object, on_output: object, cancelled: object) -> int:
        assert callable(on_output)
        for number in range(300):
            on_output("stdout", b"%d\n" % number)
        on_output("stderr", "ä".encode()[:1])
        on_output("stderr", "ä".encode()[1:] + b"\xff" * 100_000)
        return 1

    runner.run = run  # type: ignore[method-assign]
    with pytest.raises(BuildError) as caught:
        builder.build("FROM base\nRUN x\n")
    lines = caught.value.log.split("\n")
    assert len(lines) <= 101 and lines[-2] == "299" and len(lines[-1]) <= 10_000


def test_the_first_failure_ends_the_other_stages(builder: Builder) -> None:
    """It is the one that is raised, and no thread survives."""
    text = "FROM base AS a\nRUN block\nFROM base AS b\nRUN fail\nFROM base\nRUN --mount=from=a,target=/a "
    text += "--mount=from=b,target=/b write f\n"
    for _ in range(5):
        with pytest.raises(BuildError) as caught:
            builder.build(text)
        assert caught.value.instruction == "RUN fail"
        assert threading.active_count() == 1
    assert "write f" not in builder.runner.commands


def test_a_failure_leaves_the_store_as_it_was(builder: Builder) -> None:
    """But for the steps before it, which the next build finds."""
    before = contents(builder.store)
    with pytest.raises(BuildError):
        builder.build("FROM base\nRUN fail\n")
    assert contents(builder.store) == before
    with pytest.raises(BuildError):
        builder.build("FROM base\nRUN write f\nRUN fail\n")
    after = contents(builder.store)
    assert after["images"] == before["images"] and after["tags"] == before["tags"]
    assert len(after["layers"]) == len(before["layers"]) + 1
    assert builder.ran("FROM base\nRUN write f\nRUN write g\n") == ["write g"]


@pytest.mark.parametrize("when", [0, 1])
def test_an_interrupt_ends_the_build(builder: Builder, when: int) -> None:
    """In the midst of a step, and between two."""
    steps = iter(range(9))

    def act(step: object) -> None:
        if next(steps) == when:
            raise KeyboardInterrupt

    builder.runner.act = act
    with pytest.raises(KeyboardInterrupt):
        builder.build("FROM base\nRUN write a\nRUN write b\n", tags=["app:1"])
    assert builder.store.count() == 1
    assert threading.active_count() == 1
    assert not list(builder.store.root.path.glob("draft-*/layer/*b"))


@pytest.mark.parametrize(
    "lines",
    ["ENV A=${B:?set B}", "EXPOSE $PORT", "STOPSIGNAL $NAME", "RUN --mount=type=bind,target=$NOTHING true"],
)
def test_what_variables_make_wrong_is_told_with_its_place(builder: Builder, lines: str) -> None:
    """Steps before it may have run."""
    with pytest.raises(DockerfileError) as caught:
        builder.build(f"FROM base\nENV PORT=x NAME=SIGNOT\n{lines}\n")
    assert caught.value.line == 3


def test_a_required_secret_that_is_missing_fails_the_step(builder: Builder) -> None:
    """Which is not run; without `required` it is."""
    with pytest.raises(BuildError) as caught:
        builder.build("FROM base\nRUN --mount=type=secret,id=token,required=true x\n")
    assert isinstance(caught.value.__cause__, InvalidSpecError) and not builder.runner.steps
    builder.build("FROM base\nRUN --mount=type=secret,id=token x\n")
    assert builder.runner.steps[-1].mounts == ()


@pytest.mark.parametrize("secret", [b"a\0b", b"\xff"])
def test_a_secret_that_no_variable_can_hold_fails_the_step(builder: Builder, secret: bytes) -> None:
    """As a file it is fine."""
    text = "FROM base\nRUN --mount=type=secret,id=a,{}=/a x\n"
    with pytest.raises(BuildError):
        builder.build(text.format("env"), secrets={"a": secret})
    builder.build(text.format("target"), secrets={"a": secret})
    assert [mount.content for mount in builder.runner.steps[-1].mounts] == [secret]  # type: ignore[union-attr]
