"""Run by the build: an image is only made of what passes."""

import io
import tempfile
import unittest
from pathlib import Path

from links import ALPHABET, Application, Links, name_of


class LinksTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.application = Application(Links(str(Path(directory.name, "links.db"))))
        self.status = ""
        self.headers: dict[str, str] = {}

    def ask(self, method: str, path: str, body: bytes = b"") -> str:
        def start_response(status: str, headers: list[tuple[str, str]]) -> None:
            self.status, self.headers = status, dict(headers)

        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(body))}
        return b"".join(
            self.application({**environ, "wsgi.input": io.BytesIO(body)}, start_response)
        ).decode()

    def test_names_are_short_and_differ(self) -> None:
        names = [name_of(number) for number in range(1, 2000)]
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual((names[0], names[len(ALPHABET)]), ("2", "22"))

    def test_a_link_leads_to_its_address(self) -> None:
        name = self.ask("POST", "/", b"url=https://example.org/%3Fa%3D1").strip()
        self.ask("GET", f"/{name}")
        self.assertEqual((self.status, self.headers["Location"]), ("302 Found", "https://example.org/?a=1"))

    def test_what_is_listed_is_escaped(self) -> None:
        self.ask("POST", "/", b"url=https://example.org/%3Cscript%3E")
        self.assertIn("&lt;script&gt;", self.ask("GET", "/"))

    def test_only_the_web_is_linked_to(self) -> None:
        for form in (b"", b"url=javascript:alert(1)", b"url=/etc/passwd"):
            self.ask("POST", "/", form)
            self.assertEqual(self.status, "400 Bad Request")

    def test_what_is_not_there(self) -> None:
        self.ask("GET", "/nowhere")
        self.assertEqual(self.status, "404 Not Found")


if __name__ == "__main__":
    unittest.main()
