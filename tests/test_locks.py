"""Who waits for whom: a producer's open transaction holds up nobody but who wants its very rows."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.jobs import claiming, delivery, redelivery, tracking
from reelwatch.rules.answers import Answer
from reelwatch.rules.retry import Outcome
from reelwatch.storage import db, destinations, outcomes, postgresql
from reelwatch.storage.models import Attempt, Delivery, Endpoint, Job
from tests import seeding, test_polling
from tests.environment import set_variables
from tests.processes import eventually
from tests.test_polling import DONE, NOW, RUNNING

LIFE = timedelta(seconds=30)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would have to wait is told so after two seconds, not thirty."""
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 2.0)


@contextmanager
def open_transaction(url: str) -> Iterator[Session]:
    """A producer's, on its own engine; rolled back at the end unless it was committed."""
    engine = create_engine(url)
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


def due(url: str, *ids: str) -> None:
    test_polling.add_account(url)
    test_polling.add_jobs(url, ids)


@pytest.mark.parametrize("change", [tracking.cancel, tracking.recheck])
@pytest.mark.parametrize("answers", [(DONE, DONE), (None, RUNNING), (RUNNING, None)])
def test_a_batch_is_written_though_a_producer_changes_one_of_its_jobs(
    pg: str, change: Callable[..., Job], answers: tuple[Answer | None, ...]
) -> None:
    """The others at once, that one not at all: it is about to lose its token anyway."""
    due(pg, "veo:a", "veo:b")
    claimed = {each.row["video_id"]: each for each in test_polling.claim(pg).items}
    with open_transaction(pg) as producer:
        change("veo:a", session=producer)
        results = [
            test_polling.polled(claimed[name], answer)
            for name, answer in zip(("veo:a", "veo:b"), answers, strict=True)
        ]
        test_polling.apply(pg, results)
        written = test_polling.job(pg, "veo:b")
        assert written["lease_token"] is None
        assert written["polls"] == (answers[1] is not None)
        assert test_polling.job(pg, "veo:a")["lease_token"] is not None
        producer.commit()
    after = test_polling.job(pg, "veo:a")
    assert after["state"] == ("cancelled" if change is tracking.cancel else "pending")
    assert after["lease_token"] is None


def test_a_change_that_is_rolled_back_costs_the_lease_alone(pg: str) -> None:
    due(pg, "veo:a")
    (claimed,) = test_polling.claim(pg).items
    with open_transaction(pg) as producer:
        tracking.cancel("veo:a", session=producer)
        test_polling.apply(pg, [test_polling.polled(claimed, DONE)])
        producer.rollback()
    (again,) = test_polling.claim(pg, now=NOW + claiming.LEASE + timedelta(seconds=1)).items
    test_polling.apply(pg, [test_polling.polled(again, DONE)])
    assert test_polling.job(pg, "veo:a")["state"] == "completed"


def test_claims_go_on_while_a_producer_changes_a_job(pg: str) -> None:
    due(pg, "veo:a", "veo:b")
    with open_transaction(pg) as producer:
        tracking.recheck("veo:a", session=producer)
        assert [each.row["video_id"] for each in test_polling.claim(pg).items] == ["veo:b"]


def test_attempts_are_written_though_one_of_their_events_is_being_ordered_again(pg: str) -> None:
    with db.transaction(pg) as session:
        owed = [seeding.add_owed(session)["id"] for _ in range(2)]
        now = db.now(session)
    with db.transaction(pg) as session:
        rows = delivery.claim(session, 10, now)
    outcome = Outcome(200)
    attempted = [delivery.Done(row, now, 5, outcome) for row in rows]
    with open_transaction(pg) as operator:
        redelivery.redeliver(operator, now, owed[:1])
        courier = delivery._Courier(settings.current(), lambda *_: None)
        courier.claim(0)
        courier.record(attempted)
        operator.commit()
    with db.reading(pg) as session:
        states = {each.id: each.state for each in session.scalars(select(Delivery))}
    assert states == {owed[0]: "pending", owed[1]: "delivered"}


def test_ordering_many_again_and_writing_attempts_down_lock_in_one_order(
    pg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events first, and only then endpoints: else each would wait for what the other has."""
    monkeypatch.setattr(redelivery, "IDS_AT_ONCE", 2)
    monkeypatch.setattr(postgresql, "SILENCE_SECONDS", 30.0)
    with db.transaction(pg) as session:
        owed = [seeding.add_owed(session) for _ in range(4)]
        target, now = owed[0]["target"], db.now(session)
        session.add(Endpoint(name=target, host="hooks.example.com", failures=9, openings=3,
                             allowance=1, open_until=now + timedelta(hours=1),
                             changed_at=now))  # fmt: skip
    ids = sorted(row["id"] for row in owed)
    done: list[object] = []

    def again() -> None:
        try:
            with open_transaction(pg) as operator:
                done.append(redelivery.redeliver(operator, now, ids, release=True))
                operator.commit()
        except Exception as error:
            done.append(error)

    def waits() -> bool:
        with db.reading(pg) as session:
            return bool(session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

    thread = threading.Thread(target=again)
    with open_transaction(pg) as recording:
        db.tokens_now(recording, outcomes.TOKENS, ids[3:])
        thread.start()
        eventually(waits)
        destinations.standings(recording, [target], lock=True)
        recording.commit()
    thread.join(60)
    assert done == [ids]
    with db.reading(pg) as session:
        released = session.get_one(Endpoint, target)
        assert (released.failures, released.openings) == (9, 0)


DEADLOCKS = """
CREATE SEQUENCE tries;
CREATE FUNCTION give_way() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('tries') <= 2 THEN RAISE EXCEPTION 'gave way' USING ERRCODE = '{state}'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER give_way BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION give_way();
"""


@pytest.mark.parametrize("state", ["40P01", "40001"])
def test_what_gave_way_to_another_transaction_is_written_again(pg: str, state: str) -> None:
    """It says nothing of the database: no attempt is lost, and none is made a second time."""
    with db.transaction(pg) as session:
        owed = [seeding.add_owed(session)["id"] for _ in range(2)]
        now = db.now(session)
        session.execute(text(DEADLOCKS.format(state=state)))
    with db.transaction(pg) as session:
        rows = delivery.claim(session, 10, now)
    courier = delivery._Courier(settings.current(), lambda *_: None)
    courier.claim(0)
    outcome = Outcome(200)
    courier.record([delivery.Done(row, now, 5, outcome) for row in rows])
    with db.reading(pg) as session:
        found = session.execute(select(Delivery.id, Delivery.state, Delivery.attempts)).all()
        attempts = session.scalars(select(Attempt.delivery_id)).all()
    assert sorted(map(tuple, found)) == [(each, "delivered", 1) for each in sorted(owed)]
    assert sorted(attempts) == sorted(owed)


@pytest.mark.parametrize("change", [tracking.cancel_many, tracking.recheck_many])
def test_changes_of_the_same_jobs_in_other_orders_end(
    pg: str, change: Callable[..., list[Job]]
) -> None:
    """`cancel A B` beside `cancel B A`: each would wait for what the other has locked."""
    names = [f"veo:{number}" for number in range(40)]
    failures: list[Exception] = []

    def run(order: list[str]) -> None:
        try:
            for _ in range(10):
                changed = change(order)
                assert [job.video_id for job in changed] == order
        except Exception as error:
            failures.append(error)

    due(pg, *names)
    threads = [threading.Thread(target=run, args=(order,)) for order in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_the_first_job_of_an_account_holds_up_no_other(
    pg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is everybody's: neither other producers nor a worker's start wait for the caller."""
    with open_transaction(pg) as producer:
        tracking.track("veo:a", session=producer)
        tracking.sync_accounts(settings.current())
        tracking.track("veo:b")
        assert [job.video_id for job in seeding.jobs_in(pg)] == ["veo:b"]
        producer.rollback()
    assert [job.video_id for job in seeding.jobs_in(pg)] == ["veo:b"]


def test_the_first_job_of_an_account_in_another_database_than_ours(
    pg: str, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's session decides where the job is, and its account with it."""
    set_variables(monkeypatch, DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere")
    for url in (pg, sqlite_url):
        with open_transaction(url) as producer:
            assert tracking.track("veo:a", session=producer).created
            producer.commit()
        assert [job.account for job in seeding.jobs_in(url)] == ["default"]


def test_pruning_passes_over_what_a_producer_holds(pg: str) -> None:
    from reelwatch.jobs import pruning  # noqa: PLC0415 - only here

    with db.transaction(pg) as session:
        seeding.add_account(session)
        for name in ("veo:a", "veo:b"):
            seeding.add_job(session, "completed", video_id=name, tracked_at=seeding.at(days=9))
    with open_transaction(pg) as producer:
        tracking.recheck("veo:a", session=producer)
        assert list(pruning.prune(pg, seeding.at(days=1))) == [1]
    assert [job.video_id for job in seeding.jobs_in(pg)] == ["veo:a"]
