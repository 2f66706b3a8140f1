"""What the settings say to the rules. Apart from them: to read settings must not load a planner."""

from reelwatch.lifecycle import Rules
from reelwatch.pace import Pace
from reelwatch.schedule import Plans
from reelwatch.settings import Settings


def plans_of(settings: Settings) -> Plans:
    """When to poll, as long as nothing has been learned."""
    return Plans(Pace(settings.poll_min, settings.poll_max), settings.target_delay)


def rules_of(settings: Settings) -> Rules:
    """What decisions about jobs depend on."""
    return Rules(
        plans_of(settings),
        settings.not_found_after,
        settings.result_grace,
        settings.abandon_after,
    )
