"""Child processes that cannot outlive the tests, whatever happens to the tests."""

import atexit
import contextlib
import functools
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self, TypeVar

ROOT = Path(__file__).parent.parent
STOP_SECONDS = 30.0
# Times as long until a test gives up: for those that get little of the processor beside others.
PATIENCE = float(os.environ.get("PYTEST_PATIENCE", "1"))

# For children whose coverage nobody needs: being counted makes them half as fast.
UNCOUNTED = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}

# What of this process's environment reaches its children, and a test: where programs and temporary
# files are, and what those who start the tests tell them.
INHERITED = re.compile(
    r"PATH|LD_LIBRARY_PATH|TMPDIR|CI|(COVERAGE|COV_CORE|HYPOTHESIS|PYTEST|REELWATCH_TEST)_\w+"
)

# What else there is in every environment. Whatever terminal, language and time zone the tests were
# started with, their children have these; an odd zone, since whoever forgets about zones finds out.
USUAL = {
    "LANG": "C.UTF-8",
    "TERM": "xterm-256color",
    "TZ": "Asia/Kathmandu",
    "USER": "reelwatch-test",
    "LOGNAME": "reelwatch-test",
}

T = TypeVar("T")


def plain_environment(*more: Mapping[str, str]) -> dict[str, str]:
    """A whole environment that is the same wherever the tests run; with `more`, the last wins.

    Its HOME is an empty folder.
    """
    kept = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
    environment = {**USUAL, "HOME": str(_home()), **kept}
    for each in more:
        environment |= each
    return environment


@contextlib.contextmanager
def in_plain_environment() -> Iterator[None]:
    """`plain_environment()` is this process's own meanwhile."""
    before = dict(os.environ)
    plain = plain_environment()
    os.environ.clear()
    os.environ.update(plain)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@functools.cache
def _home() -> Path:
    return Folder("home").path


def be_usual() -> None:
    """Has this process, and so its children, end by the signals that end any other.

    Who is started in the background by a shell, or by `nohup`, has some of them ignored, and a
    process that starts another passes that on. So does the umask: a server that runs as somebody
    else must be able to read what we write for it.
    """
    os.umask(0o022)
    if threading.current_thread() is not threading.main_thread():
        return
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # Python itself ignores two of them, and gives them back to its children.
        if number in (signal.SIGPIPE, signal.SIGXFSZ) or signal.getsignal(number) != signal.SIG_IGN:
            continue
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def eventually(
    condition: Callable[[], T],
    deadline_seconds: float = 10.0,
    message: str | Callable[[], str] = "",
) -> T:
    """The first truthy value of the condition; an AssertionError with the message if none comes."""
    deadline_seconds *= PATIENCE
    give_up_at = time.monotonic() + deadline_seconds
    pause = 0.005
    while not (value := condition()):
        if time.monotonic() > give_up_at:
            reason = message() if callable(message) else message
            raise AssertionError(f"not within {deadline_seconds:g} s: {reason or condition}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    return value


def free_port() -> int:
    """A port that is free, and that no outgoing connection is given while its server restarts."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def process(
    args: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    niceness: int = 0,
) -> "Process":
    """Starts a real child: `process(["celery", "-A", "reelwatch", "beat"], {"BROKER_URL": …})`.

    A command that is installed beside this Python is taken from there. The child's environment is
    `plain_environment()` and then `env`. The higher its `niceness` (up to 19), the more it steps
    back behind others for the processor.
    """
    beside = Path(sys.executable).parent / args[0]
    command = [beside if beside.exists() else args[0], *args[1:]]
    if niceness:
        command = ["nice", "-n", str(niceness), *command]
    return Process(command, plain_environment({"PYTHONUNBUFFERED": "1"}, env or {}), cwd)


def _tell_reaper(*charge: str | int) -> None:
    # One write below PIPE_BUF is atomic: threads need no lock.
    os.write(_reaper().fileno(), (json.dumps(charge) + "\n").encode())


@functools.cache
def _reaper() -> IO[bytes]:
    """The pipe to a reaper of this process's own. It lives, and stays open, as long as we do."""
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", Path(__file__).with_name("reaper.py")],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the terminal is not for it
    )
    reaper.returncode = 0  # it ends after us: nobody will wait for it
    assert reaper.stdin is not None
    return reaper.stdin


class Folder:
    """A temporary folder that is removed in any case."""

    def __init__(
        self, purpose: str, owner: pwd.struct_passwd | None = None, parent: str | None = None
    ) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"reelwatch-{purpose}-", dir=parent))
        _tell_reaper("folder", str(self.path))
        if owner:
            os.chown(self.path, owner.pw_uid, owner.pw_gid)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        _tell_reaper("removed", str(self.path))


class Process:
    """A child in a session of its own, so that its whole family can be killed; output in a file."""

    def __init__(
        self,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        cwd: Path = ROOT,
        owner: pwd.struct_passwd | None = None,
        last_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self._folder = Folder("output")
        self._output_path = self._folder.path / "output"
        self._last_signal = last_signal
        self._family_ended = False
        with self._output_path.open("wb") as output:
            self._child = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **as_user(owner),
            )
        _tell_reaper("process", self.pid, last_signal)
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        code = self._child.poll()
        if code is not None:
            self._end_family()
        return code

    @property
    def running(self) -> bool:
        return self.returncode is None

    @property
    def output(self) -> str:
        """All that it has written so far, errors included."""
        return self._output_path.read_text(errors="replace")

    def wait_for(self, text: str, deadline_seconds: float = 30.0) -> str:
        """The first line of its output that contains the text."""

        def line() -> str:
            ended = not self.running  # asked before reading: what it wrote last is seen
            found = next((line for line in self.output.splitlines() if text in line), "")
            if ended and not found:
                raise AssertionError(f"ended without writing {text!r}: {self._last_words()}")
            return found

        return eventually(line, deadline_seconds, lambda: f"{text!r} in {self._last_words()}")

    def wait(self, deadline_seconds: float = STOP_SECONDS) -> int:
        """Its exit code, once it has ended."""
        try:
            code = self._child.wait(deadline_seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running: {self._last_words()}") from None
        self._end_family()
        return code

    def stop_signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends a signal to the child itself, as `docker stop` does, and does not wait."""
        self._child.send_signal(number)

    def terminate(self, deadline_seconds: float = STOP_SECONDS) -> int:
        """Asks it to end, and waits: its exit code."""
        self.stop_signal(signal.SIGTERM)
        return self.wait(deadline_seconds)

    def kill(self) -> None:
        """Kills it and all its children at once, as a crashing machine would."""
        self._end_family()
        self._child.wait()

    def close(self) -> None:
        """Ends it if need be, with everything it has started, and removes its output."""
        if self.running and self._last_signal != signal.SIGKILL:
            with contextlib.suppress(AssertionError):
                self.stop_signal(self._last_signal)
                self.wait()
        self.kill()
        self._folder.remove()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_family(self) -> None:
        """Kills what is left of its session: only once, since the number may soon be another's."""
        if self._family_ended:
            return
        self._family_ended = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        _tell_reaper("ended", self.pid)

    def _last_words(self) -> str:
        command = " ".join(map(str, self._child.args))  # type: ignore[arg-type]  # always a list here
        lines = self.output.splitlines()[-40:]
        return "\n".join([f"`{command}` (exit code {self.returncode}) wrote:", *lines])


def as_user(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
