"""What an endpoint that refuses costs the others of its host: `python -m benchmarks refused`.

Four endpoints of a host that answers after a tenth of a second get 50 events each, once alone, once
beside a fifth that has 200 older ones and refuses each with 404. Measured is the mean time from
owed to delivered at the four, and the ratio of both. Two batches run at once, as in two workers.
"""

import contextlib
import os
import threading
import time
from collections.abc import Sequence

from sqlalchemy import text

from benchmarks.result import Row
from reelwatch.config import settings
from reelwatch.jobs import delivery
from reelwatch.sandbox.answers import Answer
from reelwatch.sandbox.server import LocalService, Request
from reelwatch.storage import db, migrating
from tests import seeding
from tests.environment import SECRET
from tests.servers import postgres

GOAL = "receivers"
LIMIT = 1.2
ENDPOINTS, EACH, REFUSED = 4, 50, 200
ANSWERS_AFTER = 0.1  # seconds
PATIENCE = 120.0


class Host(LocalService):
    """Refuses what goes to `/refused`, and takes all else."""

    def respond(self, request: Request) -> Answer:
        time.sleep(ANSWERS_AFTER)
        return Answer(404 if request.path == "/refused" else 200, {}, b"")


def rows(quick: bool) -> list[Row]:
    """The ratio, of alternating runs."""
    delays: dict[int, list[float]] = {0: [], REFUSED: []}
    with postgres() as server:
        for _ in range(1 if quick else 3):
            for refused, found in delays.items():
                found.append(run(server.create_database(), refused))
    alone, beside = (sum(found) / len(found) for found in delays.values())
    note = f"mean delay of 200 events to 4 endpoints: {alone:.2f} s alone, {beside:.2f} s beside"
    return [
        Row(GOAL, "delay beside 200 refused events of the host", beside / alone, "times", LIMIT,
            "lower", note)
    ]  # fmt: skip


def run(url: str, refused: int) -> float:
    """The mean delay in seconds at the endpoints that take their events."""
    migrating.migrate(url)
    os.environ |= {"DATABASE_URL": url, "WEBHOOK_SECRET": SECRET, "WEBHOOK_ALLOW": "127.0.0.1"}
    with contextlib.ExitStack() as stack:
        stack.callback(db.dispose)
        host = stack.enter_context(Host())
        with db.transaction(url) as session:
            for _ in range(refused):
                seeding.add_owed(session, f"{host.url}/refused")
            targets = [f"{host.url}/{number}" for number in range(ENDPOINTS)]
            for number in range(EACH * ENDPOINTS):
                seeding.add_owed(session, targets[number % ENDPOINTS])
        return mean_delay(url, targets)


def mean_delay(url: str, targets: Sequence[str]) -> float:
    """Deliver until these have all of their events; the mean delay."""
    current, over = settings.load(), threading.Event()
    with db.transaction(url) as session:
        began = db.now(session)

    def work() -> None:
        while not over.is_set():
            delivery.deliver(current, lambda *_: None)
            over.wait(0.2)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    where = "FROM deliveries WHERE target = ANY(:targets)"
    left = text(f"SELECT count(*) {where} AND state = 'pending'")
    give_up_at = time.monotonic() + PATIENCE
    while time.monotonic() < give_up_at:
        with db.reading(url) as session:
            if not session.execute(left, {"targets": list(targets)}).scalar_one():
                break
        time.sleep(0.1)
    over.set()
    for worker in workers:
        worker.join()
    mean = text(f"SELECT avg(extract(epoch FROM delivered_at - :began)) {where}")
    with db.reading(url) as session:
        values = {"targets": list(targets), "began": began}
        return float(session.execute(mean, values).scalar_one())
