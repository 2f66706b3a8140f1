"""A real Chromium without a window, driven over a pipe: it needs no driver and no library.

`open_browser()` starts one; its pages are clicked, typed into and looked at as a person would.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.servers import ServerMissing

Found = TypeVar("Found")

PATIENCE_SECONDS = 20.0
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--mute-audio",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--remote-debugging-pipe",
)
KEYS = {  # name: (code, virtual key, text)
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": ("Space", 32, " "),
    "Escape": ("Escape", 27, ""),
    "/": ("Slash", 191, "/"),
}


# The browser reads from descriptor 3 and writes to 4.
BEGIN = """
import fcntl, os, sys
read, send = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(send, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class PageError(AssertionError):
    """A script of the page, or one of ours on it, failed."""


class Browser:
    """One process of Chromium; `call` is its protocol, message by message."""

    def __init__(self, process: subprocess.Popen[bytes], send: int, receive: int) -> None:
        self._process, self._send, self._receive = process, send, receive
        self._number, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of one command; raises `PageError` for what it refuses."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                break
            self.events.append(answer)
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._receive, 1 << 20)
            if not piece:
                raise PageError("the browser has ended")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def page(self, width: int = 1_440, height: int = 900, *, dark: bool = False) -> "Page":
        """A new empty page of that size."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(self, attached["sessionId"], target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.look(width, height, dark=dark)
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target

    def close(self) -> None:
        """Its requests end with it."""
        self._browser.call("Target.closeTarget", targetId=self._target)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, to this tab."""
        return self._browser.call(method, self._session, **params)

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """The size of the window, and whether its user likes it dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        motion = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, motion])

    def javascript(self, on: bool) -> None:
        """Whether scripts run from the next page on."""
        self.call("Emulation.setScriptExecutionDisabled", value=not on)

    def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        went = self.call("Page.navigate", url=url)
        if went.get("errorText"):
            raise PageError(f"{url}: {went['errorText']}")
        self.loaded()

    def loaded(self) -> None:
        """Wait until the document is complete."""
        self.until(lambda: self.run("document.readyState") == "complete", "the page is loaded")

    def run(self, expression: str) -> Any:
        """What an expression of JavaScript gives; promises are awaited."""
        done = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise PageError(f"{expression[:80]}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """The text that people see of the first such element; empty where there is none."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of an element, scrolled into view."""
        found = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "if (!e) return null; e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2];"
            "})()"
        )
        if found is None:
            raise PageError(f"no {selector}")
        return found[0], found[1]

    def point(self, selector: str) -> None:
        """Move the mouse over an element."""
        x, y = self.place(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        """Press and release the mouse on an element."""
        x, y = self.place(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, *, shift: bool = False) -> None:
        """One key of the keyboard."""
        code, number, text = KEYS[key]
        held = 8 if shift else 0
        down = {"text": text} if text else {}
        for kind, more in (("keyDown", down), ("keyUp", {})):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=text if key == "Space" else key,
                code=code,
                windowsVirtualKeyCode=number,
                modifiers=held,
                **more,
            )

    def type(self, text: str) -> None:
        """Text, where the focus is."""
        self.call("Input.insertText", text=text)

    def until(self, what: Callable[[], Found], told: str) -> Found:
        """Wait for what must come true; `told` names it when it does not."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                found = what()
            except PageError:  # the page is just being replaced
                found = None
            if found:
                return found
            if time.monotonic() > end:
                raise AssertionError(f"in vain: {told}\n{self.text()[:2_000]}")
            time.sleep(0.05)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page, or of what the window shows of it."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Errors that the console has shown: of scripts, and what the policy has refused."""
        self.run("1")  # what was said before has arrived then
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found


def program() -> str:
    """The browser that is installed; raises `ServerMissing`."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    raise ServerMissing("no Chromium is installed (Debian: apt install chromium)")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with a profile of its own, which is gone afterwards."""
    found = program()
    to_read, to_send = os.pipe()
    from_read, from_send = os.pipe()
    with tempfile.TemporaryDirectory(prefix="reelwatch-browser-", ignore_cleanup_errors=True) as at:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                BEGIN,
                str(to_read),
                str(from_send),
                found,
                *QUIET,
                f"--user-data-dir={at}",
                "about:blank",
            ],
            pass_fds=(to_read, from_send),
            env={**os.environ, "HOME": at},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_send)
        try:
            yield Browser(process, to_send, from_read)
        finally:
            process.terminate()
            process.wait(20)
            os.close(to_send)
            os.close(from_read)
