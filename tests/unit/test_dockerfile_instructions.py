"""What each instruction of a Dockerfile makes of its flags and arguments."""

from __future__ import annotations

from typing import Any

import pytest

from lxcwrap.build.durations import parse_duration
from lxcwrap.build.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Run,
    Shell,
    ShellForm,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from lxcwrap.build.mounts import BindMount, CacheMount, RunMount, SecretMount, TmpfsMount
from lxcwrap.build.parser import parse
from lxcwrap.build.readers import READERS
from lxcwrap.build.statement import KEYWORDS
from lxcwrap.build.substitution import substitute
from lxcwrap.imageconfig import Healthcheck as Config


def one(text: str) -> Instruction:
    """The only instruction of a stage, or its FROM."""
    stage = parse(text if text.startswith("FROM") else f"FROM base\n{text}").stages[0]
    return stage.instructions[0] if stage.instructions else stage.base


def test_every_keyword_has_a_reader() -> None:
    """No instruction is known by name only."""
    assert sorted([*READERS, "ONBUILD"]) == KEYWORDS


@pytest.mark.parametrize(
    ("text", "kind", "fields"),
    [
        ("FROM a", From, {"image": "a", "platform": "", "alias": ""}),
        ("FROM a:$V as B_1", From, {"image": "a:$V", "alias": "b_1"}),
        ("FROM --platform=$P h:5000/a@sha256:0 AS b", From, {"platform": "$P", "image": "h:5000/a@sha256:0"}),
        ("RUN a", Run, {"command": ShellForm("a"), "network": "default", "mount_flags": (), "mounts": ()}),
        ('RUN --network=none ["a"]', Run, {"command": ExecForm(("a",)), "network": "none"}),
        ("RUN --network=host a", Run, {"network": "host"}),
        ("COPY a b c/", Copy, {"sources": ("a", "b"), "destination": "c/", "from_": "", "link": False}),
        ('COPY ["a b", "c d/"]', Copy, {"sources": ("a b",), "destination": "c d/"}),
        ("COPY [ab].c d", Copy, {"sources": ("[ab].c",), "destination": "d"}),
        (
            "COPY --from=x --chown=u:$G --chmod=u=rwX,go= a b",
            Copy,
            {"from_": "x", "chown": "u:$G", "chmod": "u=rwX,go="},
        ),
        ("COPY --link --parents a b", Copy, {"link": True, "parents": True}),
        ("COPY --link=FALSE --parents=true a b", Copy, {"link": False, "parents": True}),
        ("COPY --exclude=*.o --exclude='a b' a b", Copy, {"exclude": ("*.o", "a b")}),
        ("ADD a b", Add, {"sources": ("a",), "destination": "b", "unpack": None, "keep_git_dir": None}),
        (
            "ADD --unpack=false --keep-git-dir --checksum=sha256:1 a b",
            Add,
            {"unpack": False, "keep_git_dir": True, "checksum": "sha256:1"},
        ),
        (
            "ADD --chown=1 --chmod=644 --link --exclude=x a b",
            Add,
            {"chown": "1", "chmod": "644", "link": True, "exclude": ("x",)},
        ),
        ("ENV a=1", Env, {"pairs": (("a", "1"),)}),
        (
            "ENV a=1 b='x y' c=\"p q\" d=r\\ s e=",
            Env,
            {"pairs": (("a", "1"), ("b", "'x y'"), ("c", '"p q"'), ("d", "r\\ s"), ("e", ""))},
        ),
        ("ENV a=b=c", Env, {"pairs": (("a", "b=c"),)}),
        ("ENV a b=c", Env, {"pairs": (("a", "b=c"),)}),
        ('ENV a "b"', Env, {"pairs": (("a", '"b"'),)}),
        ("ENV a=é\u00a0b=c", Env, {"pairs": (("a", "é"), ("b", "c"))}),
        ('LABEL "a b"=c', Label, {"pairs": (('"a b"', "c"),)}),
        ("LABEL a.b c d", Label, {"pairs": (("a.b", "c d"),)}),
        ("ARG a", Arg, {"pairs": (("a", None),)}),
        ("ARG a=1 b c='x y' d=", Arg, {"pairs": (("a", "1"), ("b", None), ("c", "'x y'"), ("d", ""))}),
        ("WORKDIR /a b/$c", Workdir, {"path": "/a b/$c"}),
        ("USER u:g", User, {"user": "u:g"}),
        ("EXPOSE 80 443/tcp 8000-8010/UDP $p", Expose, {"ports": ("80", "443/tcp", "8000-8010/UDP", "$p")}),
        ("VOLUME /a /b", Volume, {"paths": ("/a", "/b")}),
        ('VOLUME ["/a b", " /c "]', Volume, {"paths": ("/a b", "/c")}),
        ("ENTRYPOINT a $b", Entrypoint, {"command": ShellForm("a $b")}),
        ('ENTRYPOINT ["a", "b"]', Entrypoint, {"command": ExecForm(("a", "b"))}),
        ("CMD a", Cmd, {"command": ShellForm("a")}),
        ("CMD []", Cmd, {"command": ExecForm(())}),
        ("CMD ['a']", Cmd, {"command": ShellForm("['a']")}),
        ('SHELL ["a", "-c"]', Shell, {"argv": ("a", "-c")}),
        ("STOPSIGNAL SIGRTMIN+3", StopSignal, {"signal": "SIGRTMIN+3"}),
        ("STOPSIGNAL 9", StopSignal, {"signal": "9"}),
        ("MAINTAINER A <a@b>", Maintainer, {"maintainer": "A <a@b>"}),
        ("HEALTHCHECK none", Healthcheck, {"check": Config(test=("NONE",))}),
        ("HEALTHCHECK CMD a || b", Healthcheck, {"check": Config(test=("CMD-SHELL", "a || b"))}),
        ('HEALTHCHECK CMD ["a", "b"]', Healthcheck, {"check": Config(test=("CMD", "a", "b"))}),
        (
            "HEALTHCHECK CMD --interval=1s a",
            Healthcheck,
            {"check": Config(test=("CMD-SHELL", "--interval=1s a"))},
        ),
        (
            "HEALTHCHECK --interval=9s --timeout=1.5s --start-period=0 --start-interval=2s --retries=4 cmd a",
            Healthcheck,
            {
                "check": Config(
                    test=("CMD-SHELL", "a"), interval_s=9, timeout_s=1.5, start_interval_s=2, retries=4
                )
            },
        ),
    ],
)
def test_instructions(text: str, kind: type[Instruction], fields: dict[str, Any]) -> None:
    """Type and fields of each."""
    instruction = one(text)
    assert type(instruction) is kind
    assert {name: getattr(instruction, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("flag", "mount"),
    [
        ("target=/a", BindMount(target="/a")),
        (
            "type=bind,dst=a/,src=b/../c,from=s,rw",
            BindMount(target="a", source="/c", from_="s", read_only=False),
        ),
        ("type=bind,target=/a,source=../../b", BindMount(target="/a", source="/b")),
        ("type=bind,target=/a,ro=false", BindMount(target="/a", read_only=False)),
        ("type=bind,target=/a,readwrite=false", BindMount(target="/a")),
        ("TYPE=cache,Target=/a", CacheMount(target="/a", id="/a")),
        ("target=/a//b/,type=cache,ro", CacheMount(target="/a/b", id="/a/b", read_only=True)),
        (
            "type=cache,target=/a,id=x,sharing=locked,from=s,source=/b,mode=1770,uid=1,gid=2",
            CacheMount(
                target="/a", id="x", sharing="locked", from_="s", source="/b", mode=0o1770, uid=1, gid=2
            ),
        ),
        ("type=tmpfs,target=/a", TmpfsMount(target="/a")),
        ("type=tmpfs,target=/a,size=1m", TmpfsMount(target="/a", size_bytes=1 << 20)),
        ("type=secret,id=a", SecretMount(id="a", target="/run/secrets/a")),
        ("type=secret,id=a/b", SecretMount(id="a/b", target="/run/secrets/b")),
        ("type=secret,target=/x/y", SecretMount(id="y", target="/x/y")),
        ("type=secret,id=a,env=A", SecretMount(id="a", env="A")),
        ("type=secret,id=a,env=A,target=/b", SecretMount(id="a", env="A", target="/b")),
        (
            "required,type=secret,src=a,mode=0440,uid=3",
            SecretMount(id="a", target="/run/secrets/a", required=True, mode=0o440, uid=3),
        ),
        ("type=secret,id=a,required=false", SecretMount(id="a", target="/run/secrets/a")),
        ("'type=bind,target=/a b'", BindMount(target="/a b")),
        ('type=bind,\\"target=/a,b\\"', BindMount(target="/a,b")),
        ("type=$kind,target=${place:-/x}", TmpfsMount(target="/x")),
        ("type=bind,target=/$kind,source=\\$kind", BindMount(target="/tmpfs", source="/tmpfs")),
    ],
)
def test_mounts(flag: str, mount: RunMount) -> None:
    """Keys in any order and case, by all their names; what is not said is as in Docker."""
    run = one(f"RUN --mount={flag} echo")
    assert isinstance(run, Run)
    assert substitute(run, {"kind": "tmpfs"}).mounts == (mount,)


def test_mounts_name_their_stage_at_once() -> None:
    """What a mount is `from_` is known before any variable is."""
    run = one("RUN --mount=type=cache,target=$t,from=Stage --mount=target=/a echo")
    assert isinstance(run, Run)
    assert [flag.from_ for flag in run.mount_flags] == ["Stage", ""]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("1s", 1),
        ("1m30s", 90),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("2.s", 2),
        ("3us", 3e-6),
        ("3µs", 3e-6),
        ("3μs", 3e-6),
        ("1h1m1s1ms", 3661.001),
        ("250ns", 2.5e-7),
        ("1s1s", 2),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """As Go reads them."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "1", "s", "-1s", "+1s", "1 s", "1d", "1e3s", "1s ", ".s", "9999999h", "1" * 30 + "s"]
)
def test_what_is_no_duration(text: str) -> None:
    """No unit, a sign, a unit Go lacks, or too long a time."""
    with pytest.raises(ValueError, match="time"):
        parse_duration(text)
