"""Reelwatch: tracks asynchronous video jobs until their fate is known.

from worker import track, track_many, cancel, recheck
"""

from worker.tracking import cancel, recheck, track, track_many

__all__ = ["cancel", "recheck", "track", "track_many"]
