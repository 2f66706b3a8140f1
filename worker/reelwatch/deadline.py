"""The deadline of one exchange: a watchdog thread that shuts its socket down when time is up.

requests knows a timeout per read, not per exchange: a peer that sends a byte now and then holds a
thread for ever. Shutting the socket down ends whatever the exchange is waiting for: connect, TLS
handshake, sending, headers or body.
"""

import contextlib
import math
import os
import socket
import threading
import time


class TransferError(Exception):
    """No answer came of an exchange; the message says why and carries nothing that was sent."""


class DeadlinePassed(TransferError):
    """The time for the whole exchange was over before the answer was complete."""


class Deadline:
    """The end of one exchange, `seconds` from now, and what is to be cut when it comes.

    What is cut is a second descriptor of the socket, its twin. The exchange may close its own at
    any moment, and the system hand the number to another connection, while the watchdog shuts it
    down.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = time.monotonic()
        self.at = self.started + seconds
        self._was_cut = False
        self._twin: int | None = None
        self._watchdog = _watchdog()
        self._watchdog.add(self)

    def elapsed(self) -> float:
        """Seconds since the exchange began."""
        return time.monotonic() - self.started

    def passed(self) -> bool:
        """Whether the time is up: what fails from then on, fails for this."""
        return self._was_cut or time.monotonic() >= self.at

    def remaining(self) -> float:
        """Seconds left, more than 0; raises DeadlinePassed if there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> DeadlinePassed:
        """What to raise when the time is up."""
        return DeadlinePassed(f"no complete answer within {self.seconds:g} s")

    def guard(self, twin: int) -> None:
        """Have the socket of this twin cut when the time is up, in place of the one before.

        The twin is the deadline's to close, until `release` gives it back.
        """
        with self._watchdog.lock:
            before, self._twin = self._twin, twin
            if self._was_cut:
                self.cut()
        if before is not None:
            os.close(before)

    def cut(self) -> None:
        """Shut the socket down, now or as soon as there is one. Needs the watchdog's lock."""
        self._was_cut = True
        if self._twin is not None:
            sock = socket.socket(fileno=self._twin)
            with contextlib.suppress(OSError):  # it never connected, or the peer has gone already
                sock.shutdown(socket.SHUT_RDWR)
            sock.detach()

    def release(self) -> int | None:
        """Leave the socket alone from here on and give its twin back; None if it was cut before."""
        with self._watchdog.lock:
            self._watchdog.forget(self)
            if self._was_cut:
                return None
            twin, self._twin = self._twin, None
        return twin

    def end(self) -> bool:
        """Leave the socket alone from here on and close its twin; true if it was cut before."""
        with self._watchdog.lock:
            self._watchdog.forget(self)
            twin, self._twin = self._twin, None
        if twin is not None:
            os.close(twin)
        return self._was_cut


class _Watchdog:
    """Cuts what has run out of time. One per process, its thread started at first use.

    It sleeps until the earliest deadline it knew when it last woke, and is woken only for an
    earlier one: an exchange that ends in time costs next to nothing.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._earlier = threading.Condition(self.lock)
        self._deadlines: set[Deadline] = set()
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    def add(self, deadline: Deadline) -> None:
        with self.lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                # Where the system allows no thread, each read still has its time, if not all of
                # them together; the next exchange tries again.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
            self._deadlines.add(deadline)
            if deadline.at < self._wakes_at:
                self._wakes_at = deadline.at
                self._earlier.notify()

    def forget(self, deadline: Deadline) -> None:
        self._deadlines.discard(deadline)

    def _run(self) -> None:
        with self.lock:
            while True:
                now = time.monotonic()
                for deadline in [each for each in self._deadlines if each.at <= now]:
                    self._deadlines.discard(deadline)
                    deadline.cut()
                self._wakes_at = min((each.at for each in self._deadlines), default=math.inf)
                self._earlier.wait(None if self._wakes_at == math.inf else self._wakes_at - now)


_watchdogs: dict[int, _Watchdog] = {}


def _watchdog() -> _Watchdog:
    """This process's own: a fork takes the parent's memory along, but not its thread."""
    pid = os.getpid()
    return _watchdogs.get(pid) or _watchdogs.setdefault(pid, _Watchdog())
