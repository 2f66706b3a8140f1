"""What telling costs, and how fast ids are taken in.

Deliveries per second of processor time, of Reelwatch (signed, recorded, fair to all receivers) and
of a naive Celery task; `track_many` beside one `track` after another; a file of ids on SQLite.
"""

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from sqlalchemy import text

from benchmarks import trackers
from benchmarks.courses import instant
from benchmarks.result import Row
from benchmarks.trackers import Cost, Meter, Tracker
from benchmarks.upstream import Upstream, upstream
from reelwatch.jobs import tracking
from reelwatch.sandbox.answers import Job, Poll, completed
from reelwatch.storage import db, migrating
from tests.processes import process
from tests.servers import eventually

GOAL = "webhooks and intake"
TIMES_CELERY = 10.0
TIMES_ONE_BY_ONE = 30.0
FIRST_ATTEMPT_MS = 100.0
FILE_SECONDS = 10.0
TURNS = 5  # of tracking one by one and together, in turns
PATIENCE = 120.0

# Jobs that have completed and still owe their event, as polling would have written them.
OWE = (
    """
    INSERT INTO jobs (account, video_id, model, state, metadata, sequence, tracked_at, finished_at,
                      deadline_at, video_url, webhook_url, events)
    SELECT 'default', :prefix || n, 'veo3.1-fast', 'completed', '{}', 1, now(), now(),
           now() + interval '1 hour', 'https://cdn.example.com/' || n, :target, '["completed"]'
    FROM generate_series(1, :count) n
    """,
    """
    INSERT INTO transitions (job_id, sequence, from_state, to_state, at)
    SELECT id, 1, 'running', 'completed', now() FROM jobs WHERE video_id LIKE :prefix || '%'
    """,
    """
    INSERT INTO deliveries (id, job_id, transition_id, sequence, event_type, channel, target,
                            destination, body, state, created_at, next_attempt_at)
    SELECT 'evt_' || t.id, t.job_id, t.id, 1, 'video.completed', 'webhook', :target, :destination,
           :body, 'pending', now(), now()
    FROM transitions t JOIN jobs j ON j.id = t.job_id WHERE j.video_id LIKE :prefix || '%'
    """,
)

ENDED = "UPDATE peer_jobs SET status = 'completed', answer = CAST(:body AS json)"


def rows(quick: bool) -> list[Row]:
    """Deliveries, `track_many`, and a file."""
    return [
        *_deliveries(150 if quick else 3000),
        *_first_attempts(5 if quick else 100),
        *_intake("PostgreSQL", 40 if quick else 500, trackers.postgres().create_database()),
        *_intake_of_sqlite(40 if quick else 500),
        *_file(1_000 if quick else 10_000),
    ]


# ------------------------------------------------------------------ deliveries


def _deliveries(count: int) -> Iterator[Row]:
    receiver = upstream()
    celery = _told_by_celery(receiver, count)
    ours = _told_by_reelwatch(receiver, count)
    for name, cost in (("naive Celery", celery), ("Reelwatch", ours)):
        note = (
            f"{count} events to one receiver in {cost.seconds:.1f} s; "
            f"database {1000 * cost.database / count:.2f} ms an event"
        )
        what = f"{name}: deliveries per CPU second"
        yield Row(GOAL, what, count / cost.tracker, "/s", None, "higher", note)
    ratio = celery.tracker / ours.tracker
    yield Row(GOAL, "deliveries per CPU second, Reelwatch / naive Celery", ratio, "",
              TIMES_CELERY, "higher")  # fmt: skip


# The clocks of both are the database's.
FIRST_ATTEMPTS = """
    SELECT 1000 * extract(epoch FROM min(a.at) - t.at)
    FROM transitions t JOIN deliveries d ON d.transition_id = t.id
    JOIN attempts a ON a.delivery_id = d.id GROUP BY t.id, t.at
"""


def _first_attempts(count: int) -> Iterator[Row]:
    """Jobs that have ended upstream are handed in one by one to workers that have nothing to do."""
    receiver = upstream()
    with trackers.reelwatch(receiver, "idle") as tracker:
        target = receiver.hook(tracker.name)
        for number, course in enumerate(instant(count, "idle-")):
            receiver.begin([course], time.time() - 60)
            tracker.take([course.video_id])
            told = partial(_is_told, receiver, target, number + 1)
            eventually(told, PATIENCE, "told")
        time.sleep(0.5)
        with db.transaction(tracker.database_url) as session:
            took = sorted(float(each) for each in session.scalars(text(FIRST_ATTEMPTS)))
    note = f"{len(took)} events; median {took[len(took) // 2]:.0f} ms"
    yield Row(GOAL, "commit to first attempt, idle, p99", took[int(0.99 * (len(took) - 1))], "ms",
              FIRST_ATTEMPT_MS, "lower", note)  # fmt: skip


def _is_told(receiver: Upstream, target: str, count: int) -> bool:
    return receiver.webhooks(target) >= count


def _told_by_reelwatch(receiver: Upstream, count: int) -> Cost:
    with trackers.reelwatch(receiver) as tracker:
        target = receiver.hook(tracker.name)

        def owe(prefix: str, events: int) -> None:
            values = {
                "prefix": prefix, "count": events, "target": target,
                "destination": target.split("/")[2],
                "body": json.dumps({"type": "video.completed", "data": _data()}),
            }  # fmt: skip
            with db.transaction(tracker.database_url) as session:
                for statement in OWE:
                    session.execute(text(statement), values)

        return _told(tracker, receiver, count, owe)


def _told_by_celery(receiver: Upstream, count: int) -> Cost:
    """Only its tasks are counted, not what it costs to send them."""
    with trackers.naive_celery(receiver, interval=3600.0) as tracker:

        def send(prefix: str, events: int) -> None:
            ids = [f"{prefix}{number}" for number in range(events)]
            tracker.take(ids)
            with db.engine(tracker.database_url).begin() as connection:  # its tables, not ours
                connection.execute(text(ENDED), {"body": json.dumps(_data())})
            with trackers.producer(tracker.broker_url) as app:
                for video_id in ids:
                    app.send_task("naive.notify", args=[video_id])

        return _told(tracker, receiver, count, send)


def _told(
    tracker: Tracker, receiver: Upstream, count: int, owe: Callable[[str, int], None]
) -> Cost:
    """What it costs to deliver so many, after some that are not counted."""
    target = receiver.hook(tracker.name)

    def deliver(prefix: str, events: int) -> None:
        so_far = receiver.webhooks(target)
        owe(prefix, events)
        eventually(lambda: receiver.webhooks(target) >= so_far + events, PATIENCE, "delivered")
        time.sleep(0.5)  # what was delivered last is still being written down

    deliver("veo3.1-fast:warm-up-", 8 * trackers.CONCURRENCY)
    meter = Meter(*tracker.pids)
    deliver("veo3.1-fast:counted-", count)
    tracker.check()
    return meter.read()


def _data() -> dict[str, object]:
    """What upstream says of a job that has completed: about what an event carries."""
    job = Job("veo3.1-fast:1770350082-trii1OXZc3", "veo3.1-fast", "ok", 90.0)
    return {"video_id": job.video_id, **completed(Poll(job, 1, 90.0, time.time(), 1))}


# ------------------------------------------------------------------ intake


def _intake_of_sqlite(count: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="reelwatch-benchmark-") as folder:
        yield from _intake("SQLite", count, f"sqlite:///{folder}/intake.db")


def _intake(database: str, count: int, url: str) -> Iterator[Row]:
    migrating.migrate(url)
    environment = {"DATABASE_URL": url, "QUICKROUTER_API_KEY": trackers.KEY}
    one_by_one, together = [], []
    with trackers.configured(environment), _lean_heap():
        tracking.track_many(["veo3.1-fast:warm-up"])
        for turn in range(TURNS):
            one_by_one.append(_seconds(partial(_track_each, _ids(f"one{turn}", count))))
            together.append(_seconds(partial(tracking.track_many, _ids(f"many{turn}", count))))
    db.dispose()
    one, many = median(one_by_one), median(together)
    note = (
        f"{count} ids: {1000 * one:.0f} ms one by one, {1000 * many:.0f} ms together; "
        f"medians of {TURNS} turns"
    )
    yield Row(GOAL, f"track_many is faster than track, {database}", one / many, "times",
              TIMES_ONE_BY_ONE, "higher", note)  # fmt: skip


@contextmanager
def _lean_heap() -> Iterator[None]:
    """The collector leaves alone what the benchmarks hold: no producer has all that.

    Going through it takes up to 0.1 s, as long as several calls of `track_many`.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _track_each(ids: Sequence[str]) -> None:
    for video_id in ids:
        tracking.track(video_id)


def _ids(prefix: str, count: int) -> Sequence[str]:
    return [f"veo3.1-fast:{prefix}-{number}" for number in range(count)]


def _seconds(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def _file(count: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="reelwatch-benchmark-") as folder:
        url, file = f"sqlite:///{folder}/file.db", Path(folder) / "ids"
        file.write_text("\n".join(_ids("file", count)))
        migrating.migrate(url)
        db.dispose()
        environment = {"DATABASE_URL": url, "QUICKROUTER_API_KEY": trackers.KEY}
        started = time.perf_counter()
        with process(["reelwatch", "track", "--file", str(file)], environment) as command:
            assert command.wait(PATIENCE) == 0, command.output
            seconds, said = time.perf_counter() - started, command.output.strip()
    assert f"tracking {count} videos" in said, said
    yield Row(GOAL, f"reelwatch track --file, {count:,} ids, SQLite", seconds, "s", FILE_SECONDS,
              "lower", "from start to end of the command")  # fmt: skip
