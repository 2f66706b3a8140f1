"""Upstream and the receiver misbehave."""

import time

from reelwatch.listener import Reaction
from tests.drill.faults.kinds import fault
from tests.drill.world import Drill


@fault()
def upstream_429(drill: Drill) -> None:
    """Upstream answers 429 for 2 s."""
    upstream(drill, "429", 2)


@fault()
def upstream_500(drill: Drill) -> None:
    """Upstream answers 500 for 4 s."""
    upstream(drill, "500", 4)


@fault()
def upstream_garbage(drill: Drill) -> None:
    """Upstream answers with what is no JSON for 4 s."""
    upstream(drill, "garbage", 4)


@fault()
def upstream_hangs(drill: Drill) -> None:
    """Upstream hangs for 4 s."""
    upstream(drill, "hang", 4)


@fault()
def upstream_401(drill: Drill) -> None:
    """Upstream refuses the key for 4 s.

    The account rests, and is probed.
    """
    upstream(drill, "401", 4)


@fault()
def receiver_500(drill: Drill) -> None:
    """The receiver answers 500 for 4 s."""
    receiver(drill, 500)


@fault()
def receiver_hangs(drill: Drill) -> None:
    """The receiver answers only after the sender has given up, for 4 s."""
    receiver(drill, (200, {"delay": "6"}))


@fault()
def receiver_resets(drill: Drill) -> None:
    """The receiver hangs up for 4 s."""
    receiver(drill, 0)


@fault()
def receiver_is_slow(drill: Drill) -> None:
    """The receiver takes a second for each event, for 4 s."""
    receiver(drill, (200, {"delay": "1"}))


def upstream(drill: Drill, mode: str, seconds: float) -> None:
    """Have upstream misbehave for so long."""
    drill.fleet.sandbox.set_fault(mode)
    time.sleep(seconds)
    drill.fleet.sandbox.set_fault("none")


def receiver(drill: Drill, reaction: Reaction, seconds: float = 4) -> None:
    """Have the receiver answer so for so long."""
    drill.reaction = lambda _event: reaction
    time.sleep(seconds)
    drill.reaction = None
