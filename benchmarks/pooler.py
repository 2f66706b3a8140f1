"""What a pooler in front of PostgreSQL costs, and what prepared statements are worth without one.

    python -m benchmarks.pooler [--turns N]

One full turn, a claim of 64 due jobs and the writing down of 64 answers, as `benchmarks.claims` has
it, in three ways: directly as Reelwatch does it; directly without prepared statements; through a
PgBouncer in transaction mode, where there are none and each transaction has one statement more.
The ways take turns, so that whatever else the machine does hits all alike.
"""

import argparse
import statistics
import time
from contextlib import ExitStack
from datetime import timedelta

from sqlalchemy import update

from reelwatch.config.accounts import Account
from reelwatch.jobs import applying, claiming
from reelwatch.jobs.applying import Polled
from reelwatch.net.upstream import Poll
from reelwatch.rules.answers import Meaning, Report
from reelwatch.rules.deadlines import Rules
from reelwatch.storage import db, migrating
from reelwatch.storage.job_columns import jobs
from tests import seeding, servers

BATCH = 64
ACCOUNT = Account("default", "http://127.0.0.1:9", "sk-benchmark", 10_000.0)
RUNNING = Report("video_generating", Meaning.IN_PROGRESS, body={"status": "video_generating"})
WARM_UP = 10  # turns that are not timed


def turn(url: str) -> tuple[float, float]:
    """Milliseconds of one claim and of one writing down; afterwards the jobs are due again."""
    begun = time.perf_counter()
    with db.transaction(url) as session:
        claimed = claiming.claim(session, ACCOUNT, BATCH).items
    taken = time.perf_counter()
    results = [Polled(each, Poll(RUNNING, 200, 5)) for each in claimed]
    with db.transaction(url) as session:
        applying.apply(session, Rules(), results)
    written = time.perf_counter()
    with db.transaction(url) as session:
        due = db.now(session) - timedelta(seconds=1)
        session.execute(update(jobs).values(next_poll_at=due, lease_token=None))
    return (taken - begun) * 1000, (written - taken) * 1000


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pooler", description=__doc__)
    parser.add_argument("--turns", type=int, default=200)
    turns = parser.parse_args().turns
    with ExitStack() as stack:
        server = stack.enter_context(servers.postgres())
        pooler = stack.enter_context(servers.pgbouncer(server.url))
        direct = server.create_database()
        migrating.migrate(direct)
        with db.transaction(direct) as session:
            seeding.add_account(session)
            for _ in range(BATCH):
                seeding.add_job(session, "running", tracked_at=db.now(session))
        ways = {
            "direct": direct,
            "direct, nothing prepared": f"{direct}?prepare_threshold=none",
            "through PgBouncer": pooler.through(direct),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(turns + WARM_UP):
            for name, url in ways.items():
                took = turn(url)
                if number >= WARM_UP:
                    times[name].append(took)
        db.dispose()
    for name, taken in times.items():
        claim, apply = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"{name:26} claim {claim:5.2f} ms, apply {apply:5.2f} ms, of {BATCH} polls")


if __name__ == "__main__":
    main()
