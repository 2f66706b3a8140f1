"""A fleet as in production: workers and beats as real processes over a real broker and database.

`python -m tests.fleet --jobs 2000` is the acceptance run at full size; the tests run a small one.
"""

import argparse
import contextlib
import itertools
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import VERSION, Celery
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from reelwatch.app.embedded import new_secret
from reelwatch.sandbox.listener import Listener, Reaction, Received
from reelwatch.sandbox.upstream import SCRIPTS, expected, scripted_id
from reelwatch.storage import migrating
from tests.processes import UNCOUNTED, be_usual
from tests.servers import Process, eventually, postgres, process, redis
from tests.upstream import Upstream, upstream

MODELS = ("veo3.1-fast", "sora-2", "grok")
WORKER = ("celery", "-A", "reelwatch", "worker", "--without-gossip", "--without-mingle")
BEAT = ("celery", "-A", "reelwatch", "beat")
BEATS_HAVE_NAMES = (5, 7)  # the version of Celery

# What is measured steps back behind what measures: on few cores upstream's and the receiver's
# clocks stay true.
BEHIND = 10
START_SECONDS = 180.0  # behind all tests of a busy machine, more than a minute

# Scripts that do not slow the whole account down (`busy`) or hold a thread (`hang`) for their own.
SCRIPT_NAMES = (
    "ok",
    "ok",
    "ok",
    "leftovers",
    "policy",
    "silent",
    "flaky",
    "html",
    "wrapped",
    "gone",
)


@dataclass
class Fleet:
    """The processes of one deployment, and what they work against."""

    database_url: str
    broker_url: str
    sandbox: Upstream
    listener: Listener
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    commands: list[Sequence[str]] = field(default_factory=list)  # of the processes

    def start(
        self,
        command: Sequence[str] = WORKER,
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """One more worker, or beat; what `environment` has differs from the others'."""
        # A name of its own: one node does not answer, or end, for another.
        named = "beat" not in command or VERSION >= BEATS_HAVE_NAMES
        name = [f"--hostname=p{len(self.processes)}@%h"] if named else []
        variables = {**self.environment, **(environment or {})}
        started = process([*command, *name, *options], variables, niceness=BEHIND)
        self.processes.append(started)
        self.commands.append(command)
        return started

    def of(self, command: Sequence[str]) -> list[Process]:
        """The processes that were started with this command."""
        pairs = zip(self.commands, self.processes, strict=True)
        return [each for started_with, each in pairs if started_with == command]

    def start_all(self, workers: int = 2, beats: int = 2) -> None:
        """So many workers and beats, all working."""
        new = [self.start(WORKER) for _ in range(workers)] + [
            self.start(BEAT) for _ in range(beats)
        ]
        for worker in new[:workers]:
            worker.wait_for("ready", START_SECONDS)

    def terminate_all(self) -> list[int]:
        """SIGTERM to all, as a deployment does; their exit codes."""
        running = [each for each in self.processes if each.running]
        for each in running:
            each.stop_signal(signal.SIGTERM)
        return [each.wait(60) for each in running]

    def send(self, name: str, *args: str, **kwargs: Any) -> None:
        """Hand something in as a producer does that has never heard of this package."""
        with Celery("producer", broker=self.broker_url) as producer:
            for arg in args:
                producer.send_task(name, args=[arg], kwargs=kwargs, queue="reelwatch")

    def rows(self, query: str, **values: Any) -> list[Any]:
        """The rows of a query of the database."""
        # Connections of its own: what has happened to the package's must not be felt here.
        engine = create_engine(self.database_url, poolclass=NullPool)
        with engine.connect() as connection:
            if schema := self.environment.get("REELWATCH_SCHEMA"):
                connection.execute(text(f"SET search_path = {schema}"))
            return list(connection.execute(text(query), values).all())

    def open_work(self) -> int:
        """How many jobs have not ended and how many events are still owed, together."""
        jobs = "SELECT count(*) FROM jobs WHERE state IN ('pending', 'running')"
        events = "SELECT count(*) FROM deliveries WHERE state = 'pending'"
        return int(self.rows(jobs)[0][0] + self.rows(events)[0][0])

    def log(self) -> str:
        """All that the processes have written."""
        return "\n".join(each.output for each in self.processes)


@contextlib.contextmanager
def fleet(
    database_url: str,
    broker_url: str,
    rate: float,
    answer: Callable[[Received], Reaction] = lambda _event: 200,
    secrets: Sequence[str] = (),
    **more: str,
) -> Iterator[Fleet]:
    """A deployment against a sandbox and a receiver of its own; ends with all its processes.

    Its events are signed with all `secrets`, newest first; the receiver knows the oldest alone.
    """
    secrets = secrets or [new_secret()]
    with upstream() as sandbox, Listener(secrets[-1:], answer=answer).start() as listener:
        environment = {
            **UNCOUNTED,
            "DATABASE_URL": database_url,
            "BROKER_URL": broker_url,
            "QUICKROUTER_BASE_URL": sandbox.url,
            "QUICKROUTER_API_KEY": "sk-fleet-0123456789abcdef",
            "REELWATCH_REQUESTS_PER_SECOND": str(rate),
            "REELWATCH_POLL_MIN": "1s",
            "REELWATCH_POLL_MAX": "5s",
            "REELWATCH_NOT_FOUND_AFTER": "3s",
            "WEBHOOK_SECRET": " ".join(secrets),
            "WEBHOOK_ALLOW": "127.0.0.1",
            "LOG_FORMAT": "json",
        } | more
        deployed = Fleet(database_url, broker_url, sandbox, listener, environment)
        try:
            yield deployed
        finally:
            for each in deployed.processes:
                each.close()


def scripted_ids(count: int, shortest: float, longest: float) -> list[str]:
    """So many ids of all scripts and models, durations spread evenly over the span in seconds."""
    choices = itertools.cycle((m, s) for s in SCRIPT_NAMES for m in MODELS)
    step = (longest - shortest) / max(1, count - 1)
    # Multiplied by a prime to the count's modulus: neighbours differ in duration, each occurs once.
    spread = [shortest + step * (7919 * i % count) for i in range(count)]
    return [
        scripted_id(model, script, round(seconds, 2), f"n{i}")
        for i, ((model, script), seconds) in enumerate(zip(choices, spread, strict=False))
    ]


def violations(
    deployed: Fleet, ids: Sequence[str], cancelled: Collection[str] = frozenset()
) -> list[str]:
    """All that is wrong with a finished run: by the database, by upstream, and by the receiver.

    Those of the `ids` that are `cancelled` have ended so, the others as upstream has them end.
    """
    return [
        *_wrong_ends(deployed, ids, cancelled),
        *_wrong_histories(deployed),
        *_wrong_events(deployed),
        *_wrong_rate(deployed),
    ]


def _wrong_ends(deployed: Fleet, ids: Sequence[str], cancelled: Collection[str]) -> Iterator[str]:
    rows = deployed.rows("SELECT video_id, state, error_code FROM jobs")
    if sorted(row[0] for row in rows) != sorted(ids):
        yield f"{len(ids)} ids were handed in, {len(rows)} are tracked"
    for video_id, state, code in rows:
        script = expected(video_id)
        right = (script.outcome, script.error_code)
        if (state, code) != (("cancelled", None) if video_id in cancelled else right):
            yield f"{video_id} ended as {state}/{code}, scripted is {script.outcome}"


def _wrong_histories(deployed: Fleet) -> Iterator[str]:
    for job_id, sequence, count, highest in deployed.rows(
        "SELECT j.id, j.sequence, count(t.id), max(t.sequence) FROM jobs j "
        "LEFT JOIN transitions t ON t.job_id = j.id GROUP BY j.id, j.sequence"
    ):
        if not sequence == count == highest:
            yield f"job {job_id}: sequence {sequence}, {count} transitions up to {highest}"
    final = "('completed', 'failed', 'cancelled')"
    for (job_id,) in deployed.rows(f"SELECT job_id FROM transitions WHERE from_state IN {final}"):
        yield f"job {job_id}: a transition out of a final state"
    for (job_id,) in deployed.rows(
        "SELECT id FROM jobs WHERE next_poll_at IS NULL AND finished_at IS NULL"
    ):
        yield f"job {job_id}: neither due nor ended"


def _wrong_events(deployed: Fleet) -> Iterator[str]:
    hooks = deployed.rows("SELECT id, job_id FROM deliveries WHERE channel = 'webhook'")
    known, owed = {row[0] for row in hooks}, {row[0] for row in hooks if row[1] is not None}
    seen = set(deployed.listener.seen)
    undelivered = deployed.rows(
        # The operator may just be told of something.
        "SELECT id FROM deliveries WHERE state <> 'delivered' AND job_id IS NOT NULL"
    )
    for transition, events in deployed.rows(
        "SELECT t.id, count(d.id) FROM transitions t "
        "LEFT JOIN deliveries d ON d.transition_id = t.id "
        "WHERE t.to_state <> t.from_state AND t.to_state IN ('completed', 'failed', 'expired') "
        "GROUP BY t.id HAVING count(d.id) <> 1"
    ):
        yield f"transition {transition} owes one event, {events} are written"
    if owed - seen:
        yield f"{len(owed - seen)} events were never received and verified"
    if seen - known:
        yield f"{len(seen - known)} events were received that are not in the database"
    if undelivered:
        yield f"{len(undelivered)} events are not marked as delivered"
    counts = deployed.listener.counts()
    if counts["received"] != counts["verified"]:
        yield f"{counts['received'] - counts['verified']} messages did not verify"


def _wrong_rate(deployed: Fleet) -> Iterator[str]:
    most = deployed.sandbox.stats()["max_in_one_second"]
    rate = float(deployed.environment["REELWATCH_REQUESTS_PER_SECOND"])
    if most > rate:
        yield f"{most} requests in one second, {rate:g} are allowed"


def main() -> int:
    """The acceptance run: prints what happened, exits non-zero on any violation."""
    be_usual()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--shortest", type=float, default=5.0)
    parser.add_argument("--longest", type=float, default=40.0)
    options = parser.parse_args()
    with postgres() as database, redis() as broker:
        url = database.create_database()
        migrating.migrate(url)
        with fleet(url, broker.url, options.rate) as deployed:
            return run(deployed, options)


def run(deployed: Fleet, options: argparse.Namespace) -> int:
    """Hand all in, stop and start everything in the middle, wait for the end, check."""
    ids = scripted_ids(options.jobs, options.shortest, options.longest)
    started = time.monotonic()
    deployed.start_all()
    say("2 workers and 2 beats are up", started)
    deployed.send("reelwatch.track", *ids, webhook_url=f"{deployed.listener.url}/hook")
    say(f"{len(ids)} ids sent", started)
    ended = "SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL"
    eventually(lambda: deployed.rows(ended)[0][0] >= len(ids) // 3, 300, "a third has ended")
    say(f"SIGTERM to all: exit codes {deployed.terminate_all()}", started)
    deployed.start_all()
    say("started again", started)

    def settled() -> bool:
        states = dict(deployed.rows("SELECT state, count(*) FROM jobs GROUP BY state"))
        say(f"{states} {deployed.listener.counts()}", started)
        time.sleep(2)
        return sum(states.values()) == len(ids) and not deployed.open_work()

    eventually(settled, 600, "everything has ended")
    report(deployed, ids)
    Path("fleet.log").write_text(deployed.log())
    return 1 if list(violations(deployed, ids)) else 0


def report(deployed: Fleet, ids: Sequence[str]) -> None:
    """What the run came to."""
    doctor = process(["reelwatch", "doctor"], deployed.environment)
    code = doctor.wait(60)
    print(doctor.output)
    print("doctor:", "all green" if code == 0 else f"exit code {code}")
    delay = deployed.rows(
        "SELECT avg(extract(epoch FROM finished_at - upstream_finished_at)), "
        "max(extract(epoch FROM finished_at - upstream_finished_at)) FROM jobs "
        "WHERE upstream_finished_at IS NOT NULL"
    )
    print(
        "seconds from upstream's end to ours, mean and worst:",
        [round(float(x), 2) for x in delay[0]],
    )
    print("receiver:", deployed.listener.counts())
    print("upstream:", {k: v for k, v in deployed.sandbox.stats().items() if k != "keys"})
    levels = Counter(
        line.split('"level": "')[1].split('"')[0]
        for line in deployed.log().splitlines()
        if '"level": "' in line
    )
    print("log lines:", dict(levels))
    for row in deployed.rows(
        "SELECT video_id, polls, finished_at - upstream_finished_at FROM jobs "
        "WHERE upstream_finished_at IS NOT NULL ORDER BY 3 DESC LIMIT 3"
    ):
        print("noticed last:", *row)
    wrong = violations(deployed, ids)
    print(f"{len(wrong)} violations", *wrong[:20], sep="\n  ")


def say(what: str, started: float) -> None:
    """A line of progress."""
    print(f"{time.monotonic() - started:6.1f} s  {what}", flush=True)


if __name__ == "__main__":
    assert set(SCRIPT_NAMES) <= set(SCRIPTS)
    sys.exit(main())
