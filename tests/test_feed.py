"""The feed: every event once and in one order for whoever remembers a place, however many write."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from reelwatch.errors import CursorTooOld, Refused
from reelwatch.jobs import feed, pruning
from reelwatch.rules.answers import Meaning, Report
from reelwatch.rules.changes import Change
from reelwatch.rules.cursors import Cursor
from reelwatch.rules.deadlines import Rules
from reelwatch.rules.lifecycle import decide
from reelwatch.storage import db, job_columns, ledger
from reelwatch.storage import feed as stored
from reelwatch.storage.jobrows import locked
from reelwatch.storage.models import Delivery, Event, Job
from tests import seeding
from tests.seeding import Row

RUNNING = Report("processing", Meaning.IN_PROGRESS, body={"status": "processing"})
DONE = Report(
    "completed",
    Meaning.SUCCESS,
    video_url="https://cdn.example.com/a.mp4",
    body={"status": "completed"},
)
HOOK = "https://hooks.example.com/video"


@pytest.fixture
def url(database_url: str) -> str:
    return ready(database_url)


@pytest.fixture
def pg(postgresql_url: str) -> str:
    return ready(postgresql_url)


def ready(url: str) -> str:
    with db.transaction(url) as session:
        seeding.add_account(session)
    return url


def track(url: str, video_id: str, **columns: Any) -> None:
    with db.transaction(url) as session:
        row = {"video_id": video_id, "tracked_at": seeding.at()} | columns
        seeding.add_job(session, "pending", **row)


def learn(session: Session, video_id: str, answer: Report) -> None:
    """Write down an answer about the job, as a poll does."""
    (row,) = locked(session, [video_id], "default")
    now = db.now(session)
    decision = decide(job_columns.job_of(row), answer, now, Rules())
    ledger.write(session, [Change(row, decision, answer)], now)


def complete(url: str, video_id: str, **columns: Any) -> None:
    """Track a job and have it completed."""
    track(url, video_id, **columns)
    with db.transaction(url) as session:
        learn(session, video_id, DONE)


class Reader:
    """Reads the feed page by page, and remembers what it was told."""

    def __init__(self, url: str, limit: int = 3, **asked: Any) -> None:
        self.url, self.limit, self.asked = url, limit, asked
        self.after: str | None = None
        self.ids: list[str] = []
        self.told: list[feed.Told] = []

    def read(self) -> None:
        """Everything that there is by now."""
        head = feed.advance(self.url)
        more = True
        while more:
            cursor = feed.start(head, self.after)
            page = feed.read(self.url, head, cursor, limit=self.limit, **self.asked)
            self.told += page.events
            self.ids += [each.id for each in page.events]
            self.after, more = str(page.next), page.more


def all_events(url: str) -> list[Row]:
    with db.reading(url) as session:
        rows = session.execute(select(Event.__table__).order_by(Event.id)).mappings()
        return [dict(row) for row in rows]


# ----------------------------------------------------------------- content


def test_an_event_is_there_whether_or_not_anybody_can_be_called(url: str) -> None:
    complete(url, "grok:called", webhook_url=HOOK)
    complete(url, "grok:silent")
    reader = Reader(url)
    reader.read()
    with db.reading(url) as session:
        (delivery,) = session.execute(select(Delivery)).scalars()
    called, silent = reader.told
    assert (called.id, called.body) == (delivery.id, delivery.body)
    assert '"type":"video.completed"' in silent.body
    assert '"video_id":"grok:silent"' in silent.body


def test_what_a_delivery_holds_is_not_stored_twice(url: str) -> None:
    complete(url, "grok:called", webhook_url=HOOK, callback_task="app.told")
    complete(url, "grok:silent")
    assert [row["body"] is None for row in all_events(url)] == [True, False]
    reader = Reader(url)
    reader.read()
    assert len(reader.ids) == 2  # one for both ways to tell


def test_the_feed_holds_what_the_jobs_asked_to_be_told_of(url: str) -> None:
    """As for webhooks: whoever wants each new status says so when tracking."""
    track(url, "grok:few")
    track(url, "grok:all", events=["status_changed", "completed"])
    for video_id in ("grok:few", "grok:all"):
        for answer in (RUNNING, DONE):
            with db.transaction(url) as session:
                learn(session, video_id, answer)
    types = [row["type"] for row in all_events(url)]
    assert types == ["video.completed", "video.status_changed", "video.completed"]


def test_readers_choose_by_type_and_account(url: str) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session, "other")
    complete(url, "grok:a")
    track(url, "grok:b", events=["status_changed"])
    with db.transaction(url) as session:
        learn(session, "grok:b", RUNNING)
    everything, changed, others = (
        Reader(url),
        Reader(url, types=["video.status_changed"]),
        Reader(url, account="other"),
    )
    for reader in (everything, changed, others):
        reader.read()
    assert len(everything.ids) == 2
    assert changed.ids == everything.ids[1:]
    assert others.ids == []
    assert changed.after == others.after == everything.after  # what was passed over is passed


def test_a_page_looks_at_so_many_positions_and_no_more(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for what is rare gets short pages, and goes on from behind what was seen."""
    monkeypatch.setattr(stored, "SCANNED_MOST", 2)
    for number in range(5):
        complete(url, f"grok:{number}")
    head = feed.advance(url)
    first = feed.read(url, head, feed.start(head, None), types=["video.failed"])
    assert (first.events, first.more) == ([], True)
    last = feed.read(url, head, feed.start(head, str(first.next)), limit=5)
    assert (len(last.events), last.more) == (2, True)


def test_now_is_the_place_behind_all_that_was(url: str) -> None:
    complete(url, "grok:old")
    reader = Reader(url)
    reader.after = feed.NOW
    reader.read()
    complete(url, "grok:new")
    reader.read()
    assert ["grok:new" in each.body for each in reader.told] == [True]


def test_types_go_by_either_name_and_others_are_refused() -> None:
    assert feed.chosen(["completed", "video.failed"]) == ["video.completed", "video.failed"]
    with pytest.raises(Refused, match="types: 'done' is not one of"):
        feed.chosen(["done"])


# ------------------------------------------------------------------- order


def test_a_transaction_that_commits_late_is_not_passed_over(pg: str) -> None:
    """Its row has the lower number, and is seen after the other's. A reader who goes by the
    numbers of rows is past it by then; the feed's has it, behind what it has read already.
    """
    for name in ("grok:slow", "grok:quick"):
        track(pg, name)
    reader = Reader(pg)
    with db.transaction(pg) as slow:
        learn(slow, "grok:slow", DONE)
        with db.transaction(pg) as quick:
            learn(quick, "grok:quick", DONE)
        reader.read()
        (seen,) = all_events(pg)
    reader.read()
    first, second = reader.told
    assert "grok:quick" in first.body
    assert "grok:slow" in second.body
    by_number = [row for row in all_events(pg) if row["id"] > seen["id"]]
    assert by_number == []  # what is lost that way


OPEN = 4  # transactions at a time
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, OPEN - 1)),
        st.tuples(st.just("commit"), st.integers(0, OPEN - 1)),
        st.tuples(st.just("roll back"), st.integers(0, OPEN - 1)),
        st.tuples(st.just("read"), st.integers(0, 1)),
    ),
    max_size=40,
)


class Overlapping:
    """Transactions that are open at once, each with a job of its own to write events about."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.open: dict[int, tuple[Session, list[str]]] = {}
        self.written: dict[int, int] = defaultdict(int)  # events of each job
        self.committed: list[str] = []
        self.readers = [Reader(url, limit=1), Reader(url, limit=3)]

    def write(self, which: int) -> None:
        if which not in self.open:
            self.open[which] = (Session(db.engine(self.url)), [])
        session, ids = self.open[which]
        self.written[which] += 1
        ids.append(f"evt_{which}_{self.written[which]}")
        job_id = session.execute(select(Job.id).filter_by(video_id=f"grok:{which}")).scalar_one()
        row = {"event_id": ids[-1], "job_id": job_id, "sequence": self.written[which],
               "account": "default", "type": "video.updated", "body": "{}",
               "at": seeding.at()}  # fmt: skip
        stored.add(session, [row])

    def end(self, which: int, *, commit: bool) -> None:
        session, ids = self.open.pop(which, (None, []))
        if session is None:
            return
        (session.commit if commit else session.rollback)()
        session.close()
        self.committed += ids if commit else []

    def do(self, what: str, which: int) -> None:
        if what == "write":
            self.write(which)
        elif what == "read":
            self.readers[which].read()
        else:
            self.end(which, commit=what == "commit")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(steps)
def test_no_order_of_commits_hides_or_repeats_an_event(
    overlapped: str, steps: list[tuple[str, int]]
) -> None:
    """Both readers are told of all that was committed, in one order, a job's own in its order."""
    run = Overlapping(overlapped)
    for each in run.readers:
        each.after = feed.NOW
        each.read()
    with ExitStack() as stack:
        for which in range(OPEN):
            stack.callback(run.end, which, commit=False)
        for what, which in steps:
            run.do(what, which)
        for which in list(run.open):
            run.end(which, commit=True)
    for reader in run.readers:
        reader.read()
    one, other = run.readers
    assert one.ids == other.ids
    assert sorted(one.ids) == sorted(run.committed)
    for which in range(OPEN):
        own = [each for each in one.ids if each.startswith(f"evt_{which}_")]
        assert own == [each for each in run.committed if each.startswith(f"evt_{which}_")]
    clear(overlapped)


@pytest.fixture
def overlapped(pg: str) -> str:
    for which in range(OPEN):
        track(pg, f"grok:{which}")
    return pg


def clear(url: str) -> None:
    with db.transaction(url) as session:
        session.execute(Event.__table__.delete())  # type: ignore[attr-defined]


def test_two_workers_and_three_readers_at_once(url: str) -> None:
    """Whoever numbers, and however often: all readers see all events once, in the same order."""
    each, over = 30, threading.Event()
    for worker in range(2):
        for number in range(each):
            track(url, f"grok:{worker}-{number}")
    readers = [Reader(url, limit=7) for _ in range(3)]

    def work(worker: int) -> None:
        for number in range(each):
            with db.transaction(url) as session:
                learn(session, f"grok:{worker}-{number}", DONE)

    def keep_reading(reader: Reader) -> None:
        while not over.is_set():
            reader.read()
        reader.read()

    with ThreadPoolExecutor(5) as pool:
        reading = [pool.submit(keep_reading, reader) for reader in readers]
        try:
            for done in [pool.submit(work, worker) for worker in range(2)]:
                done.result(60)
        finally:
            over.set()
        for done in reading:
            done.result(60)
    orders = [reader.ids for reader in readers]
    assert orders[0] == orders[1] == orders[2]
    assert sorted(orders[0]) == sorted(row["event_id"] for row in all_events(url))
    assert len(orders[0]) == 2 * each


# -------------------------------------------------------------------- cost


def test_a_poll_without_news_writes_no_event_and_a_batch_one_statement(
    url: str, statements: list[str]
) -> None:
    names = [f"grok:{number}" for number in range(5)]
    for name in names:
        track(url, name)
    for answer in (RUNNING, RUNNING, DONE):
        with db.transaction(url) as session:
            rows, now = locked(session, names, "default"), db.now(session)
            decided = [decide(job_columns.job_of(row), answer, now, Rules()) for row in rows]
            pairs = zip(rows, decided, strict=True)
            changes = [Change(row, each, answer) for row, each in pairs]
            statements.clear()
            ledger.write(session, changes, now)
        said = [each for each in statements if "events" in each.split("(")[0]]
        assert len(said) == (answer is DONE), statements


@pytest.fixture
def statements(url: str) -> Iterator[list[str]]:
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    event.listen(db.engine(url), "before_cursor_execute", note)
    yield said
    event.remove(db.engine(url), "before_cursor_execute", note)


def test_a_reader_without_news_asks_two_short_questions_and_writes_nothing(
    url: str, statements: list[str]
) -> None:
    complete(url, "grok:a")
    reader = Reader(url)
    reader.read()
    statements.clear()
    feed.advance(url)
    assert len([each for each in statements if "SELECT" in each]) == 1
    assert not any(each.startswith(("UPDATE", "INSERT")) for each in statements)


# ---------------------------------------------------------------- deletion


def ended_long_ago(url: str, *names: str) -> None:
    for name in names:
        complete(url, name, tracked_at=seeding.at(days=100))
    with db.transaction(url) as session:
        for job in session.execute(select(Job).where(Job.video_id.in_(names))).scalars():
            job.finished_at = seeding.at(days=99)


def prune(url: str) -> int:
    with db.reading(url) as session:
        before = db.now(session) - timedelta(days=90)
    return sum(pruning.prune(url, before))


def test_who_has_read_what_is_deleted_misses_nothing(url: str) -> None:
    ended_long_ago(url, "grok:old")
    reader = Reader(url)
    reader.read()
    assert prune(url) == 1
    complete(url, "grok:new")
    reader.read()
    assert len(reader.ids) == 2


@pytest.mark.parametrize("numbered", [True, False])
def test_who_has_not_is_told_and_can_go_on(url: str, numbered: bool) -> None:
    """Also where the deleted events had no place in the feed yet, for nobody read it."""
    complete(url, "grok:kept")
    reader = Reader(url)
    reader.read()
    ended_long_ago(url, "grok:old")
    complete(url, "grok:young")
    if numbered:
        feed.advance(url)
    prune(url)
    with pytest.raises(CursorTooOld, match="deleted before they were read") as caught:
        reader.read()
    reader.after = caught.value.next
    reader.read()
    assert ["kept" in each.body or "young" in each.body for each in reader.told] == [True, True]
    newcomer = Reader(url, limit=1)
    newcomer.read()
    assert newcomer.ids == reader.ids


def test_what_is_deleted_between_two_questions_is_noticed(url: str) -> None:
    """The head of the feed was read before, and its page after the deletion."""
    complete(url, "grok:first")
    reader = Reader(url)
    reader.read()
    ended_long_ago(url, "grok:old")
    head = feed.advance(url)
    cursor = feed.start(head, reader.after)
    prune(url)
    with pytest.raises(CursorTooOld):
        feed.read(url, head, cursor)


def test_a_cursor_of_a_later_time_is_no_cursor_after_a_restore(url: str) -> None:
    complete(url, "grok:a")
    head = feed.advance(url)
    ahead = Cursor(head.installation, head.last_position + 1)
    with pytest.raises(CursorTooOld, match="restored from a backup") as caught:
        feed.start(head, str(ahead))
    assert feed.start(head, caught.value.next).position == head.last_position


def test_many_that_nobody_has_read_are_numbered_in_parts(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reader gets its first page soon, and all of them by and by."""
    monkeypatch.setattr(feed, "BATCHES_MOST", 2)
    limited = stored.SELECT_UNNUMBERED.limit(2)
    monkeypatch.setattr(stored, "SELECT_UNNUMBERED", limited)
    for number in range(5):
        complete(url, f"grok:{number}")
    assert feed.advance(url).last_position == 4
    reader = Reader(url)
    reader.read()
    with db.reading(url) as session:
        assert session.execute(select(func.max(Event.position))).scalar_one() == 5
    assert len(reader.ids) == 5
