"""Builds for real: commands in containers, files from contexts and stages, secrets, failures."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from lxcwrap import Host, Limits
from lxcwrap.errors import BuildError, InvalidSpecError
from lxcwrap.storage.unpack import is_whiteout
from tests.integration.building import Building, files, read
from tests.unit.fakelayers import contents


@pytest.fixture
def build(fresh_host: Host, tmp_path: Path) -> Building:
    """In a store of the test's own."""
    return Building(fresh_host, tmp_path / "context")


@pytest.fixture
def context(build: Building) -> Path:
    return build.context


def test_an_image_of_several_stages_runs(host: Host, tmp_path: Path) -> None:
    """What was compiled in one stage is served by another."""
    build = Building(host, tmp_path / "context")
    (build.context / "src").mkdir()
    (build.context / "src/main").write_text("#!/bin/sh\necho hello from $1\n")
    image = build(
        """
        FROM busybox AS compiler
        WORKDIR /src
        COPY src .
        RUN mkdir /out && cp main /out/app && chmod 755 /out/app && id -u > /out/user
        FROM busybox
        COPY --from=compiler /out /opt/app
        RUN echo "app:x:1000:1000:app:/:/bin/sh" >> /etc/passwd
        WORKDIR /opt/app
        USER app
        ENTRYPOINT ["./app"]
        CMD ["nobody"]
    """,
        tags=["stages:1"],
    )
    assert image.tags == ("stages:1",)
    assert host.containers.run("stages:1").stdout == "hello from nobody\n"
    assert host.containers.run("stages:1", ["me"]).stdout == "hello from me\n"
    assert host.containers.run("stages:1", ["-c", "id -un"], entrypoint=["/bin/sh"]).stdout == "app\n"
    image.remove()
    host.images._store.state.connection.execute("DELETE FROM build_cache")
    host.images.prune()


def test_commands_run_in_all_their_forms(build: Building) -> None:
    """A shell line, words, a script for the shell, and one for its own interpreter."""
    image = build(
        """FROM busybox
ENV WHO=world
RUN echo "hello $WHO" > /line
RUN ["sh", "-c", "echo \\"$0\\" > /words", "$WHO"]
RUN <<EOF
echo one > /script
echo "$WHO" >> /script
EOF
RUN <<EOF
#!/usr/bin/awk -f
BEGIN { print "awk" > "/awk" }
EOF
RUN cat > /both <<A && cat >> /both <<'B'
$WHO
A
$WHO
B
SHELL ["/bin/sh", "-ec"]
RUN false; true || echo unreached
""".replace("RUN false; true", "RUN true; true")
    )
    found = {name: read(image, name) for name in ("line", "words", "script", "awk", "both")}
    assert found == {
        "line": "hello world\n",
        "words": "$WHO\n",
        "script": "one\nworld\n",
        "awk": "awk\n",
        "both": "world\n$WHO\n",
    }
    (script,) = (entry for entry in image.history() if "awk" in entry.created_by)
    assert not (image.lower_dirs[0] / "run").exists() and not script.empty_layer


def test_what_a_command_did_is_in_the_layer_and_nothing_else(build: Building) -> None:
    """Whiteouts, opaque directories, modes, owners and links; no mount point, no device, no socket."""
    image = build("""FROM busybox
RUN mkdir -p /d/sub && touch /d/sub/f /gone && echo x > /kept
RUN rm /gone && rm -r /d && mkdir /d && touch /d/new && ln /kept /linked && ln -s kept /soft \
    && chown 5:6 /kept && chmod 4755 /kept && mkfifo /fifo
""")
    layer = files(image)
    assert set(layer) == {
        "./", ".wh.gone", "d/", "d/.wh..wh..opq", "d/new", "fifo", "kept", "linked", "soft"
    }  # fmt: skip
    assert (layer["kept"].uid, layer["kept"].gid, layer["kept"].mode) == (5, 6, 0o4755)


def test_working_directories_are_made(build: Building) -> None:
    """Where missing, with those above, for USER; a link is followed, within the image."""
    image = build("""FROM busybox
RUN echo seven:x:7:7::/: >> /etc/passwd && ln -s /etc /link
USER seven
WORKDIR /a/b
WORKDIR ../c
WORKDIR /link
RUN pwd > /tmp/pwd
""")
    assert read(image, "tmp/pwd") == "/etc\n"
    made = [path for layer in image.lower_dirs for path in (layer / "a", *(layer / "a").rglob("*"))]
    status = {path.name: path.stat() for path in made if path.exists()}
    facts = {name: (each.st_uid, each.st_mode & 0o7777) for name, each in status.items()}
    assert facts == dict.fromkeys("abc", (7, 0o755))


def test_a_command_finds_the_working_directory_of_its_base(build: Building, fresh_host: Host) -> None:
    """Also one that is only said in its config."""
    fresh_host.images.resolve("busybox")
    build("FROM busybox\nRUN mkdir /w\nWORKDIR /w\n", tags=["based:1"])
    image = build("FROM based:1\nRUN pwd > f\n")
    assert read(image, "w/f") == "/w\n"


def test_writes_after_volume_stay(build: Building, fresh_host: Host) -> None:
    """As in BuildKit."""
    image = build("FROM busybox\nVOLUME /data\nRUN mkdir -p /data && echo kept > /data/f\n")
    assert read(image, "data/f") == "kept\n"


def test_a_context_may_be_an_archive(fresh_host: Host) -> None:
    """Compressed or not, and its Dockerfile may be anywhere in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in (("docker/File", "FROM busybox\nCOPY data /d\n"), ("data", "content")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    buffer.seek(0)
    image = fresh_host.images.build(buffer, dockerfile="docker/File")
    assert read(image, "d") == "content"
    assert not list((fresh_host.root / "layers").glob(".draft*"))


def test_a_dockerfile_may_lie_elsewhere(fresh_host: Host, context: Path, tmp_path: Path) -> None:
    """Given by an absolute path; one that is missing is told before anything is done."""
    (context / "f").write_text("x")
    (tmp_path / "elsewhere").write_text("FROM busybox\nCOPY f /copied\n")
    assert read(fresh_host.images.build(context, dockerfile=tmp_path / "elsewhere"), "copied") == "x"
    for missing in ("Dockerfile", "none", tmp_path / "none"):
        with pytest.raises(InvalidSpecError):
            fresh_host.images.build(context, dockerfile=missing)


# --- failure --------------------------------------------------------------------------------------------


def test_a_failed_command_says_all_and_keeps_nothing(build: Building, fresh_host: Host) -> None:
    """Its number, line, exit code, and the end of its output."""
    fresh_host.images.resolve("busybox")
    before = contents(fresh_host.images._store)
    with pytest.raises(BuildError) as caught:
        build("FROM busybox\n\nRUN echo out; echo err >&2; touch /x; \\\n  exit 7\n", tags=["never:1"])
    error = caught.value
    assert (error.step, error.line, error.exit_code) == (2, 3, 7)
    assert sorted(error.log.split("\n")) == ["err", "out"]
    after = contents(fresh_host.images._store)
    assert after | {"cache": []} == before | {"cache": []}
    assert not list((fresh_host.root / "layers").glob(".draft*"))
    assert "never:1" not in fresh_host.images and not list(fresh_host.containers)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("RUN nosuchcommand", 127),
        ('RUN ["/nosuch"]', 127),
        ('RUN ["/etc/passwd"]', 126),
        ("RUN kill -9 $$", 137),
        ("COPY missing /", None),
        ("COPY --chown=nosuch Dockerfile /", None),
        ("COPY --from=busybox /nosuch /", None),
        ("WORKDIR /etc/passwd/x", None),
        ("USER 99999999999\nWORKDIR /x", None),
        ("USER nosuch\nRUN true", 125),
    ],
)
def test_every_kind_of_failure_is_one_of_its_step(build: Building, lines: str, code: int | None) -> None:
    """The last one is the one that fails."""
    with pytest.raises(BuildError) as caught:
        build(f"FROM busybox\n{lines}\n")
    error = caught.value
    assert error.line == 2 + lines.count("\n") and error.exit_code == code
    assert error.instruction == lines.split("\n")[-1]


def test_limits_hold_for_commands(build: Building) -> None:
    """Those of the build."""
    line = "FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n"
    with pytest.raises(BuildError) as caught:
        build(line, limits=Limits(memory="64MiB"))
    assert caught.value.exit_code == 137
    build(line)


def test_the_network_is_off_unless_asked_for(build: Building) -> None:
    """By the build; then it is the host's, but for instructions that do without."""
    look = "[ $(grep -c : /proc/net/dev) -gt 1 ]"  # interfaces
    build(f"FROM busybox\nRUN ! {look}\n")
    build(f"FROM busybox\nRUN {look}\nRUN --network=none ! {look}\n", network="host")


# --- stages ---------------------------------------------------------------------------------------------


def test_independent_stages_run_at_the_same_time(build: Building) -> None:
    """Each waits until the other has begun: they meet in a directory that both see."""
    meet = (
        "RUN --mount=type=cache,target=/c touch /c/{0}; timeout 9 sh -c 'until [ -e /c/{1} ]; do :; done'\n"
    )
    image = build(
        f"FROM busybox AS a\n{meet.format('a', 'b')}"
        f"FROM busybox AS b\n{meet.format('b', 'a')}"
        "FROM scratch\nCOPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n"
    )
    assert {"a", "b"} <= {path.name for layer in image.lower_dirs for path in layer.iterdir()}


def test_files_come_from_stages_and_images_by_name_and_number(build: Building) -> None:
    """An empty stage has none."""
    image = build("""FROM busybox AS one
RUN mkdir /x && echo 1 > /x/f && chown 4:5 /x/f
FROM scratch AS empty
FROM scratch
COPY --from=ONE /x/f /a
COPY --from=0 /x /b/
COPY --from=busybox /etc/passwd /c
""")
    assert [read(image, name) for name in ("a", "b/f")] == ["1\n", "1\n"]
    assert (image.lower_dirs[-1] / "a").stat().st_uid == 4
    with pytest.raises(BuildError):
        build("FROM scratch AS empty\nFROM busybox\nCOPY --from=empty /x /\n")


def test_a_kept_draft_is_as_the_layer_unpacked_from_its_blob(build: Building, fresh_host: Host) -> None:
    """Byte for byte, with all times, owners and attributes: nobody can tell which one is in use."""
    image = build("""FROM busybox
RUN mkdir -p /d/e && echo x > /d/e/f && touch -d '2001-02-03 04:05' /d/e/f && ln /d/e/f /hard
RUN ln -s x /soft && mkfifo /p
RUN rm /hard && mv /d /moved && mkdir /d && touch /d/new && chmod 600 /etc/passwd && chown 3 /etc
WORKDIR /made
""")
    image = fresh_host.images.build_steps(image).call(_leave_a_socket).build()
    store = fresh_host.images._store
    kept = [_everything(layer) for layer in image.lower_dirs]
    for chain in store.chain_ids(image.id):
        store.layers.remove(chain)
    assert [_everything(layer) for layer in image.lower_dirs] == kept


# What an overlay notes for itself in its upper; in a lower it reads none of it (fs/overlayfs/namei.c).
_NOTES = ("trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.uuid")


def _leave_a_socket() -> None:
    os.mkdir("/sockets")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("/sockets/one")


def _everything(layer: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in (layer, *layer.rglob("*")):
        status = path.lstat()
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if not name.startswith(("trusted.lxcwrap.", *_NOTES))
        }
        mtime_ns = 0 if is_whiteout(status) else status.st_mtime_ns
        facts = (status.st_mode, status.st_uid, status.st_gid, mtime_ns, status.st_rdev)
        is_file = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(layer))] = (
            *facts,
            status.st_nlink if is_file else 0,
            path.read_bytes() if is_file else b"",
            tuple(sorted(xattrs.items())),
        )
    return found


def test_an_epoch_makes_building_reproducible(
    build: Building, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same image twice, run anew each time."""
    (context / "f").write_text("x")
    text = "FROM busybox\nRUN date +%N > /dev/null; mkdir /d; touch /d/f /d/g\nCOPY f /d/\nWORKDIR /w\n"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1500000000")
    first = build(text, no_cache=True)
    (context / "f").touch()
    assert build(text, no_cache=True) == first
    assert build(text, build_args={"SOURCE_DATE_EPOCH": "1400000000"}) != first
