"""The fault drill: a fleet at work while everything around it fails, by a seeded script.

`python -m tests.drill` (which is `make drill`) runs 2,000 jobs; the tests run a short one. What is
checked afterwards comes from the database, from what upstream saw and from what the receiver saw.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url

from reelwatch import db, postgresql
from reelwatch.listener import Reaction, Received
from reelwatch.polling import LEASE
from reelwatch.sandbox import scripted_id
from reelwatch.upstream import DEADLINE_SECONDS
from tests.fleet import BEAT, WORKER, Fleet, fleet, scripted_ids, violations
from tests.proxy import Proxy, Weather, detour
from tests.servers import PostgresServer, Process, RedisServer, eventually, postgres, redis

STEPPED_WORKER = (sys.executable, str(Path(__file__).with_name("stepped_worker.py")), *WORKER[1:])
IDLE_TRANSACTION_LIMIT = 3.0  # seconds; one that waits for a broker takes longer
RETRY_SCHEDULE = "1s,1s,2s,2s,3s,3s,5s,5s,5s,10s,10s,10s,10s,20s,20s,20s"


@dataclass
class Drill:
    """One run: the fleet, what it stands on, and what has been done to it."""

    database: PostgresServer
    broker: RedisServer
    to_database: Proxy  # these are between the fleet and what it stands on
    to_broker: Proxy
    chance: random.Random
    workers: int = 2
    injected: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    recovery: dict[str, float] = field(default_factory=dict)
    reaction: Callable[[Received], Reaction] | None = None
    idle_longest: float = 0.0
    someone_frozen: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    fleet: Fleet = field(init=False)

    # -------------------------------------------------------------- faults

    def kill_worker(self) -> None:
        """`kill -9` of a worker with all its children; another starts in its place."""
        self._running(WORKER).kill()
        self.fleet.start(WORKER, "-c", "4")

    def kill_beat(self) -> None:
        """`kill -9` of one of the beats."""
        self._running(BEAT).kill()
        self.fleet.start(BEAT)

    def kill_both_beats(self) -> None:
        """No beat at all for longer than the workers wait for a tick."""
        for _ in range(2):
            self._running(BEAT).kill()
        time.sleep(25)
        for _ in range(2):
            self.fleet.start(BEAT)

    def freeze_worker(self) -> None:
        """SIGSTOP of a worker for longer than its leases: its late results are fenced off."""
        self.fleet.sandbox.set_fault("hang")  # so that there are looks in hand
        time.sleep(0.5)
        frozen = max(self._all_running(WORKER), key=last_look)
        self.someone_frozen = True  # perhaps within a transaction
        os.killpg(frozen.pid, signal.SIGSTOP)
        self.fleet.sandbox.set_fault("none")
        time.sleep(LEASE.total_seconds() + 5)
        os.killpg(frozen.pid, signal.SIGCONT)
        self.someone_frozen = False

    def flush_redis(self) -> None:
        """FLUSHALL."""
        self.broker.flush()

    def kill_redis(self) -> None:
        """`kill -9` of a Redis that keeps nothing."""
        self.broker.kill()
        time.sleep(3)
        self.broker.start()

    def lose_redis_silently(self) -> None:
        """Connections to Redis go dead without a word."""
        self._weather(self.to_broker, Weather.BLACK_HOLE, 8)

    def reset_redis(self) -> None:
        """Connections to Redis are reset."""
        self._weather(self.to_broker, Weather.RESETS, 3)

    def refuse_redis(self) -> None:
        """Nothing listens where Redis was."""
        self._weather(self.to_broker, Weather.REFUSES, 5)

    def restart_postgres(self) -> None:
        """The database restarts."""
        self.database.restart()

    def terminate_backends(self) -> None:
        """`pg_terminate_backend` for every connection."""
        self.database.terminate_connections()

    def lose_postgres_silently(self) -> None:
        """Connections to the database go dead without a word; who waits there gives up in time."""
        self.someone_frozen = True  # the server waits for them, perhaps within a transaction
        self._weather(self.to_database, Weather.BLACK_HOLE, 8)
        time.sleep(postgresql.IDLE_SECONDS)
        self.someone_frozen = False

    def upstream_429(self) -> None:
        """Upstream answers 429 to everything."""
        self._upstream("429", 2)

    def upstream_500(self) -> None:
        """Upstream answers 500 to everything."""
        self._upstream("500", 4)

    def upstream_garbage(self) -> None:
        """Upstream answers with what is no JSON."""
        self._upstream("garbage", 4)

    def upstream_hangs(self) -> None:
        """Upstream takes requests and does not answer."""
        self._upstream("hang", 4)

    def upstream_401(self) -> None:
        """The key is refused: the account rests, and is probed."""
        self._upstream("401", 4)

    def receiver_500(self) -> None:
        """The receiver answers 500."""
        self._receiver(lambda _event: 500, 4)

    def receiver_hangs(self) -> None:
        """The receiver answers only after the sender has given up."""
        self._receiver(lambda _event: (200, {"delay": "6"}), 4)

    def receiver_resets(self) -> None:
        """The receiver hangs up."""
        self._receiver(lambda _event: 0, 4)

    def receiver_is_slow(self) -> None:
        """The receiver takes its time."""
        self._receiver(lambda _event: (200, {"delay": "1"}), 4)

    def step_clock(self) -> None:
        """A worker whose clock is an hour ahead works along."""
        stepped = self.fleet.start(STEPPED_WORKER)
        stepped.wait_for("ready", 60)
        time.sleep(8)
        stepped.kill()

    def restart_rolling(self) -> None:
        """Each worker is replaced by SIGTERM, one after the other."""
        for worker in self._all_running(WORKER):
            worker.wait_for("ready", 60)  # before that it does not know the signal yet
            code = worker.terminate(90)
            assert code == 0, f"a worker ended with {code} after SIGTERM"
            self.fleet.start(WORKER, "-c", "4").wait_for("ready", 60)

    def kill_after_answer(self) -> None:
        """Every worker is killed between a receiver's 2xx and the commit of it."""
        armed = threading.Event()

        def answer(_event: Received) -> Reaction:
            if not armed.is_set():
                armed.set()
                threading.Timer(0.005, self._kill_all_workers).start()
            return 200

        self._receiver(answer, 15, until=armed)
        time.sleep(0.5)
        for _ in range(self.workers):
            self.fleet.start(WORKER, "-c", "4")

    # ------------------------------------------------------------- running

    def inject(self, name: str) -> None:
        """Do one fault, and note how long upstream was not asked because of it."""
        began = time.time()
        self.injected[name] += 1
        getattr(self, name)()
        over = time.time()
        eventually(lambda: self._asked_since(over), 90, f"a look after {name}")
        self.recovery[name] = max(self.recovery.get(name, 0.0), self._longest_gap(began))

    def watch_transactions(self) -> None:
        """Note the longest that any transaction waited for something other than the database."""
        query = (
            "SELECT coalesce(max(extract(epoch FROM now() - state_change)), 0) "
            "FROM pg_stat_activity WHERE state = 'idle in transaction'"
        )
        url = make_url(self.database.url).set(drivername="postgresql")
        address = url.render_as_string(hide_password=False)  # refused while it is being restarted
        while not self.over.wait(0.25):
            with contextlib.suppress(psycopg.Error), psycopg.connect(address) as connection:
                row = connection.execute(query).fetchone()
                if row and not self.someone_frozen:
                    self.idle_longest = max(self.idle_longest, float(row[0]))

    def react(self, event: Received) -> Reaction:
        """What the receiver answers at the moment."""
        return self.reaction(event) if self.reaction else 200

    def _asked_since(self, moment: float) -> bool:
        return any(look.at > moment for look in self.fleet.sandbox.looks()[-200:])

    def _longest_gap(self, began: float) -> float:
        """The longest time without any look, from the fault's begin until now."""
        times = [began, *(look.at for look in self.fleet.sandbox.looks() if look.at >= began)]
        return max(b - a for a, b in pairwise(times))

    def _weather(self, road: Proxy, weather: Weather, seconds: float) -> None:
        road.set(weather)
        time.sleep(seconds)
        road.set(Weather.FAIR)

    def _upstream(self, mode: str, seconds: float) -> None:
        self.fleet.sandbox.set_fault(mode)
        time.sleep(seconds)
        self.fleet.sandbox.set_fault("none")

    def _receiver(
        self,
        reaction: Callable[[Received], Reaction],
        seconds: float,
        until: threading.Event | None = None,
    ) -> None:
        self.reaction = reaction
        (until or self.over).wait(seconds)
        self.reaction = None

    def _all_running(self, command: Sequence[str]) -> list[Process]:
        return [each for each in self.fleet.of(command) if each.running]

    def _running(self, command: Sequence[str]) -> Process:
        return self.chance.choice(self._all_running(command))

    def _kill_all_workers(self) -> None:
        for each in self._all_running(WORKER):
            each.kill()


SHORT = (
    "kill_worker",
    "flush_redis",
    "upstream_500",
    "lose_redis_silently",
    "kill_beat",
    "restart_postgres",
    "receiver_resets",
    "kill_after_answer",
    "terminate_backends",
    "restart_rolling",
)
# What the broker holds is gone with these; what the database holds is not. Redis forgets a message
# when it hands it out, before the worker has noted it as under way: it is gone with either of them.
FORGETTING = {
    "flush_redis",
    "kill_redis",
    "lose_redis_silently",
    "reset_redis",
    "refuse_redis",
    "kill_worker",
    "kill_after_answer",
}
EACH_ONCE = (
    "kill_both_beats",
    "freeze_worker",
    "flush_redis",
    "kill_redis",
    "lose_redis_silently",
    "reset_redis",
    "refuse_redis",
    "restart_postgres",
    "terminate_backends",
    "lose_postgres_silently",
    "upstream_429",
    "upstream_500",
    "upstream_garbage",
    "upstream_hangs",
    "upstream_401",
    "receiver_500",
    "receiver_hangs",
    "receiver_resets",
    "receiver_is_slow",
    "step_clock",
    "restart_rolling",
    "kill_after_answer",
    "kill_after_answer",
)


def script(chance: random.Random) -> list[str]:
    """The names of the faults of a full drill, in the order of this seed."""
    kills = [chance.choice(("kill_worker", "kill_beat")) for _ in range(20)]
    names = [*EACH_ONCE, *kills]
    chance.shuffle(names)
    return names


@contextlib.contextmanager
def drilling(seed: int, rate: float) -> Iterator[Drill]:
    """Servers, proxies and fleet for one run."""
    with postgres() as database, redis() as broker:
        url = database.create_database()
        db.migrate(url)
        with detour(url) as (to_database, database_url), detour(broker.url) as (to_broker, through):
            more = {
                "DATABASE_URL": database_url,
                "BROKER_URL": through,
                "REELWATCH_RETRY_SCHEDULE": RETRY_SCHEDULE,
                "REELWATCH_WEBHOOK_TIMEOUT": "5s",
                "REELWATCH_NOT_FOUND_AFTER": "10s",
            }
            drill = Drill(database, broker, to_database, to_broker, random.Random(seed))
            # The producer goes straight to the broker: how it bears a silent one is its affair.
            # Straight to the database goes what looks at how the fleet is.
            with fleet(url, broker.url, rate, drill.react, **more) as drill.fleet:
                watcher = threading.Thread(target=drill.watch_transactions, daemon=True)
                watcher.start()
                try:
                    yield drill
                finally:
                    drill.over.set()
                    watcher.join(10)


def run(drill: Drill, jobs: int, names: Sequence[str], longest: float) -> list[str]:
    """Hand the jobs in, do all that is named, wait for the ends; returns what is wrong.

    `longest` is how long, in seconds, the longest of the jobs takes upstream.
    """
    ids = scripted_ids(jobs, longest / 10, longest)
    endless = [scripted_id("veo3.1", "forever", 1, f"e{n}") for n in range(max(2, jobs // 100))]
    deployed = drill.fleet
    for _ in range(drill.workers):
        deployed.start(WORKER, "-c", "4")
        deployed.start(BEAT)
    hook = f"{deployed.listener.url}/hook"
    deployed.send("reelwatch.track", *endless, webhook_url=hook, deadline=longest / 2)
    sent = list(endless)
    for number, name in enumerate(names):
        # A share before each fault: it befalls what has just come in and what is near its end.
        share = ids[number :: len(names)]
        deployed.send("reelwatch.track", *share, webhook_url=hook)
        sent += share
        if name in FORGETTING:
            make_sure(deployed, sent, hook)
        say(f"{name}: {getattr(Drill, name).__doc__}")
        drill.inject(name)
        time.sleep(drill.chance.uniform(0.2, 2.0))
    say("the script is over; waiting for the last end")
    make_sure(deployed, sent, hook)
    eventually(lambda: not deployed.open_work(), 600, lambda: f"{deployed.open_work()} open")
    drill.over.set()
    return [
        *violations(deployed, [*ids, *endless]),
        *wrong_expiries(drill),
        *late_results(drill),
        *wrong_waits(drill),
    ]


def make_sure(deployed: Fleet, sent: Sequence[str], hook: str) -> None:
    """Go on when all that was sent is tracked; what a killed worker had in hand is sent again.

    The broker would hand that out again too, but only after minutes; and twice does no harm.
    """

    def missing() -> set[str]:
        return set(sent) - {row[0] for row in deployed.rows("SELECT video_id FROM jobs")}

    with contextlib.suppress(AssertionError):
        eventually(lambda: not missing(), 15)
    deployed.send("reelwatch.track", *missing(), webhook_url=hook)
    eventually(lambda: not missing(), 60, lambda: f"{len(missing())} are not tracked")


def wrong_expiries(drill: Drill) -> Iterator[str]:
    """A job expires only by a look: one that upstream saw, and that was written down with it."""
    asked = looks_by_id(drill)
    for video_id, deadline, at, recorded in drill.fleet.rows(
        "SELECT j.video_id, j.deadline_at, t.at, t.answer IS NOT NULL OR EXISTS "
        "(SELECT 1 FROM poll_errors e WHERE e.job_id = j.id AND t.at BETWEEN first_at AND last_at) "
        "FROM transitions t JOIN jobs j ON j.id = t.job_id "
        "WHERE t.to_state = 'expired' AND t.from_state <> 'expired'"
    ):
        # The answer counts when it came; the question may be up to a request's deadline older.
        since, until = deadline.timestamp() - DEADLINE_SECONDS - 2, at.timestamp()
        if not recorded or not any(since <= look <= until for look in asked[video_id]):
            yield f"{video_id} expired without a look"


def late_results(drill: Drill) -> Iterator[str]:
    """No late result is written over another worker's look at the same job.

    A look that hangs is given up after a known time; a result that is written long after it came
    from a worker that was stopped. That is right only as long as nobody else has asked since.
    """
    asked = looks_by_id(drill)
    for video_id, at in drill.fleet.rows(
        "SELECT j.video_id, e.first_at FROM poll_errors e JOIN jobs j ON j.id = e.job_id "
        "WHERE e.kind = 'timeout'"
    ):
        ago = [at.timestamp() - look for look in asked[video_id] if look <= at.timestamp()]
        in_time = any(DEADLINE_SECONDS - 2 <= seconds <= DEADLINE_SECONDS + 8 for seconds in ago)
        if not in_time and min(ago) < LEASE.total_seconds():
            yield f"{video_id}: a late result was written over another look"


def last_look(worker: Process) -> str:
    """When a worker last logged a look; empty if it never did."""
    looks = [line for line in worker.output.splitlines() if '"event": "look"' in line]
    return looks[-1].partition('"timestamp": ')[2] if looks else ""


def looks_by_id(drill: Drill) -> dict[str, list[float]]:
    """When upstream was asked about each job, in unix time."""
    asked: dict[str, list[float]] = defaultdict(list)
    for at, video_id in drill.fleet.sandbox.looks():
        asked[video_id].append(at)
    return asked


def wrong_waits(drill: Drill) -> Iterator[str]:
    """No transaction stays open while something other than the database is waited for."""
    if drill.idle_longest > IDLE_TRANSACTION_LIMIT:
        yield f"a transaction was held open, idle, for {drill.idle_longest:.1f} s"


def report(drill: Drill, wrong: Sequence[str], jobs: int, seed: int) -> str:
    """The table that a run ends with."""
    counts = drill.fleet.listener.counts()
    owed = drill.fleet.rows("SELECT count(*) FROM deliveries")[0][0]
    dead = drill.fleet.rows("SELECT count(*) FROM deliveries WHERE state = 'dead'")[0][0]
    worst = sorted(drill.recovery.items(), key=lambda item: -item[1])
    rows: list[tuple[str, Any]] = [
        ("seed", seed),
        ("jobs", jobs),
        ("faults injected", sum(drill.injected.values())),
        ("looks", len(drill.fleet.sandbox.looks())),
        ("events owed", owed),
        ("events received", counts["distinct"]),
        ("lost", owed - counts["distinct"] - dead),
        ("dead", dead),
        ("received again", counts["duplicates"]),
        ("most requests in a second", drill.fleet.sandbox.stats()["max_in_one_second"]),
        ("longest idle transaction, s", f"{drill.idle_longest:.2f}"),
        ("violations", len(wrong)),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    lines += ["", "| fault | times | longest time without a look, s |", "|---|---|---|"]
    lines += [f"| {name} | {drill.injected[name]} | {gap:.1f} |" for name, gap in worst]
    return "\n".join(["| | |", "|---|---|", *lines, *(f"VIOLATION: {each}" for each in wrong[:50])])


def say(what: str) -> None:
    """A line of progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", flush=True)


def main() -> int:
    """Run the drill; exits non-zero on any violation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--longest", type=float, default=300.0, help="seconds of the longest job")
    parser.add_argument("--faults", help="these faults only, comma-separated, in this order")
    options = parser.parse_args()
    with drilling(options.seed, options.rate) as drill:
        names = options.faults.split(",") if options.faults else script(drill.chance)
        wrong = run(drill, options.jobs, names, options.longest)
        print(report(drill, wrong, options.jobs, options.seed))
        if wrong:
            Path("drill.log").write_text(drill.fleet.log())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
