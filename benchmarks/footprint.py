"""What docs/scale.md reckons with, beside the other benchmarks: `python -m benchmarks.footprint`.

- How long a claim of 64 polls holds its account's row, and what applying their answers takes, on a
  PostgreSQL that keeps its files on disk and syncs each commit.
- How many small transactions a second that PostgreSQL commits, by the number of clients: each
  writes one row of its own.
- What a message that waits costs the broker's memory: `reelwatch.track` as a producer sends it.
"""

import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import psycopg
from celery import Celery
from redis import Redis
from sqlalchemy.engine import make_url

from benchmarks.claims import BATCH, FEW, WARM_UP, Ground, Times
from benchmarks.load import resident
from reelwatch.storage import db, migrating
from tests import servers

TURNS = 200
CLIENTS = (1, 4, 16, 64)
COMMIT_SECONDS = 4.0
MESSAGES = 20_000
ON_DISK = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB",
           "max_wal_size": "2GB"}  # fmt: skip


def claim_and_apply(url: str) -> Iterator[str]:
    """How long the account's row is locked, and what writing down takes."""
    migrating.migrate(url)
    ground, times = Ground(url, FEW), Times()
    for number in range(WARM_UP + TURNS):
        ground.turn(Times() if number < WARM_UP else times, all_due=False)
    for name, seconds in (("claim", times.claim), ("apply", times.apply)):
        ordered = sorted(1000 * each for each in seconds)
        middle, late = statistics.median(ordered), ordered[len(ordered) * 95 // 100]
        yield f"{name} of {BATCH}, BEGIN to COMMIT: median {middle:.1f} ms, 95 %: {late:.1f} ms"


def commits(url: str, clients: int) -> float:
    """Transactions a second of so many clients at once."""
    conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS counted (client int PRIMARY KEY, n int)")
        connection.execute("TRUNCATE counted")
        connection.execute(f"INSERT INTO counted SELECT g, 0 FROM generate_series(1, {clients}) g")
    begin = threading.Barrier(clients)
    over = threading.Event()
    done = [0] * clients

    def work(client: int) -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            begin.wait()
            while not over.is_set():
                connection.execute("UPDATE counted SET n = n + 1 WHERE client = %s", [client + 1])
                done[client] += 1

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(COMMIT_SECONDS)
    over.set()
    for thread in threads:
        thread.join()
    return sum(done) / COMMIT_SECONDS


def publish(broker_url: str) -> None:
    """So many ids, as a producer hands them in."""
    with Celery("producer", broker=broker_url) as producer:
        for number in range(MESSAGES):
            producer.send_task(
                "reelwatch.track",
                args=[f"veo3.1-fast:{1770350082 + number}-trii1OXZc3"],
                kwargs={
                    "webhook_url": "https://app.example.com/reelwatch",
                    "metadata": {"order": number},
                },
                queue="reelwatch",
            )


def redis_bytes() -> float:
    """Of Redis's memory, for a message."""
    with servers.redis() as broker, Redis.from_url(broker.url) as client:
        before = int(client.info("memory")["used_memory"])
        publish(broker.url)
        return (int(client.info("memory")["used_memory"]) - before) / MESSAGES


def rabbitmq_bytes() -> float:
    """Of the node's resident memory, for a message in a quorum queue; it is on disk as well."""
    with servers.rabbitmq() as broker:
        before = session_bytes(broker.pid)
        publish(broker.url)
        return (session_bytes(broker.pid) - before) / MESSAGES


def session_bytes(leader: int) -> int:
    """The resident memory of all processes of a session."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if int(stat.read_text().rpartition(")")[2].split()[3]) == leader:
                total += resident(int(stat.parent.name)) or 0
    return total


def main() -> int:
    """The command."""
    on_disk = patch.object(servers, "roomy_memory", lambda: None)
    with on_disk, patch.dict(servers.POSTGRES_SETTINGS, ON_DISK), servers.postgres() as server:
        print(*claim_and_apply(server.create_database()), sep="\n")
        db.dispose()
        for clients in CLIENTS:
            print(f"{clients:3} clients: {commits(server.url, clients):8,.0f} commits a second")
    print(f"Redis: {redis_bytes():,.0f} bytes of memory for a message that waits")
    if missing := servers.rabbitmq_missing():
        print(missing)
    else:
        print(f"RabbitMQ: {rabbitmq_bytes():,.0f} bytes of memory for a message that waits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
