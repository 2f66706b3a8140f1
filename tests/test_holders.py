"""A migration that gets no lock says who has it, and what to do."""

import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from reelwatch.errors import NotMigrated
from reelwatch.storage import db, holders, migrating

BEFORE = "reelwatch_0017"


@pytest.fixture
def empty(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(migrating, "LOCK_SECONDS", 0.3)
    migrating.migrate(empty_database_url, BEFORE)
    return empty_database_url


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_a_table_that_is_in_use_is_told_with_who_uses_it(empty: str) -> None:
    engine = create_engine(empty, connect_args={"application_name": "psql"})
    with engine.connect() as other:
        pid = other.execute(text("SELECT pg_backend_pid()")).scalar_one()
        other.execute(text("SELECT count(*) FROM redeliveries"))
        with pytest.raises(NotMigrated) as caught:
            migrating.migrate(empty)
        said = str(caught.value)
        assert said.startswith("nothing is changed: a table that is to change was in use for 0.3 s")
        session = rf"{pid} \(psql of \w+ at [\d.:]+, idle in transaction, \ds\)"
        assert re.search(f"by the database's process {session}; pg_stat_activity", said)
        assert f"pg_terminate_backend({pid})" in said
        with db.engine(empty).connect() as connection:
            assert db.revision(connection) == BEFORE
    engine.dispose()
    migrating.migrate(empty)


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_of_what_is_over_only_that_is_said(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "holders", lambda *_: [])
    engine = create_engine(empty)
    with engine.connect() as other:
        other.execute(text("SELECT count(*) FROM redeliveries"))
        with pytest.raises(NotMigrated, match=r"0\.3 s, and is not any more: run this again$"):
            migrating.migrate(empty)
    engine.dispose()


@pytest.mark.parametrize("empty_database_url", ["sqlite"], indirect=True)
def test_a_file_that_somebody_writes_to_is_told(
    empty: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = create_engine(empty)
    db.dispose()
    monkeypatch.setattr(db, "BUSY_SECONDS", 1)
    with engine.connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(NotMigrated, match="has been writing to the file for 1 s"):
            migrating.migrate(empty)
    engine.dispose()
