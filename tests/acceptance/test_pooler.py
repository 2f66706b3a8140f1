"""Behind a pooler in transaction mode, and after a failover: sessions that are not ours alone."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from reelwatch.cli import doctor
from reelwatch.config.servers import normal_database_url
from reelwatch.errors import SettingsError
from reelwatch.jobs import claiming
from reelwatch.sandbox.upstream import scripted_id
from reelwatch.storage import db, migrating, postgresql, writing
from tests.acceptance.test_shared_database import shop
from tests.databases import connections_closed
from tests.environment import configured
from tests.fleet import BEAT, START_SECONDS, WORKER, fleet, scripted_ids, violations
from tests.processes import process
from tests.proxy import Proxy, detour
from tests.servers import (
    OwnPostgresServer,
    PgBouncer,
    PostgresServer,
    eventually,
    pgbouncer,
    postgres,
)

# What a client of the driver's kind finds on a session that nobody has changed.
LEFT = "SELECT name, setting FROM pg_settings WHERE source = 'session' ORDER BY name"
PREPARED = "SELECT statement FROM pg_prepared_statements"


@pytest.fixture
def pooler(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """One session for all clients of a database: what one leaves behind, the next one finds."""
    with pgbouncer(postgres_server.url, default_pool_size="1") as made:
        yield made


@pytest.fixture
def pooled_url(pooler: PgBouncer, postgresql_url: str) -> Iterator[str]:
    url = pooler.through(postgresql_url)
    with connections_closed(url):
        yield url


def as_another(url: str, query: str) -> list[tuple[Any, ...]]:
    """What another application sees that is given the session now."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, prepare_threshold=None) as connection:
        return connection.execute(query).fetchall()


def use(url: str, times: int = 20) -> None:
    """Transactions of each kind, often enough for the driver to prepare statements."""
    for number in range(times):
        with db.transaction(url) as session:
            session.execute(text("SELECT 1 + :n"), {"n": number}).scalar_one()
        with db.reading(url) as session:
            session.execute(text("SELECT 2 + :n"), {"n": number}).scalar_one()
        with db.at_once(url) as session:
            session.execute(text("SELECT 3 + :n"), {"n": number}).scalar_one()


def test_nothing_of_ours_stays_on_a_poolers_session(pooled_url: str) -> None:
    before = as_another(pooled_url, LEFT)
    use(pooled_url)
    assert as_another(pooled_url, LEFT) == before
    assert as_another(pooled_url, PREPARED) == []
    assert as_another(pooled_url, "SHOW application_name") == [("",)]


def test_transactions_through_a_pooler_have_their_limit_too(pooled_url: str) -> None:
    show = text("SHOW idle_in_transaction_session_timeout")
    for begin in (db.transaction, db.reading):
        with begin(pooled_url) as session:
            assert session.execute(show).scalar_one() == f"{postgresql.IDLE_SECONDS}s"


def test_a_direct_connection_keeps_prepared_statements(postgresql_url: str) -> None:
    use(postgresql_url)
    with db.reading(postgresql_url) as session:
        assert session.execute(text(PREPARED)).all()
        name = session.execute(text("SHOW application_name")).scalar_one()
    assert name == "reelwatch"


@pytest.mark.parametrize(
    "said", ["prepare_threshold=0", "prepare_threshold=none", "pgbouncer=true"]
)
def test_the_url_can_forbid_prepared_statements(postgresql_url: str, said: str) -> None:
    """For a pooler that can't be recognised; today's programs write it in these ways."""
    url = f"{postgresql_url}?{said}"
    with connections_closed(url):
        use(url)
        with db.reading(url) as session:
            assert session.execute(text(PREPARED)).all() == []


def test_the_url_can_say_when_to_prepare(postgresql_url: str) -> None:
    url = f"{postgresql_url}?prepare_threshold=2&application_name=shop"
    with connections_closed(url):
        for _ in range(3):
            with db.reading(url) as session:
                session.execute(text("SELECT 1")).scalar_one()
        with db.reading(url) as session:
            assert "SELECT 1" in session.execute(text(PREPARED)).scalars().all()
            assert session.execute(text("SHOW application_name")).scalar_one() == "shop"


@pytest.mark.parametrize("query", ["prepare_threshold=soon", "statement_cache_size=0"])
def test_what_the_url_can_not_say_is_refused(postgresql_url: str, query: str) -> None:
    with pytest.raises(SettingsError, match=rf"DATABASE_URL: \?{query.split('=', maxsplit=1)[0]}="):
        db.engine(f"{postgresql_url}?{query}")


def test_migrations_go_through_a_pooler(pooler: PgBouncer, postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    through = pooler.through(url)
    with connections_closed(through):
        migrating.migrate(through)
        migrating.migrate(through, "base")
        migrating.migrate(through)
        assert db.revisions(through)[0] == db.revisions(through)[1]
    pooler.stop()
    postgres_server.drop_database(url)


def test_a_fleet_works_behind_a_pooler_in_a_producers_database(
    postgres_server: PostgresServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers and a beat share four sessions with the shop, whose tables are called alike."""
    url = postgres_server.create_database()
    shop(url, "head", monkeypatch)
    with pgbouncer(postgres_server.url) as pooler:
        through = pooler.through(url)
        given: Any = {"DATABASE_URL": through, "REELWATCH_SCHEMA": "reelwatch"}
        with process(["reelwatch", "migrate"], given) as migrate:
            assert migrate.wait(60) == 0, migrate.output
        # Only for what the test itself asks: the fleet has to name the schema.
        watched = make_url(url).update_query_dict({"options": "-c search_path=reelwatch"})
        before = as_another(through, LEFT)
        ids = scripted_ids(40, 2.0, 6.0)
        with fleet(
            watched.render_as_string(hide_password=False), redis_url, 60.0, **given
        ) as deployed:
            deployed.start_all(workers=2, beats=1)
            deployed.send("reelwatch.track", *ids, webhook_url=f"{deployed.listener.url}/hook")
            ended = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL"
            eventually(
                lambda: deployed.rows(ended)[0][0] == len(ids) and not deployed.open_work(),
                120,
                deployed.log,
            )
            assert violations(deployed, ids) == []
            assert set(deployed.terminate_all()) == {0}
            assert "Traceback" not in deployed.log()
        assert len(pooler.show("SERVERS")) <= 5  # and one for the test's own database
        for _ in range(8):  # each of the sessions, in whatever order they are given
            assert as_another(through, LEFT) == before
            assert as_another(through, PREPARED) == []
    db.dispose()
    postgres_server.drop_database(url)


# ---------------------------------------------------------------------- failover


@pytest.fixture
def servers() -> Iterator[tuple[OwnPostgresServer, OwnPostgresServer]]:
    """A primary and the standby that follows it."""
    with postgres() as primary:
        if not isinstance(primary, OwnPostgresServer):
            pytest.skip("the PostgreSQL given is not ours to fail over")
        with primary.standby() as standby:
            yield primary, standby


def fail_over(road: Proxy, primary: OwnPostgresServer, standby: OwnPostgresServer) -> None:
    """What is connected stays with the old server, which takes no writes any more."""
    primary.make_read_only()
    standby.promote(primary)
    road.lead_to("127.0.0.1", standby.port)


FOREVER = scripted_id("grok", "forever", 1, "a")
PACE: Any = {"REELWATCH_POLL_MIN": "200ms", "REELWATCH_POLL_MAX": "500ms"}


@pytest.mark.parametrize("pooled", [False, True])
def test_polls_go_on_after_a_failover_that_leaves_sessions_with_a_read_only_server(
    servers: tuple[OwnPostgresServer, OwnPostgresServer], redis_url: str, pooled: bool
) -> None:
    primary, standby = servers
    url = primary.create_database()
    migrating.migrate(url)
    with contextlib.ExitStack() as stack:
        road, address = stack.enter_context(detour(url))
        if pooled:
            address = stack.enter_context(pgbouncer(address)).through(url)
        deployed = stack.enter_context(fleet(url, redis_url, 20.0, **PACE, DATABASE_URL=address))
        deployed.start(WORKER, "--concurrency", "4").wait_for("ready", START_SECONDS)
        deployed.start(BEAT)
        deployed.send("reelwatch.track", FOREVER)
        eventually(lambda: len(deployed.sandbox.polls()) > 3, 60, deployed.log)
        fail_over(road, primary, standby)
        seen = len(deployed.sandbox.polls())
        # More than were under way. What was claimed just then is polled when its lease is over.
        lease = claiming.LEASE.total_seconds()
        eventually(lambda: len(deployed.sandbox.polls()) > seen + 3, lease + 30, deployed.log)
    db.dispose()


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("begin", [db.transaction, db.at_once])
def test_a_refused_write_frees_the_pool_of_its_sessions(
    servers: tuple[OwnPostgresServer, OwnPostgresServer],
    pooled: bool,
    begin: Callable[[str], AbstractContextManager[Session]],
) -> None:
    """The next ones begin on new connections; a pooler is made to drop its own as well."""
    primary, standby = servers
    write = text("UPDATE heartbeats SET at = now()")
    url = primary.create_database()
    with contextlib.ExitStack() as stack:
        road, address = stack.enter_context(detour(url))
        if pooled:
            address = stack.enter_context(pgbouncer(address, default_pool_size="1")).through(url)
        stack.enter_context(connections_closed(address))
        migrating.migrate(address)
        for _ in range(2):
            with db.transaction(address) as session:
                session.execute(write)
        if not pooled:
            with db.reading(address), db.reading(address) as session:
                session.execute(text("SELECT 1"))
        fail_over(road, primary, standby)
        with pytest.raises(DBAPIError, match="read-only") as refused, begin(address) as session:
            session.execute(write)
        assert writing.is_away(refused.value)
        for _ in range(3):
            with begin(address) as session:
                session.execute(write)


def test_doctor_names_a_read_only_database(
    servers: tuple[OwnPostgresServer, OwnPostgresServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not blame beat for ticks that can't be written."""
    primary, _ = servers
    url = configured(primary.create_database(), monkeypatch)
    migrating.migrate(url)
    db.dispose()
    primary.make_read_only()
    found = {check.name: check for check in doctor.examine()}
    assert "is read-only: a standby" in found["database"].message
    assert found["database"].status == "wrong"
    assert "tick" not in found
    db.dispose()


@pytest.mark.parametrize("ports", [True, False])
def test_of_several_hosts_the_writable_one_is_taken(
    servers: tuple[OwnPostgresServer, OwnPostgresServer], ports: bool
) -> None:
    primary, standby = servers
    address = primary.create_database()
    migrating.migrate(address)
    db.dispose()
    url = make_url(address)
    hosts = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
    if not ports:
        hosts = f"127.0.0.1,localhost:{primary.port}"
    several = f"postgresql://{url.username}:{url.password}@{hosts}/{url.database}"
    normal = normal_database_url(several).render_as_string(hide_password=False)
    with connections_closed(normal), db.reading(normal) as session:
        assert session.execute(text("SHOW port")).scalar_one() == str(primary.port)


def test_a_transaction_that_goes_no_further_ends_also_after_many_rows(
    postgresql_url: str, pooled_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is cut off in the middle of one must not keep its locks."""
    limit = postgresql.IDLE_LIMIT.replace(f"{postgresql.IDLE_SECONDS}s", "1s")
    monkeypatch.setattr(postgresql, "IDLE_LIMIT", limit)
    with db.transaction(postgresql_url) as session:
        session.execute(text("CREATE TABLE numbers (n integer)"))

    def has_ended(pid: int) -> bool:
        return not as_another(postgresql_url, f"SELECT FROM pg_stat_activity WHERE pid = {pid}")

    for url in (postgresql_url, pooled_url):
        db.dispose()
        with contextlib.suppress(DBAPIError), db.transaction(url) as session:
            pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
            session.execute(text("INSERT INTO numbers VALUES (:n)"), [{"n": 1}, {"n": 2}])
            eventually(partial(has_ended, pid), 20, "the session's end")
    assert as_another(postgresql_url, "SELECT n FROM numbers") == []
