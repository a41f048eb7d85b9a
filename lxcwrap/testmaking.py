"""What fixtures ask for: made for as long as their scope lasts, or found where it is shared or used again."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from attrs import evolve

from .container import Container
from .errors import NotFoundError, StillUsedError
from .host import Host
from .image import Image
from .netspecs import Endpoint
from .ready import Check
from .snapshot import Snapshot
from .testruns import MADE_OF_LABEL, RUN_LABEL
from .testsession import Made, Session

_SLEEP: Final = ("sleep", "infinity")
wanted_fresh: Final[set[str]] = set()
"""Fixtures whose containers others begin from."""


class Maker:
    """
    Makes what one fixture asks for.

    place: the file that has the fixture. shared: one for all workers. What is so, or is to be used again,
    stays when the fixture ends: it goes with the run, or when something else is asked for.
    """

    def __init__(
        self, session: Session, request: pytest.FixtureRequest, host: Host, place: str, shared: bool
    ) -> None:
        self._session, self._request, self._host, self._place = session, request, host, place
        self._fixture = request.fixturename or ""
        self._stays = request.scope == "session" and (shared or session.reuses)
        who = "" if shared else session.worker
        key = sha256(f"{place} {self._fixture} {who}".encode()).hexdigest()
        stem = re.sub(r"[^a-zA-Z0-9-]+", "-", self._fixture).strip("-") or "fixture"
        self._name = f"{stem}-{key[:8] if self._stays else secrets.token_hex(4)}"

    # --- containers ---

    @contextmanager
    def container(
        self, asked: Mapping[str, Any], ready: Check | None, timeout_s: float
    ) -> Iterator[Container]:
        """asked: the arguments of `Containers.launch`."""
        image = self._session.image(asked["image"], self._host)
        argv, options = asked["argv"], dict(asked["options"])
        if asked["image"] == "busybox" and argv is None and asked["sh"] is None:
            argv = _SLEEP
        options["labels"] = self._labels(options.get("labels"), image, asked)
        options["network"] = _with_alias(options.get("network"), self._fixture)
        options["name"] = options.get("name") or self._name
        with self._alone():
            made = self._found(options["name"], options["labels"])
            if made is None:
                made = self._host.containers.launch(image, argv, sh=asked["sh"], **options)
            with self._removed_if_it_raises(made):
                _wait_ready(made, ready, timeout_s)
                snapshot = self._snapshot(made) if self._fixture in wanted_fresh else None
        fixture = Made(container=made, ready=ready, ready_timeout_s=timeout_s, snapshot=snapshot)
        with self._until_end(fixture):
            yield made

    @contextmanager
    def fresh(self, of: str, overrides: Mapping[str, Any]) -> Iterator[Container]:
        """Another of the fixture `of`, as it was when it had become ready."""
        origin = self._session.made.get(of)
        if origin is None or origin.snapshot is None:
            raise TypeError(f"fresh({of!r}): no fixture of this name was made by fixtures.container()")
        networks = {name: evolve(each, aliases=()) for name, each in origin.snapshot.spec.networks.items()}
        options = {"network": networks or None, "name": self._name, **overrides}
        options["network"] = _with_alias(options["network"], self._fixture)
        options["labels"] = self._labels(overrides.get("labels"))
        made = origin.snapshot.launch(**options)
        with self._removed_if_it_raises(made):
            _wait_ready(made, origin.ready, origin.ready_timeout_s)
        with self._until_end(evolve(origin, container=made, snapshot=None)):
            yield made

    def _found(self, name: str, labels: Mapping[str, str]) -> Container | None:
        """One that stays, running, if it was made of the same, and there is a snapshot if fresh ones are
        wanted: now it is too late for that. Else what there is is removed."""
        if not self._stays:
            return None
        found, snapshot = self._host.containers.get(name), self._host.snapshots.get(name)
        is_same = found is not None and found.labels.get(MADE_OF_LABEL) == labels[MADE_OF_LABEL]
        if found and is_same and (snapshot or self._fixture not in wanted_fresh):
            return found if found.state.is_alive else found.start()
        self._remove(found, snapshot)
        return None

    def _snapshot(self, made: Container) -> Snapshot:
        if not self._stays:
            return made.snapshot()
        found = self._host.snapshots.get(made.name)
        if found and found.spec.labels.get(MADE_OF_LABEL) == made.labels.get(MADE_OF_LABEL):
            return found
        return made.snapshot(made.name)

    @contextmanager
    def _removed_if_it_raises(self, made: Container) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._session.note_end(self._fixture, made)
            self._remove(made, None)
            raise

    @contextmanager
    def _until_end(self, made: Made) -> Iterator[None]:
        """Reports know it meanwhile; it is removed afterwards, unless it is to stay."""
        with self._session.noted(self._fixture, made, self._request.scope):
            try:
                yield
            finally:
                if not self._stays and not self._session.is_kept(self._request):
                    self._remove(made.container, made.snapshot)

    def _remove(self, container: Container | None, snapshot: Snapshot | None) -> None:
        if container:
            with suppress(NotFoundError):
                container.remove(force=True)
        if snapshot:
            with suppress(StillUsedError, NotFoundError):  # by one that is kept
                snapshot.remove()

    # --- the others ---

    def image(self, source: Any, options: Mapping[str, Any]) -> Image:
        """Of a reference, or built of a directory."""
        if not isinstance(source, Path) and not (isinstance(source, str) and source.startswith((".", "/"))):
            return self._session.image(source, self._host)
        return self._session.build(Path(self._place).parent / source, options, self._host)

    @contextmanager
    def noun(self, kind: Literal["networks", "volumes"], options: Mapping[str, Any]) -> Iterator[Any]:
        """A network or volume. options: of `create`."""
        collection: Any = getattr(self._host, kind)
        labels = self._labels(options.get("labels"), options)
        with self._alone():
            made = collection.get(self._name) if self._stays else None
            if made is not None and made.labels.get(MADE_OF_LABEL) != labels[MADE_OF_LABEL]:
                made.remove()
                made = None
            made = made or collection.create(self._name, **{**options, "labels": labels})
        yield made
        if not self._stays and not self._session.is_kept(self._request):
            made.remove()

    def _labels(self, own: Mapping[str, str] | None, *made_of: object) -> dict[str, str]:
        labels = {**(own or {}), RUN_LABEL: self._session.run.token}
        if self._stays:
            labels[MADE_OF_LABEL] = sha256(repr(_stable(made_of)).encode()).hexdigest()
        return labels

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Who else wants the same waits."""
        if not self._stays:
            yield
            return
        with self._session.run.locked(self._name):
            yield


def _wait_ready(container: Container, ready: Check | None, timeout_s: float) -> None:
    if ready is not None or container.health is not None:
        container.wait_ready(ready, timeout_s=timeout_s)


def _with_alias(network: Any, alias: str) -> Any:
    """Those networks, with one more name for the container there."""
    if network in (None, "none", "host") or (isinstance(network, str) and network.startswith("container:")):
        return network
    if isinstance(network, str) or hasattr(network, "name"):
        network = [network]
    items = network.items() if isinstance(network, Mapping) else [(each, Endpoint()) for each in network]
    return {each: evolve(endpoint, aliases=(*endpoint.aliases, alias)) for each, endpoint in items}


def _stable(value: Any) -> Any:
    """What stands for `value` in the next process, too: nouns by what they are known by."""
    if isinstance(value, Image):
        return value.id
    if isinstance(value, Mapping):
        return sorted((repr(_stable(key)), _stable(each)) for key, each in value.items())
    if type(value) in (list, tuple):
        return [_stable(each) for each in value]
    return getattr(value, "name", value)
