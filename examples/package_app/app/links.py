"""A link shortener: GET / lists the links, POST / with `url=...` adds one, GET /NAME leads to it.

A WSGI application with nothing but Python's own library; what it knows is in $DATA/links.db.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from html import escape
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
PAGE = "<!doctype html><title>Links</title><h1>{count} links</h1><ul>{items}</ul>\n"


def name_of(number: int) -> str:
    """A short name: nothing in it is mistaken for something else."""
    name = ""
    while number:
        number, digit = divmod(number - 1, len(ALPHABET))
        name = ALPHABET[digit] + name
    return name


class Links:
    def __init__(self, path: str) -> None:
        self._path = path
        with self._open() as db:
            db.execute("CREATE TABLE IF NOT EXISTS links (id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE)")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A database whose changes are kept if the block ends well."""
        with closing(sqlite3.connect(self._path)) as db, db:
            yield db

    def add(self, url: str) -> str:
        """The name of `url`; ValueError: it is no address on the web."""
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(url)
        with self._open() as db:
            db.execute("INSERT INTO links (url) VALUES (?) ON CONFLICT DO NOTHING", (url,))
            (number,) = db.execute("SELECT id FROM links WHERE url = ?", (url,)).fetchone()
        return name_of(number)

    def all(self) -> dict[str, str]:
        with self._open() as db:
            return {name_of(number): url for number, url in db.execute("SELECT id, url FROM links")}


class Application:
    def __init__(self, links: Links) -> None:
        self._links = links

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
    ) -> Iterable[bytes]:
        status, headers, body = self._answer(environ)
        headers = {"Content-Type": "text/html; charset=utf-8", **headers}
        start_response(f"{status.value} {status.phrase}", list(headers.items()))
        return [body.encode()]

    def _answer(self, environ: dict[str, Any]) -> tuple[HTTPStatus, dict[str, str], str]:
        path, links = environ["PATH_INFO"], self._links.all()
        if environ["REQUEST_METHOD"] == "POST":
            return self._add(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        if path == "/":
            items = "".join(f"<li>{name}: {escape(url)}" for name, url in links.items())
            return HTTPStatus.OK, {}, PAGE.format(count=len(links), items=items)
        if path[1:] in links:
            return HTTPStatus.FOUND, {"Location": links[path[1:]]}, ""
        return HTTPStatus.NOT_FOUND, {}, "no such link\n"

    def _add(self, form: bytes) -> tuple[HTTPStatus, dict[str, str], str]:
        try:
            name = self._links.add(parse_qs(form.decode())["url"][0])
        except (KeyError, ValueError):
            return HTTPStatus.BAD_REQUEST, {}, "url=http://... is needed\n"
        return HTTPStatus.CREATED, {"Location": f"/{name}"}, f"{name}\n"


def application() -> Application:
    """What a server of WSGI applications calls once."""
    return Application(Links(os.path.join(os.environ["DATA"], "links.db")))
