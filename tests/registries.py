"""Registries for tests: Debian's, on loopback."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.polling import eventually

USER, PASSWORD = "alice", "open sesame"
_HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy"  # bcrypt of PASSWORD, at the lowest cost


@contextmanager
def docker_registry(
    directory: Path, *, log_in: bool = False, tls: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """
    Debian's docker-registry, storing below `directory`: the registry's name, ``127.0.0.1:PORT``.

    log_in: it wants USER and PASSWORD, by basic authentication. tls: certificate and key files.
    """
    command = shutil.which("docker-registry")
    if not command:
        pytest.fail("there is no docker-registry: install the package docker-registry", pytrace=False)
    directory.mkdir(parents=True, exist_ok=True)
    config, log = directory / "config.yml", directory / "log"
    config.write_text(_config(directory, log_in, tls))
    with log.open("wb") as output:
        process = subprocess.Popen([command, "serve", config], stdout=output, stderr=output)
    try:
        eventually(lambda: "listening on" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield log.read_text().partition("listening on ")[2].partition('"')[0].removesuffix(", tls")
    finally:
        process.kill()
        process.wait()


def _config(directory: Path, log_in: bool, tls: tuple[Path, Path] | None) -> str:
    lines = [
        "version: 0.1",
        "log: {level: info, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {directory / 'store'}}}, delete: {{enabled: true}}}}",
        "http:",
        '  addr: "127.0.0.1:0"',
        "  secret: shared",
    ]
    if tls:
        lines.append(f"  tls: {{certificate: {tls[0]}, key: {tls[1]}}}")
    if log_in:
        passwords = directory / "htpasswd"
        passwords.write_text(_HTPASSWD + "\n")
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {passwords}}}}}")
    return "\n".join(lines) + "\n"
