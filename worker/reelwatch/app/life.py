"""Signs of life: what worker and beat answer when `reelwatch alive` asks.

What must go on in a process signs again and again; a thread of its own answers which of it has not
for too long. It listens at a socket without a file, so nothing is written and nothing left behind.
A process that is stopped, or whose threads are, does not answer at all.
"""

import contextlib
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping

import structlog

from reelwatch.rules.pulse import NAMES, WELL

log = structlog.get_logger(__name__)


class Life:
    """One process's signs, each with the time until which it is good."""

    def __init__(self) -> None:
        self._good_until: dict[str, float] = {}
        self._listener: socket.socket | None = None

    def sign(self, name: str, seconds: float) -> None:
        """`name` goes on, and will sign again within so many seconds."""
        self._good_until[name] = time.monotonic() + seconds

    def lay_down(self, name: str) -> None:
        """`name` has stopped for a good reason: nobody waits for its sign."""
        self._good_until.pop(name, None)

    def said(self) -> str:
        """The answer: `WELL`, or what has not signed for how long."""
        return answer(self._good_until, time.monotonic())

    def begin(self, kind: str) -> None:
        """Answer from now on, as a process of that kind; where that can't be, say so in the log."""
        if self._listener is not None or not sys.platform.startswith("linux"):
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(f"\0{NAMES}{kind}/{secrets.token_hex(6)}")
        self._listener = listener
        try:
            threading.Thread(
                target=self._answer, args=(listener,), name="life", daemon=True
            ).start()
        except RuntimeError as error:  # the system allows no more threads
            log.warning("life_missing", error=str(error))

    def end(self) -> None:
        """Answer no more, as in a child that a process of that kind has forked."""
        if self._listener is not None:
            self._listener.close()

    def _answer(self, listener: socket.socket) -> None:
        while True:
            try:
                _, asked_by = listener.recvfrom(64)
            except OSError:  # closed
                return
            with contextlib.suppress(OSError):  # who asked is gone
                listener.sendto(self.said().encode(), asked_by)


def answer(good_until: Mapping[str, float], now: float) -> str:
    """`WELL`, or the names whose signs are no longer good, and since when."""
    overdue = [
        f"{name} is silent, {now - until:.0f} s longer than it may be"
        for name, until in sorted(good_until.items())
        if until < now
    ]
    return "; ".join(overdue) or WELL


here = Life()
