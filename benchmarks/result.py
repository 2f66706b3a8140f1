"""What a benchmark hands back: one row for each figure, with the goal that it has to meet."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One figure of a benchmark."""

    goal: str  # which goal it belongs to, by its short name
    what: str  # what was measured
    measured: float
    unit: str  # "" for a ratio
    limit: float | None  # None: shown beside the others, and held to nothing
    better: Literal["lower", "higher"]
    note: str = ""  # how it was measured, and what it rests on

    @property
    def met(self) -> bool | None:
        """Whether the figure is on the right side of its limit; None where there is no limit."""
        if self.limit is None:
            return None
        if self.better == "lower":
            return self.measured <= self.limit
        return self.measured >= self.limit
