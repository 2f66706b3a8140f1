"""Indexes that were not built to their end: what `migrate` and `doctor` make of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg import errors as refusals
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from reelwatch.errors import NotMigrated
from reelwatch.storage import db, migrating
from tests.commands import run
from tests.databases import connections_closed, new_database
from tests.environment import set_variables
from tests.processes import eventually
from tests.servers import PostgresServer

BEFORE = "reelwatch_0016"  # the next one makes the index
NAME = "ix_jobs_newest_given_up"
BUILD = (
    f"CREATE INDEX CONCURRENTLY {NAME} ON jobs (account, tracked_at, id)"
    " WHERE abandoned_at IS NOT NULL"
)
VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
WAITS = text("SELECT count(*) FROM pg_stat_progress_create_index WHERE phase LIKE 'waiting%'")


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    """Of an empty database."""
    with new_database(postgres_server) as url, connections_closed(url):
        yield url


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """By somebody else: each statement is committed by itself."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def is_valid(url: str, name: str = NAME) -> bool | None:
    with connected(url) as connection:
        return connection.execute(VALID, {"name": name}).scalar()


@contextmanager
def writer(url: str) -> Iterator[None]:
    """Somebody's open transaction, whose end a concurrent build waits for."""
    with connected(url) as connection:
        connection.execute(text("BEGIN"))
        connection.execute(text("LOCK TABLE jobs IN ROW EXCLUSIVE MODE"))
        yield
        connection.execute(text("ROLLBACK"))


def cancel_a_build(url: str, statement: str = BUILD) -> None:
    """It has taken its name, waits for a writer, and gives up."""
    with writer(url), connected(url) as connection:
        connection.execute(text("SET lock_timeout = '50ms'"))
        with pytest.raises(DBAPIError) as caught:
            connection.execute(text(statement))
        assert isinstance(caught.value.orig, refusals.LockNotAvailable)
    assert is_valid(url) is False


@contextmanager
def being_built(url: str) -> Iterator[threading.Thread]:
    """Within: the build waits for a writer. It goes on afterwards."""

    def build() -> None:
        with connected(url) as connection:
            connection.execute(text(BUILD))

    thread = threading.Thread(target=build)
    with connected(url) as connection:
        with writer(url):
            thread.start()
            eventually(lambda: connection.execute(WAITS).scalar() == 1)
            yield thread
        thread.join(30)
        assert not thread.is_alive()


def notes_of(url: str) -> list[str]:
    db.dispose()
    return migrating.migrate(url)


def test_one_that_a_migration_would_take_for_its_own_is_built_anew(url: str) -> None:
    migrating.migrate(url, BEFORE)
    cancel_a_build(url)
    assert notes_of(url) == [f"index {NAME}: not built to its end before, built anew"]
    assert is_valid(url) is True
    assert notes_of(url) == []


def test_one_that_no_migration_makes_any_more_is_told(url: str) -> None:
    """Building it here would have writers wait, and nobody has asked for anything."""
    migrating.migrate(url)
    with connected(url) as connection:
        connection.execute(text(f"DROP INDEX {NAME}"))
    cancel_a_build(url)
    advice = f"run REINDEX INDEX CONCURRENTLY {NAME}"
    said = f"index {NAME}: written and never read, for it was not built to its end: {advice}"
    assert notes_of(url) == [said]
    assert is_valid(url) is False
    with connected(url) as connection:
        connection.execute(text(advice.removeprefix("run ")))
    assert is_valid(url) is True
    assert notes_of(url) == []


def test_one_that_somebody_is_building_is_left_to_them(url: str) -> None:
    """In one message, and their build comes to its end."""
    migrating.migrate(url, BEFORE)
    with being_built(url):
        with pytest.raises(NotMigrated, match=f"^nothing is changed: index {NAME} is not"):
            migrating.migrate(url)
        assert db.revisions(url)[0] == BEFORE
        assert is_valid(url) is False
    assert is_valid(url) is True
    assert notes_of(url) == []


def test_those_of_others_are_theirs(url: str) -> None:
    migrating.migrate(url, BEFORE)
    theirs = "CREATE INDEX CONCURRENTLY ix_theirs ON jobs (model)"
    with writer(url), connected(url) as connection:
        connection.execute(text("SET lock_timeout = '50ms'"))
        with pytest.raises(DBAPIError):
            connection.execute(text(theirs))
    assert notes_of(url) == []
    assert is_valid(url, "ix_theirs") is False


def test_doctor_names_it_with_what_to_run(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, DATABASE_URL=postgresql_url)
    with connected(postgresql_url) as connection:
        connection.execute(text(f"DROP INDEX {NAME}"))
    with being_built(postgresql_url):
        assert f"! index {NAME}: not read yet: an index of jobs is being built" in told()
    assert f"index {NAME}" not in told()
    with connected(postgresql_url) as connection:
        connection.execute(text(f"DROP INDEX {NAME}"))
    cancel_a_build(postgresql_url)
    assert f"✗ index {NAME}: written and never read" in told()
    assert f"run REINDEX INDEX CONCURRENTLY {NAME}" in told()


def told() -> str:
    return " ".join(run("doctor").output.split())
