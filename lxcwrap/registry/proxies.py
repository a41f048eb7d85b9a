"""Proxies, as the environment names them: HTTPS_PROXY, HTTP_PROXY, NO_PROXY, and these in lowercase."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from ..errors import InvalidSpecError
from .config import is_loopback


@frozen(kw_only=True)
class Proxy:
    """`url` is without user and password; `authorization` holds these, as ``user:password``."""

    url: str
    authorization: str = field(default="", repr=False)


def proxy_for(scheme: str, host: str, port: int) -> Proxy | None:
    """
    The proxy to use for a server; None: none. This machine itself is never reached through one.

    Raises InvalidSpecError: what the environment holds is not a proxy we can use.
    """
    # Not HTTP_PROXY where a web server runs us by CGI: there it is a header of the client's.
    names = ["HTTPS_PROXY", "https_proxy"] if scheme == "https" else ["http_proxy"]
    if scheme == "http" and "REQUEST_METHOD" not in os.environ:
        names.append("HTTP_PROXY")
    name = next((name for name in names if os.environ.get(name)), None)
    if name is None or is_loopback(host) or _bypassed(host, port):
        return None
    return _parse(name, os.environ[name])


def _parse(name: str, text: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if not host or parts.scheme not in ("http", "https"):
        # Not the text itself: it may hold a password.
        raise InvalidSpecError(f"{name}: write it as 'http://[user:password@]host:port'")
    bracketed = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{bracketed}" + (f":{port}" if port else "")
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
    return Proxy(url=url, authorization=user)


def _bypassed(host: str, port: int) -> bool:
    """NO_PROXY: ``*``, or names with all below them, addresses, networks; each may have a port."""
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return any(_matches(entry.strip().lower(), host.lower(), port) for entry in listed.split(","))


def _matches(entry: str, host: str, port: int) -> bool:
    if entry in ("", "*"):
        return entry == "*"
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, only_port = entry.rpartition(":")
    if colon and only_port.isdigit():
        if int(only_port) != port:
            return False
        entry = name.strip("[]")
    domain = entry.removeprefix("*").removeprefix(".")
    return host == domain or host.endswith(f".{domain}")
