"""Which faults come in which order, and what is handed in meanwhile."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from reelwatch.sandbox.upstream import scripted_id
from tests.drill import invariants
from tests.drill.faults import FAULTS
from tests.drill.world import BEATS, POOR, READERS, READY_SECONDS, Drill
from tests.fleet import BEAT, WORKER, scripted_ids, violations
from tests.servers import eventually

ORDERS = 4  # of the producer's, before each fault; one of them is rolled back
KILLS = 10  # of workers and beats, at random
TWICE = ("kill_after_answer",)
POOR_JOBS, POOR_SECONDS = 6, 600.0  # a budget has to be short for 300
LONG_ENOUGH = 60.0  # seconds of the longest job, where a run is one of many minutes
LONG_TASKS = (0.7, 0.8, 1.0)  # how long they take, of the longest
LEADING = 6  # faults of other kinds among those that befall the producer's broker as well
# Short ones, for the tests: a few of each kind every time, others from day to day.
QUICK = (
    "kill_worker",
    "kill_beat",
    "kill_after_answer",
    "flush_redis",
    "kill_redis",
    "lose_redis_silently",
    "reset_redis",
    "refuse_redis",
    "restart_postgres",
    "terminate_backends",
    "upstream_500",
    "upstream_garbage",
    "receiver_500",
    "receiver_resets",
    "shop_shuts_down",
)
ALWAYS = ("failover_postgres", "failover_redis", "restart_rolling")


def full_script(chance: random.Random) -> list[str]:
    """The names of the faults of a full drill, in the order of this seed."""
    kills = [chance.choice(("kill_worker", "kill_beat")) for _ in range(KILLS)]
    return ordered(chance, [*FAULTS, *TWICE, *kills])


def short_script(chance: random.Random, quick: int = 5) -> list[str]:
    """A few, all short, for those who have a minute."""
    return ordered(chance, [*chance.sample(QUICK, quick), *ALWAYS])


def ordered(chance: random.Random, names: Sequence[str]) -> list[str]:
    """Shuffled; but what befalls the producer's broker as well comes early.

    After that its long and its delayed tasks begin, and each must run exactly once.
    """
    shared = [name for name in names if FAULTS[name].shared]
    others = [name for name in names if not FAULTS[name].shared]
    chance.shuffle(others)
    early = shared + others[:LEADING]
    chance.shuffle(early)
    return early + others[LEADING:]


@dataclass
class Run:
    """A run through a script: what of it is to be remembered."""

    drill: Drill
    longest: float  # seconds that the longest of the jobs takes upstream
    long_tasks: float  # seconds that the longest of the producer's tasks takes
    ordered: list[tuple[str, bool]] = field(default_factory=list)  # video ids; whether to keep them
    broker_well_since: float | None = (
        None  # unix time; only from then on the producer's tasks count
    )
    late_orders: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)

    def through(self, jobs: int, names: Sequence[str]) -> list[str]:
        """Hand the jobs in, do all that is named, wait for the ends; returns what is wrong."""
        ids = scripted_ids(jobs, self.longest / 10, self.longest)
        self._start(max(2, jobs // 100))
        last_shared = max((n for n, name in enumerate(names) if FAULTS[name].shared), default=-1)
        for number, name in enumerate(names):
            if number > last_shared and self.broker_well_since is None:
                self._begin_long_tasks()
            # A share before each fault: it befalls what has just come in and what is near its end.
            self.drill.hand_in(*ids[number :: len(names)])
            self._order()
            if FAULTS[name].forgets:
                self.drill.make_sure()
            self._inject(name)
            time.sleep(self.drill.chance.uniform(0.2, 2.0))
        if self.broker_well_since is None:
            self._begin_long_tasks()
        self._order()
        self._finish()
        return self._wrong()

    def _start(self, endless: int) -> None:
        self.drill.shop.keep_working()
        self.drill.complete()
        names = [scripted_id("veo3.1", "forever", 1, f"e{n}") for n in range(endless)]
        self.drill.hand_in(*names, deadline=self.longest / 2)
        if self.longest >= LONG_ENOUGH:
            # They want more polls than their account has, until the operator has been told of it.
            many = [scripted_id("grok", "ok", POOR_SECONDS, f"p{n}") for n in range(POOR_JOBS)]
            self.drill.hand_in(*many, account=POOR)
        # Else a broker that is full from the beginning would let no id in, and nothing were polled.
        self.drill.wait_for_a_poll(READY_SECONDS, "at the beginning")

    def _order(self) -> None:
        """Have the producer take orders: each tracks its video in the producer's transaction."""
        self.drill.shop.keep_working()
        for number in range(ORDERS):
            keep = number > 0
            video_id = scripted_id("sora-2", "ok", 10, f"s{len(self.ordered)}")
            self.ordered.append((video_id, keep))
            self.drill.shop.send("order", f"{number}@example.com", video_id, keep)
            if keep and self.broker_well_since is not None:
                self.late_orders.append(video_id)

    def _begin_long_tasks(self) -> None:
        self.drill.shop.keep_working()
        self.broker_well_since = time.time()
        for number, share in enumerate(LONG_TASKS):
            self.drill.shop.send("render", number, share * self.long_tasks)
            self.drill.shop.send("remind", number, countdown=share * self.long_tasks)

    def _inject(self, name: str) -> None:
        """Do one fault, and note how long upstream was not asked because of it."""
        drill = self.drill
        say(f"{name}: {FAULTS[name].label}")
        began = time.time()
        drill.injected[name] += 1
        number = sum(drill.injected.values())
        if number % 4 == 0:  # now the one's, now the other's
            drill.readers[number // 4 % READERS].kill()
        try:
            FAULTS[name].act(drill)
        except AssertionError as error:  # the drill goes on, and says all that is wrong
            drill.expect(False, f"{name}: {error}")
        self._supervise(name)
        if FAULTS[name].shared:
            drill.shop.start_anew()
        drill.wait_for_a_poll(90, f"after {name}")
        drill.recovery[name] = max(drill.recovery.get(name, 0.0), drill.longest_gap(began))

    def _supervise(self, name: str) -> None:
        """Put others in the places of those that have ended by themselves: none should."""
        drill = self.drill
        for command, count in ((WORKER, drill.workers), (BEAT, BEATS)):
            gone = count - len(drill.all_running(command))
            drill.expect(gone <= 0, f"{gone} {command[3]} ended by themselves after {name}")
        drill.complete()

    def _finish(self) -> None:
        drill = self.drill
        say("the script is over; waiting for the last end")
        drill.make_sure()
        shop = drill.shop
        kept = set(self.late_orders)
        eventually(lambda: kept <= shop.ordered(), 120, lambda: f"{kept - shop.ordered()} no order")
        work = drill.fleet.open_work
        eventually(lambda: not work(), 600, lambda: f"{work()} open")
        for task in ("render", "remind"):
            for number in range(len(LONG_TASKS)):
                shop.has_done(task, number, self.long_tasks + 60)
        drill.over.set()

    def _wrong(self) -> list[str]:
        drill = self.drill
        drill.count_deadlocks()
        for reader in drill.readers:
            reader.finish()
        kept = sorted(drill.shop.ordered())
        return [
            *drill.wrong,
            *violations(drill.fleet, [*drill.handed_in, *kept], drill.cancelled),
            *invariants.wrong_expiries(drill),
            *invariants.late_results(drill),
            *invariants.wrong_waits(drill),
            *invariants.producer_harmed(drill, self.ordered, self.broker_well_since or 0.0),
            *invariants.wrong_feeds(drill),
            *invariants.settings_left(drill),
            *invariants.wrong_counts(drill),
            *invariants.wrong_notices(drill, time.time() - self.began),
            *invariants.wrong_pings(drill, time.time() - self.began),
        ]


def run(
    drill: Drill, jobs: int, names: Sequence[str], longest: float, long_tasks: float
) -> list[str]:
    """One run; returns what is wrong."""
    return Run(drill, longest, long_tasks).through(jobs, names)


def say(what: str) -> None:
    """A line of progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", flush=True)
