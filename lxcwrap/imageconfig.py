"""The config of an image: the process it is made for, its layers, its history.

Source: OCI image-spec 1.1, config.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from attrs import frozen

from .checkedjson import JsonObject, canonical_json, frozen_text_map, sparse
from .digests import Digest
from .platforms import Platform

_SECOND: Final = 1_000_000_000


@frozen(kw_only=True)
class Healthcheck:
    """How an image wants to be probed; None: not said.

    `test` is as Docker writes it: ``("CMD", ...)``, ``("CMD-SHELL", line)`` or ``("NONE",)``.
    """

    test: tuple[str, ...] = ()
    interval_s: float | None = None
    timeout_s: float | None = None
    start_period_s: float | None = None
    start_interval_s: float | None = None
    retries: int | None = None

    @classmethod
    def _parse(cls, members: JsonObject) -> Healthcheck:
        def seconds(key: str) -> float | None:
            nanoseconds = members.integer(key)
            return nanoseconds / _SECOND if nanoseconds else None

        return cls(
            test=members.texts("Test"),
            interval_s=seconds("Interval"),
            timeout_s=seconds("Timeout"),
            start_period_s=seconds("StartPeriod"),
            start_interval_s=seconds("StartInterval"),
            retries=members.integer("Retries") or None,
        )

    def document(self) -> dict[str, object]:
        def nanoseconds(value: float | None) -> int | None:
            return None if value is None else round(value * _SECOND)

        return sparse(
            Test=list(self.test),
            Interval=nanoseconds(self.interval_s),
            Timeout=nanoseconds(self.timeout_s),
            StartPeriod=nanoseconds(self.start_period_s),
            StartInterval=nanoseconds(self.start_interval_s),
            Retries=self.retries,
        )


@frozen(kw_only=True)
class History:
    """How one layer came to be; `empty_layer`: the step changed no file."""

    created: datetime | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    @classmethod
    def _parse(cls, members: JsonObject) -> History:
        return cls(
            created=members.time("created"),
            created_by=members.text("created_by") or "",
            author=members.text("author") or "",
            comment=members.text("comment") or "",
            empty_layer=members.boolean("empty_layer"),
        )

    def document(self) -> dict[str, object]:
        return sparse(
            created=_rfc3339(self.created),
            created_by=self.created_by,
            author=self.author,
            comment=self.comment,
            empty_layer=self.empty_layer,
        )


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def _parse_env(lines: Iterable[str]) -> dict[str, str]:
    # An entry without a name and '=' is no variable for getenv(3) either.
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, equals, value in pairs if name and equals}


@frozen(kw_only=True)
class ImageConfig:
    """What an image says of itself and of the process it is made for. `diff_ids`: the lowest layer first.

    on_build: instructions of a Dockerfile, for builds upon this image (Docker's, not in OCI's specification).
    """

    diff_ids: tuple[Digest, ...]
    architecture: str = "amd64"
    os: str = "linux"
    variant: str = ""
    created: datetime | None = None
    author: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = frozen_text_map()
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = frozen_text_map()
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    history: tuple[History, ...] = ()

    @classmethod
    def parse(cls, data: bytes, what: str = "image config") -> ImageConfig:
        """Raises FormatError. Old images may lack `os` and `architecture`, which count as linux and amd64."""
        members = JsonObject.parse(data, what)
        rootfs, process = members.member("rootfs"), members.member("config")
        if rootfs.text("type") not in (None, "layers"):
            raise rootfs.error("type", "'layers'")
        return cls(
            diff_ids=tuple(Digest(item) for item in rootfs.texts("diff_ids")),
            architecture=members.text("architecture") or "amd64",
            os=members.text("os") or "linux",
            variant=members.text("variant") or "",
            created=members.time("created"),
            author=members.text("author") or "",
            entrypoint=_words(process, "Entrypoint"),
            cmd=_words(process, "Cmd"),
            env=_parse_env(process.texts("Env")),
            working_dir=process.text("WorkingDir") or "",
            user=process.text("User") or "",
            labels=process.text_map("Labels"),
            volumes=process.names("Volumes"),
            exposed_ports=process.names("ExposedPorts"),
            stop_signal=process.text("StopSignal") or "",
            shell=process.texts("Shell"),
            healthcheck=Healthcheck._parse(health) if (health := process.member("Healthcheck")) else None,
            on_build=process.texts("OnBuild"),
            history=tuple(History._parse(item) for item in members.members("history")),
        )

    @property
    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant)

    def to_json(self) -> bytes:
        process = sparse(
            Entrypoint=list(self.entrypoint),
            Cmd=list(self.cmd),
            Env=[f"{name}={value}" for name, value in self.env.items()],
            WorkingDir=self.working_dir,
            User=self.user,
            Labels=dict(self.labels),
            Volumes={path: {} for path in self.volumes},
            ExposedPorts={port: {} for port in self.exposed_ports},
            StopSignal=self.stop_signal,
            Shell=list(self.shell),
            Healthcheck=self.healthcheck and self.healthcheck.document(),
            OnBuild=list(self.on_build),
        )
        optional = sparse(
            variant=self.variant,
            created=_rfc3339(self.created),
            author=self.author,
            config=process,
            history=[entry.document() for entry in self.history],
        )
        return canonical_json(
            {
                **optional,
                "architecture": self.architecture,
                "os": self.os,
                "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)},
            }
        )


def _words(process: JsonObject, key: str) -> tuple[str, ...]:
    # Images made by very old Dockers hold a plain text here.
    return (process.text(key) or "",) if process.is_text(key) else process.texts(key)
