"""Lines before places: of the items of one lane only so many are done at once.

What is claimed ahead waits here for a moment, so that claiming and writing down are done for many
at once. What waits for too long is handed back, to be claimed again by whoever has a place.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Lanes(Generic[Item]):
    """Items in hand, by their lanes. For one thread.

    A lane that nobody has given a number of places has as many as it takes. An item waits for
    `patience` seconds at most.
    """

    def __init__(self, lane: Callable[[Item], str], patience: float) -> None:
        self._lane = lane
        self._patience = patience
        self._places: dict[str, int] = {}
        self._busy: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[float, Item]]] = {}

    def place(self, places: Mapping[str, int]) -> None:
        """How many items of these lanes may be under way at once, from now on."""
        self._places.update(places)

    def enter(self, items: Iterable[Item]) -> list[Item]:
        """Those of the items that have a place; the others wait."""
        give_up_at = time.monotonic() + self._patience
        begun = []
        for item in items:
            lane = self._lane(item)
            if lane in self._places and self._busy[lane] >= self._places[lane]:
                self._waiting.setdefault(lane, deque()).append((give_up_at, item))
            else:
                self._busy[lane] += 1
                begun.append(item)
        return begun

    def leave(self, item: Item) -> list[Item]:
        """An item is done: those that have a place now."""
        lane = self._lane(item)
        self._busy[lane] -= 1
        waiting = self._waiting.get(lane, ())
        begun = []
        while waiting and self._busy[lane] < self._places[lane]:
            begun.append(waiting.popleft()[1])
            self._busy[lane] += 1
        return begun

    def waits(self, item: Item) -> bool:
        """Does anything wait in the lane of this item?"""
        return bool(self._waiting.get(self._lane(item)))

    def impatient(self, *, all_of_them: bool = False) -> list[Item]:
        """Those that have waited for too long, or all; they wait no more."""
        now = time.monotonic()
        found = []
        for waiting in self._waiting.values():
            while waiting and (all_of_them or waiting[0][0] <= now):
                found.append(waiting.popleft()[1])
        return found
