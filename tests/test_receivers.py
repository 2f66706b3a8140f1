"""Endpoints and their hosts: who is called when others fail, what people are told, what they do."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update

from reelwatch.config.settings import Settings
from reelwatch.jobs import delivery
from reelwatch.rules import breaker
from reelwatch.rules.breaker import Verdict, Wait
from reelwatch.sandbox.answers import Answer
from reelwatch.sandbox.server import LocalService, Request
from reelwatch.storage import db, destinations
from reelwatch.storage.destinations import Call
from reelwatch.storage.models import Delivery, Destination, Endpoint
from tests import seeding
from tests.commands import done
from tests.environment import SECRET
from tests.peers import Line, Peer, answer

DEAD, WELL = "https://hooks.example.com/dead", "https://hooks.example.com/well"
HOST = "hooks.example.com"


def owe(url: str, target: str, **changes: Any) -> str:
    with db.transaction(url) as session:
        return str(seeding.add_owed(session, target, **changes)["id"])


def fail(url: str, target: str, times: int = breaker.FAILURES, ago: float = 0) -> None:
    """So many calls to the endpoint that its host did not answer, so many seconds ago."""
    with db.transaction(url) as session:
        at = db.now(session) - timedelta(seconds=ago)
        destinations.judge(session, [Call(HOST, target, Verdict.FAILED, False)] * times, at)


def next_try(url: str, event_id: str) -> destinations.NextTry | None:
    with db.reading(url) as session:
        return destinations.next_tries(session, [event_id], db.now(session)).get(event_id)


def resting(url: str) -> list[str]:
    with db.reading(url) as session:
        return [row["name"] for row in destinations.resting(session, db.now(session))]


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
    assert found.reason == "its endpoint failed 5 times in a row and is left alone"
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


def test_of_endpoints_that_are_well_nothing_is_kept(database_url: str) -> None:
    def names() -> list[str]:
        with db.reading(database_url) as session:
            return list(session.scalars(select(Endpoint.name)))

    fail(database_url, DEAD, times=1)
    assert names() == [DEAD]
    with db.transaction(database_url) as session:
        accepted = Call(HOST, DEAD, Verdict.ACCEPTED, True)
        destinations.judge(session, [accepted] * 2, db.now(session))
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


def callbacks(url: str, send: delivery.SendCallback) -> None:
    delivery.deliver(Settings(database=url, broker_url="redis://127.0.0.1:1/0"), send)


def test_a_queue_that_is_missing_rests_and_others_of_the_broker_do_not(database_url: str) -> None:
    """Its callbacks spend no more attempts until it is declared."""
    sent: list[str] = []

    def send(_task: str, queue: str, _event: dict[str, Any], _event_id: str) -> None:
        sent.append(queue)
        if queue == "missing":
            raise delivery.NoQueue("no queue 'missing'")

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
        settings = Settings(
            database=database_url, webhook_secrets=(SECRET,), webhook_allow="127.0.0.1"
        )  # fmt: skip
        delivery.deliver(settings, lambda *_: None)
    with db.reading(database_url) as session:
        rows = session.execute(select(Delivery.id, Delivery.state))
        found = {row.id: row.state for row in rows}
    assert {found[event_id] for event_id in good} == {"delivered"}
    assert {found[event_id] for event_id in refused} == {"pending"}
    assert resting(database_url) == []


# ------------------------------------------------------------------ connections


def test_a_kept_connection_that_ends_just_then_costs_no_attempt(database_url: str) -> None:
    def script(line: Line) -> None:
        line.request()
        line.send(answer(b""))
        line.request()

    with Peer(script) as peer:
        ids = [owe(database_url, peer.url) for _ in range(6)]
        settings = Settings(
            database=database_url, webhook_secrets=(SECRET,), webhook_allow="127.0.0.1"
        )  # fmt: skip
        delivery.deliver(settings, lambda *_: None)
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
        return [str(row["id"]) for row in delivery.claim(session, 64, db.now(session))]
