"""A small web application, with nothing but Python's own library. debian_app.py runs it in a container.

GET / shows all entries; POST / adds its body to them. The file named on the command line keeps them.
"""

import sqlite3
import sys
from collections.abc import Callable, Iterable
from html import escape
from typing import Any
from wsgiref.simple_server import make_server

DATABASE = sys.argv[1]


def guestbook(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    with sqlite3.connect(DATABASE) as db:
        db.execute("CREATE TABLE IF NOT EXISTS entries (text TEXT NOT NULL)")
        if environ["REQUEST_METHOD"] == "POST":
            text = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
            db.execute("INSERT INTO entries VALUES (?)", (text,))
        entries = [escape(text) for (text,) in db.execute("SELECT text FROM entries")]
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    return [f"<h1>{len(entries)} guests</h1><p>{'<p>'.join(entries)}\n".encode()]


if __name__ == "__main__":
    with make_server("0.0.0.0", 8000, guestbook) as server:
        print("serving on port 8000", flush=True)
        server.serve_forever()
