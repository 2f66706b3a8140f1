"""The database: engines, transactions, times, migrations, and what the tables refuse to hold."""

import multiprocessing
import os
import re
import socket
import sqlite3
import sys
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from select import select as select_ready
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    CheckConstraint,
    Integer,
    UniqueConstraint,
    event,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError, StatementError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from reelwatch.config.naming import HERE
from reelwatch.rules import lines
from reelwatch.storage import alembic_filter, db, journal, migrating, postgresql
from reelwatch.storage.models import (
    Account,
    Action,
    ActionJob,
    Attempt,
    Base,
    Delivery,
    Destination,
    DurationCurve,
    Endpoint,
    Event,
    Heartbeat,
    Job,
    PollError,
    RedeliveryOrder,
    RefusedMessage,
    Transition,
    UtcDateTime,
    WaitingMessage,
    table_of,
)
from tests.proxy import Weather, detour
from tests.servers import PostgresServer, eventually, process

AT = datetime(2026, 2, 6, 3, 58, 49, 98_765, tzinfo=UTC)


# -------------------------------------------------------------------- engines


def test_a_process_has_one_engine_per_database(sqlite_url: str) -> None:
    assert db.engine(sqlite_url) is db.engine(sqlite_url)
    assert db.engine(sqlite_url) is not db.engine("sqlite:///other.db")


def ask_and_dispose(url: str, answers: "multiprocessing.Queue[int]") -> None:
    with db.reading(url) as session:
        answers.put(session.execute(text("SELECT 41 + 1")).scalar_one())
    db.dispose()


def test_a_forked_child_has_its_own_connections(database_url: str) -> None:
    """A socket shared with the parent would mix up both their answers, or close on both."""
    fork = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[int] = fork.Queue()
    with db.reading(database_url) as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1
        child = fork.Process(target=ask_and_dispose, args=(database_url, answers))
        child.start()
        assert answers.get(timeout=30) == 42
        child.join(30)
        assert child.exitcode == 0
        assert session.execute(text("SELECT 43")).scalar_one() == 43


class Compiled(FunctionElement[int]):
    """Counts how often a statement with it is compiled."""

    inherit_cache = True
    name = "compiled"
    type = Integer()
    times = 0


@compiles(Compiled)
def _compile_and_count(_element: Compiled, _compiler: SQLCompiler, **_options: object) -> str:
    Compiled.times += 1
    return "42"


def test_a_forked_child_knows_what_its_parent_has_compiled(database_url: str) -> None:
    """And neither asks for the revision again, nor what kind of server it is."""
    fork = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[tuple[int, int, int]] = fork.Queue()
    statement = select(Compiled())

    def ask() -> None:
        statements: list[str] = []
        event.listen(db.engine(database_url), "before_cursor_execute",
                     lambda _c, _cursor, said, *_: statements.append(said))  # fmt: skip
        with db.reading(database_url) as session:
            found = session.execute(statement).scalar_one()
        answers.put((found, Compiled.times, len([s for s in statements if s != "BEGIN"])))

    with db.reading(database_url) as session:
        assert session.execute(statement).scalar_one() == 42
        times = Compiled.times
        child = fork.Process(target=ask)
        child.start()
        assert answers.get(timeout=30) == (42, times, 1)
        child.join(30)


def test_dispose_closes_the_connections(postgresql_url: str) -> None:
    mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    with db.reading(postgresql_url), db.reading(postgresql_url) as session:
        session.execute(text("SELECT 1"))
    db.dispose()

    def connections() -> int:
        with db.reading(postgresql_url) as session:
            return int(session.execute(text(mine)).scalar_one())

    eventually(lambda: connections() == 1, 10, "only the one that asks is left")


def test_sqlite_is_set_up_for_many_processes(sqlite_url: str) -> None:
    expected = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 30_000}
    with db.reading(sqlite_url) as session:
        found = {name: session.execute(text(f"PRAGMA {name}")).scalar_one() for name in expected}
    assert found == expected


def test_a_cut_connection_is_replaced(
    postgresql_url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover the next transaction works; nobody has to restart a worker."""
    monkeypatch.setattr(postgresql, "PROVEN_SECONDS", 0.0)
    ask(postgresql_url)
    postgres_server.terminate_connections()
    ask(postgresql_url)


def test_one_that_worked_a_moment_ago_breaks_no_more_than_one_transaction(
    postgresql_url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "PROVEN_SECONDS", 3600.0)
    with db.transaction(postgresql_url), db.transaction(postgresql_url):  # two connections
        ask(postgresql_url)
    postgres_server.terminate_connections()
    with pytest.raises(OperationalError):
        ask(postgresql_url)
    for _ in range(3):
        ask(postgresql_url)


def ask(url: str) -> None:
    with db.transaction(url) as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1


# --------------------------------------------------------------- transactions


def names(url: str) -> list[str]:
    with db.reading(url) as session:
        return sorted(session.execute(select(Account.name)).scalars())


def test_a_transaction_commits_at_its_end(database_url: str) -> None:
    with db.transaction(database_url) as session:
        account = Account(name="default", requests_per_second=5.0)
        session.add(account)
    assert names(database_url) == ["default"]
    assert account.name == "default"  # readable without a session


def test_an_exception_rolls_it_back(database_url: str) -> None:
    def fail() -> None:
        with db.transaction(database_url) as session:
            session.add(Account(name="default", requests_per_second=5.0))
            session.flush()
            raise KeyError("of the caller")

    with pytest.raises(KeyError):
        fail()
    assert names(database_url) == []


def test_readers_and_a_writer_do_not_wait_for_each_other(database_url: str) -> None:
    """A reader sees one state of things, whatever is committed meanwhile on SQLite."""
    with db.reading(database_url) as reader:
        assert reader.execute(select(Account.name)).all() == []
        with db.transaction(database_url) as writer:
            writer.add(Account(name="default", requests_per_second=5.0))
            writer.flush()
            assert names(database_url) == []
    assert names(database_url) == ["default"]


def test_writers_that_read_first_take_turns(sqlite_url: str) -> None:
    """Nobody is told that the database is locked, and no update is lost."""
    with db.transaction(sqlite_url) as session:
        session.add(Account(name="default", requests_per_second=1.0))

    def add_one() -> None:
        for _ in range(25):
            with db.transaction(sqlite_url) as session:
                rate = session.execute(select(Account.requests_per_second)).scalar_one()
                session.execute(update(Account).values(requests_per_second=rate + 1))

    workers = [threading.Thread(target=add_one) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    with db.reading(sqlite_url) as session:
        assert session.execute(select(Account.requests_per_second)).scalar_one() == 101.0


def test_insert_if_absent_skips_what_is_there(database_url: str) -> None:
    def added(name: str, rate: float) -> list[str]:
        with db.transaction(database_url) as session:
            statement = db.insert_if_absent(db.dialect(session), Account, "name")
            values = statement.values(name=name, requests_per_second=rate)
            return list(session.execute(values.returning(Account.name)).scalars())

    assert added("default", 5.0) == ["default"]
    assert added("default", 7.0) == []
    with db.reading(database_url) as session:
        assert session.execute(select(Account.requests_per_second)).scalar_one() == 5.0


# ----------------------------------------------------------------------- time


def test_now_is_the_databases_clock(database_url: str) -> None:
    """Aware, in UTC, and moving on within a transaction."""
    with db.reading(database_url) as session:
        before = datetime.now(UTC)
        first, second = db.now(session), db.now(session)
        after = datetime.now(UTC)
    assert before <= first <= second <= after
    assert first < second or database_url.startswith("sqlite")  # whose clock may be too coarse
    assert first.tzinfo is UTC


@pytest.mark.parametrize("hours", [0, 5.75, -11])
def test_times_come_back_as_utc_to_the_microsecond(database_url: str, hours: float) -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=hours)))
    with db.transaction(database_url) as session:
        session.execute(insert(Heartbeat).values(name="tick", at=elsewhere))
    with db.reading(database_url) as session:
        at = session.execute(select(Heartbeat.at)).scalar_one()
        exactly = select(Heartbeat.name).where(Heartbeat.at == elsewhere)
        assert session.execute(exactly).scalar_one() == "tick"
        later = select(Heartbeat.name).where(Heartbeat.at > AT - timedelta(microseconds=1))
        assert session.execute(later).scalar_one() == "tick"
    assert at == AT
    assert at.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(database_url: str) -> None:
    statement = insert(Heartbeat).values(name="tick", at=AT.replace(tzinfo=None))
    with (
        pytest.raises(StatementError, match="a time without a zone"),
        db.transaction(database_url) as session,
    ):
        session.execute(statement)


def test_no_time_stays_no_time(database_url: str) -> None:
    with db.transaction(database_url) as session:
        dialect = session.get_bind().dialect
        assert UtcDateTime().process_bind_param(None, dialect) is None
        assert UtcDateTime().result_processor(dialect, None)(None) is None


# ----------------------------------------------------------------- migrations


def tables(url: str) -> set[str]:
    with db.engine(url).connect() as connection:
        return set(inspect(connection).get_table_names()) - {HERE.version_table}


def to_base(url: str) -> None:
    with db.engine(url).connect() as connection:
        command.downgrade(migrating.alembic_config(connection), "base")
        connection.commit()


def test_migrations_go_up_and_down_and_up(empty_database_url: str) -> None:
    none, newest = db.revisions(empty_database_url)
    assert (none, bool(newest)) == (None, True)
    for _ in range(2):
        migrating.migrate(empty_database_url)
        assert db.revisions(empty_database_url) == (newest, newest)
        assert tables(empty_database_url) == set(Base.metadata.tables)
        migrating.migrate(empty_database_url)  # nothing left to do
        to_base(empty_database_url)
        assert tables(empty_database_url) == set()
        assert db.revisions(empty_database_url) == (None, newest)


def test_migrations_go_down_with_data(database_url: str) -> None:
    """Rows refer to each other; taking the tables away respects it."""
    with db.transaction(database_url) as session:
        for table, values in complete_story():
            session.execute(insert(table).values(values))
    to_base(database_url)
    assert tables(database_url) == set()


def test_what_failed_without_a_result_is_completed(empty_database_url: str) -> None:
    """Upstream made it, and charged for it. The rows that refer to it stay."""
    url = empty_database_url
    migrating.migrate(url)
    with db.transaction(url) as session:
        for table, values in complete_story():
            session.execute(insert(table).values(values | (RESULTLESS if table is Job else {})))
        session.execute(update(Job).values(next_poll_at=AT))
    for _ in range(2):
        migrating.migrate(url, "reelwatch_0003")
        with db.reading(url) as session:
            assert session.execute(select(Job.state, Job.error_code)).one() == OLD_END
        migrating.migrate(url)
        with db.reading(url) as session:
            found = session.execute(select(Job.state, Job.error_code, Job.next_poll_at)).one()
            assert found == ("completed", "no_result", None)
            assert count_of(session, Transition) == count_of(session, Attempt) == 1


OLD_END = ("failed", "no_result")


def test_the_migrated_schema_is_that_of_the_models(database_url: str) -> None:
    with db.engine(database_url).connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                "include_name": alembic_filter.is_ours,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_models_equal_migrations_in_all_that_databases_tell(empty_database_url: str) -> None:
    """Alembic compares no checks and no conditions of indexes."""
    migrating.migrate(empty_database_url)
    migrated = schema(empty_database_url)
    to_base(empty_database_url)
    with db.engine(empty_database_url).begin() as connection:
        Base.metadata.create_all(connection)
    assert migrated == schema(empty_database_url)


def schema(url: str) -> dict[str, Any]:
    """All that the database tells of its tables, as text, in no order."""
    told: dict[str, Any] = {}
    with db.engine(url).connect() as connection:
        inspector = inspect(connection)
        for table in sorted(set(inspector.get_table_names()) - {HERE.version_table}):
            told[table] = {
                "key": inspector.get_pk_constraint(table),
                "columns": sorted(map(str, inspector.get_columns(table))),
                "checks": sorted(map(plain, inspector.get_check_constraints(table))),
                "uniques": sorted(map(str, inspector.get_unique_constraints(table))),
                "references": sorted(map(str, inspector.get_foreign_keys(table))),
                "indexes": sorted(map(plain, inspector.get_indexes(table))),
            }
    return told


def plain(reflected: Any) -> str:
    return re.sub(r"\s+|<[^>]*>", " ", str({key: str(value) for key, value in reflected.items()}))


MIGRATE_AT_ONCE = """
import sys, time
from pathlib import Path
from reelwatch.storage import migrating
print("ready")
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
migrating.migrate(sys.argv[1])
"""


def test_several_processes_may_migrate_at_once(empty_database_url: str, tmp_path: Path) -> None:
    """As when three containers start together."""
    go = tmp_path / "go"
    command_line = [sys.executable, "-c", MIGRATE_AT_ONCE, empty_database_url, str(go)]
    children = [process(command_line) for _ in range(3)]
    try:
        for child in children:
            child.wait_for("ready", 60)
        go.touch()
        assert [child.wait(60) for child in children] == [0] * 3, [c.output for c in children]
    finally:
        for child in children:
            child.close()
    current, newest = db.revisions(empty_database_url)
    assert current == newest
    assert tables(empty_database_url) == set(Base.metadata.tables)


def open_together(path: Path, go: threading.Barrier, found: list[object]) -> None:
    connection = sqlite3.connect(path, timeout=30)
    go.wait(30)
    try:
        journal.use_wal(connection, 30)
        found.append(connection.execute("PRAGMA journal_mode").fetchone()[0])
    except sqlite3.Error as error:
        found.append(error)
    finally:
        connection.close()


def test_several_that_open_a_new_file_at_once_wait_for_each_other(tmp_path: Path) -> None:
    """SQLite itself refuses all but one of them now and then, so it is tried often."""
    found: list[object] = []
    for number in range(60):
        go = threading.Barrier(3)
        given = (tmp_path / f"{number}.db", go, found)
        threads = [threading.Thread(target=open_together, args=given) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == ["wal"] * 180


def test_alembics_own_command_takes_database_url(empty_database_url: str) -> None:
    """So that whoever knows Alembic can use it."""
    with process(["alembic", "upgrade", "head"], {"DATABASE_URL": empty_database_url}) as child:
        assert child.wait(60) == 0, child.output
    assert tables(empty_database_url) == set(Base.metadata.tables)


def test_an_installed_package_brings_its_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (db.migrations() / "versions").is_dir()
    package = tmp_path / "worker" / "reelwatch"
    monkeypatch.setattr(db, "__file__", str(package / "storage" / "db.py"))
    assert db.migrations() == tmp_path / "migrations"
    (package / "migrations").mkdir(parents=True)
    assert db.migrations() == package / "migrations"


@pytest.mark.skipif(sys.platform != "linux", reason="the names are Linux's")
def test_the_kernel_gives_up_a_network_that_loses_everything(postgresql_url: str) -> None:
    """In 20 s while something is sent, in 25 s while an answer is waited for."""
    with db.engine(postgresql_url).connect() as connection:
        driver: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as used:
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
            assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


def test_a_server_that_is_silent_is_given_up(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes what is sent and says nothing; in fair weather a new connection is made."""
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 0.5)
    with detour(postgresql_url) as (road, url):
        began = time.monotonic()
        with pytest.raises(OperationalError, match=r"no answer within 0\.5 s"):  # noqa: PT012, SIM117
            with db.transaction(url) as session:
                session.execute(text("SELECT 1"))
                road.set(Weather.BLACK_HOLE)
                session.execute(text("SELECT 2"))
        assert 0.5 <= time.monotonic() - began < 5
        road.set(Weather.FAIR)
        with db.reading(url) as session:
            assert session.execute(text("SELECT 3")).scalar_one() == 3


def test_only_transactions_of_ours_are_impatient(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration may take its time, on whichever connection."""
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 0.3)
    long = text("SELECT pg_sleep(1)")
    for transaction in (db.transaction, db.reading):
        with transaction(postgresql_url) as session:
            session.execute(text("SELECT 1"))
        with db.engine(postgresql_url).connect() as connection:
            connection.execute(long)
        with pytest.raises(OperationalError, match="no answer"), transaction(postgresql_url) as it:
            it.execute(long)


def test_a_transaction_that_nobody_goes_on_with_is_ended(postgresql_url: str) -> None:
    """A worker that is stopped in the middle of one must not hold its locks for ever."""
    with db.reading(postgresql_url) as session:
        limit = session.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
    assert limit == f"{postgresql.IDLE_SECONDS}s"


def test_a_bad_row_among_many_is_told_of_however_soon(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of it may come before the answer to the end of them all."""

    def end_once_told(pipeline: Any) -> None:
        def wait() -> None:
            pipeline.pgconn.send_flush_request()
            pipeline.pgconn.flush()
            select_ready([pipeline.pgconn.socket], [], [], 10)

        pipeline.command_queue += [wait, pipeline.pgconn.pipeline_sync]
        pipeline.result_queue.append(None)

    monkeypatch.setattr("reelwatch.storage.postgresql._Pipeline._enqueue_sync", end_once_told)
    for _ in range(5):
        error = pytest.raises(IntegrityError, match="pk_accounts")
        with error, db.transaction(postgresql_url) as session:
            session.execute(insert(Account), [ACCOUNT, ACCOUNT])
        with db.reading(postgresql_url) as session:
            assert session.scalars(select(Account)).all() == []


# ---------------------------------------------------------------- constraints

ACCOUNT: dict[str, Any] = {"name": "default", "requests_per_second": 5.0}
JOB: dict[str, Any] = {
    "id": 1, "account": "default", "video_id": "veo3:1", "state": "running", "metadata_": {},
    "tracked_at": AT, "deadline_at": AT, "next_poll_at": AT, "events": [],
}  # fmt: skip
TRANSITION: dict[str, Any] = {
    "id": 1, "job_id": 1, "sequence": 1, "from_state": "pending", "to_state": "running", "at": AT,
}  # fmt: skip
ERROR: dict[str, Any] = {
    "id": 1, "job_id": 1, "kind": "timeout", "message": "", "first_at": AT, "last_at": AT,
}  # fmt: skip
DELIVERY: dict[str, Any] = {
    "id": "evt_1", "job_id": 1, "transition_id": 1, "sequence": 1, "event_type": "video.completed",
    "channel": "webhook", "target": "https://h", "destination": "h", "body": "{}",
    "state": "pending", "created_at": AT, "next_attempt_at": AT,
}  # fmt: skip
ATTEMPT: dict[str, Any] = {"id": 1, "delivery_id": "evt_1", "at": AT, "duration_ms": 5}
EVENT: dict[str, Any] = {
    "id": 1, "event_id": "evt_1", "job_id": 1, "sequence": 1, "account": "default",
    "type": "video.completed", "at": AT,
}  # fmt: skip
ACTION: dict[str, Any] = {"id": 1, "at": AT, "who": "cli:kim", "action": "cancel", "count": 1}
ACTION_JOB: dict[str, Any] = {"job_id": 1, "action_id": 1}

COMPLETED = {
    "state": "completed",
    "finished_at": AT,
    "next_poll_at": None,
    "video_url": "https://v",
}
RESULTLESS = COMPLETED | {"video_url": None, "error_code": "no_result"}
FAILED = {"state": "failed", "finished_at": AT, "next_poll_at": None, "error_code": "not_found"}
EXPIRED = {"state": "expired", "expired_at": AT, "error_code": "deadline"}
ABANDONED = EXPIRED | {"abandoned_at": AT, "next_poll_at": None}
CANCELLED = {"state": "cancelled", "finished_at": AT, "next_poll_at": None}
DELIVERED = {"state": "delivered", "next_attempt_at": None, "delivered_at": AT}
DEAD = {"state": "dead", "next_attempt_at": None}
CURVE = {"account": "default", "model": "veo3", "learned_at": AT, "jobs": 1, "curve": {}}
ENDPOINT: dict[str, Any] = {
    "name": "https://h/x", "host": "h", "failures": 0, "openings": 0, "allowance": 1,
    "changed_at": AT,
}  # fmt: skip
WAITING: dict[str, Any] = {
    "id": "an-id", "task": "cancel", "account": "default", "video_id": "veo3:a", "options": "{}",
    "reason": "not yet", "worker": "w", "tries": 1, "first_at": AT, "last_at": AT,
    "next_try_at": AT,
}  # fmt: skip
REFUSED: dict[str, Any] = {
    "id": "an-id",
    "task": "track",
    "reason": "bad",
    "worker": "w",
    "first_at": AT,
    "last_at": AT,
    "count": 1,
}
ORDER = {
    "id": 1,
    "key": "once",
    "ordered_by": "ops",
    "wanted": {},
    "state": "running",
    "created_at": AT,
}  # fmt: skip


NOT_OF_A_JOB = (
    Account,
    Destination,
    Endpoint,
    DurationCurve,
    Heartbeat,
    RedeliveryOrder,
    RefusedMessage,
    WaitingMessage,
    Action,
)


def complete_story() -> list[tuple[type[Base], dict[str, Any]]]:
    """A row of every table, in an order that can be stored."""
    return [
        (Account, ACCOUNT),
        (Job, JOB),
        (Transition, TRANSITION),
        (PollError, ERROR),
        (Delivery, DELIVERY),
        (Attempt, ATTEMPT),
        (Heartbeat, {"name": "tick", "at": AT}),
        (Destination, {"name": "h", "failures": 0, "openings": 0, "allowance": 1}),
        (Endpoint, ENDPOINT),
        (DurationCurve, CURVE),
        (WaitingMessage, WAITING),
        (RefusedMessage, REFUSED),
        (RedeliveryOrder, ORDER),
        (Event, EVENT),
        (Action, ACTION),
        (ActionJob, ACTION_JOB),
    ]


def try_to_store(url: str, table: type[Base], *rows: dict[str, Any]) -> None:
    """Store the story up to these rows, which stand for the one it has in that table; undo it."""
    with Session(db.engine(url)) as session:
        for each, values in complete_story():
            for row in rows if each is table else [values]:
                session.execute(insert(each).values(row))
            if each is table:
                return


NONSENSE: list[tuple[str, type[Base], dict[str, Any]]] = [
    ("ck_accounts_rate_positive", Account, {"requests_per_second": 0.0}),
    ("ck_accounts_rate_positive", Account, {"requests_per_second": -1.0}),
    ("ck_accounts_price_not_negative", Account, {"look_price": -1.0}),
    ("ck_duration_curves_jobs_not_negative", DurationCurve, {"jobs": -1}),
    ("ck_accounts_pause_has_reason", Account, {"paused_until": AT}),
    ("ck_jobs_state_known", Job, {"state": "done"}),
    ("ck_jobs_final_has_end", Job, COMPLETED | {"finished_at": None}),
    ("ck_jobs_final_has_end", Job, FAILED | {"finished_at": None}),
    ("ck_jobs_final_has_end", Job, CANCELLED | {"finished_at": None}),
    ("ck_jobs_final_has_end", Job, {"finished_at": AT}),
    ("ck_jobs_final_has_end", Job, EXPIRED | {"finished_at": AT}),
    ("ck_jobs_open_has_due", Job, {"next_poll_at": None}),
    ("ck_jobs_open_has_due", Job, EXPIRED | {"next_poll_at": None}),
    ("ck_jobs_open_has_due", Job, COMPLETED | {"next_poll_at": AT}),
    ("ck_jobs_open_has_due", Job, ABANDONED | {"next_poll_at": AT}),
    ("ck_jobs_only_expired_abandoned", Job, {"abandoned_at": AT, "next_poll_at": None}),
    ("ck_jobs_expired_since", Job, EXPIRED | {"expired_at": None}),
    ("ck_jobs_error_has_state", Job, {"error_code": "no_result"}),
    ("ck_jobs_error_has_state", Job, FAILED | {"error_code": None}),
    ("ck_jobs_error_has_state", Job, EXPIRED | {"error_code": None}),
    ("ck_jobs_error_has_state", Job, COMPLETED | {"error_code": "upstream_failed"}),
    ("ck_jobs_error_has_state", Job, CANCELLED | {"error_code": "no_result"}),
    ("ck_jobs_completed_has_url", Job, COMPLETED | {"video_url": None}),
    ("ck_jobs_completed_has_url", Job, COMPLETED | {"video_url": None, "error_code": None}),
    ("ck_jobs_lease_has_due", Job, CANCELLED | {"lease_token": "t"}),
    ("ck_jobs_counts_not_negative", Job, {"sequence": -1}),
    ("ck_jobs_counts_not_negative", Job, {"polls": -1}),
    ("ck_transitions_sequence_positive", Transition, {"sequence": 0}),
    ("ck_transitions_states_known", Transition, {"from_state": "new"}),
    ("ck_transitions_states_known", Transition, {"to_state": "done"}),
    ("ck_poll_errors_count_positive", PollError, {"count": 0}),
    ("ck_redeliveries_state_known", RedeliveryOrder, {"state": "stopped"}),
    ("ck_redeliveries_done_has_end", RedeliveryOrder, {"finished_at": AT}),
    ("ck_waiting_messages_tries_positive", WaitingMessage, {"tries": 0}),
    ("ck_refused_messages_count_positive", RefusedMessage, {"count": 0}),
    ("ck_destinations_counts_not_negative", Destination, {"allowance": 0}),
    ("ck_destinations_counts_not_negative", Destination, {"failures": -1}),
    ("ck_endpoints_counts_not_negative", Endpoint, {"openings": -1}),
    ("ck_deliveries_channel_known", Delivery, {"channel": ""}),
    ("ck_deliveries_state_known", Delivery, DEAD | {"state": "lost"}),
    ("ck_deliveries_pending_has_due", Delivery, {"next_attempt_at": None}),
    ("ck_deliveries_pending_has_due", Delivery, DEAD | {"next_attempt_at": AT}),
    ("ck_deliveries_delivered_has_time", Delivery, DELIVERED | {"delivered_at": None}),
    ("ck_deliveries_delivered_has_time", Delivery, DEAD | {"delivered_at": AT}),
    ("ck_deliveries_lease_is_pending", Delivery, DEAD | {"lease_token": "t"}),
    ("ck_events_position_positive", Event, {"position": 0}),
    ("ck_actions_count_not_negative", Action, {"count": -1}),
]
TWICE: list[tuple[str, type[Base], dict[str, Any]]] = [
    ("uq_jobs_account_video_id", Job, {"id": 2}),
    ("uq_transitions_job_id_sequence", Transition, {"id": 2}),
    ("uq_deliveries_transition_id_channel", Delivery, {"id": "evt_2"}),
    ("uq_redeliveries_key", RedeliveryOrder, {"id": 2}),
    ("uq_events_job_id_sequence", Event, {"id": 2}),
]
ROW_OF = dict(complete_story())


def refusal_of(error: IntegrityError) -> str:
    """The name of the constraint that an error tells of."""
    diagnosis = getattr(error.orig, "diag", None)
    if diagnosis is not None:
        return str(diagnosis.constraint_name)
    what, _, told = str(error.orig).partition(" constraint failed: ")
    if what == "CHECK":
        return told
    columns = [column.split(".") for column in told.split(", ")]  # all that SQLite tells
    return "_".join(["uq", columns[0][0], *(column for _, column in columns)])


@pytest.mark.parametrize(("constraint", "table", "changes"), NONSENSE)
def test_nonsense_is_not_stored(
    database_url: str, constraint: str, table: type[Base], changes: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError) as caught:
        try_to_store(database_url, table, ROW_OF[table] | changes)
    assert refusal_of(caught.value) == constraint


@pytest.mark.parametrize(("constraint", "table", "changes"), TWICE)
def test_nothing_is_stored_twice(
    database_url: str, constraint: str, table: type[Base], changes: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError) as caught:
        try_to_store(database_url, table, ROW_OF[table], ROW_OF[table] | changes)
    assert refusal_of(caught.value) == constraint


def test_every_constraint_has_its_nonsense() -> None:
    """Whoever adds one adds a row that it refuses."""
    named = {
        str(constraint.name)
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint | UniqueConstraint)
    }
    assert named == {name for name, _, _ in NONSENSE + TWICE}


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        (Account, {"paused_until": AT, "pause_reason": "401"}),
        (Account, {"pause_reason": "by hand"}),
        (Job, {"state": "pending"}),
        (Job, {"lease_token": "t", "expired_at": AT}),
        (Job, COMPLETED | {"expired_at": AT}),
        (Job, RESULTLESS),
        (Job, RESULTLESS | {"next_poll_at": AT, "lease_token": "t"}),
        (Job, FAILED),
        (Job, EXPIRED),
        (Job, ABANDONED),
        (Job, CANCELLED),
        (Delivery, {"channel": "celery", "lease_token": "t"}),
        (Delivery, DELIVERED),
        (Delivery, DEAD),
    ],
)
def test_rows_that_make_sense_are_stored(
    database_url: str, table: type[Base], changes: dict[str, Any]
) -> None:
    try_to_store(database_url, table, ROW_OF[table] | changes)


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        (Job, {"account": "nobody"}),
        (Transition, {"job_id": 99}),
        (PollError, {"job_id": 99}),
        (Delivery, {"job_id": 99}),
        (Delivery, {"transition_id": 99}),
        (Attempt, {"delivery_id": "evt_99"}),
        (Event, {"job_id": 99}),
        (ActionJob, {"job_id": 99}),
        (ActionJob, {"action_id": 99}),
    ],
)
def test_nothing_refers_to_nothing(
    database_url: str, table: type[Base], changes: dict[str, Any]
) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        try_to_store(database_url, table, ROW_OF[table] | changes)


def test_a_job_takes_its_story_along(database_url: str) -> None:
    """Pruning a job leaves no rows behind that nobody can explain."""
    with db.transaction(database_url) as session:
        for table, values in complete_story():
            session.execute(insert(table).values(values))
        session.execute(table_of("jobs").delete())
        assert {table: count_of(session, table) for table in ROW_OF} == {
            table: int(table in NOT_OF_A_JOB) for table in ROW_OF
        }


def count_of(session: Session, table: type[Base]) -> int:
    return len(session.execute(select(table)).all())


# --------------------------------------------------- connections to PostgreSQL


def test_a_url_says_how_long_to_wait_and_never_which_encoding() -> None:
    url = "postgresql+psycopg://h/d?connect_timeout=3&client_encoding=LATIN1"
    made = postgresql.new_engine(url)
    _, options = made.dialect.create_connect_args(made.url)
    waits = {name: options[name] for name in postgresql.PATIENCE}
    assert waits == {**postgresql.PATIENCE, "connect_timeout": "3"}
    assert options["client_encoding"] == "UTF8"


def test_a_process_closes_its_connections_when_it_ends(postgresql_url: str) -> None:
    careful = {"DATABASE_URL": postgresql_url, "PYTHONDEVMODE": "1"}
    with process(["reelwatch", "list"], careful) as listing:
        assert listing.wait(60) == 0
        assert "ResourceWarning" not in listing.output


def test_what_is_logged_of_a_refused_statement_holds_none_of_its_values(url: str) -> None:
    """Callback URLs are among them, and what they have behind the host may be a secret."""
    values = {"account": "default", "webhook_url": "https://a.example/?Zq7"}
    statement = text("INSERT INTO jobs (account, webhook_url) VALUES (:account, :webhook_url)")
    with pytest.raises(IntegrityError) as refused, db.transaction(url) as session:
        session.execute(statement, values)
    told = lines.traceback_text(refused.value)
    assert "a.example" not in told
    assert "video_id" in told
