"""What every test has: real databases and brokers on request, a clean environment, no network."""

import contextlib
import gc
import ipaddress
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import settings

from tests.processes import UNCOUNTED, be_usual, in_plain_environment, plain_environment
from tests.resolver import built
from tests.servers import (
    DATABASE_KINDS,
    PostgresServer,
    RedisServer,
    ServerMissing,
    postgres,
    redis,
)

if TYPE_CHECKING:  # what needs none of the package's code runs without it
    from reelwatch.sandbox.upstream import Sandbox
    from tests.databases import PostgresDatabase, SqliteFile
    from tests.logs import Lines
    from tests.web import Web

# Random examples in CI too: it goes on searching, and prints how to run again what it has found.
settings.register_profile("dev", deadline=None, max_examples=15)
settings.register_profile("ci", derandomize=False, print_blob=True, deadline=None, max_examples=40)
settings.register_profile("thorough", print_blob=True, deadline=None, max_examples=2_000)
settings.load_profile("ci" if "CI" in os.environ else "dev")

LONGEST = (
    "test_drill.py",
    "test_producer.py",
    "test_demo.py",
    "test_commands_that_run.py",
    "test_odd_jobs.py",
    "test_processes.py",
    "test_pooler.py",
    "test_secrets.py",
)


def pytest_configure() -> None:
    """Whatever shell, runner or terminal has started this process, the tests see the same."""
    be_usual()
    os.environ["TZ"] = plain_environment()["TZ"]
    time.tzset()
    # As structlog has it, but for tracebacks: with all locals and in colours, one takes seconds.
    *before, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*before, plain])
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: begun last, they would leave the other processes without work."""
    items.sort(
        key=lambda item: (item.path.name not in LONGEST, "acceptance" not in item.path.parts)
    )


def pytest_collection_finish() -> None:
    """What is there by now stays for the whole run: nobody looks through it for what can go."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with missing_server_skips():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with missing_server_skips():
        return (yield)


@contextlib.contextmanager
def missing_server_skips() -> Iterator[None]:
    """Whoever has no server can still run the other tests; in CI every test has to run."""
    try:
        yield
    except ServerMissing as missing:
        if "CI" in os.environ:
            pytest.fail(f"required in CI: {missing}", pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Nothing of the machine's reaches a test, nothing that a test sets reaches the next one."""
    with in_plain_environment():
        yield


# What a process of ours keeps, by module, and what makes it forget that.
KEPT = {
    "config.settings": "current.cache_clear",
    "net.upstream": "client_for.cache_clear",
    "storage.forecasts": "_read.clear",
    "jobs.fanout": "stopping.clear",
    "storage.counters": "forget",
}


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """Every test begins as a new process would, and leaves nothing to the next one."""
    forget_all()
    yield
    forget_all()


def forget_all() -> None:
    for module, forget in KEPT.items():
        if loaded := sys.modules.get(f"reelwatch.{module}"):  # not needed so far: nothing kept
            attrgetter(forget)(loaded)()
    if "reelwatch.storage.db" in sys.modules:
        from tests import databases  # noqa: PLC0415 - see the top

        databases.forget_others()


class Network:
    """Keeps a test on this machine, and remembers what else it tried to reach."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def guard_connect(self, connect: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(sock: socket.socket, address: Any) -> Any:
            if sock.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
                self.refused.append(str(address[0]))
                pytest.fail(f"a test may not connect to {address[0]}")
            return connect(sock, address)

        return guarded

    def guard_lookup(self, look_up: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(host: Any, *args: Any, **options: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name in (None, "", "localhost") or is_address(name):
                return look_up(host, *args, **options)
            raise socket.gaierror(socket.EAI_NONAME, f"a test may not look up {name!r}")

        return guarded

    def guard_open(self, open_socket: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(where: Any) -> Any:
            if is_loopback(where.addr[0]):
                return open_socket(where)
            self.refused.append(str(where.addr[0]))
            raise OSError("a test may not connect to it")

        return guarded

    def resolve(self, host: str, _port: int) -> None:
        """For libcurl: what may be looked up is left to it."""
        if host != "localhost":
            raise socket.gaierror(socket.EAI_NONAME, f"a test may not look up {host!r}")


@pytest.fixture(autouse=True)
def network() -> Iterator[Network]:
    """Fails a test that connects to anything but loopback; names other than localhost are unknown.

    A test whose subject is this very refusal ends with `network.refused.clear()`.
    """
    network = Network()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            guarded = network.guard_connect(getattr(socket.socket, name))
            patch.setattr(socket.socket, name, guarded)
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            patch.setattr(socket, name, network.guard_lookup(getattr(socket, name)))
        if http := sys.modules.get(
            "reelwatch.net.http"
        ):  # libcurl connects without Python's sockets
            exchange = sys.modules["reelwatch.net.exchange"]
            patch.setattr(exchange, "open_socket", network.guard_open(exchange.open_socket))
            patch.setattr(http.Client, "resolver", staticmethod(network.resolve))
        yield network
    if network.refused:
        # Its own failure may have been swallowed, or have happened in another thread.
        pytest.fail(f"tried to connect to {', '.join(network.refused)}", pytrace=False)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    if not is_address(host):
        return host == "localhost"
    address = ipaddress.ip_address(host)
    inner = getattr(address, "ipv4_mapped", None)
    return (inner or address).is_loopback


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes the names of `tests/resolver.py` known to a process that is started with it."""
    return built(tmp_path_factory.mktemp("names"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of this test process; a test that stops it needs not start it again."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of this test process; a test that stops it needs not start it again."""
    with redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis, for BROKER_URL."""
    redis_server.start()
    redis_server.flush()
    return redis_server.url


@pytest.fixture(params=DATABASE_KINDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database, as if new; the test runs once on each kind that is asked for.

    Coverage counts on the first kind: what only the other one does has tests of its own.
    """
    if request.param != DATABASE_KINDS[0]:
        request.getfixturevalue("uncounted")
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def sqlite_url(sqlite_file: "SqliteFile") -> str:
    """A migrated SQLite database, as if new."""
    return sqlite_file.renewed()


@pytest.fixture
def postgresql_url(postgres_database: "PostgresDatabase") -> str:
    """A migrated PostgreSQL database, as if new."""
    return postgres_database.renewed()


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database of this process: its settings name it."""
    return configured(database_url, monkeypatch)


@pytest.fixture
def lite(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same for what no database has a part in."""
    return configured(sqlite_url, monkeypatch)


@pytest.fixture
def pg(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same for what only PostgreSQL's row locks can do."""
    return configured(postgresql_url, monkeypatch)


def configured(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    from tests import environment  # noqa: PLC0415 - see the top

    return environment.configured(url, monkeypatch)


@pytest.fixture
def commands(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """The same for commands, in an empty folder."""
    from tests.commands import command_environment  # noqa: PLC0415 - see the top

    with command_environment(database_url, tmp_path, monkeypatch) as patch:
        yield patch


@pytest.fixture
def logged() -> Iterator["Lines"]:
    """What this process logs, as JSON."""
    from tests.logs import caught  # noqa: PLC0415 - see the top

    with caught() as lines:
        yield lines


@pytest.fixture
def sandbox() -> Iterator["Sandbox"]:
    """An upstream that acts out the scripts in its ids."""
    from reelwatch.sandbox.upstream import Sandbox  # noqa: PLC0415 - see the top

    with Sandbox() as running:
        yield running


@pytest.fixture(params=DATABASE_KINDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database without a single table: for the migrations themselves."""
    from tests.databases import connections_closed, new_database  # noqa: PLC0415 - see the top

    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            (tmp_path / "empty.db").touch()
            url = f"sqlite:///{tmp_path / 'empty.db'}"
        else:
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(new_database(server))
        stack.enter_context(connections_closed(url))
        yield url


@pytest.fixture(scope="session")
def sqlite_file() -> Iterator["SqliteFile"]:
    """The SQLite database of this test process."""
    from tests.databases import SqliteFile  # noqa: PLC0415 - see the top

    with contextlib.closing(SqliteFile()) as file:
        yield file


@pytest.fixture(scope="session")
def postgres_database(postgres_server: PostgresServer) -> Iterator["PostgresDatabase"]:
    """The PostgreSQL database of this test process."""
    from tests.databases import PostgresDatabase  # noqa: PLC0415 - see the top

    with contextlib.closing(PostgresDatabase(postgres_server)) as database:
        yield database


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Coverage does not count in this test, its threads and processes: it makes them half as fast.

    For those that cover nothing that others do not, and long calculations, five times as long.
    """
    for name, value in UNCOUNTED.items():
        monkeypatch.setenv(name, value)
    counting, in_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    yield
    threading.settrace(in_threads)
    sys.settrace(counting)


@pytest.fixture
def web(url: str) -> Iterator["Web"]:
    """The web process without tokens, over each kind of database."""
    from tests.web import served  # noqa: PLC0415 - see the top

    with served() as running:
        yield running


@pytest.fixture
def guarded_web(lite: str, monkeypatch: pytest.MonkeyPatch) -> Iterator["Web"]:
    """The same with a token for each role, see `tests.web.TOKENS`."""
    from tests.web import VARIABLE, served  # noqa: PLC0415 - see the top

    monkeypatch.setenv("REELWATCH_API_TOKENS", VARIABLE)
    with served() as running:
        yield running
