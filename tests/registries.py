"""Registries for tests, on loopback: Debian's, and one that misbehaves when told to."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest

from lxcwrap.oci import Digest, digest_of
from lxcwrap.registry.config import RegistryConfig
from tests.polling import eventually

QUICK = RegistryConfig(connect_timeout_s=5, read_timeout_s=5, backoff_s=0.001)
USER, PASSWORD = "alice", "open sesame"
# bcrypt of PASSWORD, at the lowest cost
_HTPASSWD = f"{USER}:$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy"


def be_nobody(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Without credentials and proxies, whatever the machine and its user have."""
    names = "REGISTRY_AUTH_FILE DOCKER_CONFIG XDG_CONFIG_HOME HTTPS_PROXY HTTP_PROXY NO_PROXY"
    for name in (*names.split(), *names.lower().split()):
        patch.delenv(name, raising=False)
    patch.setenv("HOME", str(home))
    patch.setenv("XDG_RUNTIME_DIR", str(home / "run"))


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


# --- one that misbehaves --------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A request as it arrived. target: the path with its query; authorization: "" if there was none."""

    method: str
    target: str
    authorization: str
    range: str
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One request, and the ways to answer it."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer. Underscores in the names of `headers` stand for hyphens."""
        self.begin(status, len(body), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def begin(self, status: int, length: int | None, **headers: str) -> None:
        """Answer up to the body of `length` bytes; None: it lasts as long as the connection."""
        self.send_response(status)
        if length is None:
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def refuse(self, status: int, code: str, message: str = "", **headers: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.reply(status, body, **headers)

    def hang_up(self) -> None:
        """End the connection, whatever was announced."""
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def content(self) -> bytes:
        """The body of the request, as far as it came."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        with suppress(OSError):
            self.server.registry.handle(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: FakeRegistry

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up, or do not trust us, are what is tested."""


Behaviour = Callable[[Exchange], None]


class FakeRegistry:
    """
    A registry in memory that notes what it sees.

    log_in: ask for a token, which /token gives to USER with PASSWORD ("token"), or to anybody ("anonymous"),
    or for basic authentication ("basic"). realm: where tokens are had, if not here.
    """

    def __init__(self, name: str, scheme: str, log_in: str = "") -> None:
        self.name = name
        self.url = f"{scheme}://{name}"
        self.realm = f"{self.url}/token"
        self.log_in = log_in
        self.token = "t0ken"
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.seen: list[Seen] = []
        self._behaviours: list[tuple[str, str, Behaviour, int]] = []
        self._lock = threading.Lock()

    def add_blob(self, data: bytes) -> Digest:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    def add_manifest(self, tag: str, data: bytes, media_type: str) -> Digest:
        digest = digest_of(data)
        self.manifests[tag] = self.manifests[digest] = media_type, data
        return digest

    def misbehave(
        self, behaviour: Behaviour, *, method: str = "", path: str = "", times: int = 1 << 30
    ) -> None:
        """Answer the next `times` requests of this method whose path has `path` in it by `behaviour`."""
        self._behaviours.append((method, path, behaviour, times))

    def handle(self, exchange: Exchange) -> None:
        """Answer one request, from a thread of its own."""
        method, path = exchange.command, urlsplit(exchange.path).path
        behaviour = self._behaviour(method, path)
        unread = method == "PATCH" or (method == "PUT" and behaviour)
        body = b"" if unread else exchange.content()
        headers = exchange.headers
        authorization = headers.get("Authorization", "")
        self.seen.append(Seen(method, exchange.path, authorization, headers.get("Range", ""), body))
        if behaviour:
            exchange.close_connection = bool(unread)
            behaviour(exchange)
        elif path == "/token":
            self._give_token(exchange, authorization, body)
        elif self._admits(exchange, authorization):
            self._answer(exchange, method, path, body)

    def _behaviour(self, method: str, path: str) -> Behaviour | None:
        with self._lock:
            for number, (wanted, part, behaviour, times) in enumerate(self._behaviours):
                if times and wanted in ("", method) and part in path:
                    self._behaviours[number] = wanted, part, behaviour, times - 1
                    return behaviour
        return None

    def _admits(self, exchange: Exchange, authorization: str) -> bool:
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if not self.log_in or authorization == (basic if self.log_in == "basic" else f"Bearer {self.token}"):
            return True
        bearer = f'Bearer realm="{self.realm}",service="test",scope="repository:other:push"'
        challenge = 'Basic realm="test"' if self.log_in == "basic" else bearer
        exchange.refuse(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)
        return False

    def _give_token(self, exchange: Exchange, authorization: str, body: bytes) -> None:
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        refreshes = parse_qs(body.decode()).get("refresh_token") == ["identity"]
        if self.log_in == "anonymous" or authorization == basic or refreshes:
            exchange.reply(200, json.dumps({"token": self.token, "expires_in": 300}).encode())
        else:
            exchange.refuse(401, "UNAUTHORIZED", "incorrect username or password")

    def _answer(self, exchange: Exchange, method: str, path: str, body: bytes) -> None:
        match = re.fullmatch(r"/v2/(.+)/(blobs/uploads|blobs|manifests|tags)/([^/]*)", path)
        if not match:
            exchange.refuse(404, "NOT_FOUND")
        elif match[2] == "blobs/uploads":
            self._answer_upload(exchange, method, match[1], match[3], body)
        elif match[2] == "tags":
            tags = [tag for tag in self.manifests if ":" not in tag]
            exchange.reply(200, json.dumps({"name": match[1], "tags": tags}).encode())
        elif match[2] == "manifests" and method == "PUT":
            digest = self.add_manifest(match[3], body, exchange.headers["Content-Type"])
            exchange.reply(201, Docker_Content_Digest=digest)
        elif match[2] == "manifests" and (manifest := self.manifests.get(match[3])):
            digest = digest_of(manifest[1])
            exchange.reply(200, manifest[1], Content_Type=manifest[0], Docker_Content_Digest=digest)
        elif match[2] == "blobs" and (blob := self.blobs.get(match[3])) is not None:
            self._give_blob(exchange, blob)
        else:
            exchange.refuse(404, "NOT_FOUND", "unknown")

    def _give_blob(self, exchange: Exchange, blob: bytes) -> None:
        if wanted := re.fullmatch(r"bytes=([0-9]+)-", exchange.headers.get("Range", "")):
            begin = int(wanted[1])
            if begin >= len(blob):
                exchange.refuse(416, "RANGE_INVALID")
            else:
                place = f"bytes {begin}-{len(blob) - 1}/{len(blob)}"
                exchange.reply(206, blob[begin:], Content_Range=place)
        else:
            exchange.reply(200, blob)

    def _answer_upload(
        self, exchange: Exchange, method: str, repository: str, upload: str, body: bytes
    ) -> None:
        if method == "POST":
            upload = f"u{len(self.uploads)}"
            self.uploads[upload] = bytearray()
        location = f"/v2/{repository}/blobs/uploads/{upload}"
        content = self.uploads[upload]
        if method == "PATCH":
            content += exchange.content()
        if method == "PUT":
            content += body
            digest = parse_qs(urlsplit(exchange.path).query)["digest"][0]
            if digest_of(bytes(content)) != digest:
                exchange.refuse(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
                return
            self.blobs[digest] = bytes(content)
        status = {"POST": 202, "PATCH": 202, "PUT": 201, "GET": 204, "DELETE": 204}[method]
        exchange.reply(status, Location=location, Range=f"0-{max(len(content) - 1, 0)}")


@contextmanager
def fake_registry(
    *, log_in: str = "", tls: tuple[Path, Path] | None = None, client_authority: Path | None = None
) -> Iterator[FakeRegistry]:
    """A registry in memory. tls: certificate and key files; client_authority: of what clients must have."""
    with _Server(("127.0.0.1", 0), Exchange) as server:
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
            if client_authority:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(client_authority)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        port = server.server_address[1]
        server.registry = FakeRegistry(f"127.0.0.1:{port}", "https" if tls else "http", log_in)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.registry
        finally:
            server.shutdown()
            thread.join()
