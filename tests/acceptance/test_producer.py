"""Acceptance: a producer's app adds Reelwatch by docs/producers.md, and nothing of its own changes.

The app (`tests/producer`) has SQLAlchemy models with tables `jobs` and `accounts`, an Alembic
history whose revisions are called like ours, a module `worker`, and a Celery app with nothing but
defaults: one PostgreSQL database, one Redis database, shared with Reelwatch.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from reelwatch.sandbox.upstream import scripted_id
from tests.fleet import BEAT, START_SECONDS, WORKER, Fleet, fleet
from tests.producers import Shop, shop
from tests.servers import PostgresServer, eventually, process

SCHEMA = "reelwatch"

TRACK_IN_SESSION = """
import os
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from reelwatch import track
with Session(create_engine(os.environ["SHOP_DATABASE_URL"])) as session:
    track("grok:1", session=session)
"""


@dataclass
class Neighbours:
    """The producer's app, and a Reelwatch beside it."""

    shop: Shop
    reelwatch: Fleet

    def job(self, video_id: str) -> str | None:
        """The state of a job, if it is tracked."""
        rows = self.reelwatch.rows("SELECT state FROM jobs WHERE video_id = :id", id=video_id)
        return rows[0][0] if rows else None


@pytest.fixture
def project(
    postgres_server: PostgresServer, redis_url: str
) -> Iterator[tuple[Shop, dict[str, str]]]:
    """The producer's app with its tables, and what it adds to its environment for Reelwatch."""
    postgres_server.start()
    url = postgres_server.create_database()
    added = {"DATABASE_URL": url, "REELWATCH_SCHEMA": SCHEMA}
    with shop(url, redis_url, added) as opened:
        yield opened, added
    postgres_server.drop_database(url)


@pytest.fixture
def neighbours(project: tuple[Shop, dict[str, str]], redis_url: str) -> Iterator[Neighbours]:
    opened, added = project
    migrate(added)
    url = added["DATABASE_URL"]
    with fleet(url, redis_url, 50.0, REELWATCH_SCHEMA=SCHEMA) as deployed:
        for command in (WORKER, BEAT):
            deployed.start(command)
        opened.keep_working()
        deployed.of(WORKER)[0].wait_for("ready", START_SECONDS)
        yield Neighbours(opened, deployed)


def test_a_schema_without_a_database_url_is_no_prefix(
    project: tuple[Shop, dict[str, str]],
) -> None:
    """With the producer's own session the URL is not needed for else: what is missing is said."""
    _, added = project
    migrate(added)
    there = {"REELWATCH_SCHEMA": SCHEMA, "SHOP_DATABASE_URL": added["DATABASE_URL"]}
    with process([sys.executable, "-c", TRACK_IN_SESSION], there) as tracking:
        assert tracking.wait(60) == 1
        last = tracking.output.splitlines()[-1]
        assert last.startswith("reelwatch.errors.SettingsError: REELWATCH_SCHEMA")
        assert "DATABASE_URL" in last


def migrate(environment: dict[str, str]) -> None:
    with process(["reelwatch", "migrate"], environment) as migration:
        assert migration.wait(60) == 0, migration.output


@pytest.mark.timeout(300)
def test_it_is_told_what_it_asked_for_and_keeps_its_own(neighbours: Neighbours) -> None:
    producer = neighbours.shop
    kept, undone, sent = (scripted_id("grok", "ok", 3, name) for name in ("kept", "undone", "sent"))
    producer.send("render", 1, 12.0)
    producer.send("remind", 1, countdown=12.0)
    producer.send("order", "a@example.com", kept, True)
    producer.send("order", "b@example.com", undone, False)
    neighbours.reelwatch.send("reelwatch.track", sent, callback_task="shop.video_done")
    owed = "SELECT count(*) FROM deliveries WHERE state = 'delivered'"
    eventually(lambda: neighbours.reelwatch.rows(owed)[0][0] == 2, 60, "two events")
    for name in ("render", "remind"):
        producer.has_done(name, 1, 60)
    events = {row[0] for row in neighbours.reelwatch.rows("SELECT id FROM deliveries")}
    eventually(lambda: producer.told() == events, 60, "both events at the callback")
    assert neighbours.job(kept) == neighbours.job(sent) == "completed"
    assert neighbours.job(undone) is None
    assert producer.ordered() == {kept}
    assert producer.runs("render") == producer.runs("remind") == {1: 1}
    assert producer.schema() == producer.schema_before
    producer.run("alembic", "check")


@pytest.mark.timeout(300)
def test_what_it_tells_its_workers_reaches_no_others(neighbours: Neighbours) -> None:
    ours = list(neighbours.reelwatch.processes)
    assert [node.partition("@")[0] for node in neighbours.shop.pinged()] == ["shop0"]
    neighbours.shop.shut_down()
    tracked = scripted_id("grok", "ok", 1, "after")
    neighbours.reelwatch.send("reelwatch.track", tracked)
    eventually(lambda: neighbours.job(tracked) == "completed", 60, "a job tracked afterwards")
    assert all(each.running for each in ours)


@pytest.mark.timeout(300)
def test_both_migrate_up_and_down_in_any_order(project: tuple[Shop, dict[str, str]]) -> None:
    producer, added = project
    producer.run("alembic", "downgrade", "0001")
    migrate(added)
    producer.run("alembic", "upgrade", "head")
    assert producer.schema() == producer.schema_before
    producer.run("alembic", "check")
    producer.run("alembic", "downgrade", "base")
    producer.run("alembic", "upgrade", "head")
    migrate(added)
    assert producer.schema() == producer.schema_before
