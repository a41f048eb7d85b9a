"""Images to other tools and back: what arrives is what was sent, down to the last attribute."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Host, Image
from lxcwrap.storage.merged import merged
from tests.othertools import OtherTools
from tests.trees import Facts, facts_of, rich_image

RICH = "docker.io/library/rich:1"
FORMS = ["oci-dir", "oci", "docker"]
# Of each form: how skopeo, podman and buildah call it.
TRANSPORT = {"oci-dir": "oci", "oci": "oci-archive", "docker": "docker-archive"}


@pytest.fixture
def space(roots: Path) -> Iterator[Path]:
    path = roots / uuid.uuid4().hex[:8]  # a part of a reference, to podman and buildah
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def tools(space: Path) -> OtherTools:
    return OtherTools(space)


@pytest.fixture
def rich(fresh_host: Host, space: Path) -> Image:
    """In our store."""
    (space / "rich.tar").write_bytes(rich_image().tar())
    (image,) = fresh_host.images.load(space / "rich.tar")
    return image


@pytest.fixture
def elsewhere(space: Path) -> Iterator[Host]:
    """Another host, which has nothing."""
    (space / "elsewhere").mkdir()
    with Host(space / "elsewhere") as host:
        yield host
        host.close(stop_server=True)


def tree(image: Image) -> Facts:
    with merged(image.lower_dirs) as root:
        return facts_of(Path(f"/proc/self/fd/{root}"))


def saved(image: Image, space: Path, form: str) -> str:
    """Where it is, as other tools call it; without the name."""
    image.save(space / f"saved-{form}", format=form)  # type: ignore[arg-type]
    return f"{TRANSPORT[form]}:{space / f'saved-{form}'}"


def assert_same(arrived: Image, sent: Image, *, converted: bool = False) -> None:
    """converted: from OCI to Docker's format, which writes the config anew: what it says stays the same."""
    assert converted or arrived.id == sent.id
    assert arrived.config == sent.config
    assert arrived.layers == sent.layers
    assert tree(arrived) == tree(sent)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("theirs", FORMS)
def test_skopeo(rich: Image, tools: OtherTools, space: Path, elsewhere: Host, form: str, theirs: str) -> None:
    """From each form to each form, and back to us."""
    tools.skopeo_copy(f"{saved(rich, space, form)}:{RICH}", f"{TRANSPORT[theirs]}:{space / 'copy'}:{RICH}")
    (arrived,) = elsewhere.images.load(space / "copy")
    assert arrived.tags == ("rich:1",)
    assert_same(arrived, rich, converted=(form == "docker") != (theirs == "docker"))


@pytest.mark.parametrize("compression", ["gzip", "zstd", "zstd:chunked"])
def test_layers_as_skopeo_compresses_them(
    rich: Image, tools: OtherTools, space: Path, elsewhere: Host, compression: str
) -> None:
    """Come in as they are, and go on to podman as they are."""
    source = f"{saved(rich, space, 'oci-dir')}:{RICH}"
    tools.skopeo_copy(source, f"oci:{space / 'copy'}:{RICH}", "--dest-compress-format", compression)
    (arrived,) = elsewhere.images.load(space / "copy")
    assert_same(arrived, rich)
    arrived.save(space / "again")
    tools.podman("load", "-q", "-i", space / "again")
    assert facts_of(Path(tools.podman("image", "mount", RICH))) == tree(rich)


@pytest.mark.parametrize("form", FORMS)
def test_podman_reads(rich: Image, tools: OtherTools, space: Path, form: str) -> None:
    """The same image, to the last attribute; from an archive with its name."""
    source = saved(rich, space, form)
    if form == "oci-dir":
        assert f"sha256:{tools.podman('pull', '-q', source)}" == rich.id
    else:
        assert RICH in tools.podman("load", "-q", "-i", source.partition(":")[2])
    (facts,) = json.loads(tools.podman("image", "inspect", rich.id))
    assert f"sha256:{facts['Id']}" == rich.id
    assert facts["RootFS"]["Layers"] == list(rich.config.diff_ids)
    assert facts["Config"]["Cmd"] == list(rich.config.cmd)
    assert facts_of(Path(tools.podman("image", "mount", rich.id))) == tree(rich)


@pytest.mark.parametrize("theirs", ["oci-dir", "oci-archive", "docker-archive"])
def test_podman_saves(rich: Image, tools: OtherTools, space: Path, elsewhere: Host, theirs: str) -> None:
    """What podman has comes back as it went."""
    tools.podman("load", "-q", "-i", saved(rich, space, "docker").partition(":")[2])
    tools.podman("save", "-q", "--format", theirs, "-o", space / "theirs", RICH)
    (arrived,) = elsewhere.images.load(space / "theirs")
    assert arrived.tags == ("rich:1",)
    assert_same(arrived, rich, converted=theirs == "docker-archive")


def test_podman_takes_and_gives_several_images(
    fresh_host: Host, rich: Image, tools: OtherTools, space: Path, elsewhere: Host
) -> None:
    """In one archive, with all their names."""
    rich.tag("example.org:5000/a/b:2")
    busybox = fresh_host.images.resolve("busybox")
    fresh_host.images.save([rich, busybox], space / "ours")
    tools.podman("load", "-q", "-i", space / "ours")
    names = [RICH, "example.org:5000/a/b:2", "docker.io/library/busybox:latest"]
    tools.podman("save", "-q", "-m", "-o", space / "theirs", *names)
    arrived = {image.config.diff_ids: image for image in elsewhere.images.load(space / "theirs")}
    for sent in (rich, busybox):
        assert arrived[sent.config.diff_ids].tags == sent.tags
        assert_same(arrived[sent.config.diff_ids], sent, converted=True)


@pytest.mark.parametrize("form", FORMS)
def test_buildah(rich: Image, tools: OtherTools, space: Path, elsewhere: Host, form: str) -> None:
    """Pulls what we saved, sees the same files, and pushes it back."""
    name = tools.buildah("pull", "-q", saved(rich, space, form)).splitlines()[-1]
    container = tools.buildah("from", name)
    assert facts_of(Path(tools.buildah("mount", container))) == tree(rich)
    tools.buildah("push", "-q", rich.id, f"{TRANSPORT[form]}:{space / 'theirs'}:{RICH}")
    (arrived,) = elsewhere.images.load(space / "theirs")
    assert arrived.tags == ("rich:1",)
    assert_same(arrived, rich, converted=form == "docker")


def test_what_buildah_builds_upon_ours_runs(
    rich: Image, tools: OtherTools, space: Path, elsewhere: Host
) -> None:
    """It runs commands in what we saved; the image it makes of that runs here."""
    tools.buildah("pull", "-q", saved(rich, space, "docker"))
    container = tools.buildah("from", RICH)
    script = "echo $WHO; cat /etc/returns; echo built >>/etc/built; rm /etc/passwd"
    run = ("run", "--isolation=chroot", container, "/bin/sh", "-c", script)
    assert tools.buildah(*run) == "rich\nabove"
    tools.buildah("config", "--cmd", "busybox cat /etc/built /etc/passwd", container)
    tools.buildah("commit", "-q", container, f"oci-archive:{space / 'theirs'}:built:1")
    (built,) = elsewhere.images.load(space / "theirs")
    assert built.layers[1:] == rich.layers
    assert built.tags == ("built:1",)
    done = elsewhere.containers.run(built, check=False)
    assert done.stdout == "built\n" and "/etc/passwd" in done.stderr


@pytest.mark.parametrize("form", FORMS)
def test_a_process_killed_while_saving_leaves_no_part(
    fresh_root: Path, rich: Image, space: Path, form: str
) -> None:
    """At whatever moment: under its name there is all of it, or nothing."""
    rich.save(space / "whole", format=form)  # type: ignore[arg-type]
    whole, target = facts_of(space / "whole"), space / "killed"
    program = f"""
import sys
from lxcwrap import Host
with Host({str(fresh_root)!r}) as host:
    print("go", flush=True)
    host.images.save("rich:1", {str(target)!r}, format={form!r})
    print("done", flush=True)"""
    for delay in range(10):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "go\n"
        time.sleep(delay * 0.005)
        process.kill()
        output, _ = process.communicate()
        if target.exists():
            assert [facts[3] for facts in facts_of(target).values()] == [facts[3] for facts in whole.values()]
        else:
            assert not output
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True)


def test_umoci(rich: Image, tools: OtherTools, space: Path, elsewhere: Host) -> None:
    """Unpacks the layout we saved; what it packs on top of that comes back with it."""
    layout, bundle = space / "saved-oci-dir", space / "bundle"
    saved(rich, space, "oci-dir")
    tools.umoci("unpack", "--image", f"{layout}:{RICH}", bundle)
    assert facts_of(bundle / "rootfs") == tree(rich)
    (bundle / "rootfs/etc/added").write_text("by umoci")
    os.utime(bundle / "rootfs/etc/added", (1, 1))  # umoci rounds
    (bundle / "rootfs/etc/returns").unlink()
    shutil.rmtree(bundle / "rootfs/opt/hidden")
    tools.umoci("repack", "--image", f"{layout}:changed", bundle)
    tools.umoci("tag", "--image", f"{layout}:changed", "example.org/again:2")
    changed, again = sorted(elsewhere.images.load(layout), key=lambda image: image.id == rich.id)
    assert_same(again, rich)
    assert changed.tags == ("changed:latest", "example.org/again:2")
    assert changed.layers[1:] == rich.layers
    assert tree(changed) == facts_of(bundle / "rootfs")
