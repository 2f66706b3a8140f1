"""What the settings say to the rules. Apart from them: to read settings must not load a planner."""

from reelwatch.config.settings import Settings
from reelwatch.rules.deadlines import Rules
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.planner import Plans


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
