"""The sandbox as a process of its own, which notes each poll: its figures are not bent by what
else the process that starts it has to do.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests

from reelwatch.sandbox.upstream import Sandbox
from tests.processes import UNCOUNTED, Folder, process


class PollSeen(NamedTuple):
    """Upstream was asked about a job."""

    at: float  # unix seconds
    video_id: str


class Upstream:
    """That process, seen from outside."""

    def __init__(self, url: str, polls: Path) -> None:
        self.url = url
        self._polls = polls
        self._session = requests.Session()
        self._session.trust_env = False

    def set_fault(self, mode: str) -> None:
        """As `Sandbox.set_fault`."""
        answer = self._session.post(f"{self.url}/faults", json={"mode": mode}, timeout=20)
        assert answer.status_code == 200, answer.text

    def stats(self) -> dict[str, Any]:
        """As `Sandbox.stats`."""
        figures: dict[str, Any] = self._session.get(f"{self.url}/stats", timeout=20).json()
        return figures

    def polls(self) -> list[PollSeen]:
        """All polls so far, in the order in which they came."""
        complete = self._polls.read_text().rpartition("\n")[0]
        return [PollSeen(*json.loads(line)) for line in complete.splitlines()]


@contextmanager
def upstream() -> Iterator[Upstream]:
    """Serves until the end of the block."""
    folder = Folder("upstream")
    polls = folder.path / "polls"
    polls.touch()
    try:
        with process([sys.executable, "-m", "tests.upstream", polls], UNCOUNTED) as serving:
            url = serving.wait_for("http://").strip()
            yield Upstream(url, polls)
    finally:
        folder.remove()


def main(polls: Path) -> None:
    """Prints the URL, serves until SIGTERM."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with polls.open("a", buffering=1) as notes:

        def note(video_id: str) -> None:
            notes.write(json.dumps([time.time(), video_id]) + "\n")

        with Sandbox(note).start() as sandbox:
            print(sandbox.url, flush=True)
            over.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
