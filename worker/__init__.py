"""Reelwatch: tracks asynchronous video jobs until their fate is known.

    from worker import track, track_many, cancel, recheck

The names are loaded when first asked for: the command line must not wait for the database's
libraries to say what its options are.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.tracking import cancel, recheck, track, track_many

__all__ = ["cancel", "recheck", "track", "track_many"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("worker.tracking"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
