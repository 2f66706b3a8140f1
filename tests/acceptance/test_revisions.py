"""A program and a database of different releases: older tables are waited for, newer ones do."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from reelwatch.cli import doctor
from reelwatch.jobs import tracking
from reelwatch.sandbox.upstream import scripted_id
from reelwatch.storage import db, migrating
from tests.commands import command_environment, done, run
from tests.environment import configured
from tests.fleet import BEAT, START_SECONDS, WORKER, fleet
from tests.servers import PostgresServer, eventually

FOREVER = scripted_id("grok", "forever", 1, "a")
TELL = "run `reelwatch migrate`"


@pytest.fixture
def unmigrated_url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.create_database()
    yield url
    db.dispose()
    postgres_server.drop_database(url)


def test_a_new_worker_waits_for_its_tables_and_goes_on_by_itself(
    unmigrated_url: str, redis_url: str
) -> None:
    """It says so in a line, not in a traceback per tick; what producers hand in waits as well."""
    migrating.migrate(unmigrated_url, "reelwatch_0001")
    pace: Any = {"REELWATCH_POLL_MIN": "200ms", "REELWATCH_POLL_MAX": "500ms"}
    with fleet(unmigrated_url, redis_url, 20.0, **pace) as deployed:
        worker = deployed.start(WORKER, "--concurrency", "2")
        worker.wait_for(TELL, START_SECONDS)
        worker.wait_for("ready", START_SECONDS)
        deployed.start(BEAT)
        deployed.send("reelwatch.track", FOREVER)
        told = "database_not_migrated"
        eventually(lambda: worker.output.count(told) >= 2, 60, deployed.log)  # of a tick, too
        assert not deployed.sandbox.polls()
        migrating.migrate(unmigrated_url)
        eventually(lambda: len(deployed.sandbox.polls()) > 3, 60, deployed.log)
        assert worker.output.count(told) <= 9  # one per process in 30 s, not one per tick
        assert "Traceback" not in worker.output
        assert set(deployed.terminate_all()) == {0}


def test_tables_that_go_away_under_a_worker_are_told_in_a_line_and_may_come_back(
    postgresql_url: str, redis_url: str
) -> None:
    pace: Any = {"REELWATCH_POLL_MIN": "200ms", "REELWATCH_POLL_MAX": "500ms"}
    with fleet(postgresql_url, redis_url, 20.0, **pace) as deployed:
        worker = deployed.start(WORKER, "--concurrency", "2")
        deployed.start(BEAT)
        deployed.send("reelwatch.track", FOREVER)
        eventually(lambda: len(deployed.sandbox.polls()) > 3, START_SECONDS, deployed.log)
        migrating.migrate(postgresql_url, "base")
        worker.wait_for("database_not_migrated", 60)
        migrating.migrate(postgresql_url)
        before = len(deployed.sandbox.polls())
        deployed.send("reelwatch.track", FOREVER)
        eventually(lambda: len(deployed.sandbox.polls()) > before + 3, 60, deployed.log)
        assert set(deployed.terminate_all()) == {0}
        assert "Traceback" not in deployed.log()


@pytest.mark.parametrize("use", [db.transaction, db.reading, db.at_once])
def test_a_mistake_of_ours_is_no_missing_migration(database_url: str, use: Any) -> None:
    """Where the revision is right, the database's own error stays."""
    with pytest.raises(DBAPIError), use(database_url) as session:
        session.execute(text("SELECT misspelt FROM jobs"))
    with db.engine(database_url).begin() as connection:
        connection.execute(text("UPDATE reelwatch_version SET version_num = 'reelwatch_0001'"))
    with pytest.raises(db.NotMigrated, match=TELL), use(database_url) as session:
        session.execute(text("SELECT misspelt FROM jobs"))


def test_a_worker_of_the_release_before_goes_on(
    postgresql_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables are all there; a revision that it does not know is a newer one."""
    with db.engine(postgresql_url).begin() as connection:
        connection.execute(text("UPDATE reelwatch_version SET version_num = 'reelwatch_9999'"))
    configured(postgresql_url, monkeypatch)
    assert tracking.track("grok:1").created
    found = {check.name: check for check in doctor.examine()}
    assert found["database"].status == "ok"
    assert "reelwatch_9999, newer than this program" in found["database"].message


@pytest.mark.parametrize("revision", ["base", "reelwatch_0001"])
def test_producers_and_commands_are_told_in_a_line(
    empty_database_url: str, revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if revision != "base":
        migrating.migrate(empty_database_url, revision)
    with command_environment(empty_database_url, tmp_path, monkeypatch):
        with pytest.raises(db.NotMigrated, match=TELL):
            tracking.track("grok:1")
        for use in (db.transaction, db.reading, db.at_once):
            with pytest.raises(db.NotMigrated, match=TELL), use(empty_database_url):
                pass
        listed = run("list", "--json")
        assert listed.exit_code == 1
        assert re.fullmatch(rf"reelwatch: the database is at .*: {TELL}\n", listed.stderr)
        migrating.migrate(empty_database_url)
        assert json.loads(done("list", "--json")) == []


def test_the_scripts_names_tell_the_newest_revision(database_url: str) -> None:
    with db.engine(database_url).connect() as connection:
        scripts = ScriptDirectory.from_config(migrating.alembic_config(connection))
    assert scripts.get_heads() == [db.newest_revision()]
    for script in scripts.walk_revisions():
        assert script.path is not None
        assert script.revision in script.path
