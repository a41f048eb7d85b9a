"""Steps from a program: the same images as from the Dockerfile that says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lxcwrap.build.step import RunStep
from lxcwrap.buildsteps import BuildSteps
from lxcwrap.errors import BuildError, InvalidSpecError
from lxcwrap.imageconfig import Healthcheck
from tests.unit.fakebuild import Builder


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    return Builder(tmp_path, monkeypatch)


def steps(base: str = "base") -> BuildSteps:
    """They are not built here, but by `Builder`."""

    def build(*_: Any, **__: Any) -> Any:
        raise AssertionError

    return BuildSteps(build, base)


@pytest.mark.parametrize(
    ("made", "lines"),
    [
        (steps().run("write f $HOME"), "RUN write f $HOME"),
        (steps().run(["a", "write f"]), 'RUN ["a", "write f"]'),
        (steps().env(A="1").run("write f"), "ENV A=1\nRUN write f"),
        (steps().env({"A": "1 2", "B.c": "3"}), "ENV A='1 2' B.c=3"),
        (steps().label({"org.x": "y"}, a="b"), "LABEL org.x=y a=b"),
        (steps().workdir("/a").workdir("b").user(5).run("x"), "WORKDIR /a\nWORKDIR b\nUSER 5\nRUN x"),
        (steps().expose(80, "53/udp", "90-92"), "EXPOSE 80 53/udp 90-92"),
        (steps().volume("/a", "/b"), "VOLUME /a /b"),
        (steps().entrypoint(["/e"]).cmd(["c"]), 'ENTRYPOINT ["/e"]\nCMD ["c"]'),
        (steps().cmd("top -b").entrypoint("exec sh"), "CMD top -b\nENTRYPOINT exec sh"),
        (steps().shell(["/ash", "-c"]).run("x"), 'SHELL ["/ash", "-c"]\nRUN x'),
        (steps().stop_signal("SIGQUIT"), "STOPSIGNAL SIGQUIT"),
        (steps().stop_signal(9), "STOPSIGNAL 9"),
        (
            steps().healthcheck(Healthcheck(test=("CMD-SHELL", "probe"), retries=2)),
            "HEALTHCHECK --retries=2 CMD probe",
        ),
        (
            steps().run("write f", mounts=["type=tmpfs,target=/t", "type=cache,target=/c"], network="host"),
            "RUN --network=host --mount=type=tmpfs,target=/t --mount=type=cache,target=/c write f",
        ),
    ],
)
def test_a_program_and_a_dockerfile_make_the_same_image(
    builder: Builder, made: BuildSteps, lines: str
) -> None:
    """The second is taken from the cache of the first, and has the same id."""
    image = builder.build(made.program(), network="host")
    commands = list(builder.runner.commands)
    assert builder.build(f"FROM base\n{lines}\n", network="host") == image
    assert builder.runner.commands == commands


def test_nothing_is_substituted(builder: Builder) -> None:
    """What a program wants replaced it replaces itself."""
    config = builder.store.config(builder.build(steps().env(A="1", B="$A ${C:?no} 'q'").program()))
    assert config.env["B"] == "$A ${C:?no} 'q'"


def test_triggers_of_the_base_are_carried_out(builder: Builder) -> None:
    """Those were written for a Dockerfile, and have variables."""
    builder.base("triggers", on_build=("ARG X=1", "RUN write $X", "ENV Y=$X"))
    config = builder.store.config(builder.build(steps("triggers").run("x").program()))
    assert builder.runner.commands == ["write $X", "x"] and config.env["Y"] == "1"


def test_a_value_is_never_changed(builder: Builder) -> None:
    """Each step gives another one, so a beginning can be shared."""
    common = steps().run("write f")
    one, two = common.env(A="1"), common.env(A="2")
    assert len(common.program().stages[0].instructions) == 1
    assert builder.build(one.program()) != builder.build(two.program())
    assert builder.runner.commands == ["write f"]


def test_steps_that_are_copied_from_are_stages() -> None:
    """Each once, before those that need it."""
    tools = steps("tools").run("make tools")
    app = steps().copy("/bin/a", "/a", from_=tools).run("make")
    last = steps("scratch").copy("/a", "/", from_=app).copy(["/b", "/c"], "/d/", from_=tools)
    stages = last.program().stages
    assert [stage.base.image for stage in stages] == ["tools", "base", "scratch"]
    assert [getattr(each, "from_", None) for each in stages[2].instructions] == ["1", "0"]
    assert [getattr(each, "from_", None) for each in stages[1].instructions] == ["0", None]


def _touch(step: RunStep, name: str, *, times: int = 1) -> None:
    (step.draft.layer / name).write_text("x" * times)


def _fail(step: RunStep) -> None:
    raise KeyError("inside")


def test_a_function_is_called_once(builder: Builder) -> None:
    """And again with other arguments, variables or files below."""
    made = steps().call(_touch, "f", times=2)
    image = builder.build(made.program())
    assert builder.build(steps().call(_touch, "f", times=2).program()) == image
    assert len(builder.runner.steps) == 1
    assert builder.store.config(image).history[-1].created_by.startswith("CALL ")
    for other in (
        steps().call(_touch, "f", times=3),
        steps().env(A="1").call(_touch, "f", times=2),
        steps().run("write g").call(_touch, "f", times=2),
    ):
        builder.runner.steps.clear()
        builder.build(other.program())
        assert builder.runner.steps


def test_a_function_that_raises_fails_the_step(builder: Builder) -> None:
    """What it raised is the cause of the cause."""
    with pytest.raises(BuildError) as caught:
        builder.build(steps().run("x").call(_fail).program())
    error = caught.value
    assert (error.step, error.line, error.exit_code) == (3, None, None)
    assert error.__cause__ and isinstance(error.__cause__.__cause__, KeyError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: steps().run(""),
        lambda: steps().run([]),
        lambda: steps().run("x", mounts=["type=nothing,target=/x"]),
        lambda: steps().run("x", mounts=["type=cache"]),
        lambda: steps().env(),
        lambda: steps().env({"A=B": "1"}),
        lambda: steps().expose("http"),
        lambda: steps().stop_signal("SIGNOT"),
        lambda: steps().shell([]),
        lambda: steps().cmd(["a\0"]),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(make: Any) -> None:
    """Before anything is built."""
    with pytest.raises(InvalidSpecError):
        make()


@pytest.mark.parametrize(
    ("method", "arguments", "options"),
    [("run", ["x"], {"mounts": "type=tmpfs,target=/t"}), ("run", [3], {}), ("call", ["print"], {})],
)
def test_what_is_of_a_wrong_type_is_refused_at_once(
    method: str, arguments: list[Any], options: dict[str, Any]
) -> None:
    """With a TypeError."""
    with pytest.raises(TypeError):
        getattr(steps(), method)(*arguments, **options)
