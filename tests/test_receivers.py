"""Endpoints and their hosts: who is called when others fail, what people are told, what they do."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update

from reelwatch.config.settings import Settings
from reelwatch.jobs import delivery, redelivery
from reelwatch.jobs.channels import SendTask
from reelwatch.jobs.channels.celery import NoQueue
from reelwatch.rules import breaker
from reelwatch.rules.breaker import Verdict, Wait
from reelwatch.rules.endpoints import How
from reelwatch.sandbox.answers import Answer
from reelwatch.sandbox.server import LocalService, Request
from reelwatch.storage import db, destinations, due_deliveries, findings
from reelwatch.storage.destinations import Call
from reelwatch.storage.models import Delivery, Destination, Endpoint
from tests import seeding
from tests.commands import done
from tests.environment import SECRET
from tests.peers import Line, Peer, answer
from tests.servers import eventually

DEAD, WELL = "https://hooks.example.com/dead", "https://hooks.example.com/well"
HOST = "hooks.example.com"


def owe(url: str, target: str, **changes: Any) -> str:
    with db.transaction(url) as session:
        return str(seeding.add_owed(session, target, **changes)["id"])


def fail(url: str, target: str, times: int = breaker.FAILURES, ago: float = 0) -> None:
    """So many calls to the endpoint that its host did not answer, so many seconds ago."""
    with db.transaction(url) as session:
        at = db.now(session) - timedelta(seconds=ago)
        destinations.judge(session, [Call(HOST, target, Verdict.FAILED, False, at)] * times, at)


def next_try(url: str, event_id: str) -> destinations.NextTry | None:
    with db.reading(url) as session:
        return destinations.next_tries(session, [event_id], db.now(session)).get(event_id)


def resting(url: str) -> list[str]:
    with db.reading(url) as session:
        left_alone = Endpoint.open_until > db.now(session)
        return list(
            session.scalars(select(Endpoint.name).where(left_alone).order_by(Endpoint.name))
        )


def test_people_are_told_when_an_event_is_tried_next_and_why_then(database_url: str) -> None:
    """Not the time in its row: its endpoint may be left alone for longer."""
    dead, well = owe(database_url, DEAD), owe(database_url, WELL)
    fail(database_url, DEAD)
    found = next_try(database_url, dead)
    with db.reading(database_url) as session:
        until = session.get_one(Endpoint, DEAD).open_until
        now = db.now(session)
    assert found is not None
    assert (found.at, found.wait, found.failures) == (until, Wait.RESTING, breaker.FAILURES)
    assert found.reason == "its endpoint failed 5 times in a row and rests"
    other = next_try(database_url, well)
    assert other is not None
    assert (other.wait, other.reason) == (Wait.TURN, "it waits for its turn")
    told = owe(database_url, WELL, state="delivered", next_attempt_at=None, delivered_at=now)
    assert next_try(database_url, told) is None


def test_those_that_rest_are_named_until_their_rest_is_over(database_url: str) -> None:
    fail(database_url, DEAD)
    fail(database_url, WELL, ago=breaker.OPEN_FIRST + 1)
    assert resting(database_url) == [DEAD]


def test_a_repaired_endpoint_is_released_and_others_rest_on(database_url: str) -> None:
    event_id = owe(database_url, DEAD)
    fail(database_url, DEAD)
    fail(database_url, WELL)
    with db.transaction(database_url) as session:
        assert destinations.release_for(session, [event_id]) == [DEAD]
        assert destinations.release_for(session, [event_id]) == []
    found = next_try(database_url, event_id)
    assert found is not None
    assert found.wait is Wait.TURN
    assert resting(database_url) == [WELL]


def test_since_when_an_endpoint_takes_nothing_outlasts_its_release(database_url: str) -> None:
    """Who says that it is repaired may be wrong."""
    event_id = owe(database_url, DEAD)

    def since() -> datetime | None:
        with db.reading(database_url) as session:
            return session.get_one(Endpoint, DEAD).failing_since

    fail(database_url, DEAD, ago=600)
    began = since()
    with db.transaction(database_url) as session:
        destinations.release_for(session, [event_id])
    assert since() == began
    fail(database_url, DEAD, times=1)
    assert since() == began


def test_one_event_that_is_sent_at_once_spends_no_attempt_of_the_others(database_url: str) -> None:
    """What is sent is the probe; the failures since it took nothing go on being counted."""
    ids = [owe(database_url, DEAD) for _ in range(8)]
    fail(database_url, DEAD, ago=1)
    with db.transaction(database_url) as session:
        now = db.now(session)
        assert not due_deliveries.survey(session, 100, now).ids
        redelivery.redeliver(session, now, [ids[-1]], release=True)
    with db.transaction(database_url) as session:
        now = db.now(session)
        assert len(due_deliveries.survey(session, 100, now).ids) == 1
        assert [each.failures for each in findings.unwell(session, now, 9)] == [breaker.FAILURES]
    fail(database_url, DEAD, times=1)
    with db.transaction(database_url) as session:
        now = db.now(session)
        assert not due_deliveries.survey(session, 100, now).ids
        [found] = findings.unwell(session, now, 9)
        assert (found.failures, found.how) == (breaker.FAILURES + 1, How.RESTING)
        accepted = Call(HOST, DEAD, Verdict.ACCEPTED, True, now)
        destinations.release(session, [DEAD])
        destinations.judge(session, [accepted, accepted], db.now(session))
        assert findings.unwell(session, now, 9) == []
        assert len(due_deliveries.survey(session, 100, db.now(session)).ids) == 2


def test_of_endpoints_that_are_well_nothing_is_kept(database_url: str) -> None:
    def names() -> list[str]:
        with db.reading(database_url) as session:
            return list(session.scalars(select(Endpoint.name)))

    fail(database_url, DEAD, times=1)
    assert names() == [DEAD]
    with db.transaction(database_url) as session:
        now = db.now(session)
        accepted = Call(HOST, DEAD, Verdict.ACCEPTED, True, now)
        destinations.judge(session, [accepted] * 2, now)
    assert names() == []


@pytest.mark.parametrize("before", [1, 2, 3])
def test_what_others_take_during_a_survey_is_counted(before: int, postgresql_url: str) -> None:
    """Each statement sees what was committed before it: a host must not get twice its calls."""
    for _ in range(3 * breaker.ALLOWANCE_MAX):
        owe(postgresql_url, WELL)
    with db.transaction(postgresql_url) as session:
        full = {"failures": 0, "openings": 0, "allowance": breaker.ALLOWANCE_MAX}
        session.add(Destination(name=HOST, open_until=None, **full))
    taken: list[str] = []
    statements = 0

    def claim_in_between(_c: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal statements
        if statement.startswith("SELECT deliveries.destination") or "RECURSIVE" in statement:
            statements += 1
            if statements == before:
                taken.extend(claim(postgresql_url))

    engine = db.engine(postgresql_url)
    event.listen(engine, "before_cursor_execute", claim_in_between)
    try:
        taken.extend(claim(postgresql_url))
    finally:
        event.remove(engine, "before_cursor_execute", claim_in_between)
    assert statements > before
    assert len(taken) == len(set(taken)) == breaker.ALLOWANCE_MAX


# ------------------------------------------------------------------ tasks of queues


def callbacks(url: str, send: SendTask) -> None:
    delivery.deliver(Settings(database=url, broker_url="redis://127.0.0.1:1/0"), send)


def test_a_queue_that_is_missing_rests_and_others_of_the_broker_do_not(database_url: str) -> None:
    """Its callbacks spend no more attempts until it is declared."""
    sent: list[str] = []

    def send(_task: str, queue: str, _event: dict[str, Any], _event_id: str) -> None:
        sent.append(queue)
        if queue == "missing":
            raise NoQueue("no queue 'missing'")

    for _ in range(200):
        owe(database_url, "shop.on_video@missing", channel="celery")
    for _ in range(20):
        owe(database_url, "shop.on_video@there", channel="celery")
    callbacks(database_url, send)
    callbacks(database_url, send)
    assert sent.count("there") == 20
    assert breaker.FAILURES <= sent.count("missing") < 200  # what was in hand when it opened
    assert resting(database_url) == ["shop.on_video@missing"]


def test_a_broker_that_is_away_says_nothing_of_its_queues(database_url: str) -> None:
    def send(*_: object) -> None:
        raise ConnectionError("away")

    for _ in range(20):
        owe(database_url, "shop.on_video@there", channel="celery")
    callbacks(database_url, send)
    with db.reading(database_url) as session:
        assert session.scalars(select(Endpoint.name)).all() == []


# ------------------------------------------------------------------ refused events


class Particular(LocalService):
    """Refuses the events whose body says so."""

    def respond(self, request: Request) -> Answer:
        return Answer(404 if b"refuse" in request.body else 200, {}, b"")


def test_events_that_are_refused_keep_no_other_of_their_endpoint_waiting(database_url: str) -> None:
    """Six that it will never take, the oldest: nobody rests for them, and they end by schedule."""
    with Particular() as receiver:
        target = f"{receiver.url}/hook"
        refused = [owe(database_url, target, body='{"refuse": 1}') for _ in range(6)]
        good = [owe(database_url, target) for _ in range(60)]
        webhooks(database_url)
    with db.reading(database_url) as session:
        rows = session.execute(select(Delivery.id, Delivery.state))
        found = {row.id: row.state for row in rows}
    assert {found[event_id] for event_id in good} == {"delivered"}
    assert {found[event_id] for event_id in refused} == {"pending"}
    assert resting(database_url) == []


# ------------------------------------------------------------------ calls that hang


class Hanging(LocalService):
    """Holds its first calls, and fails them all when `ends` is set; answers the others."""

    def __init__(self, held: int) -> None:
        super().__init__()
        self.ends = threading.Event()
        self.held = 0
        self._left = held
        self._lock = threading.Lock()

    def respond(self, _request: Request) -> Answer:
        with self._lock:
            if not self._left:
                return Answer(200, {}, b"")
            self._left -= 1
            self.held += 1
        self.ends.wait(60)
        return Answer(504, {}, b"")


@contextmanager
def hung(url: str, count: int) -> Iterator[tuple[Hanging, list[str]]]:
    """So many calls that hang within the block, and have ended together after it; their events."""
    with Hanging(count) as receiver:
        with db.transaction(url) as session:
            full = {"failures": 0, "openings": 0, "allowance": breaker.ALLOWANCE_MAX}
            host = receiver.url.removeprefix("http://")
            session.add(Destination(name=host, open_until=None, **full))
        ids = [owe(url, receiver.url) for _ in range(count)]
        batch = threading.Thread(target=webhooks, args=[url])
        batch.start()
        try:
            eventually(lambda: receiver.held == count, 60)
            yield receiver, ids
        finally:
            receiver.ends.set()
            batch.join(60)


def webhooks(url: str) -> None:
    settings = Settings(database=url, webhook_secrets=(SECRET,), webhook_allow="127.0.0.1")
    delivery.deliver(settings, lambda *_: None)


def column(url: str, name: str, ids: Sequence[str]) -> set[Any]:
    with db.reading(url) as session:
        rows = session.execute(select(Delivery).where(Delivery.id.in_(ids))).scalars()
        return {getattr(row, name) for row in rows}


def test_calls_that_hung_rest_no_endpoint_that_answers_meanwhile(database_url: str) -> None:
    """They end together, as many in a row as open its breaker, but all of them began before."""
    with hung(database_url, breaker.FAILURES) as (receiver, ids):
        told = [owe(database_url, receiver.url) for _ in range(2)]
        webhooks(database_url)
        assert column(database_url, "state", told) == {"delivered"}
    assert column(database_url, "failures", ids) == {1}
    with db.reading(database_url) as session:
        assert session.scalars(select(Endpoint.name)).all() == []


def test_calls_that_hang_with_none_answered_rest_their_endpoint(database_url: str) -> None:
    with hung(database_url, breaker.FAILURES) as (receiver, _):
        target = receiver.url
    assert resting(database_url) == [target]


def test_calls_that_hung_before_a_rest_do_not_prolong_it(database_url: str) -> None:
    with hung(database_url, 2) as (receiver, _), db.transaction(database_url) as session:
        now = db.now(session)
        failed = Call(HOST, receiver.url, Verdict.FAILED, True, now)
        destinations.judge(session, [failed] * breaker.FAILURES, now)
        session.execute(update(Endpoint).values(open_until=now))
    with db.reading(database_url) as session:
        assert session.scalars(select(Endpoint.openings)).all() == [1]


def test_an_answer_of_before_the_clock_was_set_back_says_nothing_of_later_failures(
    database_url: str,
) -> None:
    """By that clock it is yet to come: for an hour, each failure would have been before it."""
    with db.transaction(database_url) as session:
        told = seeding.add_owed(session, DEAD, state="delivered", next_attempt_at=None)
        seeding.add_attempt(session, told, at=db.now(session) + timedelta(hours=1))
    fail(database_url, DEAD)
    assert resting(database_url) == [DEAD]


# ------------------------------------------------------------------ connections


def test_a_kept_connection_that_ends_just_then_costs_no_attempt(database_url: str) -> None:
    def script(line: Line) -> None:
        line.request()
        line.send(answer(b""))
        line.request()

    with Peer(script) as peer:
        ids = [owe(database_url, peer.url) for _ in range(6)]
        webhooks(database_url)
        assert len(peer.requests) > len(ids)
    with db.reading(database_url) as session:
        rows = session.execute(select(Delivery.state, Delivery.attempts)).all()
        assert session.scalars(select(Endpoint.name)).all() == []
    assert [tuple(row) for row in rows] == [("delivered", 1)] * len(ids)


# ------------------------------------------------------------------ redeliver --now


def later(url: str, **changes: Any) -> dict[str, Any]:
    with db.reading(url) as session:
        return {"next_attempt_at": db.now(session) + timedelta(hours=5), **changes}


@pytest.mark.parametrize("named", [True, False])
def test_a_repaired_receiver_gets_its_events_at_once(
    named: bool, commands: pytest.MonkeyPatch, database_url: str
) -> None:
    """Those that wait for its rest, or for their next attempt, and those that were given up."""
    waiting = owe(database_url, DEAD)
    scheduled = owe(database_url, DEAD, **later(database_url, failures=4))
    given_up = owe(database_url, DEAD, state="dead", next_attempt_at=None, failures=11)
    told = {"state": "delivered", "next_attempt_at": None, "delivered_at": seeding.at(hours=1)}
    owe(database_url, DEAD, **told)
    others = owe(database_url, WELL, **later(database_url))
    fail(database_url, DEAD)
    fail(database_url, WELL)
    assert claim(database_url) == []
    mine = {waiting, scheduled, given_up}
    chosen = mine if named else ("--endpoint", DEAD)
    result = json.loads(done("redeliver", "--now", *chosen, "--yes", "--json"))
    assert set(result["ids"]) == mine
    assert resting(database_url) == [WELL]
    taken = claim(database_url)
    while len(taken) < len(mine):  # a host that did not answer gets few calls at first
        with db.transaction(database_url) as session:
            session.execute(update(Destination).values(allowance=breaker.ALLOWANCE_MAX))
        taken += claim(database_url)
    assert set(taken) == mine
    assert others not in taken


def test_without_now_a_resting_receiver_rests_on(
    commands: pytest.MonkeyPatch, database_url: str
) -> None:
    event_id = owe(database_url, DEAD)
    fail(database_url, DEAD)
    done("redeliver", event_id)
    assert resting(database_url) == [DEAD]
    assert claim(database_url) == []


def claim(url: str) -> list[str]:
    with db.transaction(url) as session:
        return [row.id for row in delivery.claim(session, 64, db.now(session))]
