"""The servers, child processes and guards that the other tests rely on do what they promise."""

import glob
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from redis import Redis
from redis.exceptions import (
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from tests import servers
from tests.conftest import Network, is_loopback, missing_server_skips
from tests.processes import plain_environment
from tests.reaper import is_running
from tests.servers import (
    ROOT,
    PostgresServer,
    Process,
    RedisServer,
    ServerMissing,
    eventually,
    pgbouncer,
    postgres,
    process,
)

UNREACHABLE = "192.0.2.1"  # set aside for documentation: no such machine

needs_own_postgres = pytest.mark.skipif(
    "REELWATCH_TEST_POSTGRES_URL" in os.environ, reason="the PostgreSQL given is not ours to stop"
)


@pytest.fixture
def table(postgres_server: PostgresServer) -> Iterator[sa.Engine]:
    """A database with one table, `kept`, and a row in it."""
    url = postgres_server.create_database()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE kept (word text)"))
        connection.execute(sa.text("INSERT INTO kept VALUES ('here')"))
    yield engine
    engine.dispose()
    postgres_server.drop_database(url)


def statuses(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT word FROM kept")))


class TestPostgres:
    def test_is_a_superuser_of_a_real_server(self, postgres_server: PostgresServer) -> None:
        engine = sa.create_engine(postgres_server.url)
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SHOW is_superuser")) == "on"
        engine.dispose()

    @needs_own_postgres
    def test_keeps_its_data_over_a_restart(
        self, postgres_server: PostgresServer, table: sa.Engine
    ) -> None:
        postgres_server.restart()
        table.dispose()
        assert statuses(table) == ["here"]

    @needs_own_postgres
    def test_keeps_committed_rows_over_a_crash(
        self, postgres_server: PostgresServer, table: sa.Engine
    ) -> None:
        postgres_server.kill()
        with pytest.raises(sa.exc.OperationalError):
            statuses(table)
        postgres_server.start()
        table.dispose()
        assert statuses(table) == ["here"]

    def test_a_terminated_connection_is_dead_and_a_new_one_works(
        self, postgres_server: PostgresServer, table: sa.Engine
    ) -> None:
        with table.connect() as connection:
            postgres_server.terminate_connections()
            with pytest.raises(sa.exc.OperationalError):
                connection.execute(sa.text("SELECT 1"))
        assert statuses(table) == ["here"]

    def test_copies_a_sealed_template(
        self, postgres_server: PostgresServer, table: sa.Engine
    ) -> None:
        template = table.url.render_as_string(hide_password=False)
        postgres_server.seal_database(template)
        copy = sa.create_engine(postgres_server.create_database(template))
        assert statuses(copy) == ["here"]
        copy.dispose()
        postgres_server.drop_database(copy.url.render_as_string(hide_password=False))

    def test_a_server_given_by_url_is_used_and_never_stopped(
        self, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = postgres_server.url.replace("postgresql+psycopg", "postgresql")
        monkeypatch.setenv("REELWATCH_TEST_POSTGRES_URL", plain)
        with postgres() as given:
            given.drop_database(given.create_database())
            with pytest.raises(ServerMissing, match="not ours to stop"):
                given.restart()
        assert given.url == postgres_server.url


class TestRedis:
    def test_refuses_writes_rather_than_forget_queues(self, redis_url: str) -> None:
        with Redis.from_url(redis_url) as client:
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}

    def test_flush_forgets_everything(self, redis_server: RedisServer, redis_url: str) -> None:
        with Redis.from_url(redis_url) as client:
            client.set("queue", "message")
            redis_server.flush()
            assert client.get("queue") is None

    def test_comes_back_empty_and_at_the_same_place(
        self, redis_server: RedisServer, redis_url: str
    ) -> None:
        with Redis.from_url(redis_url) as client:
            client.set("queue", "message")
        redis_server.restart()
        with Redis.from_url(redis_url) as client:
            assert client.get("queue") is None

    def test_is_gone_after_a_kill_until_it_is_started(self, redis_server: RedisServer) -> None:
        redis_server.kill()
        assert not redis_server.running
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", redis_server.port)) != 0
        redis_server.start()
        redis_server.flush()

    def test_can_have_no_room(self, redis_server: RedisServer, redis_url: str) -> None:
        with Redis.from_url(redis_url) as client:
            client.rpush("queue", "message")
            with redis_server.full():
                with pytest.raises(OutOfMemoryError):
                    client.set("more", "x")
                assert client.rpop("queue") == b"message"
            client.set("more", "x")

    def test_can_be_read_only_or_without_replicas(
        self, redis_server: RedisServer, redis_url: str
    ) -> None:
        with Redis.from_url(redis_url) as client:
            client.set("kept", "x")
            with redis_server.read_only():
                with pytest.raises(ReadOnlyError):
                    client.set("kept", "y")
                assert client.get("kept") == b"x"
            with redis_server.without_replicas(), pytest.raises(ResponseError, match="NOREPLICAS"):
                client.set("kept", "y")
            client.set("kept", "z")

    def test_a_flush_undoes_what_was_done_to_it(self, redis_server: RedisServer) -> None:
        redis_server.configure(maxmemory=1, min_replicas_to_write=1)
        redis_server.follow("127.0.0.1", 1)
        redis_server.flush()
        with redis_server.client() as client:
            assert client.set("kept", "x")

    def test_has_users_with_few_rights(self, redis_server: RedisServer, redis_url: str) -> None:
        assert redis_url
        url = redis_server.add_user("shop", "~shop*", "+get", "+set")
        with Redis.from_url(url) as client:
            client.set("shop", "x")
            with pytest.raises(NoPermissionError):
                client.set("other", "x")

    def test_speaks_tls(self) -> None:
        with servers.redis(tls=True) as server:
            assert server.url.startswith("rediss://")
            with Redis.from_url(server.url) as client, pytest.raises(ConnectionError):
                client.ping()
            with Redis.from_url(server.url, ssl_ca_certs=str(servers.AUTHORITY)) as client:
                assert client.ping()


def python(code: str) -> Process:
    return process(["python", "-c", textwrap.dedent(code)])


class TestProcess:
    def test_gets_the_settings_it_is_given_and_no_others(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", "inherited")
        show = "import os; print(os.environ.get('DATABASE_URL'), os.environ.get('BROKER_URL'))"
        with process(["python", "-c", show], {"BROKER_URL": "given"}) as child:
            assert child.wait_for("given") == "None given"
            assert child.wait() == 0

    def test_one_that_ends_early_shows_its_last_words(self) -> None:
        with (
            python("raise SystemExit('no database')") as child,
            pytest.raises(AssertionError, match=r"(?s)exit code 1.*no database"),
        ):
            child.wait_for("ready")

    def test_one_that_writes_something_else_shows_it_too(self) -> None:
        with python("import time; print('starting'); time.sleep(60)") as child:
            child.wait_for("starting")
            with pytest.raises(AssertionError, match=r"(?s)not within 0\.01 s.*starting"):
                child.wait_for("ready", deadline_seconds=0.01)

    def test_terminate_lets_it_end_in_good_order(self) -> None:
        code = """
            import signal
            signal.signal(signal.SIGTERM, lambda *_: (print("tidied up"), exit(3)))
            print("ready")
            signal.pause()
        """
        with python(code) as child:
            child.wait_for("ready")
            assert child.terminate() == 3
            assert "tidied up" in child.output

    def test_kill_takes_its_children_along(self) -> None:
        code = """
            import subprocess, sys
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            print("child", child.pid)
            child.wait()
        """
        with python(code) as parent:
            grandchild = int(parent.wait_for("child").split()[1])
            parent.kill()
            assert parent.returncode == -signal.SIGKILL
            eventually(lambda: not is_running(grandchild), 5, "the grandchild is gone")

    def test_a_stopped_one_goes_on_when_told(self) -> None:
        with python("import time\nwhile True: print('tick'); time.sleep(0.01)") as child:
            child.wait_for("tick")
            child.stop_signal(signal.SIGSTOP)
            child.stop_signal(signal.SIGCONT)
            written = len(child.output)
            eventually(lambda: len(child.output) > written, 5, "it goes on")

    def test_nothing_survives_a_killed_test_run(self) -> None:
        code = f"""
            import os, sys, time
            sys.path.insert(0, {str(ROOT)!r})
            from tests.servers import process, redis
            server, child = redis(), process(["sleep", "60"])
            print("started", server._process.pid, child.pid, server._folder.path, flush=True)
            time.sleep(60)
        """
        run = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
        )
        with run:
            assert run.stdout is not None
            _, server, child, folder = run.stdout.readline().split()
            run.kill()
        eventually(lambda: not is_running(int(server)), 10, "the server is gone")
        eventually(lambda: not is_running(int(child)), 10, "the child is gone")
        eventually(lambda: not Path(folder).exists(), 10, "the folder is gone")


class TestEventually:
    def test_returns_the_value_it_waited_for(self) -> None:
        values = iter([None, 0, "", "now"])
        assert eventually(lambda: next(values)) == "now"

    def test_says_what_did_not_happen(self) -> None:
        with pytest.raises(AssertionError, match=r"not within 0\.01 s: the job is done"):
            eventually(lambda: False, 0.01, "the job is done")


class TestNetworkGuard:
    def test_connecting_elsewhere_fails_the_test_at_once(self, network: Network) -> None:
        with closing(socket.socket()) as sock, pytest.raises(pytest.fail.Exception):
            sock.connect((UNREACHABLE, 80))
        assert network.refused == [UNREACHABLE]
        network.refused.clear()

    def test_code_that_swallows_errors_can_not_hide_it(self, network: Network) -> None:
        def swallow() -> None:
            try:
                socket.create_connection((UNREACHABLE, 80))
            except BaseException:  # the worst a thread may do
                return

        thread = threading.Thread(target=swallow)
        thread.start()
        thread.join()
        assert network.refused == [UNREACHABLE]
        network.refused.clear()

    def test_a_name_can_not_be_looked_up(self) -> None:
        with pytest.raises(urllib.error.URLError, match=r"may not look up 'reelwatch\.example'"):
            urllib.request.urlopen("http://reelwatch.example/")

    def test_this_machine_can_be_reached(self) -> None:
        with (
            closing(socket.create_server(("127.0.0.1", 0))) as server,
            closing(socket.create_connection(("localhost", server.getsockname()[1]))) as client,
        ):
            assert client.getpeername() == server.getsockname()

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
    def test_loopback_addresses_are_allowed(self, host: str) -> None:
        assert is_loopback(host)

    @pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "::", "fe80::1", "example.com", ""])
    def test_other_addresses_are_refused(self, host: str) -> None:
        assert not is_loopback(host)


STRANGE = {
    "TERM": "dumb",
    "LANG": "C",
    "LC_ALL": "C",
    "TZ": "America/St_Johns",
    "HOME": "/nonexistent",
    "COLUMNS": "7",
    "FORCE_COLOR": "1",
    "PYTHONWARNINGS": "error",
    "DATABASE_URL": "sqlite:////nonexistent",
    "PGHOST": "192.0.2.1",
    "https_proxy": "http://192.0.2.1",
}

# Started by what ignores the signals, as a shell starts what runs in the background.
IN_THE_BACKGROUND = """
import os, signal, subprocess, sys
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.umask(0o077)
raise SystemExit(subprocess.run([sys.executable, "-c", *sys.argv[1:]]).returncode)
"""
ENDS_A_CHILD = """
import signal
from tests import processes
processes.be_usual()
for name in ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM"):
    with processes.process(["sleep", "60"]) as child:
        child.stop_signal(signal.Signals[name])
        print(name, -child.wait())
with processes.process(["sh", "-c", "umask"]) as child:
    child.wait()
    print(child.output)
"""


class TestEnvironment:
    def test_is_the_same_wherever_tests_are_started(self) -> None:
        """But for a few things that those who start them decide; HOME is a folder of its own."""
        show = "import json; from tests.processes import *; print(json.dumps(plain_environment()))"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", show], env={**os.environ, **STRANGE},
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        seen, here = json.loads(done.stdout), plain_environment()
        assert {**seen, "HOME": ""} == {**here, "HOME": ""}
        assert seen["HOME"] != STRANGE["HOME"]

    def test_is_what_a_test_has(self) -> None:
        assert dict(os.environ).keys() <= plain_environment().keys()
        assert time.tzname == ("+0545", "+0545")

    def test_children_have_nothing_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in STRANGE.items():
            monkeypatch.setenv(name, value)
        with process(["env"]) as child:
            assert child.wait() == 0
            given = dict(line.split("=", 1) for line in child.output.splitlines())
        assert STRANGE.items() & given.items() == set()

    def test_children_inherit_no_ignored_signals_and_no_odd_umask(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", IN_THE_BACKGROUND, ENDS_A_CHILD],
            cwd=ROOT, capture_output=True, text=True, timeout=100, check=True,
        )  # fmt: skip
        ended = {"SIGINT": "2", "SIGQUIT": "3", "SIGHUP": "1", "SIGTERM": "15"}
        assert done.stdout.split() == [*itertools.chain(*ended.items()), "0022"]


class TestMissingServer:
    def test_skips_on_a_developers_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="no Redis"), missing_server_skips():
            raise ServerMissing("no Redis")

    def test_fails_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="required in CI"), missing_server_skips():
            raise ServerMissing("no Redis")

    def test_says_what_was_looked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REELWATCH_TEST_POSTGRES_URL", raising=False)
        monkeypatch.setattr(shutil, "which", lambda _name: None)
        monkeypatch.setattr(glob, "glob", lambda _pattern: [])
        monkeypatch.setattr(servers, "find_spec", lambda _package: None)
        with pytest.raises(ServerMissing, match="no PostgreSQL: install it"):
            servers.postgres()
        with pytest.raises(ServerMissing, match="no Redis: install redis-server"):
            servers.redis()


def test_a_pgbouncer_shares_sessions_among_its_clients(postgres_server: PostgresServer) -> None:
    """In transaction mode: what one client sets for its session, the next one finds."""
    with pgbouncer(postgres_server.url, default_pool_size="1") as pooler:
        url = pooler.through(postgres_server.url)
        sessions = []
        for _ in range(2):
            engine = sa.create_engine(url, poolclass=sa.NullPool)
            with engine.begin() as connection:
                sessions.append(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
        assert sessions[0] == sessions[1]
        assert [row["remote_pid"] for row in pooler.show("SERVERS")] == sessions[:1]
        pooler.restart()
        with engine.begin() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1


@needs_own_postgres
def test_a_standby_takes_over_and_the_former_one_writes_no_more() -> None:
    """Nothing is lost by it; open sessions stay open, with a server that refuses writes."""
    with servers.postgres() as former:
        assert isinstance(former, servers.OwnPostgresServer)
        url = former.create_database()
        engine = sa.create_engine(url)
        with engine.connect() as session:
            session.execute(sa.text("CREATE TABLE written (number integer)"))
            session.commit()
            with former.standby() as successor:
                session.execute(sa.text("INSERT INTO written VALUES (1)"))
                session.commit()
                former.make_read_only()
                with pytest.raises(sa.exc.InternalError, match="read-only transaction"):
                    session.execute(sa.text("INSERT INTO written VALUES (2)"))
                successor.promote(behind=former)
                there = sa.create_engine(sa.make_url(url).set(port=successor.port))
                with there.begin() as new_session:
                    new_session.execute(sa.text("INSERT INTO written VALUES (3)"))
                    rows = new_session.execute(sa.text("SELECT number FROM written ORDER BY 1"))
                    assert rows.scalars().all() == [1, 3]
                there.dispose()
        engine.dispose()


def test_a_redis_that_is_full_and_one_that_has_failed_over_refuse_writes() -> None:
    with servers.redis() as former, servers.redis(like=former) as successor:
        client, there = Redis.from_url(former.url), Redis.from_url(successor.url)
        client.set("kept", "1")
        former.fill()
        with pytest.raises(ResponseError, match="maxmemory"):
            client.set("refused", "1")
        former.free()
        former.fail_over_to(successor)
        with pytest.raises(ResponseError, match="read only replica"):
            client.set("refused", "1")
        there.set("written", "1")
        assert there.mget("kept", "refused", "written") == [b"1", None, b"1"]
        client.close()
        there.close()
