"""Reelwatch: tracks asynchronous video jobs until their fate is known.

    from reelwatch import track, track_many, update, cancel, recheck, eta
    from reelwatch import pause_account, resume_account

The names are loaded when first asked for: the command line must not wait for the database's
libraries to say what its options are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reelwatch.jobs.history import eta
    from reelwatch.jobs.pausing import pause_account, resume_account
    from reelwatch.jobs.tracking import cancel, recheck, track, track_many
    from reelwatch.jobs.updating import update

__all__ = [
    "cancel", "eta", "pause_account", "recheck", "resume_account", "track", "track_many", "update",
]  # fmt: skip
HOMES = {
    "eta": "reelwatch.jobs.history",
    "pause_account": "reelwatch.jobs.pausing",
    "resume_account": "reelwatch.jobs.pausing",
    "update": "reelwatch.jobs.updating",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module(HOMES.get(name, "reelwatch.jobs.tracking")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
