"""How a fault is declared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.drill.world import Drill

Act = Callable[["Drill"], None]


@dataclass(frozen=True)
class Fault:
    """What happens, and how the drill must go about it."""

    act: Act
    # What the broker holds is gone with it; what the database holds is not. Redis forgets a message
    # when it hands it out, before the worker has noted it as under way: a killed worker has it.
    forgets: bool
    # It befalls the producer's own broker as well: what its default settings promise in that case
    # is not ours to check.
    shared: bool

    @property
    def label(self) -> str:
        """How reports call it."""
        return (self.act.__doc__ or "").partition("\n")[0].rstrip(".")


FAULTS: dict[str, Fault] = {}


def fault(*, forgets: bool = False, shared: bool = False) -> Callable[[Act], Act]:
    """Makes a function a fault of that name."""

    def register(act: Act) -> Act:
        FAULTS[act.__name__] = Fault(act, forgets, shared)
        return act

    return register
