"""Stamps in the database: two beats make one tick, and anybody can see how old it is."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from reelwatch.storage import db, heartbeat
from reelwatch.storage.models import Heartbeat

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
APART = timedelta(seconds=1)


def beat(url: str, now: datetime, name: str = heartbeat.TICK) -> bool:
    with db.transaction(url) as session:
        return heartbeat.beat(session, name, APART, now) is not None


def age(url: str, now: datetime, name: str = heartbeat.TICK) -> timedelta | None:
    with db.reading(url) as session:
        return heartbeat.age(session, name, now)


def test_the_first_beat_counts(database_url: str) -> None:
    assert beat(database_url, NOW)


def test_a_beat_too_soon_after_another_does_not(database_url: str) -> None:
    beat(database_url, NOW)
    assert not beat(database_url, NOW + APART / 2)
    assert age(database_url, NOW + APART) == APART  # it left the stamp alone


def test_the_next_one_in_time_does(database_url: str) -> None:
    beat(database_url, NOW)
    assert beat(database_url, NOW + APART)
    assert age(database_url, NOW + APART) == timedelta(0)


def test_names_have_stamps_of_their_own(database_url: str) -> None:
    beat(database_url, NOW)
    assert age(database_url, NOW, "another") is None
    assert beat(database_url, NOW, "another")


def test_the_age_is_the_time_since_the_stamp(database_url: str) -> None:
    assert age(database_url, NOW) is None
    beat(database_url, NOW)
    assert age(database_url, NOW + timedelta(minutes=3)) == timedelta(minutes=3)


def test_of_many_beats_at_once_one_counts(database_url: str) -> None:
    for now in (NOW, NOW + APART):  # the very first stamp, and a later one
        with ThreadPoolExecutor(8) as pool:
            counted = list(pool.map(beat, [database_url] * 16, [now] * 16))
        assert counted.count(True) == 1
    with db.reading(database_url) as session:
        assert session.execute(select(func.count()).select_from(Heartbeat)).scalar_one() == 1
