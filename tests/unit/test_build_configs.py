"""What instructions make of the config of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lxcwrap.errors import InvalidSpecError
from lxcwrap.imageconfig import Healthcheck
from tests.unit.fakebuild import Builder

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE: dict[str, Any] = {
    "entrypoint": ("/init",),
    "cmd": ("serve", "-v"),
    "env": {"PATH": "/bin", "HOME": "/h"},
    "working_dir": "/srv",
    "labels": {"from": "base"},
    "exposed_ports": ("80/tcp",),
    "volumes": ("/data",),
    "user": "app",
}


@pytest.fixture
def builder(roots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    builder = Builder(tmp_path, monkeypatch)
    builder.base("full", **BASE)
    return builder


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # ENTRYPOINT and CMD
        ("CMD a b", {"cmd": ("/bin/sh", "-c", "a b"), "entrypoint": ("/init",)}),
        ('CMD ["a", "b"]', {"cmd": ("a", "b")}),
        ("CMD []", {"cmd": ()}),
        ('CMD ["$A"]', {"cmd": ("$A",)}),
        ('ENTRYPOINT ["/new"]', {"entrypoint": ("/new",), "cmd": ()}),
        ('CMD ["x"]\nENTRYPOINT ["/new"]', {"entrypoint": ("/new",), "cmd": ("x",)}),
        ('ENTRYPOINT ["/new"]\nCMD ["x"]', {"entrypoint": ("/new",), "cmd": ("x",)}),
        ("ENTRYPOINT exec top", {"entrypoint": ("/bin/sh", "-c", "exec top"), "cmd": ()}),
        ("ENTRYPOINT []", {"entrypoint": (), "cmd": ()}),
        ('SHELL ["/sh", "-ec"]\nCMD a', {"cmd": ("/sh", "-ec", "a"), "shell": ("/sh", "-ec")}),
        # ENV: the old values are seen by all pairs of one instruction
        ("ENV A=1", {"env": {"PATH": "/bin", "HOME": "/h", "A": "1"}}),
        ("ENV A=1 B=$A C=${A:-2}\nENV D=$A", {"env": {**BASE["env"], "A": "1", "B": "", "C": "2", "D": "1"}}),
        ("ENV PATH=/x:$PATH", {"env": {"PATH": "/x:/bin", "HOME": "/h"}}),
        ("ENV one two three", {"env": {**BASE["env"], "one": "two three"}}),
        # LABEL, EXPOSE, VOLUME: added to the base's
        ("LABEL a=1 b='2 3'\nLABEL a=4", {"labels": {"from": "base", "a": "4", "b": "2 3"}}),
        ("LABEL from=here", {"labels": {"from": "here"}}),
        ("EXPOSE 53/udp 90-92", {"exposed_ports": ("53/udp", "80/tcp", "90/tcp", "91/tcp", "92/tcp")}),
        ("EXPOSE 80", {"exposed_ports": ("80/tcp",)}),
        ("VOLUME /a /b\nVOLUME [\"/c d\"]", {"volumes": ("/a", "/b", "/c d", "/data")}),
        # the others: taken in place of the base's
        ("USER 1:2", {"user": "1:2"}),
        ("STOPSIGNAL SIGQUIT", {"stop_signal": "SIGQUIT"}),
        ("HEALTHCHECK --interval=5s --retries=2 CMD probe", {
            "healthcheck": Healthcheck(test=("CMD-SHELL", "probe"), interval_s=5, retries=2)}),
        ("HEALTHCHECK NONE", {"healthcheck": Healthcheck(test=("NONE",))}),
        ("MAINTAINER me", {"author": "me"}),
        ("ONBUILD RUN make\nONBUILD COPY . /src", {"on_build": ("RUN make", "COPY . /src")}),
        ("RUN true", {**BASE}),
    ],
)  # fmt: skip
def test_an_instruction_sets_what_docker_sets(builder: Builder, lines: str, expected: dict[str, Any]) -> None:
    """On top of what the base image says."""
    config = builder.config(f"FROM full\n{lines}\n")
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/a"], "/a"), (["a"], "/srv/a"), (["/a", "b", "../c"], "/a/c"), (["../../../x"], "/x"),
        (["//a//b/"], "/a/b"), (["/"], "/"), (["."], "/srv"), (["$HOME/x"], "/h/x"),
    ],
)  # fmt: skip
def test_working_directories_are_relative_to_the_last_one(
    builder: Builder, paths: list[str], expected: str
) -> None:
    """And never above the root."""
    lines = "\n".join(f"WORKDIR {path}" for path in paths)
    config = builder.config(f"FROM full\nUSER 0\n{lines}\nRUN pwd\n")
    assert config.working_dir == expected
    assert builder.runner.steps[-1].cwd == expected


def test_scratch_has_a_search_path_and_nothing_else(builder: Builder) -> None:
    """As in Docker; what changes no file becomes an image of one empty layer."""
    config = builder.config("FROM scratch\nLABEL a=b\n")
    assert (dict(config.env), config.working_dir) == ({"PATH": PATH}, "/")
    assert len(config.diff_ids) == 1
    assert [entry.empty_layer for entry in config.history] == [False, True]


# --- ARG ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "build_args", "expected"),
    [
        ("FROM base\nARG A\nENV R=$A", {}, ""),
        ("FROM base\nARG A=1\nENV R=$A", {}, "1"),
        ("FROM base\nARG A=1\nENV R=$A", {"A": "2"}, "2"),
        ("FROM base\nARG A=1\nENV R=$A", {"A": ""}, ""),
        ("FROM base\nENV R=$A\nARG A=1", {}, ""),
        ("FROM base\nARG A=1\nARG B=${A}2\nENV R=$B", {}, "12"),
        ("FROM base\nARG A=1\nENV A=2\nENV R=$A", {"A": "3"}, "2"),
        ("FROM base\nENV A=2\nARG A=1\nENV R=$A", {"A": "3"}, "2"),
        # those before FROM hold for FROM, and for a stage that declares them
        ("ARG A=1\nFROM base\nENV R=$A", {}, ""),
        ("ARG A=1\nFROM base\nARG A\nENV R=$A", {}, "1"),
        ("ARG A=1\nFROM base\nARG A\nENV R=$A", {"A": "2"}, "2"),
        ("ARG A=1\nFROM base\nARG A=3\nENV R=$A", {}, "3"),
        ("ARG A=base\nARG B=$A\nFROM $B\nARG B\nENV R=$B", {}, "base"),
        # of a stage, and of those upon it only ENV
        ("FROM base AS one\nARG A=1\nFROM one\nENV R=$A", {}, ""),
        ("FROM base AS one\nARG A=1\nENV E=$A\nFROM one\nENV R=$E", {}, "1"),
        # known to all builds
        ("FROM base\nARG TARGETPLATFORM\nENV R=$TARGETPLATFORM", {}, "linux/amd64"),
        ("FROM base\nENV R=$TARGETPLATFORM", {}, ""),
        ("FROM base\nARG TARGETARCH\nARG TARGETOS\nENV R=$TARGETOS/$TARGETARCH", {}, "linux/amd64"),
        ("FROM base\nARG TARGETARCH=mine\nENV R=$TARGETARCH", {}, "mine"),
        ("FROM base\nARG TARGETARCH\nENV R=$TARGETARCH", {"TARGETARCH": "mine"}, "mine"),
        ("FROM base AS last\nARG TARGETSTAGE\nENV R=$TARGETSTAGE", {}, "last"),
        ("FROM base\nARG HTTP_PROXY\nENV R=$HTTP_PROXY", {"HTTP_PROXY": "http://p"}, "http://p"),
    ],
)  # fmt: skip
def test_args_have_the_scopes_of_docker(
    builder: Builder, lines: str, build_args: dict[str, str], expected: str
) -> None:
    """R is what they are at the end."""
    assert builder.config(lines + "\n", build_args=build_args).env["R"] == expected


def test_a_command_sees_args_and_env_and_only_declared_ones(builder: Builder) -> None:
    """Not those of the build that are not declared, but for proxies."""
    args = {"A": "1", "http_proxy": "http://p"}
    builder.build("FROM base\nARG A\nARG B=2\nENV B=3\nRUN x\nARG C=4\n", build_args=args)
    assert builder.runner.steps[-1].env == {"PATH": PATH, "A": "1", "B": "3", "http_proxy": "http://p"}


def test_the_history_tells_args_but_not_proxies(builder: Builder) -> None:
    """As Docker does: their number, and their values."""
    config = builder.config(
        "FROM base\nARG A=1\nARG B=2\nRUN x y\n", build_args={"HTTPS_PROXY": "http://user:secret@p"}
    )
    assert config.history[-1].created_by == "RUN |2 A=1 B=2 /bin/sh -c x y"
    assert b"secret" not in config.to_json()


def test_a_build_argument_that_nothing_asks_for_is_refused(builder: Builder) -> None:
    """Before anything is run: it may be misspelt. One for a stage that is not built is fine."""
    text = "FROM base AS unused\nARG KNOWN\nFROM base\nRUN write f\n"
    with pytest.raises(InvalidSpecError):
        builder.build(text, build_args={"UNKNOWN": "1"})
    assert not builder.runner.steps
    builder.build(text, build_args={"KNOWN": "1"})


# --- history, labels, ONBUILD ---------------------------------------------------------------------------


def test_the_history_says_what_was_meant(builder: Builder) -> None:
    """However it was written; entries without a layer say so."""
    config = builder.config("FROM base\nRUN write   f\nENV  A  b\nWORKDIR x\nEXPOSE 80\nRUN true\nCMD top\n")
    assert [(entry.created_by, entry.empty_layer) for entry in config.history] == [
        ("RUN /bin/sh -c write   f", False),
        ("ENV A=b", True),
        ("WORKDIR /x", False),
        ("EXPOSE 80/tcp", True),
        ("RUN /bin/sh -c true", True),
        ('CMD ["/bin/sh", "-c", "top"]', True),
    ]
    assert len(config.diff_ids) == 1 + 2


def test_labels_of_the_build_are_added_to_the_image_alone(builder: Builder) -> None:
    """They win, and steps are found in the cache all the same."""
    text = "FROM full\nLABEL a=1\nRUN write f\n"
    builder.build(text)
    config = builder.config(text, labels={"a": "2", "b": "3"})
    assert config.labels == {"from": "base", "a": "2", "b": "3"}
    assert builder.runner.commands == ["write f"]


def test_triggers_of_the_base_run_first_and_are_gone(builder: Builder) -> None:
    """With the variables and build arguments of this build."""
    builder.base("triggers", on_build=("ARG MODE=none", "RUN first $MODE", "ENV M=$MODE"))
    config = builder.config("FROM triggers\nRUN second\n", build_args={"MODE": "dev"})
    assert builder.runner.commands == ["first $MODE", "second"]
    assert builder.runner.steps[0].env["MODE"] == "dev"
    assert (config.on_build, config.env["M"]) == ((), "dev")


def test_triggers_of_a_stage_run_in_the_stages_upon_it(builder: Builder) -> None:
    """Not in itself."""
    text = "FROM base AS one\nONBUILD RUN trigger\nRUN one\nFROM one\nRUN two\n"
    config = builder.config(text)
    assert builder.runner.commands == ["one", "trigger", "two"]
    assert config.on_build == ()
