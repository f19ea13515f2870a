"""Headless Chromium over its debugging pipe: requests, console and pictures of a page.

`python tests/support/helpers/browser.py PAGE.html PICTURE.png [WIDTH [HEIGHT|SELECTOR]]` takes a
picture of a page: of its upper HEIGHT px, of an element, or of all of it.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Return the program, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name)) is not None), None)


class Page:
    """One page of a running Chromium; `events` are all that it reported."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to one command of the DevTools protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(
        self, path: Path, *, width: int, height: int = 900, dark: bool = False, scripts: bool = True
    ) -> None:
        """Load a file at a width in CSS pixels and wait for it."""
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """Return what JavaScript of the test finds on the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)[
            "result"
        ].get("value")

    def place(self, selector: str) -> tuple[int, int, int, int]:
        """Return (x, y, width, height) of the selected element, in px of the whole page."""
        box = self.value(
            f"(box => [box.x + scrollX, box.y + scrollY, box.width, box.height])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        x, y, width, height = map(round, box)
        return x, y, width, height

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, data that it holds itself aside."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [address for address in asked if not address.startswith("data:")]

    def complaints(self) -> list[str]:
        """Return what stands in the console: errors, warnings, refused requests."""
        found = []
        for event in self.events:
            if event.get("method") == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
            elif event.get("method") == "Runtime.exceptionThrown":
                found.append(event["params"]["exceptionDetails"]["text"])
            elif event.get("method") == "Runtime.consoleAPICalled":
                found.append(str(event["params"]["args"]))
        return found

    def picture(
        self, *, whole: bool = False, clip: tuple[int, int, int, int] | None = None
    ) -> bytes:
        """Return a PNG of what is seen, of the whole page, or of (x, y, width, height)."""
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = (0, 0, int(size["width"]), int(size["height"]))
        options: dict[str, Any] = {}
        if clip is not None:
            x, y, width, height = clip
            options = {
                "captureBeyondViewport": True,
                "clip": {"x": x, "y": y, "width": width, "height": height, "scale": 1},
            }
        return base64.b64decode(
            self.call("Page.captureScreenshot", format="png", **options)["data"]
        )

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._answers, 1 << 16)
            if not data:
                raise RuntimeError("Chromium has gone")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        value: dict[str, Any] = json.loads(message)
        return value


@contextmanager
def browser_page() -> Iterator[Page]:
    """Yield a page of a Chromium that ends with the block."""
    program = find_browser()
    assert program is not None
    command_in, command_out = os.pipe()
    answer_in, answer_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [program, "--headless=new", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        words += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        words += ["--hide-scrollbars", "--disable-background-networking", "about:blank"]
        # Chromium reads its commands from descriptor 3 and answers on 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{command_in} 4>&{answer_out}', "bash", *words]
        process = subprocess.Popen(
            shell,
            pass_fds=(command_in, answer_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_in)
        os.close(answer_out)
        try:
            page = Page(command_out, answer_in)
            yield page
        finally:
            os.close(command_out)
            os.close(answer_in)
            process.terminate()
            process.wait()


def main(page_file: str, picture_file: str, width: str = "1280", part: str = "") -> None:
    """Write a picture of a page."""
    with browser_page() as page:
        page.open(Path(page_file), width=int(width))
        clip = (
            (0, 0, int(width), int(part))
            if part.isdecimal()
            else page.place(part)
            if part
            else None
        )
        Path(picture_file).write_bytes(page.picture(whole=clip is None, clip=clip))


if __name__ == "__main__":
    main(*sys.argv[1:])
