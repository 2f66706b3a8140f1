"""The scripts there are, by name: what each does and the end that is right for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from reelwatch.sandbox.answers import (
    Answer,
    Poll,
)

Outcome = Literal["completed", "failed", "expired"]


Behaviour = Callable[[Poll], Answer]


@dataclass(frozen=True, slots=True)
class Script:
    """A course that a job can take, and the end that Reelwatch should reach with it."""

    name: str
    summary: str
    outcome: Outcome
    error_code: str | None


SCRIPTS: dict[str, Script] = {}


BEHAVIOURS: dict[str, Behaviour] = {}


def script(
    name: str, outcome: Outcome, error_code: str | None, summary: str
) -> Callable[[Behaviour], Behaviour]:
    def register(behaviour: Behaviour) -> Behaviour:
        SCRIPTS[name] = Script(name, summary, outcome, error_code)
        BEHAVIOURS[name] = behaviour
        return behaviour

    return register
