"""What receivers that hang cost the others: `python -m benchmarks.receivers`.

Twenty receivers get 50 events each, once with all of them working, once with two (10 %) that never
answer. Printed is the mean time from owed to delivered at those that work, and the ratio of both.
Four turns run at once, begun anew as the ticks do.
"""

import argparse
import contextlib
import os
import threading
import time
from collections.abc import Sequence

from sqlalchemy import text

from reelwatch.app.embedded import new_secret
from reelwatch.config import settings
from reelwatch.jobs import delivery
from reelwatch.sandbox.listener import Listener
from reelwatch.storage import db, migrating
from tests import seeding
from tests.servers import postgres

GOAL = 1.2


def owe(url: str, targets: Sequence[str], events: int) -> None:
    """So many events for each target, all due now."""
    with db.transaction(url) as session:
        for number in range(events * len(targets)):
            seeding.add_owed(session, targets[number % len(targets)])


def mean_delay(url: str, working: Sequence[str]) -> float:
    """Deliver until the working targets have all their events; their mean delay in seconds."""
    current = settings.load()
    with db.transaction(url) as session:
        began = db.now(session)
    left = "SELECT count(*) FROM deliveries WHERE state = 'pending' AND target = ANY(:targets)"
    values = {"targets": list(working)}
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            delivery.deliver(current, lambda *_: None)
            over.wait(0.2)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    give_up_at = time.monotonic() + 120
    while time.monotonic() < give_up_at:
        with db.reading(url) as session:
            if not session.execute(text(left), values).scalar_one():
                break
        time.sleep(0.1)
    over.set()
    for worker in workers:
        worker.join()
    mean = (
        "SELECT avg(extract(epoch FROM delivered_at - :began)) FROM deliveries "
        "WHERE state = 'delivered' AND target = ANY(:targets)"
    )
    with db.reading(url) as session:
        return float(session.execute(text(mean), values | {"began": began}).scalar_one())


def run(url: str, hanging: int, events: int) -> float:
    """The mean delay at the working ones of twenty receivers."""
    secret = new_secret()
    os.environ |= {
        "DATABASE_URL": url,
        "WEBHOOK_SECRET": secret,
        "WEBHOOK_ALLOW": "127.0.0.1",
        "REELWATCH_WEBHOOK_TIMEOUT": "15s",
    }
    with contextlib.ExitStack() as stack:
        hang = (200, {"delay": "20"})
        receivers = [
            stack.enter_context(
                Listener([secret], answer=(lambda _event: hang) if n < hanging else 200)
            )
            for n in range(20)
        ]
        targets = [f"{receiver.url}/hook" for receiver in receivers]
        owe(url, targets, events)
        return mean_delay(url, targets[hanging:])


def main() -> None:
    """Print both means and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=50, help="for each receiver")
    options = parser.parse_args()
    with postgres() as server:
        means = []
        for hanging in (0, 2, 0, 2):  # alternating: what else the machine does hits both
            url = server.create_database()
            migrating.migrate(url)
            means.append(run(url, hanging, options.events))
            db.dispose()
    well, some = (means[0] + means[2]) / 2, (means[1] + means[3]) / 2
    print(f"mean delivery time, all working:  {well:.2f} s")
    print(f"mean delivery time, 10 % hanging: {some:.2f} s")
    print(f"ratio {some / well:.2f}, goal at most {GOAL}")


if __name__ == "__main__":
    main()
