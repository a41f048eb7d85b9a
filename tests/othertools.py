"""skopeo, umoci, buildah and podman, each with everything it keeps below one directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


class OtherTools:
    """Runs them. `directory`: where their storage, temporary files and settings are; best in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("tmp", "home", "r"):
            (directory / name).mkdir()
        policy = directory / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        settings = directory / "containers.conf"
        settings.write_text(f'[engine]\nevents_logger = "none"\ntmp_dir = "{directory / "tmp"}"\n')
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory / "home"),
            "TMPDIR": str(directory / "tmp"),
            "XDG_RUNTIME_DIR": str(directory / "r"),
            "CONTAINERS_CONF": str(settings),
        }
        # podman wants runroot to have 50 characters at most.
        self._storage = ["--root", str(directory / "storage"), "--runroot", str(directory / "r")]
        self._storage += ["--storage-driver", "vfs"]
        self._policy = ["--policy", str(policy)]

    def skopeo_copy(self, source: str, destination: str, *options: str) -> None:
        tmp = self._environ["TMPDIR"]
        self._run("skopeo", *self._policy, "--tmpdir", tmp, "copy", "-q", *options, source, destination)

    def umoci(self, *argv: str | Path) -> str:
        return self._run("umoci", *argv)

    def podman(self, *argv: str | Path) -> str:
        return self._run("podman", *self._storage, *argv)

    def buildah(self, *argv: str | Path) -> str:
        return self._run("buildah", *self._storage, *argv)

    def _run(self, tool: str, *argv: str | Path) -> str:
        if not shutil.which(tool):
            pytest.fail(f"there is no {tool}: install the package {tool}", pytrace=False)
        command = [tool, *argv]
        done = subprocess.run(
            command, env=self._environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()
