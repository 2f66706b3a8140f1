"""Slots of an account: when its next requests may be sent, so that all workers keep its rate. Pure.

The account's row says from when on no moment is reserved. A claim reserves the next ones, each a
little further apart than the rate says, within a horizon: what is reserved for later could be of
more use to others.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from reelwatch.rules.standing import Standing

HORIZON = 1.0  # seconds ahead that slots are reserved
SLACK = 0.1  # seconds that a poll may reach upstream late; the slots' distance makes up for it


@dataclass(frozen=True, slots=True)
class Room:
    """The slots that are free: the first of them, the time between two, and how many there are."""

    first: datetime
    distance: timedelta
    count: int


def room(standing: Standing, now: datetime, lead: float) -> Room:
    """The free slots, none before `lead` seconds from now: so long a commit may take."""
    distance = timedelta(seconds=(1 + SLACK) / standing.requests_per_second)
    first = max(now + timedelta(seconds=lead), standing.next_slot_at or now)
    ahead = timedelta(seconds=max(HORIZON, lead)) - (first - now)
    return Room(first, distance, int(ahead / distance) + 1 if ahead >= timedelta(0) else 0)


def reserve(standing: Standing, count: int, room: Room) -> tuple[Standing, list[datetime]]:
    """The first `count` of the free slots, and the standing that has them reserved."""
    slots = [room.first + room.distance * place for place in range(count)]
    if not slots:
        return standing, slots
    return replace(standing, next_slot_at=slots[-1] + room.distance), slots
