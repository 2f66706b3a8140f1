"""A PostgreSQL database whose encoding can't hold what upstream says is refused, not filled."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from reelwatch import track
from reelwatch.app import celery as application
from reelwatch.app import waiting
from reelwatch.config import settings
from reelwatch.errors import SettingsError
from reelwatch.storage import db, migrating
from tests.commands import command_environment, run
from tests.databases import connections_closed
from tests.servers import PostgresServer

SAID = "the encoding of the database {} is {}, accepted: UTF8; make another: `createdb -T template0"


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def refusal(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """How every use of the database that is configured has to be answered."""
    postgres_server.start()
    url = postgres_server.create_database(encoding=request.param)
    with command_environment(url, tmp_path, monkeypatch), connections_closed(url):
        settings.current.cache_clear()
        yield f"DATABASE_URL: {SAID.format(make_url(url).database, request.param)} -E UTF8 NAME`"
    postgres_server.drop_database(url)


@pytest.mark.parametrize(
    "command", [["migrate"], ["list"], ["web", "--port", "0"], ["track", "veo3:a"], ["up"]]
)
def test_every_command_says_so_in_one_line(refusal: str, command: list[str]) -> None:
    ended = run(*command)
    assert (ended.exit_code, ended.stderr.strip()) == (2, f"reelwatch: {refusal}")


def test_doctor_finds_it(refusal: str) -> None:
    ended = run("doctor")
    assert ended.exit_code == 1
    assert f"database: {refusal}" in " ".join(ended.stdout.split())


def test_a_worker_does_not_start(refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "_begin", lambda _: None)
    monkeypatch.setattr(application, "_guard", lambda: None)
    with pytest.raises(SystemExit) as caught:
        application._before_work()
    assert refusal in str(caught.value)


def test_producers_are_told_in_python(refusal: str) -> None:
    with pytest.raises(SettingsError) as caught:
        track("veo3:a")
    assert str(caught.value) == refusal


def test_who_waits_for_a_database_goes_on_waiting(refusal: str) -> None:
    """A running process gets over it as over others: the URL may come to mean another database."""
    with pytest.raises(SQLAlchemyError, match="accepted: UTF8"):
        waiting.worker.prepare()


def test_texts_are_unicode_whatever_the_database_tells_clients_to_speak(
    postgres_server: PostgresServer,
) -> None:
    postgres_server.start()
    url = postgres_server.create_database()
    with connections_closed(url):
        migrating.migrate(url)
        with db.engine(url).begin() as connection:
            name = make_url(url).database
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET client_encoding = LATIN1')
        db.dispose()
        with db.engine(url).connect() as connection:
            assert connection.execute(text("SELECT CAST(:said AS text)"), {"said": "视频"}).scalar()
    postgres_server.drop_database(url)
