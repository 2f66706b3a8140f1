"""Telling producers: what arrives, how it is signed, what is tried again, what is given up."""

import base64
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from types import MappingProxyType
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session
from standardwebhooks.webhooks import Webhook
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError

from reelwatch.app import callbacks, tasks
from reelwatch.app.callbacks import send_callback
from reelwatch.app.celery import configuration
from reelwatch.config.settings import Settings
from reelwatch.errors import Refused
from reelwatch.jobs import delivery, redelivery
from reelwatch.jobs.channels import SendTask, webhook
from reelwatch.rules import breaker
from reelwatch.rules.durations import parse_webhook_timeout
from reelwatch.rules.retry import Outcome
from reelwatch.sandbox.answers import Answer
from reelwatch.sandbox.listener import Listener, Received
from reelwatch.sandbox.server import LocalService, Request
from reelwatch.storage import db, surveys
from reelwatch.storage.destinations import deliveries
from reelwatch.storage.filters import EventFilter
from reelwatch.storage.models import Attempt, Delivery, Destination, Endpoint
from reelwatch.storage.outcomes import EXCERPT_LIMIT
from reelwatch.storage.walking import Owed
from tests import seeding
from tests.logs import Lines
from tests.peers import closed_port
from tests.servers import RedisServer, eventually, process

NEW = "whsec_" + base64.b64encode(b"a new secret of the producer!").decode()
OLD = "whsec_" + base64.b64encode(b"an old secret of the producer").decode()
OTHER = "whsec_" + base64.b64encode(b"a secret of somebody else's..").decode()
NOBODY = "https://hooks.example.com/reelwatch"  # no name but localhost is known in tests

numbers = count(1)


def says(
    status: int, headers: Mapping[str, str] = MappingProxyType({}), body: bytes = b""
) -> Answer:
    return Answer(status, headers, body)


OK = says(200)


class Receiver(LocalService):
    """Answers as told and keeps every request as it came, byte for byte."""

    def __init__(self, answer: Answer | Callable[[Request], Answer] = OK) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self._answer = answer

    def respond(self, request: Request) -> Answer:
        self.requests.append(request)
        return self._answer(request) if callable(self._answer) else self._answer


class Holding(Receiver):
    """Answers nobody until `release` is set, and counts how many wait at once."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.release = threading.Event()
        self.most_at_once = 0
        self._waiting = 0
        self._lock = threading.Lock()

    def _hold(self, _request: Request) -> Answer:
        with self._lock:
            self._waiting += 1
            self.most_at_once = max(self.most_at_once, self._waiting)
        self.release.wait(60)
        with self._lock:
            self._waiting -= 1
        return says(200)


def refuse_callbacks(task: str, queue: str, _event: dict[str, Any], _event_id: str) -> None:
    raise AssertionError(f"nobody asked for a callback: {task} at {queue}")


def options(url: str, **changes: Any) -> Settings:
    """Settings with a secret, for receivers on this machine."""
    values = {"webhook_secrets": (NEW,), "webhook_allow": "127.0.0.1", "webhook_timeout": 30}
    return Settings(database=url, **{**values, **changes})


def run_batch(url: str, send_callback: SendTask = refuse_callbacks, **changes: Any) -> int:
    return delivery.deliver(options(url, **changes), send_callback)


def owe(url: str, target: str = NOBODY, **changes: Any) -> str:
    """A new event that is due now, of a job of its own; returns its id."""
    with db.transaction(url) as session:
        row = seeding.add_owed(session, target, **{"body": body_of(next(numbers)), **changes})
        prove(session, row["destination"])
    return str(row["id"])


def prove(session: Session, name: str) -> None:
    """A host that has answered so far gets all the calls that one may have."""
    standing = {"failures": 0, "openings": 0, "allowance": breaker.ALLOWANCE_MAX}
    session.merge(Destination(name=name, open_until=None, **standing))


def owe_callback(url: str, target: str = "shop.on_video@shop") -> str:
    return owe(url, target, channel="celery", destination="celery")


def body_of(number: int) -> str:
    data = {"video_id": f"veo3:{number}", "metadata": {"städte": "München 🎬", "path": "a/b"}}
    return json.dumps({"type": "video.completed", "data": data}, ensure_ascii=False)


def row_of(url: str, event_id: str) -> RowMapping:
    with db.reading(url) as session:
        query = select(deliveries).where(deliveries.c.id == event_id)
        return session.execute(query).mappings().one()


def attempts_of(url: str, event_id: str) -> Sequence[Attempt]:
    with db.reading(url) as session:
        query = select(Attempt).where(Attempt.delivery_id == event_id).order_by(Attempt.id)
        return session.execute(query).scalars().all()


def make_due(url: str, event_id: str) -> None:
    """Let time pass: what waits for its next attempt, or for its lease to end, is due now."""
    with db.transaction(url) as session:
        statement = update(Delivery).where(Delivery.id == event_id)
        session.execute(statement.values(next_attempt_at=db.now(session)))
        session.execute(delete(Endpoint))


def headers_of(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name.startswith("webhook-")}


# --------------------------------------------------------------- what arrives


def test_an_event_arrives_signed_and_is_marked(database_url: str) -> None:
    """The listener verifies it; the row says delivered, the attempt how it went."""
    with Listener([NEW]) as listener:
        event_id = owe(database_url, f"{listener.url}/hooks?shop=7")
        before = datetime.now(UTC)
        assert run_batch(database_url) == 1
    received = listener.events[0]
    assert (received.id, received.verified, received.type) == (event_id, True, "video.completed")
    row = row_of(database_url, event_id)
    assert (row["state"], row["attempts"], row["failures"]) == ("delivered", 1, 0)
    assert row["next_attempt_at"] is None
    assert row["lease_token"] is None
    assert before <= row["delivered_at"] <= datetime.now(UTC)
    (attempt,) = attempts_of(database_url, event_id)
    assert (attempt.http_status, attempt.error) == (200, None)
    assert attempt.duration_ms >= 0
    assert before <= attempt.at <= row["delivered_at"]


def test_others_verify_what_we_sign(sqlite_url: str) -> None:
    """Two independent packages accept the request as it came, and neither another secret's."""
    with Receiver() as receiver:
        owe(sqlite_url, f"{receiver.url}/hooks")
        run_batch(sqlite_url)
    (request,) = receiver.requests
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("reelwatch/")
    assert Webhook(NEW).verify(request.body, headers_of(request)) == json.loads(request.body)
    SvixWebhook(NEW).verify(request.body, headers_of(request))
    with pytest.raises(WebhookVerificationError):
        SvixWebhook(OTHER).verify(request.body, headers_of(request))
    with pytest.raises(WebhookVerificationError):
        SvixWebhook(NEW).verify(request.body + b" ", headers_of(request))


def test_every_current_secret_signs(sqlite_url: str) -> None:
    """In a rotation a receiver with the new secret verifies, and one that still has the old."""
    with Receiver() as receiver:
        owe(sqlite_url, receiver.url)
        run_batch(sqlite_url, webhook_secrets=(NEW, OLD))
    (request,) = receiver.requests
    signatures = request.headers["webhook-signature"].split(" ")
    assert len(signatures) == 2
    assert all(signature.startswith("v1,") for signature in signatures)
    for secret in (NEW, OLD):
        Webhook(secret).verify(request.body, headers_of(request))
        SvixWebhook(secret).verify(request.body, headers_of(request))


def test_signing_does_not_depend_on_the_zone() -> None:
    """A time in another zone is the same moment, so it makes the same headers."""
    at = datetime(2026, 2, 6, 3, 58, 49, tzinfo=UTC)
    elsewhere = at.astimezone(datetime.strptime("+0545", "%z").tzinfo)
    signers = [Webhook(NEW)]
    headers = webhook.signed_headers(signers, "evt_1", at, "{}")
    assert webhook.signed_headers(signers, "evt_1", elsewhere, "{}") == headers
    assert headers["webhook-timestamp"] == "1770350329"


def test_every_attempt_sends_the_same_bytes_freshly_signed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Id and body never change; timestamp and signature are of the attempt's own time.

    That is the database's: a worker with a wrong clock must not sign what is refused as stale.
    """
    passed = timedelta(0)
    monkeypatch.setattr(db, "now", lambda _session: datetime.now(UTC) + passed)
    with Receiver(says(500)) as receiver:
        event_id = owe(database_url, receiver.url)
        for minutes in range(3):
            passed = timedelta(minutes=minutes)
            make_due(database_url, event_id)
            run_batch(database_url)
    requests = receiver.requests
    assert {request.body for request in requests} == {
        row_of(database_url, event_id)["body"].encode()
    }
    assert {request.headers["webhook-id"] for request in requests} == {event_id}
    for name in ("webhook-timestamp", "webhook-signature"):
        assert len({request.headers[name] for request in requests}) == 3
    for request in requests:
        SvixWebhook(NEW).verify(request.body, headers_of(request))


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_success(sqlite_url: str, status: int) -> None:
    with Receiver(says(status)) as receiver:
        event_id = owe(sqlite_url, receiver.url)
        run_batch(sqlite_url)
    assert row_of(sqlite_url, event_id)["state"] == "delivered"


# ------------------------------------------------------------------- failures


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308, 400, 404, 409, 429, 500, 503])
def test_anything_else_is_tried_again(sqlite_url: str, status: int) -> None:
    """Redirects too, and nobody follows them."""
    with Receiver() as elsewhere, Receiver(says(status, {"Location": elsewhere.url})) as receiver:
        event_id = owe(sqlite_url, receiver.url)
        run_batch(sqlite_url)
    assert len(receiver.requests) == 1
    assert elsewhere.requests == []
    row = row_of(sqlite_url, event_id)
    assert (row["state"], row["attempts"], row["failures"]) == ("pending", 1, 1)
    assert row["delivered_at"] is None
    assert row["lease_token"] is None
    (attempt,) = attempts_of(sqlite_url, event_id)
    assert (attempt.http_status, attempt.error) == (status, f"the receiver answered {status}")


def test_410_ends_it_at_once(database_url: str) -> None:
    with Receiver(says(410)) as receiver:
        event_id = owe(database_url, receiver.url)
        run_batch(database_url)
    row = row_of(database_url, event_id)
    assert (row["state"], row["attempts"], row["next_attempt_at"]) == ("dead", 1, None)


def test_the_schedule_is_kept_and_then_it_is_dead(database_url: str) -> None:
    """Each delay is the schedule's ± 20 %; after the last comes no other attempt."""
    schedule = options(database_url).retry_schedule
    assert len(schedule) == 10
    with Receiver(says(500)) as receiver:
        event_id = owe(database_url, receiver.url)
        for number, delay in enumerate(schedule, 1):
            make_due(database_url, event_id)
            before = datetime.now(UTC)
            run_batch(database_url)
            after, row = datetime.now(UTC), row_of(database_url, event_id)
            assert (row["state"], row["attempts"], row["failures"]) == ("pending", number, number)
            assert before + timedelta(seconds=0.8 * delay) <= row["next_attempt_at"]
            assert row["next_attempt_at"] <= after + timedelta(seconds=1.2 * delay)
            assert run_batch(database_url) == 0  # not before its time
        make_due(database_url, event_id)
        run_batch(database_url)
    row = row_of(database_url, event_id)
    assert (row["state"], row["attempts"], row["next_attempt_at"]) == ("dead", 11, None)
    assert len(attempts_of(database_url, event_id)) == len(receiver.requests) == 11
    assert run_batch(database_url) == 0


def test_attempts_at_a_receiver_that_was_away_are_spread(sqlite_url: str) -> None:
    """A receiver that was away is not asked again by everybody in the same second."""
    with Receiver(says(503)) as receiver:
        ids = [owe(sqlite_url, receiver.url) for _ in range(20)]
        run_batch(sqlite_url, retry_schedule=(1000.0,))
    times = [row_of(sqlite_url, event_id)["next_attempt_at"] for event_id in ids]
    # By luck all twenty within a twentieth of the range: once in 10^24 runs.
    assert max(times) - min(times) > timedelta(seconds=20)


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("1", 80, 120),
        ("150", 150, 150),
        ("3600", 160, 240),
        ("soon", 80, 120),
        ("-5", 80, 120),
    ],
)
def test_retry_after_is_honoured_between_the_delay_and_twice_it(
    sqlite_url: str, asked: str, least: float, most: float
) -> None:
    with Receiver(says(429, {"Retry-After": asked})) as receiver:
        event_id = owe(sqlite_url, receiver.url)
        before = datetime.now(UTC)
        run_batch(sqlite_url, retry_schedule=(100.0,))
    again = row_of(sqlite_url, event_id)["next_attempt_at"]
    assert before + timedelta(seconds=least) <= again
    assert again <= datetime.now(UTC) + timedelta(seconds=most)


def test_retry_after_is_honoured_for_hours_where_the_schedule_waits_for_hours(
    sqlite_url: str,
) -> None:
    with Receiver(says(429, {"Retry-After": "32400"})) as receiver:
        event_id = owe(sqlite_url, receiver.url)
        before = datetime.now(UTC)
        run_batch(sqlite_url, retry_schedule=(18_000.0,))
    assert row_of(sqlite_url, event_id)["next_attempt_at"] >= before + timedelta(seconds=28_800)


def test_retry_after_does_not_outlive_the_schedule(sqlite_url: str) -> None:
    with Receiver(says(503, {"Retry-After": "60"})) as receiver:
        event_id = owe(sqlite_url, receiver.url)
        run_batch(sqlite_url, retry_schedule=(0,))
    row = row_of(sqlite_url, event_id)
    assert (row["state"], row["attempts"]) == ("dead", 2)


def test_an_attempt_keeps_an_excerpt(database_url: str) -> None:
    """Bounded, and without what a database refuses."""
    page = "Grüße\x00 " + "ü" * 5_000
    with Receiver(says(500, {}, page.encode())) as receiver:
        event_id = owe(database_url, receiver.url)
        run_batch(database_url)
    excerpt = attempts_of(database_url, event_id)[0].response_excerpt
    assert excerpt is not None
    assert excerpt.startswith("Grüße ü")
    assert len(excerpt) == EXCERPT_LIMIT


def test_an_attempt_keeps_how_it_was_signed(database_url: str) -> None:
    """As the receiver got it, and also where nobody was reached."""
    with Receiver(says(500)) as receiver:
        url, event_id = receiver.url, owe(database_url, receiver.url)
        run_batch(database_url)
    [tried], [sent] = attempts_of(database_url, event_id), receiver.requests
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    assert tried.request_headers == "\n".join(f"{name}: {sent.headers[name]}" for name in names)
    unreached = owe(database_url, url)
    run_batch(database_url)
    assert f"webhook-id: {unreached}" in str(
        attempts_of(database_url, unreached)[0].request_headers
    )


def test_no_body_leaves_no_excerpt(sqlite_url: str) -> None:
    with Receiver() as receiver:
        event_id = owe(sqlite_url, receiver.url)
        run_batch(sqlite_url)
    assert attempts_of(sqlite_url, event_id)[0].response_excerpt is None


def failed_without_answer(url: str, event_id: str) -> str:
    """What the one attempt noted, which brought no answer and is tried again."""
    row = row_of(url, event_id)
    assert (row["state"], row["failures"]) == ("pending", 1)
    (attempt,) = attempts_of(url, event_id)
    assert attempt.http_status is None
    assert attempt.error
    return attempt.error


def test_an_endpoint_where_nobody_listens_is_a_refused_attempt(sqlite_url: str) -> None:
    with closed_port() as port:
        event_id = owe(sqlite_url, f"http://127.0.0.1:{port}/")
        run_batch(sqlite_url)
    assert "refused" in failed_without_answer(sqlite_url, event_id)


def test_the_receiver_hangs_up(sqlite_url: str) -> None:
    with Receiver(says(0)) as receiver:
        event_id = owe(sqlite_url, receiver.url)
        run_batch(sqlite_url)
    assert "closed without an answer" in failed_without_answer(sqlite_url, event_id)


def test_the_receiver_is_too_slow(sqlite_url: str) -> None:
    with Holding() as receiver:
        event_id = owe(sqlite_url, receiver.url)
        run_batch(sqlite_url, webhook_timeout=0.2)
        receiver.release.set()
    assert "0.2 s" in failed_without_answer(sqlite_url, event_id)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:1/", "https://10.0.0.1/", "https://[::1]/", "https://localhost/"]
)
def test_private_addresses_are_not_reached(sqlite_url: str, target: str) -> None:
    """A URL that was accepted once, or got into the table somehow, is checked again."""
    event_id = owe(sqlite_url, target)
    run_batch(sqlite_url, webhook_allow="")
    assert "callback URL refused" in failed_without_answer(sqlite_url, event_id)


def test_nothing_is_sent_without_a_secret(database_url: str) -> None:
    with Receiver() as receiver:
        event_id = owe(database_url, receiver.url)
        run_batch(database_url, webhook_secrets=())
    assert receiver.requests == []
    assert "WEBHOOK_SECRET" in failed_without_answer(database_url, event_id)


# --------------------------------------------------------------- at least once

ONE_BATCH = """
import sys
from reelwatch.jobs import delivery
from reelwatch.config.settings import load
delivery.deliver(load(), None)
"""


def test_a_worker_killed_before_the_answer_loses_nothing(database_url: str) -> None:
    """Not marked before the receiver answered; when the lease is over it comes again, same id."""
    environment = {
        "DATABASE_URL": database_url,
        "WEBHOOK_SECRET": NEW,
        "WEBHOOK_ALLOW": "127.0.0.1",
    }
    with Holding() as receiver:
        event_id = owe(database_url, receiver.url)
        with process([sys.executable, "-c", ONE_BATCH], environment) as child:
            eventually(lambda: receiver.requests or not child.running, 30, lambda: child.output)
            row = row_of(database_url, event_id)
            assert (row["state"], row["delivered_at"], row["attempts"]) == ("pending", None, 0)
            assert row["lease_token"]
            child.kill()
        assert run_batch(database_url) == 0  # nobody else's before the lease is over
        make_due(database_url, event_id)
        receiver.release.set()
        assert run_batch(database_url) == 1
    assert [request.headers["webhook-id"] for request in receiver.requests] == [event_id] * 2
    assert row_of(database_url, event_id)["state"] == "delivered"


def claim_one(url: str) -> Owed:
    with db.transaction(url) as session:
        (row,) = delivery.claim(session, 10, db.now(session))
    return row


def note(url: str, row: Owed, *, error: str | None) -> None:
    """Write down an attempt at a claimed event, as a batch does."""
    courier = delivery._Courier(options(url), refuse_callbacks)
    outcome = Outcome(None if error else 200, error)
    courier.record([delivery.Done(row, datetime.now(UTC), 5, outcome)])


@pytest.mark.parametrize("error", [None, "too late"])
def test_a_result_after_the_lease_decides_nothing(database_url: str, error: str | None) -> None:
    """It is recorded, since the attempt was made; but the event is somebody else's by now."""
    event_id = owe(database_url)
    first = claim_one(database_url)
    make_due(database_url, event_id)
    second = claim_one(database_url)
    assert first.lease_token != second.lease_token
    claimed = row_of(database_url, event_id)

    note(database_url, first, error=error)
    row = row_of(database_url, event_id)
    assert (row["state"], row["failures"], row["attempts"]) == ("pending", 0, 1)
    assert row["lease_token"] == second.lease_token
    assert row["next_attempt_at"] == claimed["next_attempt_at"]

    note(database_url, second, error=None)
    note(database_url, first, error="late again")
    row = row_of(database_url, event_id)
    assert (row["state"], row["failures"], row["attempts"]) == ("delivered", 0, 3)
    assert len(attempts_of(database_url, event_id)) == 3


def test_the_lease_outlasts_the_timeout(sqlite_url: str) -> None:
    """However long the receiver may take, nobody else begins meanwhile."""
    with Holding() as receiver:
        event_id = owe(sqlite_url, receiver.url)
        now = datetime.now(UTC)
        worker = threading.Thread(
            target=run_batch, args=(sqlite_url,), kwargs={"webhook_timeout": 120}, daemon=True
        )
        worker.start()
        eventually(lambda: receiver.requests)
        assert row_of(sqlite_url, event_id)["next_attempt_at"] >= now + timedelta(seconds=150)
        receiver.release.set()
        worker.join(30)
    assert row_of(sqlite_url, event_id)["state"] == "delivered"


def test_a_lease_and_a_batch_outlast_the_longest_attempt() -> None:
    """An attempt that is cut off by its batch's end would be made again and again, unrecorded."""
    longest = parse_webhook_timeout("120s")
    with pytest.raises(ValueError, match="at most 120s"):
        parse_webhook_timeout("120.1s")
    assert delivery.lease_for(longest).total_seconds() >= longest + delivery.LEASE_MARGIN
    assert delivery.BATCH_SECONDS + longest + delivery.LEASE_MARGIN < tasks.BATCH_LIMIT


NOT_TO_BE_WRITTEN = {
    "sqlite": [
        """CREATE TRIGGER poisoned BEFORE INSERT ON attempts
           WHEN new.response_excerpt LIKE '%poison%'
           BEGIN SELECT RAISE(ABORT, 'not this one'); END"""
    ],
    "postgresql": [
        "ALTER TABLE attempts ADD CHECK (response_excerpt NOT LIKE '%poison%')",
    ],
}


def test_one_outcome_that_cannot_be_written_takes_no_other_along(
    database_url: str, logged: Lines
) -> None:
    """It is counted without what was said: an attempt that is never counted is made for ever."""
    with db.engine(database_url).begin() as connection:
        for statement in NOT_TO_BE_WRITTEN[connection.dialect.name]:
            connection.execute(text(statement))
    with Receiver() as well, Receiver(says(500, {}, b"poison")) as odd:
        owed = [owe(database_url, well.url) for _ in range(6)]
        poisoned = owe(database_url, odd.url)
        assert run_batch(database_url) == 7
        assert len(well.requests) == 6
    assert {row_of(database_url, i)["state"] for i in owed} == {"delivered"}
    row = row_of(database_url, poisoned)
    assert (row["state"], row["attempts"], row["lease_token"]) == ("pending", 1, None)
    (attempt,) = attempts_of(database_url, poisoned)
    assert (attempt.http_status, attempt.error) == (500, "what went wrong can't be written down")
    assert [line["delivery"] for line in logged.named("attempt_not_written")] == [poisoned]


def test_an_attempt_at_an_event_that_is_gone_takes_no_other_along(database_url: str) -> None:
    """Its job was pruned meanwhile, say."""
    gone, well = owe(database_url), owe(database_url)
    with db.transaction(database_url) as session:
        rows = delivery.claim(session, 10, db.now(session))
        session.execute(delete(Delivery).where(Delivery.id == gone))
    courier = delivery._Courier(options(database_url), refuse_callbacks)
    at = datetime.now(UTC)
    courier.record([delivery.Done(row, at, 5, Outcome(200)) for row in rows])
    assert row_of(database_url, well)["state"] == "delivered"
    assert len(attempts_of(database_url, well)) == 1


def test_claims_at_once_never_share_an_event(database_url: str) -> None:
    targets = [f"https://h{number}.example.com/" for number in range(12)]
    ids = {owe(database_url, target) for target in targets for _ in range(4)}
    taken: list[Owed] = []

    def claim() -> None:
        with db.transaction(database_url) as session:
            taken.extend(delivery.claim(session, 5, db.now(session)))

    for _ in range(5):
        workers = [threading.Thread(target=claim) for _ in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    while len(taken) < len(ids):
        before = len(taken)
        claim()
        assert len(taken) > before
    assert sorted(row.id for row in taken) == sorted(ids)


# ------------------------------------------------------------- many receivers


def test_a_hanging_receiver_holds_up_no_other(database_url: str) -> None:
    """Its calls under way are few, over all workers; the others' events arrive meanwhile."""
    with Holding() as slow, Receiver() as quick, Receiver() as brisk:
        owed = [owe(database_url, slow.url) for _ in range(30)]
        for _ in range(15):
            owe(database_url, quick.url)
            owe(database_url, brisk.url)
        workers = [threading.Thread(target=run_batch, args=(database_url,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        eventually(lambda: len(quick.requests) == len(brisk.requests) == 15, 60)
        eventually(lambda: slow.most_at_once == breaker.ALLOWANCE_MAX, 60)
        slow.release.set()
        for worker in workers:
            worker.join(60)
        run_batch(database_url)  # what the batches had no time for, on a busy machine
    assert slow.most_at_once == breaker.ALLOWANCE_MAX
    assert sorted(request.headers["webhook-id"] for request in slow.requests) == sorted(owed)


def standing(url: str, name: str) -> Endpoint:
    with db.reading(url) as session:
        return session.get_one(Endpoint, name)


def rest_is_over(url: str) -> None:
    with db.transaction(url) as session:
        session.execute(update(Endpoint).values(open_until=db.now(session)))


def test_a_receiver_that_fails_is_left_alone_and_nothing_is_spent(database_url: str) -> None:
    """Once its breaker is open no event goes to it, and none loses an attempt; others go on."""
    with Receiver(says(500)) as broken, Receiver() as well:
        ids = [owe(database_url, broken.url) for _ in range(breaker.FAILURES + 20)]
        for _ in range(5):
            run_batch(database_url)
        tried = len(broken.requests)
        assert breaker.FAILURES <= tried <= breaker.FAILURES + breaker.ALLOWANCE_MAX
        other = owe(database_url, well.url)
        run_batch(database_url)
        assert len(broken.requests) == tried
        assert row_of(database_url, other)["state"] == "delivered"
    untried = [i for i in ids if row_of(database_url, i)["attempts"] == 0]
    assert len(untried) == len(ids) - tried
    assert {row_of(database_url, i)["state"] for i in ids} == {"pending"}


def test_after_its_rest_the_event_that_failed_least_decides(database_url: str) -> None:
    """A failure makes it rest again, for longer; a success lets all go, paced."""
    statuses = [500] * breaker.FAILURES + [500] + [200] * 100
    with Receiver(lambda _request: says(statuses.pop(0))) as receiver:
        at = datetime(2026, 2, 6, tzinfo=UTC)
        retried = [owe(database_url, receiver.url, created_at=at) for _ in range(5)]
        run_batch(database_url)
        assert len(receiver.requests) == breaker.FAILURES
        fresh = [owe(database_url, receiver.url) for _ in range(9)]
        rest_is_over(database_url)
        make_events_due(database_url)
        run_batch(database_url)
        assert receiver.requests[-1].headers["webhook-id"] in fresh
        assert len(receiver.requests) == breaker.FAILURES + 1
        assert standing(database_url, receiver.url).openings == 2
        rest_is_over(database_url)
        make_events_due(database_url)
        run_batch(database_url)
        assert {row_of(database_url, i)["state"] for i in retried + fresh} == {"delivered"}
        with db.reading(database_url) as session:  # of one that is well nothing is kept
            assert session.scalars(select(Endpoint)).all() == []


def make_events_due(url: str) -> None:
    with db.transaction(url) as session:
        pending = update(Delivery).where(Delivery.state == "pending")
        session.execute(pending.values(next_attempt_at=db.now(session)))


def test_a_410_says_nothing_against_a_receiver(database_url: str) -> None:
    with Receiver(says(410)) as receiver:
        for _ in range(2 * breaker.FAILURES):
            owe(database_url, receiver.url)
        run_batch(database_url)
        assert len(receiver.requests) == 2 * breaker.FAILURES
        assert standing(database_url, receiver.url).failures == 0


def test_what_is_claimed_ahead_waits_for_one_of_the_eight_places_of_its_host(
    database_url: str,
) -> None:
    with Holding() as receiver:
        ids = [owe(database_url, receiver.url) for _ in range(3 * breaker.ALLOWANCE_MAX)]
        batch = threading.Thread(target=run_batch, args=[database_url])
        batch.start()
        eventually(lambda: leased(database_url) == len(ids), 30)
        eventually(lambda: len(receiver.requests) == breaker.ALLOWANCE_MAX, 30)
        receiver.release.set()
        batch.join(60)
    assert receiver.most_at_once == breaker.ALLOWANCE_MAX
    assert {row_of(database_url, each)["attempts"] for each in ids} == {1}
    assert {row_of(database_url, each)["state"] for each in ids} == {"delivered"}


def test_what_waits_behind_slow_calls_is_given_back_without_an_attempt(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has a place for it may have it; this batch claims no more than its places."""
    monkeypatch.setattr(delivery, "AHEAD_SECONDS", 0.2)
    with Holding() as receiver:
        ids = [owe(database_url, receiver.url) for _ in range(3 * breaker.ALLOWANCE_MAX)]
        batch = threading.Thread(target=run_batch, args=[database_url])
        batch.start()
        eventually(lambda: len(receiver.requests) == breaker.ALLOWANCE_MAX, 30)
        eventually(lambda: leased(database_url) == breaker.ALLOWANCE_MAX, 30)
        rows = [row_of(database_url, each) for each in ids]
        assert {(row["state"], row["attempts"]) for row in rows} == {("pending", 0)}
        receiver.release.set()
        batch.join(60)
    assert {row_of(database_url, each)["state"] for each in ids} == {"delivered"}


@pytest.mark.parametrize("failures", [0, 2])
def test_what_was_claimed_ahead_is_not_sent_to_an_endpoint_that_begins_to_fail(
    database_url: str, failures: int
) -> None:
    """Its breaker decides by the calls that were under way, and not by all that was claimed."""
    count = 4 * breaker.ALLOWANCE_MAX
    with Receiver(says(500)) as receiver:
        ids = [owe(database_url, receiver.url, failures=failures) for _ in range(count)]
        run_batch(database_url)
        assert standing(database_url, receiver.url).open_until
    assert breaker.FAILURES <= len(receiver.requests) <= 2 * breaker.ALLOWANCE_MAX
    rows = [row_of(database_url, each) for each in ids]
    assert sum(row["attempts"] for row in rows) == len(receiver.requests)
    assert {row["lease_token"] for row in rows} == {None}


def leased(url: str) -> int:
    with db.reading(url) as session:
        query = select(func.count()).where(deliveries.c.lease_token.is_not(None))
        return int(session.execute(query).scalar_one())


def test_a_new_host_gets_few_calls_at_first(database_url: str) -> None:
    """One that hangs must not bind all threads before anything is known of it."""
    for _ in range(10):
        owe(database_url)
    with db.transaction(database_url) as session:
        session.execute(delete(Destination))
        assert len(delivery.claim(session, 64, db.now(session))) == breaker.ALLOWANCE_FIRST
        assert delivery.claim(session, 64, db.now(session)) == []


def test_first_attempts_go_before_retries(database_url: str) -> None:
    """At one destination, and where a claim can't take all."""
    retries = [owe(database_url, failures=3) for _ in range(8)]
    fresh = [owe(database_url) for _ in range(8)]
    elsewhere = owe(database_url, "https://other.example.com/", failures=1)
    with db.transaction(database_url) as session:
        now = db.now(session)
        assert [row.id for row in delivery.claim(session, 5, now)] == fresh[:5]
        assert [row.id for row in delivery.claim(session, 64, now)] == [*fresh[5:], elsewhere]
        assert delivery.claim(session, 64, now) == []
        session.execute(delete(Delivery).where(Delivery.id.in_(fresh)))
        assert [row.id for row in delivery.claim(session, 64, now)] == retries


def test_an_events_order_is_that_of_its_sequence(database_url: str) -> None:
    """What was owed at one moment is begun in the order of the job's sequence."""
    at = datetime(2026, 2, 6, tzinfo=UTC)
    ids = [owe(database_url, sequence=number, created_at=at) for number in (3, 1, 2)]
    older = owe(database_url, sequence=9, created_at=at - timedelta(seconds=1))
    with db.transaction(database_url) as session:
        rows = delivery.claim(session, 64, db.now(session))
    assert [row.id for row in rows] == [older, ids[1], ids[2], ids[0]]


def test_due_says_whether_a_batch_is_worth_it(database_url: str) -> None:
    def due() -> bool:
        with db.reading(database_url) as session:
            return session.execute(delivery.owed(db.now(session))).all() != []

    assert not due()
    later = owe(database_url, next_attempt_at=datetime.now(UTC) + timedelta(hours=1))
    assert not due()
    make_due(database_url, later)
    assert due()
    claim_one(database_url)
    assert not due()


# ------------------------------------------------------------ Celery callbacks


@pytest.fixture
def sender(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """A Celery app like the worker's own, with a Redis of the test's."""
    monkeypatch.setenv("BROKER_URL", redis_url)
    app = Celery("reelwatch", set_as_current=False)
    app.add_defaults(configuration)
    monkeypatch.setattr(callbacks, "app", app)
    yield app
    app.close()


def next_message(broker: str, queue: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The headers and the keyword arguments of a producer's next message."""
    with (
        Celery("shop", broker=broker, set_as_current=False) as producer,
        producer.connection_for_read() as connection,
    ):
        inbox = connection.SimpleQueue(queue)
        message = inbox.get(timeout=20)
        message.ack()
        inbox.close()
    args, kwargs, _ = message.payload
    assert args == []
    return message.headers, kwargs


@pytest.mark.usefixtures("sender")
def test_a_callback_reaches_a_producers_queue(database_url: str, redis_url: str) -> None:
    """The same object as a webhook's body, as a task of the event's id."""
    event_id = owe_callback(database_url)
    assert run_batch(database_url, send_callback, broker_url=redis_url) == 1
    headers, kwargs = next_message(redis_url, "shop")
    row = row_of(database_url, event_id)
    assert (headers["task"], headers["id"]) == ("shop.on_video", event_id)
    assert kwargs == {"event": json.loads(row["body"])}
    assert row["state"] == "delivered"
    (attempt,) = attempts_of(database_url, event_id)
    assert (attempt.http_status, attempt.error) == (None, None)


@pytest.mark.usefixtures("sender")
def test_a_queue_may_have_an_at_sign(sqlite_url: str, redis_url: str) -> None:
    """As those have that Celery names after a worker's host."""
    event_id = owe_callback(sqlite_url, "shop.on_video@celery@host.dq2")
    run_batch(sqlite_url, send_callback, broker_url=redis_url)
    headers, _ = next_message(redis_url, "celery@host.dq2")
    assert (headers["task"], headers["id"]) == ("shop.on_video", event_id)


@pytest.mark.usefixtures("sender")
def test_a_callback_waits_for_the_broker(
    sqlite_url: str, redis_url: str, redis_server: RedisServer
) -> None:
    event_id = owe_callback(sqlite_url)
    redis_server.stop()
    run_batch(sqlite_url, send_callback, broker_url=redis_url)
    assert failed_without_answer(sqlite_url, event_id).startswith("broker: OperationalError: ")
    redis_server.start()
    make_due(sqlite_url, event_id)
    run_batch(sqlite_url, send_callback, broker_url=redis_url)
    assert row_of(sqlite_url, event_id)["state"] == "delivered"
    assert next_message(redis_url, "shop")[0]["id"] == event_id


def test_a_callback_into_our_own_memory_is_no_delivery(sqlite_url: str) -> None:
    """Nobody but this process would ever see it."""
    event_id = owe_callback(sqlite_url)
    run_batch(sqlite_url)
    assert "BROKER_URL" in failed_without_answer(sqlite_url, event_id)


def test_callbacks_are_not_bound_like_receivers(database_url: str) -> None:
    """The broker is ours and quick: one batch hands over many at once."""
    for _ in range(3 * breaker.ALLOWANCE_MAX):
        owe_callback(database_url)
    with db.transaction(database_url) as session:
        rows = delivery.claim(session, 64, db.now(session))
    assert len(rows) == 3 * breaker.ALLOWANCE_MAX


# ------------------------------------------------------------------ redelivery


def redeliver(url: str, *ids: str) -> list[str]:
    with db.transaction(url) as session:
        return redelivery.redeliver(session, db.now(session), ids)


def redeliver_those(url: str, **wanted: Any) -> list[str]:
    found = surveys.to_redeliver(url, EventFilter(**wanted))
    return sum(redelivery.redeliver_chosen(url, found.ids), start=list[str]())


def states(url: str) -> dict[str, str]:
    with db.reading(url) as session:
        return {row.id: row.state for row in session.execute(select(Delivery.id, Delivery.state))}


def owe_dead(url: str, **changes: Any) -> str:
    return owe(url, **changes, state="dead", next_attempt_at=None, failures=11, attempts=11)


def test_redeliver_sends_the_same_event_again(database_url: str) -> None:
    """Same id, same bytes; a whole new schedule of attempts, the old attempts kept."""
    seen: list[Received] = []
    with Listener([NEW], on_event=seen.append) as listener:
        event_id = owe(database_url, listener.url)
        run_batch(database_url)
        assert redeliver(database_url, event_id, event_id) == [event_id]
        row = row_of(database_url, event_id)
        assert (row["state"], row["attempts"], row["delivered_at"]) == ("pending", 1, None)
        run_batch(database_url)
    assert [event.id for event in seen] == [event_id] * 2
    assert seen[0].body == seen[1].body
    assert all(event.verified for event in seen)
    row = row_of(database_url, event_id)
    assert (row["state"], row["attempts"]) == ("delivered", 2)


def test_redelivering_the_dead_takes_up_those_alone(database_url: str) -> None:
    dead, fine = owe_dead(database_url), owe(database_url)
    before = row_of(database_url, fine)
    assert redeliver_those(database_url, state="dead") == [dead]
    row = row_of(database_url, dead)
    assert (row["state"], row["failures"], row["attempts"]) == ("pending", 0, 11)
    assert row_of(database_url, fine) == before
    assert redeliver_those(database_url, state="dead") == []


def test_redelivering_by_time_goes_from_since_to_before_until(database_url: str) -> None:
    """From `since` on, before `until`; together with the other conditions."""
    start = datetime(2026, 2, 6, tzinfo=UTC)
    hours = [start + timedelta(hours=hour) for hour in range(4)]
    ids = [owe_dead(database_url, created_at=at) for at in hours]
    assert redeliver_those(database_url, since=hours[1], until=hours[3]) == ids[1:3]
    assert redeliver_those(database_url, state="dead", since=hours[1]) == ids[3:]
    assert redeliver_those(database_url, until=hours[1]) == ids[:1]
    assert set(states(database_url).values()) == {"pending"}


def test_redeliver_takes_an_event_from_an_attempt_under_way(database_url: str) -> None:
    """Its result decides nothing any more: the event goes out once more, as asked."""
    event_id = owe(database_url)
    under_way = claim_one(database_url)
    redeliver(database_url, event_id)
    note(database_url, under_way, error=None)
    assert row_of(database_url, event_id)["state"] == "pending"


def test_redeliver_refuses_what_does_not_exist(database_url: str) -> None:
    """And then leaves the others alone too."""
    dead = owe_dead(database_url)
    with pytest.raises(Refused, match="no event evt_b, evt_c"):
        redeliver(database_url, dead, "evt_c", "evt_b")
    assert states(database_url) == {dead: "dead"}


def test_redeliver_passes_over_what_was_pruned_meanwhile(database_url: str) -> None:
    dead = owe_dead(database_url)
    assert list(redelivery.redeliver_chosen(database_url, [dead, "evt_gone"])) == [[dead]]


# --------------------------------------------------------------- canonical lines


def test_one_line_tells_each_attempt(sqlite_url: str, logged: Lines) -> None:
    """With the job, what happened and what follows."""
    answers = iter([says(500), says(410), says(204)])
    with Receiver(lambda _: next(answers)) as receiver:
        event_id = owe(sqlite_url, receiver.url)
        run_batch(sqlite_url)
        make_due(sqlite_url, event_id)
        run_batch(sqlite_url)
        redeliver(sqlite_url, event_id)
        run_batch(sqlite_url)
    again, dead, delivered = logged.named("attempt")
    row = row_of(sqlite_url, event_id)
    for number, line in enumerate((again, dead, delivered), 1):
        assert line["delivery"] == event_id
        assert line["job"] == row["job_id"]
        assert line["number"] == number
        assert line["destination"] == row["destination"]
        assert line["duration_ms"] >= 0
    assert (again["level"], again["http_status"]) == ("warning", 500)
    assert again["decision"].startswith("try again at 20")
    assert (dead["level"], dead["decision"]) == ("warning", "dead")
    assert (delivered["level"], delivered["decision"]) == ("info", "delivered")
    assert "error" not in delivered
