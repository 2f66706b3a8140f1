"""Statements about many rows whose parameters are lists."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, select

from reelwatch.rules.answers import ErrorKind
from reelwatch.rules.states import State
from reelwatch.storage import db, list_parameters
from reelwatch.storage.job_columns import jobs
from reelwatch.storage.models import table_of
from tests import seeding

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)


@pytest.fixture
def url(database_url: str) -> str:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        for name in ("a", "b", "c"):
            seeding.add_job(session, video_id=name)
    return database_url


@pytest.fixture
def statements(url: str) -> Iterator[list[str]]:
    """What is sent, but for BEGIN and COMMIT."""
    sent: list[str] = []

    def note(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            sent.append(statement)

    event.listen(db.engine(url), "before_cursor_execute", note)
    yield sent
    event.remove(db.engine(url), "before_cursor_execute", note)


def stored(url: str, *names: str) -> list[tuple[Any, ...]]:
    with db.reading(url) as session:
        columns = [jobs.c[name] for name in names]
        return [tuple(row) for row in session.execute(select(*columns).order_by(jobs.c.id))]


def ids(url: str) -> list[int]:
    return [job_id for (job_id,) in stored(url, "id")]


def test_each_row_gets_its_own_values_and_others_stay(url: str, statements: list[str]) -> None:
    first, second, third = ids(url)
    before = stored(url, "polls", "next_poll_at")[1]
    due = NOW + timedelta(seconds=7.25)
    statements.clear()
    with db.transaction(url) as session:
        rows: list[dict[str, Any]] = [
            {"row_id": third, "polls": 3, "next_poll_at": None, "state": "completed",
             "progress": 0.5, "last_error": ErrorKind.NOT_FOUND, "model": "veo\\3,\"{} ünï",
             "video_url": "https://cdn.example.com/a.mp4", "finished_at": NOW},
            {"row_id": first, "polls": 1, "next_poll_at": due, "state": "pending",
             "progress": None, "last_error": None, "model": None,
             "video_url": None, "finished_at": None},
        ]  # fmt: skip
        list_parameters.update_rows(session, jobs, rows)
    assert len(statements) == 1
    names = ("id", "polls", "next_poll_at", "progress", "last_error", "model", "video_url")
    found = stored(url, *names)
    assert found[0] == (first, 1, due, None, None, None, None)
    assert found[1][:3] == (second, *before)
    assert found[2] == (third, 3, None, 0.5, "not_found", "veo\\3,\"{} ünï",
                        "https://cdn.example.com/a.mp4")  # fmt: skip


def test_no_rows_are_no_statement(url: str, statements: list[str]) -> None:
    with db.transaction(url) as session:
        list_parameters.update_rows(session, jobs, [])
    assert not statements


def test_new_rows_tell_their_ids_by_a_column(url: str, statements: list[str]) -> None:
    transitions = table_of("transitions")
    first, _, third = ids(url)
    answer = {"status": "running", "text": 'veo\\3,"{} ünï\n', "list": [1, 0.5, None, True]}
    shared = {"sequence": 1, "from_state": "pending", "to_state": State.RUNNING, "to_status": None}
    rows: list[dict[str, Any]] = [
        {"job_id": third, **shared, "at": NOW, "answer": answer},
        {"job_id": first, **shared, "at": NOW + timedelta(microseconds=1), "answer": None},
    ]
    statements.clear()
    with db.transaction(url) as session:
        made = list_parameters.insert_rows(session, transitions, rows, ids_by="job_id")
        assert list_parameters.insert_rows(session, transitions, [], ids_by="job_id") == {}
    assert len(statements) == 1
    with db.reading(url) as session:
        found = {row["id"]: row for row in session.execute(select(transitions)).mappings()}
        empty = transitions.c.answer.is_(None)
        without = session.execute(select(transitions.c.job_id).where(empty)).scalars().all()
    assert {job_id: found[row_id]["job_id"] for job_id, row_id in made.items()} == {
        first: first, third: third,
    }  # fmt: skip
    for row in rows:
        assert {name: found[made[row["job_id"]]][name] for name in row} == row
    assert without == [first], "NULL, and not the null of JSON"


def test_a_row_is_among_those_that_are_listed(url: str) -> None:
    first, _, third = ids(url)
    query = select(jobs.c.id).where(list_parameters.among(jobs.c.id, "ids")).order_by(jobs.c.id)
    with db.reading(url) as session:
        for listed in ([first, third, 999], [third], []):
            found = session.execute(query, {"ids": listed}).scalars().all()
            assert found == sorted({first, third} & set(listed))


def test_texts_are_listed_too(url: str) -> None:
    query = select(jobs.c.video_id).where(list_parameters.among(jobs.c.video_id, "names"))
    with db.reading(url) as session:
        found = session.execute(query, {"names": ["b", 'x"},', "d"]}).scalars().all()
    assert found == ["b"]


def test_sqlite_looks_for_the_rows_of_a_list_by_an_index(sqlite_url: str) -> None:
    """Of a million jobs it looked at each, to claim one."""
    by_number = select(jobs.c.id).where(list_parameters.among(jobs.c.id, "listed"))
    endpoints = table_of("endpoints").c
    by_name = select(endpoints.name).where(list_parameters.among(endpoints.name, "listed"))
    with db.reading(sqlite_url) as session:
        for query, listed in ((by_number, [1, 2]), (by_name, ["a", "b"])):
            explained = query.compile(session.connection().engine)
            rows = session.connection().exec_driver_sql(
                f"EXPLAIN QUERY PLAN {explained}", (json.dumps(listed),)
            )
            assert str(rows.all()[0][3]).startswith("SEARCH")
