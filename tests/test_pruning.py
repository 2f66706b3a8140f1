"""Old jobs go with all that hangs on them; nothing that is still owed goes."""

import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import event, func, select, text, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.jobs import pruning
from reelwatch.jobs.redelivery import redeliver
from reelwatch.storage import db
from reelwatch.storage.models import Attempt, Base, Delivery, Endpoint, Job, PollError, Transition
from tests import seeding
from tests.seeding import Row
from tests.servers import process


def count(url: str, table: type[Base]) -> int:
    with db.reading(url) as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def left(url: str) -> set[str]:
    with db.reading(url) as session:
        return set(session.execute(select(Job.video_id)).scalars())


def pruned(url: str, before: datetime) -> int:
    """How many went, of all that ended before then."""
    return sum(pruning.prune(url, before))


def whole_job(
    url: str, name: str, days: float, state: str = "completed", told: str = "delivered"
) -> Row:
    """A job that ended so long ago, with a row in every table."""
    with db.transaction(url) as session:
        job = seeding.add_job(
            session,
            state,
            video_id=name,
            tracked_at=seeding.at(days=days),
            finished_at=seeding.at(days=days),
        )
        step = seeding.add_transition(session, job, to_state=state)
        seeding.add_error(session, job)
        delivery = seeding.add_delivery(session, job, step, told)
        seeding.add_attempt(session, delivery)
    return delivery


@pytest.fixture
def url(database_url: str) -> str:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
    return database_url


def test_an_old_job_goes_with_all_that_hangs_on_it(url: str) -> None:
    whole_job(url, "old", days=91)
    whole_job(url, "new", days=89)
    assert pruned(url, seeding.at(days=90)) == 1
    assert left(url) == {"new"}
    for table in (Transition, PollError, Delivery, Attempt):
        assert count(url, table) == 1


@pytest.mark.parametrize("told", ["delivered", "dead"])
@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_every_final_state_can_go(url: str, state: str, told: str) -> None:
    whole_job(url, "old", days=91, state=state, told=told)
    assert pruned(url, seeding.at(days=90)) == 1
    assert left(url) == set()


def test_a_job_whose_event_is_still_owed_stays(url: str) -> None:
    whole_job(url, "owed", days=400, told="pending")
    assert pruned(url, seeding.at(days=90)) == 0
    assert left(url) == {"owed"}
    assert count(url, Attempt) == 1


def test_open_jobs_stay_however_old_and_given_up_ones_go(url: str) -> None:
    old = seeding.at(days=200)
    with db.transaction(url) as session:
        for state in ("pending", "running", "expired"):
            seeding.add_job(session, state, video_id=state, tracked_at=old)
        seeding.add_job(
            session,
            "expired",
            video_id="given up",
            tracked_at=old,
            abandoned_at=seeding.at(days=91),
        )
        seeding.add_job(
            session,
            "expired",
            video_id="just now",
            tracked_at=old,
            abandoned_at=seeding.at(days=89),
        )
    assert pruned(url, seeding.at(days=90)) == 1
    assert left(url) == {"pending", "running", "expired", "just now"}


def test_many_go_in_several_transactions(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "CHUNK", 4)
    for number in range(9):
        whole_job(url, f"old {number}", days=91)
    whole_job(url, "owed", days=91, told="pending")
    assert list(pruning.prune(url, seeding.at(days=90))) == [4, 4, 1]
    assert left(url) == {"owed"}


def test_nothing_to_do_is_nothing_done(url: str) -> None:
    assert list(pruning.prune(url, seeding.at(days=90))) == []


def test_an_event_ordered_again_just_now_keeps_its_job(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the choice and the deletion somebody orders the event again."""
    with db.transaction(postgresql_url) as session:
        seeding.add_account(session)
    delivery = whole_job(postgresql_url, "old", days=91)
    really_locked, order = pruning._locked, [delivery["id"]]

    def ordered_then_locked(
        session: Session, job_ids: Sequence[int], before: datetime
    ) -> Sequence[int]:
        with db.transaction(postgresql_url) as other:
            redeliver(other, db.now(other), [order.pop()])
        return really_locked(session, job_ids, before)

    monkeypatch.setattr(pruning, "_locked", ordered_then_locked)
    assert pruned(postgresql_url, seeding.at(days=90)) == 0
    assert left(postgresql_url) == {"old"}


def test_a_job_that_somebody_works_on_is_left_for_the_next_time(postgresql_url: str) -> None:
    with db.transaction(postgresql_url) as session:
        seeding.add_account(session)
    whole_job(postgresql_url, "held", days=91)
    whole_job(postgresql_url, "free", days=91)
    with db.transaction(postgresql_url) as session:
        session.execute(select(Job.id).where(Job.video_id == "held").with_for_update())
        assert pruned(postgresql_url, seeding.at(days=90)) == 1
    assert left(postgresql_url) == {"held"}
    assert pruned(postgresql_url, seeding.at(days=90)) == 1


def test_an_event_that_somebody_is_ordering_again_is_not_waited_for(postgresql_url: str) -> None:
    """Two that wait for each other's locks would have to be told apart by force."""
    with db.transaction(postgresql_url) as session:
        seeding.add_account(session)
    delivery = whole_job(postgresql_url, "held", days=91)
    whole_job(postgresql_url, "free", days=91)
    with db.transaction(postgresql_url) as session:
        redeliver(session, db.now(session), [delivery["id"]])
        assert pruned(postgresql_url, seeding.at(days=90)) == 1
    assert left(postgresql_url) == {"held"}


def test_a_job_reopened_just_now_stays(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the choice and the lock it ceased to be over."""
    whole_job(url, "old", days=91)
    really_chosen = pruning._chunks

    def chosen_then_reopened(url: str, *asked: Any) -> Iterator[Sequence[RowMapping]]:
        for chunk in really_chosen(url, *asked):
            with db.transaction(url) as session:
                session.execute(update(Job).values(finished_at=None, **OPEN))
            yield chunk

    monkeypatch.setattr(pruning, "_chunks", chosen_then_reopened)
    assert pruned(url, seeding.at(days=90)) == 0
    assert left(url) == {"old"}


OPEN = {"state": "running", "next_poll_at": seeding.at()}

KILLED = """
import os, signal, sys
from datetime import datetime
from sqlalchemy import event
from reelwatch.jobs import pruning
from reelwatch.storage import db

url, before = sys.argv[1], datetime.fromisoformat(sys.argv[2])
pruning.CHUNK, deleted = 3, []

def die(connection):
    if len(deleted) == 2:  # this one's rows are deleted, and not yet committed
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(db.engine(url), "commit", die)
for count in pruning.prune(url, before):
    deleted.append(count)
"""


def test_killed_in_the_middle_it_leaves_whole_jobs_and_goes_on(url: str) -> None:
    for number in range(10):
        whole_job(url, f"old {number}", days=91)
    whole_job(url, "new", days=1)
    before = seeding.at(days=90)
    db.dispose()
    with process([sys.executable, "-c", KILLED, url, before.isoformat()]) as killed:
        assert killed.wait(60) == -signal.SIGKILL, killed.output
    assert len(left(url)) == 11 - 2 * 3
    for table in (Transition, PollError, Delivery, Attempt):
        assert count(url, table) == 5  # one each
    assert pruned(url, before) == 4
    assert left(url) == {"new"}


def test_while_it_chooses_it_locks_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the choice takes, nobody waits for it: it only reads."""
    monkeypatch.setattr(pruning, "CHUNK", 2)
    for number in range(5):
        whole_job(url, f"old {number}", days=91)
    begun: list[bool] = []

    def begin(connection: Any) -> None:
        begun.append(bool(connection.get_execution_options().get(db.READ_ONLY)))

    event.listen(db.engine(url), "begin", begin)
    try:
        assert pruned(url, seeding.at(days=90)) == 5
    finally:
        event.remove(db.engine(url), "begin", begin)
    # At the end: which endpoints are idle, and which actions no job tells of.
    assert begun == [True, False] * 3 + [True, True] + [True, True]


def test_an_index_leads_to_the_old(postgresql_url: str) -> None:
    """Also past those that are deleted already, or that still owe an event."""
    with db.transaction(postgresql_url) as session:
        seeding.add_account(session)
    whole_job(postgresql_url, "old", days=91)
    place = (seeding.at(days=200), 7)
    query = pruning._old(Job.finished_at, seeding.at(days=90), place)
    with db.transaction(postgresql_url) as session:
        for way in ("seqscan", "bitmapscan", "sort"):  # good for a table as small as this one
            session.execute(text(f"SET LOCAL enable_{way} = off"))
        compiled = query.compile(session.get_bind(), compile_kwargs={"literal_binds": True})
        lines = session.connection().exec_driver_sql(f"EXPLAIN (COSTS off) {compiled}").scalars()
        plan = "\n".join(lines)
    assert "Index Scan using ix_jobs_ended_at" in plan
    (condition,) = [line for line in plan.splitlines() if "Index Cond: (" in line and "<" in line]
    assert "finished_at >= " in condition  # what comes before the place is not even polled


def test_endpoints_that_nothing_is_owed_to_are_forgotten(url: str) -> None:
    """Where each job has a URL of its own there would be one for each that failed."""
    long_ago = seeding.at(days=100)
    with db.transaction(url) as session:
        seeding.add_owed(session, "https://h.example.com/owed")
        dead = {"state": "dead", "next_attempt_at": None}
        seeding.add_owed(session, "https://h.example.com/dead", **dead)
        ago = {"owed": long_ago, "dead": long_ago, "old": long_ago, "new": seeding.at(days=1)}
        for name, at in ago.items():
            session.add(
                Endpoint(name=f"https://h.example.com/{name}", host="h.example.com", failures=9,
                         openings=3, allowance=1, open_until=at, changed_at=at)
            )  # fmt: skip
    pruned(url, seeding.at(days=90))
    with db.reading(url) as session:
        left = set(session.scalars(select(Endpoint.name)))
    assert left == {f"https://h.example.com/{name}" for name in ("owed", "dead", "new")}
