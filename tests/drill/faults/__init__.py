"""What can befall a fleet: `FAULTS` has each by its name.

A fault is a function of a `Drill` that does the harm, waits as long as it lasts and sets right what
does not come right by itself. Its docstring is how reports call it. What it sees that must not be
it tells `Drill.expect`.
"""

from tests.drill.faults import broker, database, endpoints, hands, peers, processes, producer
from tests.drill.faults.kinds import FAULTS, Fault

__all__ = [
    "FAULTS", "Fault", "broker", "database", "endpoints", "hands", "peers", "processes", "producer",
]  # fmt: skip
