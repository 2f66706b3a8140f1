"""Reelwatch: tracks asynchronous video jobs until their fate is known.

    from reelwatch import track, track_many, cancel, recheck, eta

The names are loaded when first asked for: the command line must not wait for the database's
libraries to say what its options are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reelwatch.history import eta
    from reelwatch.tracking import cancel, recheck, track, track_many

__all__ = ["cancel", "eta", "recheck", "track", "track_many"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        home = "reelwatch.history" if name == "eta" else "reelwatch.tracking"
        return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
