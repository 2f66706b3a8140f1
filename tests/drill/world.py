"""The fleet of a drill, the producer beside it, and what they stand on."""

import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import psycopg
from sqlalchemy import make_url

from reelwatch.sandbox.answers import Answer
from reelwatch.sandbox.listener import Reaction, Received
from reelwatch.sandbox.server import LocalService, Request
from tests.drill.readers import Reader
from tests.fleet import BEAT, WORKER, Fleet, fleet
from tests.processes import Folder
from tests.producers import Shop, shop
from tests.proxy import Proxy, detour
from tests.servers import (
    OwnPostgresServer,
    PgBouncer,
    Process,
    RedisServer,
    eventually,
    pgbouncer,
    postgres,
    process,
    redis,
)

RETRY_SCHEDULE = "1s,1s,2s,2s,3s,3s,5s,5s,5s,10s,10s,10s,10s,20s,20s,20s"
READY_SECONDS = 60.0
BEATS = 2
READERS = 2  # of the feed
TRACKED = "SELECT video_id FROM jobs"
# An account that is allowed far less than its jobs are worth: its budget is short.
POOR = "poor"
ACCOUNTS = f"[accounts.{POOR}]\nrequests_per_second = 0.2\n"
SCHEMA = "reelwatch"  # the producer has tables of the same names, in the same database
POOL_SIZE = "20"  # what PgBouncer has by itself


class Pinged(LocalService):
    """Who expects a ping a minute: when, in unix time, each came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def respond(self, request: Request) -> Answer:
        self.times.append(time.time())
        return Answer(200, {}, b"")


@dataclass
class Drill:
    """One run: the fleet, the producer, what they stand on, and what has been done to them."""

    database: OwnPostgresServer
    broker: RedisServer
    to_database: Proxy  # these are between the fleet and what it stands on
    to_broker: Proxy
    # The producer, and what polls of how the fleet is, go these ways, where the weather is fair:
    # how a producer bears a silent broker is its own affair. They lead to the server in charge.
    straight_to_database: Proxy
    straight_to_broker: Proxy
    pooler: PgBouncer  # leads to the database as the fleet reaches it
    chance: random.Random
    workers: int = 2
    all_pooled: bool = False  # else one worker is
    injected: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    recovery: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)  # what a fault has seen itself
    handed_in: list[str] = field(default_factory=list)  # by message, as strangers do
    handed_in_again: int = 0
    cancelled: set[str] = field(default_factory=set)
    pooled: list[Process] = field(default_factory=list)
    reaction: Callable[[Received], Reaction] | None = None
    idle_longest: float = 0.0  # seconds
    idle_after: str = ""  # the statement after which it was idle
    someone_frozen: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    readers: list[Reader] = field(default_factory=list)  # of the feed
    fleet: Fleet = field(init=False)
    shop: Shop = field(init=False)
    pinged: "Pinged" = field(init=False)

    # ---------------------------------------------------- what faults do

    def start_worker(self) -> Process:
        """One more worker; there is always one that goes through the pooler."""
        if not self.all_pooled and any(each.running for each in self.pooled):
            return self.fleet.start(WORKER, "-c", "4")
        direct = self.fleet.environment["DATABASE_URL"]
        through = {"DATABASE_URL": self.pooler.through(direct)}
        self.pooled.append(self.fleet.start(WORKER, "-c", "4", environment=through))
        return self.pooled[-1]

    def complete(self) -> None:
        """Start as many workers and beats as are missing."""
        while len(self.all_running(WORKER)) < self.workers:
            self.start_worker()
        while len(self.all_running(BEAT)) < BEATS:
            self.fleet.start(BEAT)

    def all_running(self, command: Sequence[str]) -> list[Process]:
        """The processes of this command that run."""
        return [each for each in self.fleet.of(command) if each.running]

    def some(self, command: Sequence[str]) -> Process:
        """One of them."""
        return self.chance.choice(self.all_running(command))

    def react(self, event: Received) -> Reaction:
        """What the receiver answers at the moment."""
        return self.reaction(event) if self.reaction else 200

    def hand_in(self, *ids: str, **options: object) -> None:
        """Have these tracked, by messages."""
        hook = f"{self.fleet.listener.url}/hook"
        self.fleet.send("reelwatch.track", *ids, webhook_url=hook, **options)
        self.handed_in += ids

    def missing(self) -> set[str]:
        """Those that are not tracked (yet)."""
        return set(self.handed_in) - {row[0] for row in self.fleet.rows(TRACKED)}

    def make_sure(self, patience: float = 20.0) -> None:
        """Go on when all that was handed in is tracked; what is missing for long comes again.

        What a killed worker had in hand the broker would hand out again, too, but only after
        minutes; and twice does no harm.
        """
        with contextlib.suppress(AssertionError):
            eventually(lambda: not self.missing(), patience)
        again = self.missing()
        self.handed_in_again += len(again)
        self.fleet.send("reelwatch.track", *again, webhook_url=f"{self.fleet.listener.url}/hook")
        eventually(lambda: not self.missing(), 90, lambda: f"{len(self.missing())} are not tracked")

    def expect(self, holds: bool, what: str) -> None:
        """Note a violation unless it holds."""
        if not holds:
            print(f"  VIOLATION: {what}", flush=True)
            self.wrong.append(what)

    # --------------------------------------------------- what they cost

    def asked_since(self, moment: float) -> bool:
        """Whether upstream was asked anything after that, in unix time."""
        return any(poll.at > moment for poll in self.fleet.sandbox.polls()[-200:])

    def wait_for_a_poll(self, seconds: float, why: str) -> float:
        """Wait until upstream is asked: how long, in seconds, that took from now."""
        began = time.time()
        with contextlib.suppress(AssertionError):
            eventually(lambda: self.asked_since(began), seconds)
        self.expect(self.asked_since(began), f"no look for {seconds:g} s {why}")
        return time.time() - began

    def thrown_away(self, but: Collection[str]) -> int:
        """How many polls upstream has seen of which nothing will be written, `but` for these."""
        written = "SELECT coalesce(sum(polls), 0) FROM jobs WHERE video_id <> ALL(:but)"

        def unwritten() -> int:
            polls = int(self.fleet.rows(written, but=list(but))[0][0])
            return sum(poll.video_id not in but for poll in self.fleet.sandbox.polls()) - polls

        # Some are under way to the database at any moment; at the quietest of several, hardly any.
        return min(unwritten() for _ in range(20) if not self.over.wait(0.2))

    def count_deadlocks(self) -> None:
        """There must have been none at the server that is in charge."""
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        [(count,)] = self.fleet.rows(query)
        self.expect(count == 0, f"{count} deadlocks in the database")

    def longest_gap(self, began: float) -> float:
        """The longest time without any poll, from then until now."""
        times = [began, *(poll.at for poll in self.fleet.sandbox.polls() if poll.at >= began)]
        return max(b - a for a, b in pairwise([*times, time.time()]))

    def close_servers(self) -> None:
        """Those that are in charge now."""
        self.database.close()
        self.broker.close()

    def watch_transactions(self) -> None:
        """Note the longest that any transaction of ours waited for what is not the database."""
        # One that has only begun holds nothing that others could wait for.
        query = (
            "SELECT extract(epoch FROM now() - state_change), left(query, 80) "
            "FROM pg_stat_activity AS a "
            "WHERE state = 'idle in transaction' AND application_name <> 'shop' AND EXISTS "
            "(SELECT FROM pg_locks WHERE pid = a.pid AND locktype <> 'virtualxid') "
            "ORDER BY 1 DESC LIMIT 1"
        )
        url = make_url(self.fleet.database_url).set(drivername="postgresql")
        address = url.render_as_string(hide_password=False)  # refused while it is being restarted
        while not self.over.wait(0.25):
            with contextlib.suppress(psycopg.Error), psycopg.connect(address) as connection:
                row = connection.execute(query).fetchone()
                if row and not self.someone_frozen and row[0] > self.idle_longest:
                    self.idle_longest, self.idle_after = float(row[0]), row[1]


@contextlib.contextmanager
def drilling(seed: int, rate: float, *, all_pooled: bool = False) -> Iterator[Drill]:
    """Servers, proxies, producer and fleet for one run."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        database, broker = enter(postgres()), enter(redis())
        assert isinstance(database, OwnPostgresServer), "a drill ends servers: they must be ours"
        created = database.create_database()
        straight_to_database, url = enter(detour(created))
        straight_to_broker, broker_url = enter(detour(broker.url))
        to_database, database_url = enter(detour(created))
        to_broker, through = enter(detour(broker.url))
        drill = Drill(
            database, broker, to_database, to_broker, straight_to_database, straight_to_broker,
            enter(pgbouncer(database_url, default_pool_size=POOL_SIZE)), random.Random(seed),
            all_pooled=all_pooled,
        )  # fmt: skip
        # It may fail over: whoever is in charge at the end is closed with the others.
        stack.callback(drill.close_servers)
        folder = Folder("drill")
        stack.callback(folder.remove)
        accounts = folder.path / "accounts.toml"
        accounts.write_text(ACCOUNTS)
        more = {
            "DATABASE_URL": database_url,
            "BROKER_URL": through,
            "REELWATCH_SCHEMA": SCHEMA,
            "REELWATCH_RETRY_SCHEDULE": RETRY_SCHEDULE,
            "REELWATCH_WEBHOOK_TIMEOUT": "5s",
            "REELWATCH_NOT_FOUND_AFTER": "10s",
            "REELWATCH_ACCOUNTS_FILE": str(accounts),
        }
        drill.fleet = enter(fleet(url, broker_url, rate, drill.react, **more))
        drill.pinged = enter(Pinged())
        drill.fleet.environment |= {
            "REELWATCH_OPERATOR_URL": f"{drill.fleet.listener.url}/operator",
            "REELWATCH_PING_URL": f"{drill.pinged.url}/ping",
        }
        # What docs/producers.md tells a producer to have in its environment, and nothing else.
        drill.shop = enter(shop(url, broker_url, {"DATABASE_URL": url, "REELWATCH_SCHEMA": SCHEMA}))
        with process(["reelwatch", "migrate"], drill.fleet.environment) as migration:
            assert migration.wait(60) == 0, migration.output
        drill.readers = [Reader(drill.fleet.environment) for _ in range(READERS)]
        watcher = threading.Thread(target=drill.watch_transactions, daemon=True)
        watcher.start()
        try:
            yield drill
        finally:
            drill.over.set()
            for reader in drill.readers:
                reader.finish()
            watcher.join(10)
