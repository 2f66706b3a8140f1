"""Upstream's statuses and what each says about a job. Pure."""

from collections.abc import Mapping
from enum import StrEnum

from reelwatch.rules.cleaning import clean_text, unquoted

STATUS_LIMIT = 100  # characters of a status that are kept


class Meaning(StrEnum):
    """What a status says about a job."""

    NOT_STARTED = "not_started"
    IN_PROGRESS = "in_progress"
    SUCCESS = "success"
    FAILURE = "failure"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


STATUSES: Mapping[Meaning, frozenset[str]] = {
    Meaning.SUCCESS: frozenset(
        {"completed", "success", "succeeded", "succeed", "done", "finished"}
    ),
    Meaning.FAILURE: frozenset(
        {
            "failed",
            "failure",
            "fail",
            "video_generation_failed",
            "video_upsampling_failed",
            "cancelled",
            "canceled",
            "rejected",
            "blocked",
        }
    ),
    Meaning.EXPIRED: frozenset({"expired", "timeout", "timed_out"}),
    Meaning.NOT_STARTED: frozenset(
        {"pending", "queued", "submitted", "not_start", "created", "waiting", "initializing"}
    ),
    Meaning.IN_PROGRESS: frozenset(
        {
            "processing",
            "running",
            "in_progress",
            "generating",
            "image_downloading",
            "video_generating",
            "video_generation_completed",
            "video_upsampling",
            "video_upsampling_completed",
        }
    ),
}
MEANINGS: Mapping[str, Meaning] = {
    status: meaning for meaning, ws in STATUSES.items() for status in ws
}
ENDS = frozenset({Meaning.SUCCESS, Meaning.FAILURE, Meaning.EXPIRED})
UNFINISHED = frozenset({Meaning.NOT_STARTED, Meaning.IN_PROGRESS})

# Statuses stay behind in `detail.status` after a retry that worked: they contradict no success.
STAGE_FAILURES = frozenset({"video_generation_failed", "video_upsampling_failed"})


def clean_status(value: object) -> str | None:
    """A status as it is compared and stored; None if absent.

    Without blanks, control characters and quotes around it, case-folded, bounded.
    """
    if not isinstance(value, str):
        return None
    # A NUL within a status is marked, not mended: mended, it could become a final one.
    marked = clean_text(unquoted(value).replace("\x00", "\ufffd"))
    return marked.casefold()[:STATUS_LIMIT] or None


def meaning_of(status: str | None) -> Meaning:
    """The meaning of a status; UNKNOWN for all that was never seen (`error` needs context)."""
    return MEANINGS.get(status, Meaning.UNKNOWN) if status else Meaning.UNKNOWN
