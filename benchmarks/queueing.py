"""Where waiting comes from, by simulation: slots that are short, and the account's row.

    python -m benchmarks.queueing

1. *Slots.* Polls fall due at random and get slots at even distances, as many as a batch's claims
   may reserve. How late they are depends on how much of the slots they need, as in any queue with
   random arrivals and equal service times (M/D/1, whose formula is printed beside it), on the
   quarter of a second between claims, and on the second between ticks, which is what an account
   waits for whose last claim brought nothing.
2. *The account's row.* Every claim locks it until its commit. Turns ask for polls, wait for the
   row, hold it, and work off what they have got. From some number of turns on they only wait for
   each other.

Nothing here touches a database. What a claim and a poll cost are options; their defaults are
medians that `benchmarks.claims`, `benchmarks.footprint` and `benchmarks.load` have printed.
"""

import argparse
import heapq
import random
import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from reelwatch.jobs import claiming, fanout, polling
from reelwatch.rules import account as account_rules

SHARES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.02)
TURNS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
BATCH = polling.THREADS
LATENCY = 0.15  # seconds until upstream answers
TICK_SECONDS = 1.0  # as `reelwatch.celery` has it, whose import needs a broker
SEED = 7


@dataclass(frozen=True)
class Waits:
    """How late polls were, in seconds, and how many a claim took."""

    mean: float
    late: float  # 99 of 100 were less late
    claim: float


def slots(rate: float, share: float, seconds: float) -> Waits:
    """The lateness of polls that need this share of the slots of `rate`, by turns as workers do."""
    chance = random.Random(SEED)
    distance = (1 + account_rules.SLACK) / rate
    due: deque[float] = deque()
    arrivals = _poisson(chance, share / distance, seconds)
    coming = next(arrivals, None)
    in_hand: list[float] = []  # when each poll that was claimed is done
    lateness: list[float] = []
    claims, more = 0, False
    now = next_slot = claim_at = batch_ends = tick_at = 0.0
    while now < seconds:
        while coming is not None and coming <= now:
            due.append(coming)
            coming = next(arrivals, None)
        while in_hand and in_hand[0] <= now:
            heapq.heappop(in_hand)
        if now >= batch_ends and more:  # the next batch follows at once
            batch_ends = now + polling.BATCH_SECONDS
        if now >= tick_at:
            tick_at += TICK_SECONDS
            if now >= batch_ends and due and next_slot <= now:
                batch_ends, claim_at = now + polling.BATCH_SECONDS, now
        if claim_at <= now < batch_ends and len(in_hand) < BATCH:
            first = max(now + claiming.LEAD_MIN, next_slot)
            free = max(0, int((now + account_rules.HORIZON - first) / distance) + 1)
            wanted = min(free, BATCH - len(in_hand))
            taken = min(len(due), wanted)
            claims += taken > 0
            more = taken > 0
            for place in range(taken):
                slot = first + place * distance
                lateness.append(slot - due.popleft())
                heapq.heappush(in_hand, slot + LATENCY)
            next_slot = first + taken * distance if taken else next_slot
            least = claiming.TRICKLE_AGAIN if taken else claiming.IDLE_AGAIN
            least = 0.0 if taken == wanted else least
            claim_at = now + max(least, next_slot - now - account_rules.HORIZON / 2)
            if not taken and not in_hand:  # the batch has nothing left to do
                batch_ends = now
        now += fanout.GATHER_SECONDS
    settled = lateness[len(lateness) // 5 :]  # without the time in which it filled
    late = sorted(settled)[len(settled) * 99 // 100]
    return Waits(statistics.mean(settled), late, len(lateness) / claims)


def _poisson(chance: random.Random, rate: float, seconds: float) -> Iterator[float]:
    at = 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        yield at


def formula(rate: float, share: float) -> float:
    """The mean wait of M/D/1 in seconds; for shares below 1."""
    return share / (2 * (1 - share)) * (1 + account_rules.SLACK) / rate


@dataclass(frozen=True)
class Shared:
    """What so many batches get done with one account's row."""

    polls: float  # a second
    locked: float  # share of the time
    wait: float  # seconds for the row, in the mean


def account_row(turns: int, hold: float, speed: float, seconds: float) -> Shared:
    """`turns` at once, each doing `speed` polls a second, with claims that hold the row `hold`."""
    chance = random.Random(SEED)
    # When each batch asks for the row next; first come, first served.
    asking = [chance.uniform(0, BATCH / speed) for _ in range(turns)]
    heapq.heapify(asking)
    free_at, held, done = 0.0, 0.0, 0
    waits: list[float] = []
    while asking[0] < seconds:
        asked = heapq.heappop(asking)
        began = max(asked, free_at)
        waits.append(began - asked)
        free_at = began + hold
        held += hold
        done += BATCH
        # The polls of a claim take as long as they take: some answers are slow.
        heapq.heappush(asking, free_at + chance.gammavariate(16, BATCH / speed / 16))
    span = max(seconds, free_at)
    return Shared(done / span, held / span, statistics.mean(waits))


def told_slots(rate: float) -> Iterator[str]:
    """The first table, for one rate."""
    yield f"{rate:g} requests a second: lateness of polls by the share of the slots they need"
    yield "  share       mean       99 %   polls a claim   M/D/1's mean"
    for share in SHARES:
        waits = slots(rate, share, max(1_000.0, 50_000 / rate))
        ideal = f"{formula(rate, share):10.3f} s" if share < 1 else "     grows"
        yield (
            f"  {share:5.0%} {waits.mean:8.2f} s {waits.late:8.2f} s {waits.claim:15.1f} {ideal}"
        )


def told_row(hold: float, speed: float) -> Iterator[str]:
    """The second table."""
    yield (
        f"One account's row, held {1000 * hold:g} ms by each claim of {BATCH} polls; "
        f"a batch does {speed:g} polls a second"
    )
    yield f"  no more than {BATCH / hold:,.0f} polls a second, whatever the number of batches"
    yield "  turns   polls/s   row locked   wait for it"
    for turns in TURNS:
        got = account_row(turns, hold, speed, 60.0)
        yield f"  {turns:5}   {got.polls:7,.0f}   {got.locked:10.0%}   {1000 * got.wait:8.1f} ms"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hold-ms", type=float, default=5.0, help="of a claim, commit included")
    parser.add_argument(
        "--batch-speed", type=float, default=400.0, help="polls a second of a batch"
    )
    options = parser.parse_args()
    for rate in (5.0, 200.0):
        print(*told_slots(rate), "", sep="\n")
    print(*told_row(options.hold_ms / 1000, options.batch_speed), sep="\n")


if __name__ == "__main__":
    main()
