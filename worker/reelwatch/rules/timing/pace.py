"""The bounds within which jobs are polled, as settings give them. Pure; `schedule` uses them."""

from dataclasses import dataclass

TARGET_DELAY = 3.0  # seconds from upstream's end of a job to the poll that notices it, on average


@dataclass(frozen=True, slots=True)
class Pace:
    """How often one job may be polled: floor and ceiling in seconds."""

    floor: float = 5.0
    ceiling: float = 60.0
