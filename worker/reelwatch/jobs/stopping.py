"""Is this process asked to end? What a parent says, the children it has forked see at once.

A signal can't tell a pool's children: one that is sent to the whole group must leave them alone,
and only the parent knows what it means. So the parent holds a pipe that its children inherit. It
becomes readable when the parent says so, and when the parent has died.
"""

import os
import select
import signal


def ends_by_hangup() -> bool:
    """Does SIGHUP end this process, as a closed terminal sends it? Not under `nohup`."""
    return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


class Stopping:
    """A flag that is shared with the children that are forked after `share`.

    `set` may be called from a signal handler: it takes no lock.
    """

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = None  # where it is read, where it is written
        self._maker = 0  # the process that made the pipe, and alone writes to it
        self._set = False

    def share(self) -> None:
        """From now on, children that are forked see what is set here."""
        if self._pipe is None:
            self._maker, self._pipe = os.getpid(), os.pipe()

    def inherit(self) -> None:
        """In a child: give up the end that is written to, so that the parent's death is seen."""
        if self._pipe is not None and self._maker != os.getpid():
            os.close(self._pipe[1])

    def set(self) -> None:
        """Nothing new is begun from now on, neither here nor in the children."""
        self._set = True
        if self._pipe is not None and self._maker == os.getpid():
            os.write(self._pipe[1], b"!")  # which nobody ever reads away

    def is_set(self) -> bool:
        """Is this process, or its parent, asked to end?"""
        return self._set or self._told(0.0)

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is set; says whether it is."""
        self.share()
        return self._set or self._told(seconds)

    def clear(self) -> None:
        """Forget everything, as if it had never been set or shared."""
        if self._pipe is not None and self._maker == os.getpid():
            for end in self._pipe:
                os.close(end)
        self._pipe, self._set = None, False

    def _told(self, seconds: float) -> bool:
        if self._pipe is None:
            return False
        poller = select.poll()
        poller.register(self._pipe[0], select.POLLIN)
        # Milliseconds; it rounds them up, so nobody who waits for a moment is early.
        if poller.poll(seconds * 1000):
            self._set = True
        return self._set
