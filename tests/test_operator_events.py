"""What the operator is told: once an incident, signed like all events, and never about himself."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from reelwatch.config import settings
from reelwatch.errors import SettingsError
from reelwatch.jobs import delivery, pausing, polling, pruning, watching
from reelwatch.rules.metrics import POLL_ERRORS, POLLS, Tally
from reelwatch.rules.notices import Notice, NoticeType
from reelwatch.rules.wording import short_name
from reelwatch.sandbox.answers import Answer, json_answer
from reelwatch.sandbox.listener import Listener
from reelwatch.sandbox.server import LocalService, Request
from reelwatch.storage import counters, db, incidents
from reelwatch.storage.models import Account, Delivery, Endpoint, Job
from tests import seeding
from tests.commands import done
from tests.counted import wrong_counts
from tests.environment import SECRET, set_variables
from tests.servers import eventually
from tests.web import served

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)


@dataclass
class Upstream(LocalService):
    """Says the same to every poll."""

    status: int = 200
    said: dict[str, Any] = field(default_factory=lambda: {"status": "processing", "id": "x"})

    def __post_init__(self) -> None:
        super().__init__()

    def respond(self, request: Request) -> Answer:
        said = (
            {**self.said, "id": request.path.rpartition("/")[2]} if "id" in self.said else self.said
        )
        return json_answer(self.status, said)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def operator() -> Iterator[Listener]:
    with Listener([SECRET]).start() as running:
        yield running


@pytest.fixture
def told(
    url: str, operator: Listener, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> Listener:
    set_variables(
        monkeypatch, REELWATCH_OPERATOR_URL=f"{operator.url}/operator", WEBHOOK_ALLOW="127.0.0.1",
        QUICKROUTER_BASE_URL=upstream.url, REELWATCH_REQUESTS_PER_SECOND="1000",
        REELWATCH_RETRY_SCHEDULE="1ms",
    )  # fmt: skip
    with db.transaction(url) as session:
        seeding.add_account(session, requests_per_second=1_000.0)
    return operator


def no_task(*_: object) -> None:
    raise AssertionError("nobody asked for a callback")


def deliver() -> None:
    delivery.deliver(settings.current(), no_task)


def poll(url: str, jobs: int = 1) -> None:
    with db.transaction(url) as session:
        for _ in range(jobs):
            seeding.add_job(session, deadline_at=seeding.at(hours=-1))
    polling.poll(settings.current(), "default")


def poll_again(url: str) -> None:
    with db.transaction(url) as session:
        session.execute(update(Job).values(next_poll_at=db.now(session)))
        held = {"paused_until": seeding.at(seconds=1)}
        session.execute(update(Account).where(Account.pause_reason.is_not(None)).values(held))
    polling.poll(settings.current(), "default")


def poll_until_told(url: str, count: int) -> None:
    """A poll that is late for its slot is not sent: on a busy machine one batch may bring none."""

    def told() -> bool:
        poll_again(url)
        return len(types(url)) >= count

    eventually(told)


def owed(url: str) -> list[dict[str, Any]]:
    """The operator's events, in the order in which they were written."""
    with db.reading(url) as session:
        query = select(Delivery.body).where(Delivery.job_id.is_(None)).order_by(Delivery.id)
        return [json.loads(body) for body in session.scalars(query)]


def types(url: str) -> list[str]:
    return [event["type"] for event in owed(url)]


def test_an_account_that_is_refused_is_told_once_and_so_is_its_return(
    url: str, told: Listener, upstream: Upstream
) -> None:
    upstream.status, upstream.said = 401, {"error": {"message": "invalid token"}}
    poll(url, jobs=8)
    poll_until_told(url, 1)
    poll_again(url)
    assert types(url) == ["account.paused"]
    [event] = owed(url)
    assert event["data"]["account"] == "default"
    assert "invalid token" in event["data"]["reason"]
    upstream.status, upstream.said = 200, {"status": "processing", "id": "x"}
    poll_until_told(url, 2)
    assert types(url) == ["account.paused", "account.resumed"]
    deliver()
    assert sorted(each.type for each in told.events) == ["account.paused", "account.resumed"]
    assert all(each.verified for each in told.events)
    with db.reading(url) as session:
        assert list(wrong_counts(lambda query: session.execute(text(query)).all())) == []


def test_hands_on_an_account_are_told_too(url: str, told: Listener) -> None:
    pausing.pause_account("default", "maintenance")
    pausing.pause_account("default", "more maintenance")
    pausing.resume_account("default")
    pausing.resume_account("default")
    assert [(each["type"], each["data"]["reason"]) for each in owed(url)] == [
        ("account.paused", "by hand: maintenance"),
        ("account.resumed", "by hand: more maintenance"),
    ]


def broken_receiver(status: int = 500) -> Listener:
    return Listener([SECRET], answer=lambda _event: status)


def owe(url: str, target: str, count: int) -> None:
    with db.transaction(url) as session:
        for _ in range(count):
            body = json.dumps(
                {"type": "video.completed", "data": {"video_id": "a", "account": "default"}}
            )
            seeding.add_owed(session, target, body=body, failures=1)


def deliver_until_open(url: str) -> None:
    for _ in range(10):
        with db.transaction(url) as session:
            session.execute(
                update(Delivery)
                .where(Delivery.state == "pending")
                .values(next_attempt_at=db.now(session))
            )
        deliver()
        with db.reading(url) as session:
            if session.scalars(select(Endpoint.open_until)).first():
                return


def test_an_endpoint_that_fails_is_told_once_and_when_it_works_again(
    url: str, told: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, REELWATCH_RETRY_SCHEDULE=",".join(["1ms"] * 20))
    answer = [500]
    with Listener([SECRET], answer=lambda _event: answer[0]).start() as receiver:
        owe(url, f"{receiver.url}/hook?token=very-secret", 6)
        deliver_until_open(url)
        assert types(url) == ["endpoint.failing"]
        assert "very-secret" not in json.dumps(owed(url))
        hook = f"{receiver.url}/hook"
        assert owed(url)[0]["data"]["endpoint"] == hook
        assert owed(url)[0]["data"]["name"] == short_name(f"{hook}?token=very-secret")
        assert owed(url)[0]["data"]["name"] != short_name(f"{hook}?token=another")
        answer[0] = 200
        with db.transaction(url) as session:
            past = seeding.at(seconds=1)
            session.execute(update(Endpoint).values(open_until=past))
            session.execute(
                update(Delivery).where(Delivery.state == "pending").values(next_attempt_at=past)
            )
        deliver()
    assert types(url) == ["endpoint.failing", "endpoint.recovered"]


def test_events_that_are_given_up_are_told_once_for_their_endpoint(
    url: str, told: Listener
) -> None:
    with broken_receiver(410).start() as receiver:
        owe(url, f"{receiver.url}/hook", 3)
        deliver()
        dead = [each["data"] for each in owed(url) if each["type"] == "delivery.dead"]
        assert [each["endpoint"] for each in dead] == [f"{receiver.url}/hook"]
    assert dead[0]["event_type"] == "video.completed"


def states(url: str) -> set[str]:
    with db.reading(url) as session:
        return set(session.scalars(select(Delivery.state)))


def test_the_operators_own_endpoint_raises_nothing_about_itself(
    url: str, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broken_receiver().start() as operator:
        set_variables(
            monkeypatch, REELWATCH_OPERATOR_URL=f"{operator.url}/", WEBHOOK_ALLOW="127.0.0.1",
            REELWATCH_RETRY_SCHEDULE="1ms",
        )  # fmt: skip
        with db.transaction(url) as session:
            for number in range(8):
                notice = Notice(NoticeType.UPSTREAM_CHANGED, {"what": str(number)})
                incidents.tell(session, notice, db.now(session))
        opened = 0
        while "dead" not in states(url):
            deliver_until_open(url)
            with db.transaction(url) as session:
                rested = session.execute(update(Endpoint).values(open_until=seeding.at(seconds=1)))
                opened += rested.rowcount  # type: ignore[attr-defined]
        assert opened
    assert types(url) == ["upstream.changed"] * 8


def test_a_status_that_nobody_knows_is_told_once_however_many_jobs_have_it(
    url: str, told: Listener, upstream: Upstream
) -> None:
    upstream.said = {"status": "dreaming", "id": "x"}
    poll(url, jobs=3)
    poll_until_told(url, 1)
    poll_again(url)
    assert [each["data"]["what"] for each in owed(url)] == ["status 'dreaming'"]
    upstream.said = {"status": "processing", "id": "x"}
    poll_again(url)
    upstream.said = {"hello": "world"}
    poll_until_told(url, 2)
    assert types(url) == ["upstream.changed"] * 2


def test_without_an_operator_nothing_is_owed(url: str, upstream: Upstream) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session)
    pausing.pause_account("default")
    assert owed(url) == []


def test_of_all_who_notice_it_at_once_one_tells_it(pg: str) -> None:
    began: list[bool] = []
    together = threading.Barrier(4)

    def notice() -> None:
        together.wait()
        with db.transaction(pg) as session:
            began.append(incidents.begin(session, "upstream.changed", "x", NOW))

    threads = [threading.Thread(target=notice) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(began) == [False, False, False, True]


def test_an_incident_can_begin_again_once_it_is_over(url: str) -> None:
    hour = timedelta(hours=1)
    with db.transaction(url) as session:
        assert incidents.begin(session, "k", "s", NOW)
        assert not incidents.begin(session, "k", "s", NOW + hour)
        assert incidents.end(session, "k", "s")
        assert not incidents.end(session, "k", "s")
        assert incidents.begin(session, "k", "s", NOW + hour)
        assert not incidents.begin(session, "k", "s", NOW + 1.5 * hour, again=hour)
        assert incidents.begin(session, "k", "s", NOW + 2 * hour, again=hour)


# ------------------------------------------------------------------ the whole


def polled(url: str, polls: int, failed: int = 0) -> None:
    tally = Tally()
    tally.count(POLLS, "default", by=polls)
    tally.count(POLL_ERRORS, "default", "server_error", by=failed)
    with db.transaction(url) as session:
        counters.add(session, tally)


def watch(at: float, *, ticking: bool = True) -> None:
    watching.watch(settings.current(), ticking=ticking, now=NOW + timedelta(seconds=at))


def open_jobs(url: str, count: int, *, failing: int) -> None:
    """Jobs that are polled; the last poll of some has failed."""
    with db.transaction(url) as session:
        for at in range(count):
            fails: seeding.Row = {
                "errors_in_row": 3,
                "errors_since": NOW,
                "last_error": "server_error",
            }
            seeding.add_job(session, next_poll_at=NOW, **(fails if at < failing else {}))


def fails_for(url: str, seconds: int) -> list[str]:
    """What is told while all polls fail for so long."""
    for at in range(0, seconds, 40):
        watch(at)
        polled(url, 10, failed=10)
    return types(url)


@pytest.mark.parametrize(
    ("count", "failing", "told_of"),
    [(1, 1, True), (4, 1, False), (2, 2, True), (4, 2, True), (2, 0, False)],
)
def test_one_odd_job_beside_others_is_no_outage(
    url: str, told: Listener, count: int, failing: int, told_of: bool
) -> None:
    open_jobs(url, count, failing=failing)
    assert fails_for(url, 200) == ["upstream.outage"] * told_of


@pytest.mark.parametrize(
    ("state", "after", "told_of"),
    [
        ("completed", 5, False),
        ("failed", 5, False),
        ("cancelled", 5, True),
        ("completed", -5, True),
    ],
)
def test_one_that_fails_while_others_end_is_no_outage(
    url: str, told: Listener, state: str, after: float, told_of: bool
) -> None:
    open_jobs(url, 1, failing=1)
    with db.transaction(url) as session:
        seeding.add_job(session, state=state, finished_at=NOW + timedelta(seconds=after))
    assert fails_for(url, 200) == ["upstream.outage"] * told_of


def test_an_outage_is_over_when_only_one_job_still_fails(url: str, told: Listener) -> None:
    open_jobs(url, 3, failing=3)
    assert fails_for(url, 120) == ["upstream.outage"]
    with db.transaction(url) as session:
        well = {"errors_in_row": 0, "errors_since": None, "last_error": None}
        spared = select(func.min(Job.id)).scalar_subquery()
        session.execute(update(Job).where(Job.id != spared).values(**well))
    watch(200)
    assert types(url) == ["upstream.outage", "upstream.recovered"]


def test_an_outage_is_told_when_it_lasts_and_when_it_is_over(url: str, told: Listener) -> None:
    open_jobs(url, 2, failing=2)
    watch(0)
    polled(url, 40)
    watch(20)
    polled(url, 40, failed=40)
    watch(40)  # the readings are 20 s apart: a hiccup
    polled(url, 40, failed=40)
    watch(70)
    polled(url, 40, failed=40)
    watch(110)
    assert types(url) == ["upstream.outage"]
    assert owed(url)[0]["data"] == {"account": "default", "polls": 80, "failed": 80}
    polled(url, 40, failed=30)
    watch(150)
    polled(url, 40, failed=4)
    watch(190)
    polled(url, 40)
    watch(230)
    assert types(url) == ["upstream.outage", "upstream.recovered"]


def test_errors_of_some_polls_are_no_outage(url: str, told: Listener) -> None:
    for at in range(0, 400, 40):
        polled(url, 10, failed=8)
        watch(at)
    assert types(url) == []


def test_a_budget_that_is_short_for_long_is_told_once(url: str, told: Listener) -> None:
    def price(value: float) -> None:
        with db.transaction(url) as session:
            session.execute(update(Account).values(look_price=value))

    with db.transaction(url) as session:
        for _ in range(3):
            seeding.add_job(session, next_poll_at=NOW)
    price(2.0)
    for at in (0, 100, 200):
        watch(at)
    price(0.0)
    watch(240)
    price(2.0)
    for at in (260, 400, 550):  # anew since 260
        watch(at)
    assert types(url) == []
    for at in (580, 900):
        watch(at)
    assert types(url) == ["budget.short"]
    assert owed(url)[0]["data"] == {
        "account": "default", "requests_per_second": 1_000.0, "due_jobs": 3,
        "oldest_due_seconds": 580.0,
    }  # fmt: skip


class Pinged(LocalService):
    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def respond(self, request: Request) -> Answer:
        assert (request.method, request.path) == ("GET", "/ping/uuid")
        self.times += 1
        return Answer(200, {}, b"")


def test_the_ping_comes_once_a_minute_while_ticks_and_polls_go_on(
    url: str, told: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pinged() as pinged:
        set_variables(monkeypatch, REELWATCH_PING_URL=f"{pinged.url}/ping/uuid")
        for at in range(0, 130, 20):
            watch(at)
        assert pinged.times == 3  # at 0, 60 and 120: nothing was due
        with db.transaction(url) as session:
            seeding.add_job(session, next_poll_at=NOW)
        watch(180)
        assert pinged.times == 3  # a job has been due for three minutes, and nobody polled
        polled(url, 1)
        watch(200)
        assert pinged.times == 4
        polled(url, 1)
        watch(280, ticking=False)
        assert pinged.times == 4


def test_a_ping_that_fails_harms_nobody(
    url: str, told: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, REELWATCH_PING_URL="http://127.0.0.1:9/")
    watch(0)


# ------------------------------------------------------------------ among the others


def test_they_are_listed_redelivered_and_pruned_like_all_others(
    url: str, told: Listener, commands: pytest.MonkeyPatch
) -> None:
    pausing.pause_account("default")
    deliver()
    [listed] = json.loads(done("deliveries", "--json"))
    assert (listed["event_type"], listed["state"]) == ("account.paused", "delivered")
    assert listed["video_id"] is None
    assert "account.paused" in done("deliveries")
    with served() as web:
        [shown] = web.get("/api/v1/deliveries").json()["deliveries"]
    assert (shown["id"], shown["job_id"], shown["account"]) == (listed["id"], None, None)
    done("redeliver", listed["id"])
    deliver()
    assert told.seen == {listed["id"]: 2}
    list(pruning.prune(url, datetime.now(UTC) + timedelta(seconds=5)))
    assert owed(url) == []


def test_workers_that_do_not_know_all_accounts_send_them(url: str, told: Listener) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session, "somebody-elses")
    pausing.pause_account("default")
    deliver()
    assert [each.type for each in told.events] == ["account.paused"]


def test_what_they_need_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch, lite: str) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET")
    set_variables(monkeypatch, REELWATCH_OPERATOR_URL="https://ops.example.com/hook")
    assert any("REELWATCH_OPERATOR_URL" in each for each in settings.missing(settings.current()))
    for name in ("REELWATCH_OPERATOR_URL", "REELWATCH_PING_URL"):
        set_variables(monkeypatch, **{name: "http://10.0.0.1/"})
        with pytest.raises(SettingsError, match=name):
            settings.current()
        monkeypatch.delenv(name)
