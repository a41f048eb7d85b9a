"""The application: a guest book in PostgreSQL. DATABASE says where that is.

GET / shows all entries, and which of the servers has answered; POST / adds the field "text" of a form.
"""

import os
import socket
from collections.abc import Callable, Iterable
from html import escape
from typing import Any
from urllib.parse import parse_qs

import psycopg2  # type: ignore[import-untyped]  # that of the image

PAGE = """<!doctype html><title>Guests</title>
<h1>{count} guests</h1><ul>{entries}</ul>
<form method="post"><input name="text"><button>Add</button></form>
<footer>served by {server}</footer>
"""


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    connection = psycopg2.connect(os.environ["DATABASE"], connect_timeout=5)
    try:
        with connection, connection.cursor() as cursor:
            if environ["REQUEST_METHOD"] == "POST":
                form = parse_qs(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode())
                cursor.execute("INSERT INTO entries (text) VALUES (%s)", form["text"])
                start_response("303 See Other", [("Location", "/")])
                return []
            cursor.execute("SELECT text FROM entries ORDER BY id")
            entries = [f"<li>{escape(text)}" for (text,) in cursor]
    finally:
        connection.close()
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    page = PAGE.format(count=len(entries), entries="".join(entries), server=socket.gethostname())
    return [page.encode()]
