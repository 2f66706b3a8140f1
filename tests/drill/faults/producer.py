"""What the producer beside us does with its own: it must not be felt here, nor the reverse."""

import itertools
import time

from reelwatch.sandbox.upstream import scripted_id
from tests.drill.faults.kinds import fault
from tests.drill.world import Drill
from tests.fleet import BEAT, WORKER
from tests.servers import eventually

HELD = 20  # jobs
HELD_SECONDS = 20.0
UNTOUCHED_SECONDS = 10.0  # others are polled all the time: this is far from an ordinary gap
IN_HAND = 20  # answers that happen to be under way to the database when they are counted
# An account that still rests after a fault before is not polled, whatever a producer does.
PAUSED = "SELECT name FROM accounts WHERE name = 'default' AND paused_until IS NOT NULL"
NUMBERS = itertools.count(1)


@fault(shared=True)
def shop_shuts_down(drill: Drill) -> None:
    """The producer pings, and shuts down, its own workers."""
    own = drill.shop.nodes()
    answered = [node.partition("@")[0] for node in drill.shop.pinged()]
    drill.expect(answered == own, f"{answered} answered the producer's ping, its own are {own}")
    ours = drill.all_running(WORKER) + drill.all_running(BEAT)
    drill.shop.shut_down()
    time.sleep(2)
    drill.expect(
        all(each.running for each in ours), "the producer's shutdown ended a process of ours"
    )


@fault()
def hold_cancel(drill: Drill) -> None:
    """The producer leaves a transaction with `cancel` open for 20 s, then commits."""
    hold(drill, "cancel", keep=True)


@fault()
def hold_recheck(drill: Drill) -> None:
    """The producer leaves a transaction with `recheck` open for 20 s, then rolls back."""
    hold(drill, "recheck", keep=False)


@fault()
def hold_track(drill: Drill) -> None:
    """The producer leaves a transaction with `track` open for 20 s, then rolls back."""
    hold(drill, "track", keep=False)


def hold(drill: Drill, action: str, *, keep: bool) -> None:
    """Have the producer call us in a transaction of its own that takes long."""
    number = next(NUMBERS)
    video_ids = [scripted_id("grok", "ok", 40, f"h{number}.{n}") for n in range(HELD)]
    if action == "track":
        drill.expect(not keep, "it is not noted that these are tracked")
    else:
        drill.hand_in(*video_ids)
        drill.make_sure()
    if action == "cancel" and keep:
        drill.cancelled |= set(video_ids)
    drill.shop.keep_working()
    eventually(lambda: not drill.fleet.rows(PAUSED), 120, "the account's next good answer")
    # In the order that is not ours.
    drill.shop.send("ponder", number, action, video_ids[::-1], HELD_SECONDS, keep)
    drill.shop.has_done(f"{action} called", number, 60)
    began, thrown_away = time.time(), drill.thrown_away(but=video_ids)
    drill.shop.has_done(f"{action} done", number, 60)
    gap, thrown_away = drill.longest_gap(began), drill.thrown_away(but=video_ids) - thrown_away
    drill.expect(
        gap <= UNTOUCHED_SECONDS,
        f"{gap:.1f} s without a poll while a producer's `{action}` was open",
    )
    drill.expect(
        thrown_away <= IN_HAND,
        f"{thrown_away} answers about other jobs were lost while a producer's `{action}` was open",
    )
