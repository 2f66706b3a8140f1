"""Old jobs go with all that hangs on them; nothing that is still owed goes."""

from datetime import datetime

import pytest
from sqlalchemy import Select, func, select

from tests import seeding
from tests.seeding import Row
from worker import db, pruning
from worker.delivery import redeliver
from worker.models import Attempt, Base, Delivery, Job, PollError, Transition


def count(url: str, table: type[Base]) -> int:
    with db.reading(url) as session:
        return session.execute(select(func.count()).select_from(table)).scalar_one()


def left(url: str) -> set[str]:
    with db.reading(url) as session:
        return set(session.execute(select(Job.video_id)).scalars())


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
    assert pruning.prune(url, seeding.at(days=90)) == 1
    assert left(url) == {"new"}
    for table in (Transition, PollError, Delivery, Attempt):
        assert count(url, table) == 1


@pytest.mark.parametrize("told", ["delivered", "dead"])
@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
def test_every_final_state_can_go(url: str, state: str, told: str) -> None:
    whole_job(url, "old", days=91, state=state, told=told)
    assert pruning.prune(url, seeding.at(days=90)) == 1
    assert left(url) == set()


def test_a_job_whose_event_is_still_owed_stays(url: str) -> None:
    whole_job(url, "owed", days=400, told="pending")
    assert pruning.prune(url, seeding.at(days=90)) == 0
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
    assert pruning.prune(url, seeding.at(days=90)) == 1
    assert left(url) == {"pending", "running", "expired", "just now"}


def test_many_go_in_several_transactions(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "CHUNK", 4)
    for number in range(9):
        whole_job(url, f"old {number}", days=91)
    whole_job(url, "owed", days=91, told="pending")
    counts: list[int] = []
    assert pruning.prune(url, seeding.at(days=90), progress=counts.append) == 9
    assert counts == [4, 8, 9]
    assert left(url) == {"owed"}


def test_nothing_to_do_is_nothing_done(url: str) -> None:
    counts: list[int] = []
    assert pruning.prune(url, seeding.at(days=90), progress=counts.append) == 0
    assert counts == []


def test_an_event_ordered_again_just_now_keeps_its_job(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the choice and the deletion somebody orders the event again."""
    with db.transaction(postgresql_url) as session:
        seeding.add_account(session)
    delivery = whole_job(postgresql_url, "old", days=91)
    really_chosen, order = pruning._old, [delivery["id"]]

    def chosen_then_ordered(before: datetime) -> Select[int]:
        if not order:
            return really_chosen(before)
        with db.transaction(postgresql_url) as session:
            redeliver(session, db.now(session), ids=[order.pop()])
        return select(Job.id)  # what was chosen a moment ago

    monkeypatch.setattr(pruning, "_old", chosen_then_ordered)
    assert pruning.prune(postgresql_url, seeding.at(days=90)) == 0
    assert left(postgresql_url) == {"old"}


def test_a_job_that_somebody_works_on_is_left_for_the_next_time(postgresql_url: str) -> None:
    with db.transaction(postgresql_url) as session:
        seeding.add_account(session)
    whole_job(postgresql_url, "held", days=91)
    whole_job(postgresql_url, "free", days=91)
    with db.transaction(postgresql_url) as session:
        session.execute(select(Job.id).where(Job.video_id == "held").with_for_update())
        assert pruning.prune(postgresql_url, seeding.at(days=90)) == 1
    assert left(postgresql_url) == {"held"}
    assert pruning.prune(postgresql_url, seeding.at(days=90)) == 1
