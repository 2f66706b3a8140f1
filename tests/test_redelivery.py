"""Orders to send many events again: who goes on with one when its web process has ended."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from reelwatch.app import tasks
from reelwatch.errors import Refused
from reelwatch.jobs import redelivery
from reelwatch.storage import db
from reelwatch.storage.models import Delivery, RedeliveryOrder
from tests import seeding

EVENTS = 5


def ordered(url: str, state: str = "dead") -> int:
    """An order about some events in that state, that nobody has gone through."""
    with db.transaction(url) as session:
        seeding.add_account(session)
        for _ in range(EVENTS):
            job = seeding.add_job(session, "completed")
            seeding.add_delivery(session, job, seeding.add_transition(session, job), state)
    return redelivery.order(url, redelivery.Wanted(state=state), by="test")


def let_time_pass(url: str, column: str) -> None:
    """As if what the column tells of had been long ago."""
    with db.transaction(url) as session:
        long_ago = db.now(session) - redelivery.LEFT_AFTER
        session.execute(update(RedeliveryOrder).values({column: long_ago}))


def owed(url: str) -> int:
    with db.reading(url) as session:
        pending = select(func.count()).where(Delivery.state == "pending")
        return session.execute(pending).scalar_one()


def told(url: str, number: int) -> tuple[object, object, object]:
    row = redelivery.progress(url, number)
    assert row is not None
    return row["state"], row["total"], row["done"]


@pytest.mark.parametrize("column", ["created_at", "worked_at"])
def test_workers_go_on_with_an_order_that_was_left(url: str, column: str) -> None:
    """As its web process ended: before it began, or in the middle. Nobody has to ask for it."""
    number = ordered(url)
    if column == "worked_at":
        assert redelivery.is_left(url, number)
    tasks.learn()  # somebody is at it, or is about to be
    assert owed(url) == 0
    let_time_pass(url, column)
    tasks.learn()
    assert told(url, number) == ("done", EVENTS, EVENTS)
    assert owed(url) == EVENTS


def test_a_worker_that_ends_leaves_the_rest_to_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery, "IDS_AT_ONCE", 2)
    number = ordered(database_url)
    let_time_pass(database_url, "created_at")
    asked = iter([False, True])
    redelivery.work_at_left(database_url, lambda: next(asked))
    assert told(database_url, number) == ("running", EVENTS, 2)
    let_time_pass(database_url, "worked_at")
    redelivery.work_at_left(database_url, lambda: True)  # it begins nothing either
    assert told(database_url, number) == ("running", EVENTS, 2)
    redelivery.work_at_left(database_url, lambda: False, seconds=0.0)  # nor without time
    assert told(database_url, number) == ("running", EVENTS, 2)
    redelivery.work_at_left(database_url, lambda: False)
    assert told(database_url, number) == ("done", EVENTS, EVENTS)


def test_what_was_told_again_is_not_told_a_third_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order about what is delivered was left; what it has owed has been delivered meanwhile."""
    monkeypatch.setattr(redelivery, "IDS_AT_ONCE", 2)
    number = ordered(url, "delivered")
    asked = iter([False, True] * EVENTS)
    owed_in_all = 0
    for _ in range(EVENTS):
        let_time_pass(url, "created_at" if not owed_in_all else "worked_at")
        redelivery.work_at_left(url, lambda: next(asked))
        owed_in_all += owed(url)
        with db.transaction(url) as session:
            delivered = {"state": "delivered", "delivered_at": db.now(session)}
            session.execute(update(Delivery).values(**delivered, next_attempt_at=None))
    assert owed_in_all == EVENTS
    assert told(url, number) == ("done", EVENTS, EVENTS)


def test_two_at_one_order_owe_each_event_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where one of them took so long that the order looked as if it had been left."""
    monkeypatch.setattr(redelivery, "IDS_AT_ONCE", 2)
    number = ordered(url)

    def other() -> bool:
        redelivery.work(url, number)
        return False

    redelivery.work(url, number, other)
    assert told(url, number) == ("done", EVENTS, EVENTS)


def test_an_order_of_what_is_to_come_is_refused(url: str) -> None:
    with db.reading(url) as session:
        to_come = db.now(session) + timedelta(days=1)
    with pytest.raises(Refused, match="is to come"):
        redelivery.order(url, redelivery.Wanted(since=to_come), by="test")


def test_an_order_that_fails_lets_the_others_go_first(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, number = ordered(url), redelivery.order(url, redelivery.Wanted(), by="test")
    let_time_pass(url, "created_at")
    through = redelivery.work

    def work(url: str, each: int, is_over: Callable[[], bool]) -> None:
        if each == failing:
            raise ValueError("it can't be gone through")
        through(url, each, is_over)

    monkeypatch.setattr(redelivery, "work", work)
    with pytest.raises(ValueError, match="gone through"):
        redelivery.work_at_left(url, lambda: False)
    redelivery.work_at_left(url, lambda: False)
    assert told(url, number) == ("done", EVENTS, EVENTS)
