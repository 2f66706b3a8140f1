"""Taking in: what is accepted, what is refused, and that one id is one job."""

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import create_engine, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.errors import NotConfigured, Refused, SettingsError, UnknownJob
from reelwatch.jobs import claiming, orders, tracking, updating
from reelwatch.storage import db, due_jobs
from reelwatch.storage.models import Account, Delivery, Job, Transition
from tests.environment import set_variables
from tests.seeding import jobs_in
from tests.servers import process

HOOK = "https://hooks.example.com/reelwatch"
ID = "veo3.1-fast:1770350082-trii1OXZc3"
HOUR = timedelta(hours=1)


def number_of_jobs(url: str) -> int:
    with db.reading(url) as session:
        return session.execute(select(func.count(Job.id))).scalar_one()


# -------------------------------------------------------------------- accepted


def test_a_tracked_id_is_a_job_that_is_due(url: str) -> None:
    before = datetime.now(UTC)
    job = tracking.track(ID)
    after = datetime.now(UTC)
    assert job.created
    (stored,) = jobs_in(url)
    assert stored.id == job.id
    assert (stored.account, stored.video_id, stored.model) == ("default", ID, "veo3.1-fast")
    assert (stored.state, stored.sequence, stored.polls) == ("pending", 0, 0)
    assert before <= stored.tracked_at <= after
    assert stored.next_poll_at == stored.tracked_at
    assert stored.deadline_at == stored.tracked_at + HOUR
    assert (stored.webhook_url, stored.callback_task, stored.callback_queue) == (None, None, None)
    assert stored.metadata_ == {}
    assert stored.events == ["completed", "failed", "expired"]


def test_everything_that_is_said_is_kept(url: str) -> None:
    tracking.track(
        ID, webhook_url=HOOK, callback_task="shop.on_video", callback_queue="shop@1",
        metadata={"order": 7, "title": "Grüße 🎬", "nested": {"a": [None, 1.5, True]}},
        deadline="45m", events=["failed", "status_changed", "failed"],
    )  # fmt: skip
    (job,) = jobs_in(url)
    assert job.webhook_url == HOOK
    assert (job.callback_task, job.callback_queue) == ("shop.on_video", "shop@1")
    assert job.metadata_ == {
        "order": 7, "title": "Grüße 🎬", "nested": {"a": [None, 1.5, True]}
    }  # fmt: skip
    assert job.deadline_at - job.tracked_at == timedelta(minutes=45)
    assert job.events == ["failed", "status_changed"]


@pytest.mark.parametrize(
    ("given", "kept", "model"),
    [
        (f"  {ID} ", ID, "veo3.1-fast"),
        ("x", "x", None),
        (":x", ":x", None),
        ("a" * 200, "a" * 200, None),
        ("видео-1", "видео-1", None),
    ],
)
def test_an_id_is_kept_as_it_came_and_its_model_is_read_from_it(
    lite: str, given: str, kept: str, model: str | None
) -> None:
    tracking.track(given)
    assert [(job.video_id, job.model) for job in jobs_in(lite)] == [(kept, model)]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("90", 90), ("500ms", 0.5), (30, 30), (2.5, 2.5), (timedelta(minutes=3), 180),
        ("30d", 2_592_000), (None, 3_600),
    ],
)  # fmt: skip
def test_a_deadline_is_as_long_as_was_asked_for(lite: str, given: Any, seconds: float) -> None:
    tracking.track(ID, deadline=given)
    (job,) = jobs_in(lite)
    assert job.deadline_at - job.tracked_at == timedelta(seconds=seconds)


def test_metadata_may_be_any_mapping(lite: str) -> None:
    """Keys become texts as in JSON; what databases refuse in texts is left out."""
    metadata: Mapping[Any, str] = MappingProxyType({1: "a\x00b\ud800c"})
    tracking.track(ID, metadata=metadata)
    assert jobs_in(lite)[0].metadata_ == {"1": "ab?c"}


def test_metadata_of_just_the_limit(url: str) -> None:
    """It is counted in bytes as JSON."""
    room = orders.METADATA_LIMIT - len('{"a": ""}')
    tracking.track("fits", metadata={"a": "ä" * (room // 2)})
    assert len(jobs_in(url)[0].metadata_["a"]) == room // 2


def test_no_events_is_a_choice(lite: str) -> None:
    tracking.track(ID, events=())
    assert jobs_in(lite)[0].events == []


# --------------------------------------------------------------------- refused

DEEP: dict[str, Any] = {}
for _ in range(2_000):
    DEEP = {"a": DEEP}
LOOP: dict[str, Any] = {}
LOOP["self"] = LOOP

REFUSALS: list[tuple[Any, Mapping[str, Any], str]] = [
    ("", {}, "video id: it is empty"),
    ("   ", {}, "video id: it is empty"),
    ("a" * 201, {}, "video id: 201 characters, at most 200 are accepted"),
    ("a\x00b", {}, "video id: it holds the control character U+0000"),
    ("a\nb", {}, "video id: it holds the control character U+000A"),
    ("a\x7f", {}, "video id: it holds the control character U+007F"),
    ("a\u200b", {}, "video id: it holds the invisible character U+200B"),
    ("a\ud800", {}, "video id: it holds the half character U+D800"),
    ("a\u202eb", {}, "video id: it holds the invisible character U+202E"),
    ("a\ue000", {}, "video id: it holds the private character U+E000"),
    (None, {}, "video id: None is not a text"),
    (7, {}, "video id: 7 is not a text"),
    (b"a", {}, "video id: b'a' is not a text"),
    (ID, {"webhook_url": ""}, "callback URL refused: it does not begin with https://"),
    (ID, {"webhook_url": "hooks.example.com"}, "callback URL refused: it does not begin with"),
    (ID, {"webhook_url": "http://hooks.example.com/"}, "callback URL refused: it is not https"),
    (ID, {"webhook_url": "https://10.0.0.1/"}, "callback URL refused: 10.0.0.1 is not a public"),
    (ID, {"webhook_url": "https://localhost/"}, "callback URL refused: localhost is not the full"),
    (ID, {"webhook_url": "https://u:p@h.example.com/"}, "callback URL refused: it holds a user"),
    (ID, {"webhook_url": "https://h.example.com:22/"}, "callback URL refused: port 22"),
    (ID, {"webhook_url": HOOK + "/" + "a" * 2_000}, "callback URL refused: it is longer than"),
    (ID, {"webhook_url": HOOK + "\n"}, "callback URL refused: it holds a space or control"),
    (ID, {"webhook_url": 7}, "webhook_url: 7 is not a text"),
    (ID, {"account": "nobody"}, "account: 'nobody' is not configured; known: default"),
    (ID, {"account": ""}, "account: '' is no name"),
    (ID, {"account": "a b"}, "account: 'a b' is no name"),
    (ID, {"account": "a" * 65}, "is no name"),
    (ID, {"account": None}, "account: None is no name"),
    (ID, {"metadata": []}, "metadata: a JSON object is accepted, not list"),
    (ID, {"metadata": "{}"}, "metadata: a JSON object is accepted, not str"),
    (ID, {"metadata": {"a": float("nan")}}, "metadata: not JSON"),
    (ID, {"metadata": {"a": float("inf")}}, "metadata: not JSON"),
    (ID, {"metadata": {"a": {1, 2}}}, "metadata: not JSON: Object of type set"),
    (ID, {"metadata": {("a",): 1}}, "metadata: not JSON: keys must be"),
    (ID, {"metadata": LOOP}, "metadata: not JSON: Circular reference"),
    (ID, {"metadata": DEEP}, "metadata: not JSON"),
    (ID, {"metadata": {"a": "b" * 16_384}}, "metadata: 16393 bytes as JSON, at most 16384"),
    (ID, {"metadata": {"a": "ä" * 8_192}}, "metadata: 16393 bytes as JSON, at most 16384"),
    (ID, {"deadline": "soon"}, "deadline: 'soon'; accepted: 500ms, 45s, 10m, 2h, 7d, or a number"),
    (ID, {"deadline": ""}, "deadline: ''; accepted"),
    (ID, {"deadline": "\u0663m"}, "deadline: '\u0663m'; accepted"),
    (ID, {"deadline": True}, "deadline: True; accepted"),
    (ID, {"deadline": [5]}, "deadline: [5]; accepted"),
    (ID, {"deadline": 0}, "deadline: 0; accepted: more than 0, at most 30d"),
    (ID, {"deadline": -5}, "deadline: -5; accepted"),
    (ID, {"deadline": "9999d"}, "or a number of seconds; more than 0, at most 30d"),
    (ID, {"deadline": "31d"}, "deadline: '31d'; accepted: more than 0, at most 30d"),
    (ID, {"deadline": "9" * 400}, "accepted"),
    (ID, {"deadline": float("nan")}, "deadline: nan; accepted"),
    (ID, {"deadline": timedelta(0)}, "accepted: more than 0, at most 30d"),
    (ID, {"deadline": timedelta(days=31)}, "accepted: more than 0, at most 30d"),
    (ID, {"events": ["done"]}, "events: 'done' is not one of completed, failed, expired, status_"),
    (ID, {"events": ["video.completed"]}, "events: 'video.completed' is not one of"),
    (ID, {"events": "completed"}, "events: a list is accepted, not 'completed'"),
    (ID, {"events": 7}, "events: a list is accepted, not 7"),
    (ID, {"events": [5]}, "events: 5 is not one of"),
    (ID, {"events": [{}]}, "events: {} is not one of"),
    (ID, {"callback_task": ""}, "callback_task: ''; accepted: 1 to 255 characters"),
    (ID, {"callback_task": "a" * 256}, "accepted: 1 to 255 characters"),
    (ID, {"callback_task": 7}, "callback_task: 7; accepted"),
    (ID, {"callback_task": "a\x00"}, "callback_task: it holds the control character U+0000"),
    (ID, {"callback_task": "a@b"}, "callback_task: 'a@b' holds an '@'"),
    (ID, {"callback_task": "a", "callback_queue": ""}, "callback_queue: ''; accepted"),
    (ID, {"callback_task": "a", "callback_queue": "b\n"}, "callback_queue: it holds the control"),
    (ID, {"callback_queue": "q"}, "callback_queue: it is given without a callback_task"),
    (ID, {"channels": ["stream"]}, "channels: an object is accepted, not list"),
    (ID, {"channels": {"pigeon": "x"}}, "channels: 'pigeon' is no channel; accepted: stream"),
    (ID, {"channels": {7: "x"}}, "channels: 7 is no channel"),
    (ID, {"channels": {"stream": 7}}, "channels: stream: 7 is not a text"),
    (ID, {"channels": {"stream": ""}}, "channels: stream: '' is no name of a stream"),
    (ID, {"channels": {"stream": "a b"}}, "channels: stream: 'a b' is no name of a stream"),
    (ID, {"channels": {"stream": "a@b"}}, "channels: stream: 'a@b' is no name of a stream"),
    (ID, {"channels": {"webhook": HOOK}}, "channels: webhook: webhook_url names it"),
    (ID, {"channels": {"celery": "a"}}, "channels: celery: callback_task names it"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("video_ids", "shown"),
    [
        ("abc123", "the text 'abc123'"),
        (b"abc", "b'abc'"),
        (bytearray(b"abc"), "bytearray(b'abc')"),
        ({"abc": 1}, "{'abc': 1}"),
        (7, "7"),
        (None, "None"),
        ("a" * 300, f"the text '{'a' * 199}…"),
    ],
)
@pytest.mark.parametrize(
    "act",
    [
        tracking.track_many,
        tracking.cancel_many,
        tracking.recheck_many,
        partial(updating.update_many, deadline=60),
    ],
)
def test_one_text_in_place_of_a_list_is_refused_and_not_taken_apart(
    lite: str, act: Callable[[Any], object], video_ids: Any, shown: str
) -> None:
    tracking.track_many(list("abc"))
    with pytest.raises(Refused) as caught:
        act(video_ids)
    assert str(caught.value) == f"video_ids: a list of ids is accepted, not {shown}"
    jobs = jobs_in(lite)
    assert [(job.video_id, job.state) for job in jobs] == [(each, "pending") for each in "abc"]


def test_ids_may_come_from_anything_that_has_several(lite: str) -> None:
    tracking.track_many(each for each in "abc")
    assert len(tracking.cancel_many({"a": 1, "b": 2}.keys())) == 2


@pytest.mark.parametrize(("video_id", "options", "reason"), REFUSALS)
def test_what_is_refused_is_told_and_nothing_is_stored(
    lite: str, video_id: Any, options: Mapping[str, Any], reason: str
) -> None:
    """Each says what and why, and nothing is stored; not the good ids of the same call either."""
    with pytest.raises(Refused) as caught:
        tracking.track(video_id, **options)
    assert reason in str(caught.value)
    with pytest.raises(Refused):
        tracking.track_many(["good", video_id], **options)
    assert jobs_in(lite) == []


def test_no_depth_of_metadata_is_too_much_for_us(lite: str) -> None:
    """Around the depth that Python itself gives up at, it is stored or refused, never a crash."""
    nested: dict[str, Any] = {}
    for depth in range(1, 1_100):
        nested = {"a": nested}
        if depth > 880 or depth % 50 == 0:
            with contextlib.suppress(Refused):
                tracking.track(f"depth-{depth}", metadata=nested)
    assert 0 < number_of_jobs(lite) < 200


def test_a_refusal_stores_nothing_in_the_callers_transaction(url: str) -> None:
    with db.transaction(url) as session:
        with pytest.raises(Refused):
            tracking.track(ID, events=["done"], session=session)
        tracking.track("good", session=session)
    assert [job.video_id for job in jobs_in(url)] == ["good"]


def test_a_producer_needs_no_secret(lite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers sign; who hands in ids only has the URL checked, also the one by default."""
    monkeypatch.delenv("WEBHOOK_SECRET")
    assert tracking.track(ID, webhook_url=HOOK).webhook_url == HOOK
    set_variables(monkeypatch, WEBHOOK_URL=HOOK)
    assert tracking.track("by-default").webhook_url == HOOK
    with pytest.raises(Refused, match="callback URL refused"):
        tracking.track("refused", webhook_url="nonsense")
    assert number_of_jobs(lite) == 2


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"account": "nobody"}, NotConfigured),
        ({"webhook_url": "https://10.0.0.1/"}, NotConfigured),
        ({"webhook_url": "https://receiver/hook"}, NotConfigured),
        ({"webhook_url": "http://hooks.example.com/"}, NotConfigured),
        ({"webhook_url": "https://hooks.example.com:9000/"}, NotConfigured),
        ({"account": "a b"}, Refused),
        ({"webhook_url": "https://u:p@hooks.example.com/"}, Refused),
        ({"webhook_url": "ftp://hooks.example.com/"}, Refused),
        ({"deadline": "soon"}, Refused),
    ],
)
def test_what_configuration_could_permit_is_told_from_what_nobody_accepts(
    lite: str, options: dict[str, Any], kind: type[Refused]
) -> None:
    with pytest.raises(Refused) as refused:
        tracking.track(ID, **options)
    assert type(refused.value) is kind
    assert number_of_jobs(lite) == 0


def test_wrong_settings_refuse_everything(lite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, REELWATCH_DEADLINE="soon")
    with pytest.raises(SettingsError, match="REELWATCH_DEADLINE"):
        tracking.track(ID)
    assert number_of_jobs(lite) == 0


# ------------------------------------------------------------------- idempotent


def test_tracking_again_is_the_same_job(url: str) -> None:
    """With its first options: what was promised to the first caller holds."""
    first = tracking.track(ID, webhook_url=HOOK, metadata={"order": 7}, deadline="10m")
    again = tracking.track(ID, webhook_url=HOOK + "/other", metadata={"order": 8}, deadline="20m")
    assert (first.created, again.created) == (True, False)
    assert again.id == first.id
    assert again.webhook_url == HOOK
    assert again.metadata_ == {"order": 7}
    assert again.deadline_at == first.deadline_at
    assert number_of_jobs(url) == 1


def test_blanks_make_no_other_id(lite: str) -> None:
    assert tracking.track(ID).id == tracking.track(f" {ID} ").id
    assert number_of_jobs(lite) == 1


def test_an_ended_job_is_not_tracked_anew(url: str) -> None:
    tracking.track(ID)
    tracking.cancel(ID)
    again = tracking.track(ID)
    assert (again.state, again.created) == ("cancelled", False)


def test_an_id_at_once_from_many_threads_is_one_job(url: str) -> None:
    jobs: list[Job] = []
    start = threading.Barrier(8)

    def run() -> None:
        start.wait(30)
        jobs.append(tracking.track(ID))

    in_threads(run, 8)
    assert len({job.id for job in jobs}) == 1
    assert [job.created for job in jobs].count(True) == 1
    assert number_of_jobs(url) == 1


def in_threads(run: Any, count: int) -> None:
    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)


TRACK_AT_ONCE = """
import sys, time
from pathlib import Path
from reelwatch import track_many
print("ready")
while not Path(sys.argv[1]).exists():
    time.sleep(0.001)
print("created", sum(job.created for job in track_many(f"veo3:{n}" for n in range(200))))
"""


def test_ids_at_once_from_many_processes_are_one_job_each(url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    children = [
        process([sys.executable, "-c", TRACK_AT_ONCE, go], {"DATABASE_URL": url}) for _ in range(3)
    ]
    try:
        for child in children:
            child.wait_for("ready", 60)
        go.touch()
        created = [int(child.wait_for("created", 60).split()[1]) for child in children]
    finally:
        for child in children:
            child.close()
    assert sum(created) == number_of_jobs(url) == 200


def test_the_order_of_ids_makes_no_deadlock(pg: str) -> None:
    """Two producers that hand in the same ids, each in its own order, do not wait in a circle."""
    tracking.sync_accounts(settings.current())  # else the first waits for the account alone
    ids = [f"veo3:{number:04}" for number in range(2_000)]
    orders = [ids, ids[::-1]]
    tracked: list[list[str]] = []
    start = threading.Barrier(2)

    def run() -> None:
        order = orders.pop()
        start.wait(30)
        tracked.append([job.video_id for job in tracking.track_many(order)])

    in_threads(run, 2)
    assert sorted(tracked) == [ids, ids[::-1]]
    assert number_of_jobs(pg) == len(ids)


# --------------------------------------------------------------------- many ids


def test_many_come_back_in_their_order(url: str) -> None:
    ids = ["b", "a", "b", "c", "a"]
    jobs = tracking.track_many(ids)
    assert [job.video_id for job in jobs] == ids
    assert number_of_jobs(url) == 3
    assert all(job.created for job in jobs)
    assert [job.created for job in tracking.track_many(["c", "d"])] == [False, True]


def test_tracking_none_at_all_makes_no_job(lite: str) -> None:
    assert tracking.track_many([]) == []


def test_ten_thousand_ids_in_one_call_are_all_tracked(url: str) -> None:
    jobs = tracking.track_many((f"sora:{number}" for number in range(10_000)), deadline="2h")
    assert len({job.id for job in jobs}) == number_of_jobs(url) == 10_000
    assert {job.model for job in jobs} == {"sora"}


# ---------------------------------------------------------- the caller's session

SHOP = "CREATE TABLE orders (video_id TEXT PRIMARY KEY)"


def shop(url: str) -> Session:
    """A producer's own session: its own engine, made the ordinary way, on the same database."""
    session = Session(create_engine(url))
    session.execute(text(SHOP))
    session.commit()
    return session


def order(session: Session, video_id: str) -> None:
    session.execute(text("INSERT INTO orders (video_id) VALUES (:id)"), {"id": video_id})


def order_count(session: Session) -> int:
    return int(session.execute(text("SELECT count(*) FROM orders")).scalar_one())


def test_a_job_commits_with_the_callers_rows(url: str) -> None:
    with shop(url) as session:
        order(session, ID)
        job = tracking.track(ID, session=session)
        assert number_of_jobs(url) == 0
        session.commit()
        assert order_count(session) == 1
        assert job.created
        assert job.state == "pending"
    assert number_of_jobs(url) == 1


def test_a_job_goes_with_the_callers_rollback(url: str) -> None:
    with shop(url) as session:
        order(session, ID)
        tracking.track_many([ID, "other"], session=session)
        session.rollback()
        assert order_count(session) == 0
    assert number_of_jobs(url) == 0


def test_cancel_and_recheck_join_the_callers_transaction(url: str) -> None:
    tracking.track(ID)
    with shop(url) as session:
        assert tracking.cancel(ID, session=session).state == "cancelled"
        session.rollback()
        before = jobs_in(url)[0].next_poll_at
        assert before is not None
        again = tracking.recheck(ID, session=session)
        assert again.next_poll_at is not None
        assert again.next_poll_at > before
        session.rollback()
    (job,) = jobs_in(url)
    assert (job.state, job.next_poll_at) == ("pending", before)


def test_the_caller_may_track_twice_in_a_transaction(url: str) -> None:
    with shop(url) as session:
        first = tracking.track(ID, session=session)
        second = tracking.track(ID, session=session)
        assert second.id == first.id
        session.commit()
    assert number_of_jobs(url) == 1


def test_a_callers_long_transaction_holds_up_no_polls(pg: str) -> None:
    """Its new job refers to the account's row, and a poll locks that row."""
    tracking.track("due")
    account = settings.current().accounts["default"]
    with shop(pg) as session:
        tracking.track("uncommitted", session=session)
        with db.transaction(pg) as other:
            other.execute(text("SET LOCAL lock_timeout = '2s'"))
            assert other.scalars(due_jobs.due_accounts(db.now(other))).all() == ["default"]
            claimed = claiming.claim(other, account, 10).items
            assert [each.row["video_id"] for each in claimed] == ["due"]
        session.commit()
    assert number_of_jobs(pg) == 2


# ----------------------------------------------------------------- destinations


def test_a_job_that_names_no_webhook_gets_the_default_one(
    lite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For jobs that name none; in its normal form."""
    set_variables(monkeypatch, WEBHOOK_URL="https://HOOKS.example.com:443/default#top")
    tracking.track("a")
    tracking.track("b", webhook_url=HOOK)
    assert [job.webhook_url for job in jobs_in(lite)] == [
        "https://hooks.example.com/default", HOOK,
    ]  # fmt: skip


def test_private_receivers_that_are_allowed(lite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, WEBHOOK_ALLOW="10.0.0.0/8")
    tracking.track(ID, webhook_url="http://10.1.2.3:8080/hooks")
    assert jobs_in(lite)[0].webhook_url == "http://10.1.2.3:8080/hooks"


ACCOUNTS = """
[accounts.studio]
requests_per_second = 2
webhook_url = "https://studio.example.com/hooks"
[accounts.plain]
"""


def test_accounts_of_a_file(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same id is another job for another account, told to that account's webhook."""
    (tmp_path / "accounts.toml").write_text(ACCOUNTS)
    set_variables(monkeypatch, REELWATCH_ACCOUNTS_FILE=str(tmp_path / "accounts.toml"))
    jobs = [tracking.track(ID, account=name) for name in ("default", "studio", "plain")]
    assert len({job.id for job in jobs}) == 3
    assert [job.webhook_url for job in jobs] == [None, "https://studio.example.com/hooks", None]
    with db.reading(url) as session:
        rates = session.execute(select(Account.name, Account.requests_per_second)).all()
    assert {(name, rate) for name, rate in rates} == {
        ("default", 5.0), ("studio", 2.0), ("plain", 5.0),
    }  # fmt: skip


def test_a_producer_may_name_an_account_that_only_the_workers_know(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They have told the database of it."""
    (tmp_path / "accounts.toml").write_text(ACCOUNTS)
    set_variables(monkeypatch, REELWATCH_ACCOUNTS_FILE=str(tmp_path / "accounts.toml"))
    tracking.sync_accounts(settings.current())
    tracking.sync_accounts(settings.current())
    monkeypatch.delenv("REELWATCH_ACCOUNTS_FILE")
    settings.current.cache_clear()
    assert tracking.track(ID, account="studio").account == "studio"
    with pytest.raises(Refused, match="is not configured"):
        tracking.track(ID, account="gallery")
    with db.reading(url) as session:
        assert session.get_one(Account, "studio").requests_per_second == 2.0


# ---------------------------------------------------------- cancel and recheck


def end(url: str, video_id: str, **values: Any) -> None:
    with db.transaction(url) as session:
        session.execute(update(Job).where(Job.video_id == video_id).values(**values))


def ended(state: str, at: datetime) -> dict[str, Any]:
    """The columns of a job in a state that polls bring about."""
    states: dict[str, dict[str, Any]] = {
        "pending": {},
        "running": {"upstream_status": "video_generating"},
        "completed": {"finished_at": at, "next_poll_at": None, "video_url": "https://v"},
        "failed": {"finished_at": at, "next_poll_at": None, "error_code": "content_policy"},
        "not_found": {
            "state": "failed", "finished_at": at, "next_poll_at": None, "error_code": "not_found"
        },
        "expired": {"expired_at": at, "error_code": "deadline", "next_poll_at": at + HOUR},
        "abandoned": {
            "state": "expired", "expired_at": at, "error_code": "deadline", "abandoned_at": at,
            "next_poll_at": None,
        },
        "cancelled": {"finished_at": at, "next_poll_at": None},
    }  # fmt: skip
    return {"state": state, "sequence": 3} | states[state]


def story(url: str) -> list[tuple[int, str, str]]:
    with db.reading(url) as session:
        query = select(Transition).order_by(Transition.sequence)
        return [(t.sequence, t.from_state, t.to_state) for t in session.execute(query).scalars()]


@pytest.mark.parametrize("state", ["pending", "running", "expired", "abandoned"])
def test_cancel_ends_an_open_job(url: str, state: str) -> None:
    tracking.track(ID, callback_task="shop.on_video", events=["failed", "status_changed"])
    end(url, ID, **ended(state, datetime.now(UTC)), lease_token=None)
    job = tracking.cancel(ID)
    assert (job.state, job.sequence, job.next_poll_at, job.abandoned_at) == (
        "cancelled", 4, None, None,
    )  # fmt: skip
    assert job.finished_at is not None
    open_state = "expired" if state == "abandoned" else state
    assert story(url) == [(4, open_state, "cancelled")]
    with db.reading(url) as session:
        assert session.execute(select(Delivery)).all() == []  # the producer knows: it asked


@pytest.mark.parametrize("state", ["completed", "failed", "not_found", "cancelled"])
def test_cancel_leaves_an_ended_job(url: str, state: str) -> None:
    tracking.track(ID)
    end(url, ID, **ended(state, datetime.now(UTC)))
    (before,) = jobs_in(url)
    job = tracking.cancel(ID)
    assert (job.state, job.sequence, job.finished_at) == (before.state, 3, before.finished_at)
    assert story(url) == []


@pytest.mark.parametrize("state", ["pending", "running"])
def test_recheck_polls_an_open_job_now(url: str, state: str) -> None:
    """And takes it from a worker that may have it in hand."""
    tracking.track(ID)
    now = datetime.now(UTC)
    later = {"next_poll_at": now + HOUR, "lease_token": "t"}
    end(url, ID, **ended(state, now), **later)
    job = tracking.recheck(ID)
    assert (job.state, job.sequence, job.lease_token) == (state, 3, None)
    assert job.next_poll_at is not None
    assert now <= job.next_poll_at <= datetime.now(UTC)
    assert story(url) == []


@pytest.mark.parametrize("state", ["expired", "abandoned", "not_found", "cancelled"])
def test_recheck_takes_a_job_up_again(url: str, state: str) -> None:
    """With its deadline's span anew; those who asked for changes are told."""
    tracking.track(ID, callback_task="shop.on_video", deadline="10m", events=["status_changed"])
    now = datetime.now(UTC)
    end(url, ID, **ended(state, now))
    job = tracking.recheck(ID)
    assert (job.state, job.sequence) == ("pending", 4)
    assert (job.finished_at, job.error_code, job.abandoned_at) == (None, None, None)
    assert job.next_poll_at is not None
    assert now <= job.next_poll_at <= datetime.now(UTC)
    assert job.deadline_at == job.next_poll_at + timedelta(minutes=10)
    assert story(url)[0][2] == "pending"
    with db.reading(url) as session:
        owed = session.execute(select(Delivery)).scalars().one()
    assert owed.event_type == "video.status_changed"
    assert json.loads(owed.body)["data"]["state"] == "pending"


def test_recheck_renews_the_span_that_was_given_however_often(url: str) -> None:
    tracking.track(ID, deadline="10m")
    for hours in range(3):
        now = datetime.now(UTC)
        expired = ended("expired", now) | {"sequence": 3 + hours}
        end(url, ID, **expired, tracked_at=now - (1 + hours) * HOUR)
        job = tracking.recheck(ID)
        assert job.next_poll_at is not None
        assert job.deadline_at == job.next_poll_at + timedelta(minutes=10)


def test_recheck_of_a_row_of_an_older_release_goes_by_its_times(url: str) -> None:
    tracking.track(ID, deadline="10m")
    end(url, ID, **ended("expired", datetime.now(UTC)), deadline_seconds=None)
    job = tracking.recheck(ID)
    assert job.next_poll_at is not None
    assert job.deadline_at == job.next_poll_at + timedelta(minutes=10)


def test_recheck_asks_again_for_the_url_of_a_job_completed_without(url: str) -> None:
    tracking.track(ID)
    now = datetime.now(UTC)
    lacking = {"video_url": None, "error_code": "no_result", "errors_in_row": 5}
    end(url, ID, **ended("completed", now) | lacking)
    job = tracking.recheck(ID)
    assert (job.state, job.sequence, job.error_code) == ("completed", 3, "no_result")
    assert (job.finished_at, job.errors_in_row) == (now, 0)
    assert job.next_poll_at is not None
    assert story(url) == []


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_recheck_leaves_other_ends(url: str, state: str) -> None:
    tracking.track(ID)
    end(url, ID, **ended(state, datetime.now(UTC)))
    job = tracking.recheck(ID)
    assert (job.state, job.sequence, job.next_poll_at) == (state, 3, None)
    assert story(url) == []


@pytest.mark.parametrize("act", [tracking.cancel, tracking.recheck])
def test_an_unknown_job_is_named(url: str, act: Any) -> None:
    """Also one of another account."""
    with db.transaction(url) as session:
        session.execute(insert(Account).values(name="studio", requests_per_second=5.0))
    tracking.track(ID)
    with pytest.raises(UnknownJob, match="no job 'nowhere' is tracked for the account 'default'"):
        act("nowhere")
    with pytest.raises(UnknownJob, match="for the account 'studio'"):
        act(ID, account="studio")


def test_a_job_cannot_be_of_no_account(url: str) -> None:
    """Even if somebody else writes to the table."""
    tracking.track(ID)
    with pytest.raises(IntegrityError):
        end(url, ID, account="nobody")
