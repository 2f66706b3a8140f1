"""Exchanges at their times: many at once in one thread, which the system may refuse.

Each call has a moment from which it may be sent, and one from which it may not any more. A thread
of their own keeps to both while others write to the database; where there is none to be had,
whoever waits for the outcomes moves the exchanges on, and is on time when it waits.
"""

import heapq
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import structlog

from reelwatch.net.http import Client, Outcome, Request, look_up

log = structlog.get_logger(__name__)

NAP_SECONDS = 0.25  # until it is asked again whether what waits is held


@dataclass(frozen=True, slots=True)
class Call:
    """A request and, by time.monotonic(), when it may be sent: in its slot or not at all.

    One that has no slot is sent at once, whatever is held.
    """

    request: Request
    opens: float = 0.0
    closes: float = math.inf


class Calls:
    """The calls of one batch. `done` gets each one's key and its outcome, in the calls' thread.

    The outcome of a call that was not sent, because its slot was missed or what waits is held, is
    None. An error that nobody has foreseen is the outcome of its call: none is without one.
    """

    def __init__(
        self,
        client: Client,
        is_held: Callable[[], bool],
        done: Callable[[Any, Outcome | Exception | None], None],
    ) -> None:
        self._is_held = is_held
        self._done = done
        self._stack = ExitStack()
        self._line = self._stack.enter_context(client.line())
        self._new: deque[tuple[Any, Call]] = deque()
        self._waiting: list[tuple[float, int, Any, Call]] = []  # a heap, by when they open
        self._count = 0
        self._end = False
        self._thread: threading.Thread | None = None
        self.has_thread = False  # or is somebody else to `move` them on?

    def start(self) -> None:
        """Have a thread of their own. Raises RuntimeError where the system allows none.

        libcurl needs another one to look names up, and would wait for it until the deadline.
        """
        self._line.resolver = look_up
        thread = threading.Thread(target=self._run, name="calls")
        thread.start()
        self._thread, self.has_thread = thread, True
        with suppress(RuntimeError):
            another = threading.Thread(target=int)
            another.start()
            another.join()
            self._line.resolver = None

    def add(self, key: Any, call: Call) -> None:
        """Have it made in time; seen when the thread is woken."""
        self._new.append((key, call))

    def wake(self) -> None:
        self._line.wake()

    def move(self, seconds: float) -> None:
        """Send what is to be sent, and hand over what has come; returns after so long at most."""
        self._take_in()
        wait = min(seconds, self._send_open())
        for key, outcome in self._line.results(wait):
            self._done(key, outcome)

    def end(self) -> None:
        """Cut what is under way; nothing more is handed over."""
        self._end = True
        if self._thread:
            self._line.wake()
            self._thread.join()
        self._stack.close()

    def _run(self) -> None:
        try:
            while not self._end:
                self.move(NAP_SECONDS)
        finally:  # what made it end otherwise meets whoever moves them on from here
            self.has_thread = False

    def _take_in(self) -> None:
        while self._new:
            key, call = self._new.popleft()
            self._count += 1  # that neither keys nor calls are ever compared
            heapq.heappush(self._waiting, (call.opens, self._count, key, call))

    def _send_open(self) -> float:
        """Send what may be sent; returns the seconds until more may be."""
        while self._waiting:
            opens, _, key, call = self._waiting[0]
            held = opens > 0 and self._is_held()
            now = time.monotonic()
            if opens > now and not held:
                return opens - now
            heapq.heappop(self._waiting)
            if held or now > call.closes:
                self._done(key, None)
                continue
            try:
                self._line.send(key, call.request)
            except Exception as error:
                self._done(key, error)
        return math.inf
