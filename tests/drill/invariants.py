"""What must be true after a drill, beside what must be true after any run (`tests.fleet`)."""

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import psycopg
from sqlalchemy import make_url

from reelwatch.net.upstream import DEADLINE_SECONDS
from tests import counted
from tests.drill import readers
from tests.drill.world import POOR, Drill
from tests.servers import eventually

PING_LEAST, PING_SOON = 50.0, 150.0  # seconds
SHORT_SOON = 450.0  # seconds; a budget must be short for 300
IDLE_TRANSACTION_LIMIT = 3.0  # seconds; one that waits for a broker takes longer
# What PgBouncer itself sets for each client, and sets back for the next one.
POOLERS_OWN = ("application_name", "client_encoding", "DateStyle", "standard_conforming_strings",
               "TimeZone")  # fmt: skip


def wrong_expiries(drill: Drill) -> Iterator[str]:
    """A job expires only by a poll: one that upstream saw, and that was written down with it.

    But while its account rests: then its event says so.
    """
    asked = polls_by_id(drill)
    for video_id, deadline, at, recorded in drill.fleet.rows(
        "SELECT j.video_id, j.deadline_at, t.at, t.answer IS NOT NULL OR EXISTS "
        "(SELECT 1 FROM poll_errors e WHERE e.job_id = j.id AND t.at BETWEEN first_at AND last_at) "
        "FROM transitions t JOIN jobs j ON j.id = t.job_id "
        "WHERE t.to_state = 'expired' AND t.from_state <> 'expired' AND NOT EXISTS "
        "(SELECT 1 FROM deliveries d WHERE d.transition_id = t.id "
        "AND d.body LIKE '%account rests%')"
    ):
        # The answer counts when it came; the question may be up to a request's deadline older.
        since, until = deadline.timestamp() - DEADLINE_SECONDS - 2, at.timestamp()
        if not recorded or not any(since <= poll <= until for poll in asked[video_id]):
            yield f"{video_id} expired without a poll"


def late_results(drill: Drill) -> Iterator[str]:
    """No late result is written over another worker's poll the same job.

    A poll that hangs is given up after a known time. When its result is written much later, by a
    worker that was stopped or cut off meanwhile, nobody else may have asked since.
    """
    asked = polls_by_id(drill)
    for video_id, at in drill.fleet.rows(
        "SELECT j.video_id, e.first_at FROM poll_errors e JOIN jobs j ON j.id = e.job_id "
        "WHERE e.kind = 'timeout'"
    ):
        ago = [at.timestamp() - poll for poll in asked[video_id] if poll <= at.timestamp()]
        in_time = any(DEADLINE_SECONDS - 2 <= seconds <= DEADLINE_SECONDS + 8 for seconds in ago)
        if not in_time and min(ago) < DEADLINE_SECONDS - 2:
            yield f"{video_id}: a late result was written over another poll"


def polls_by_id(drill: Drill) -> dict[str, list[float]]:
    """When upstream was asked about each job, in unix time."""
    asked: dict[str, list[float]] = defaultdict(list)
    for at, video_id in drill.fleet.sandbox.polls():
        asked[video_id].append(at)
    return asked


def wrong_waits(drill: Drill) -> Iterator[str]:
    """No transaction stays open while something other than the database is waited for."""
    if drill.idle_longest > IDLE_TRANSACTION_LIMIT:
        after = f" after {drill.idle_after!r}"
        yield f"a transaction was held open, idle, for {drill.idle_longest:.1f} s{after}"


def producer_harmed(
    drill: Drill, ordered: Sequence[tuple[str, bool]], broker_well_since: float
) -> Iterator[str]:
    """The producer finds its own as it has left it, and what it was promised.

    `ordered` are the videos that it was to track in its transactions, and whether it was to commit.
    """
    for task in ("render", "remind"):
        for number, times in sorted(drill.shop.runs(task).items()):
            if times != 1:
                yield f"the producer's {task} {number} ran {times} times"
    tracked = {row[0] for row in drill.fleet.rows("SELECT video_id FROM jobs")}
    kept = drill.shop.ordered()
    for video_id, keep in ordered:
        if (video_id in tracked) != (video_id in kept):
            yield f"{video_id}: {video_id in kept=}, but {video_id in tracked=}"
        if video_id in kept and not keep:
            yield f"{video_id} was rolled back, and is in the producer's tables"
    owed = drill.fleet.rows(
        "SELECT id FROM deliveries WHERE channel = 'celery' "
        "AND delivered_at > to_timestamp(:since)", since=broker_well_since,
    )  # fmt: skip
    untold = {row[0] for row in owed}
    with contextlib.suppress(AssertionError):
        eventually(lambda: untold <= drill.shop.told(), 60)
    for event_id in untold - drill.shop.told():
        yield f"{event_id} did not come to the producer's callback"
    if drill.shop.schema() != drill.shop.schema_before:
        yield "the producer's tables, or the revision of its migrations, have changed"
    with contextlib.suppress(AssertionError):
        drill.shop.run("alembic", "check")
        return
    yield "the producer's Alembic proposes changes of its tables"


def wrong_counts(drill: Drill) -> Iterator[str]:
    """The counters are the facts, whatever was killed in the middle of what."""
    return counted.wrong_counts(drill.fleet.rows)


def wrong_notices(drill: Drill, seconds: float) -> Iterator[str]:
    """The operator is told once an incident."""
    begun: dict[str, Counter[str]] = {
        "paused": Counter(),
        "failing": Counter(),
        "outage": Counter(),
        "short": Counter(),
    }
    over = {"resumed": begun["paused"], "recovered": begun["failing"]}
    rows = drill.fleet.rows("SELECT event_type, body FROM deliveries WHERE job_id IS NULL")
    for event_type, body in rows:
        data, (about, word) = json.loads(body)["data"], event_type.split(".")
        subject = f"{about} {data.get('account') or data.get('endpoint')}"
        if word in begun:
            begun[word][subject] += 1
        elif word in over:
            (begun["outage"] if about == "upstream" else over[word])[subject] -= 1
    for word, counts in begun.items():
        for subject, left in counts.items():
            if left not in (0, 1):
                yield f"{subject}: told {left} times more of {word} than of its end"
    if "upstream_401" in drill.injected and not begun["paused"]:
        yield "an account was paused, and the operator was not told"
    poor = drill.fleet.rows("SELECT 1 FROM jobs WHERE account = :name", name=POOR)
    if poor and seconds > SHORT_SOON and not begun["short"]:
        yield "an account's budget was short, and the operator was not told"


def wrong_pings(drill: Drill, seconds: float) -> Iterator[str]:
    """There is one a minute, by all processes together."""
    gaps = [later - earlier for earlier, later in pairwise(drill.pinged.times)]
    if min(gaps, default=PING_LEAST) < PING_LEAST:
        yield f"two pings within {min(gaps):.1f} s"
    if seconds > PING_SOON and not drill.pinged.times:
        yield f"no ping in {seconds:.0f} s"


def wrong_feeds(drill: Drill) -> Iterator[str]:
    """Who can't be called was told the same as who can."""
    query = (
        "SELECT e.event_id, j.video_id, e.sequence FROM events e JOIN jobs j ON j.id = e.job_id "
        "ORDER BY e.position"
    )
    owed = "SELECT j.video_id, d.sequence FROM deliveries d JOIN jobs j ON j.id = d.job_id"
    events = [tuple(row) for row in drill.fleet.rows(query)]
    return readers.wrong_feeds(drill.readers, events, {tuple(r) for r in drill.fleet.rows(owed)})


def settings_left(drill: Drill) -> Iterator[str]:
    """No session of a pooler's keeps what we have set for ourselves: others use it after us."""
    address = make_url(drill.pooler.through(drill.fleet.environment["DATABASE_URL"]))
    url = address.set(drivername="postgresql", query={"application_name": "stranger"})
    left = (
        "SELECT name || ' = ' || setting FROM pg_settings WHERE source = 'session' AND "
        "name <> ALL(%s) "
        "UNION ALL SELECT 'prepared: ' || left(statement, 60) FROM pg_prepared_statements"
    )
    with contextlib.ExitStack() as stack:
        # All at once, each in a transaction of its own: so each has another session.
        for _ in drill.pooler.show("SERVERS"):
            connection = psycopg.connect(url.render_as_string(hide_password=False))
            connection.prepare_threshold = None
            stack.callback(connection.close)
            for (what,) in connection.execute(left, (list(POOLERS_OWN),)):
                yield f"left on a pooler's session: {what}"
