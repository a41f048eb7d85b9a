"""A headless Chromium, driven through its DevTools protocol over a pair of pipes: no port, and no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)
_PATIENCE_S = 60.0


class Page:
    """One tab. Made by `open_browser`."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._count, self._session = b"", 0, ""
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def look(self, *, scheme: Literal["light", "dark"], width: int = 1000, height: int = 700) -> None:
        """What its reader prefers, and the size of the window."""
        prefers = [{"name": "prefers-color-scheme", "value": scheme}]
        self._do("Emulation.setEmulatedMedia", features=prefers)
        self._do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def open(self, url: str) -> None:
        self._do("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression, as JSON; a promise is waited for."""
        done = self._do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression: str) -> Any:
        """Its value, as soon as that is true."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (value := self.value(expression)):
            assert time.monotonic() < deadline, f"{expression} is never true"
            time.sleep(0.05)
        return value

    def picture(self, element: str, *, margin: int = 12) -> bytes:
        """PNG of the element that this expression gives."""
        box = self.value(
            f"(() => {{ const e = {element};"
            " const b = e.getBoundingClientRect();"
            " return [b.x + scrollX, b.y + scrollY, b.width, b.height] })()"
        )
        x, y, width, height = box
        clip = {
            "x": max(0, x - margin),
            "y": max(0, y - margin),
            "width": width + 2 * margin,
            "height": height + 2 * margin,
            "scale": 1,
        }
        shot = self._do("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _do(self, method: str, **parameters: object) -> Any:
        self._count += 1
        command: dict[str, object] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _message(self) -> bytes:
        deadline = time.monotonic() + _PATIENCE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return message


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A browser with a new profile."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.fail("there is no chromium: install the package, or on Ubuntu the snap", pytrace=False)
    commands_out, commands = os.pipe()
    answers, answers_in = os.pipe()
    # It reads commands from descriptor 3, and writes answers to 4.
    script = f'exec "$0" "$@" 3<&{commands_out} 4>&{answers_in}'
    arguments = [*_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    with (profile.parent / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script, browser, *arguments],
            pass_fds=[commands_out, answers_in],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    os.close(commands_out)
    os.close(answers_in)
    try:
        yield Page(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        try:
            process.wait(5)  # the closed pipe ends it
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
