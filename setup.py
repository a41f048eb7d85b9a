"""Compiles the containers' init, the one thing setup.cfg cannot declare."""

import os
import shlex
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# Static: it runs in images of any distribution. Not PIE: fewer private pages, and each container has one.
FLAGS = ["-std=gnu11", "-Os", "-Wall", "-Wextra", "-static", "-s", "-no-pie", "-fno-pie"]


class BuildInit(build_ext):
    """Makes a static program where setuptools expects an extension module: wheel, sdist and -e all follow."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/")

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, *ext.sources, "-o", str(target)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            remedy = "lxcwrap needs a C compiler and a static C library (Debian: apt install gcc libc6-dev)"
            raise CompileError(f"{remedy}: {error}") from error


class PlatformWheel(bdist_wheel):
    """The binary is the platform's, but of no Python version's."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[Extension("lxcwrap.init.lxcwrap-init", ["lxcwrap/init/init.c"])],
    cmdclass={"build_ext": BuildInit, "bdist_wheel": PlatformWheel},
)
