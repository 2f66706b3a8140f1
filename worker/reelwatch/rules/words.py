"""Upstream's status words and what each says about a job. Pure."""

from collections.abc import Mapping
from enum import StrEnum

from reelwatch.rules.cleaning import clean_text, unquoted

WORD_LIMIT = 100  # characters of a status word that are kept


class Meaning(StrEnum):
    """What a status word says about a job."""

    NOT_STARTED = "not_started"
    IN_PROGRESS = "in_progress"
    SUCCESS = "success"
    FAILURE = "failure"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


WORDS: Mapping[Meaning, frozenset[str]] = {
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
MEANINGS: Mapping[str, Meaning] = {word: meaning for meaning, ws in WORDS.items() for word in ws}
ENDS = frozenset({Meaning.SUCCESS, Meaning.FAILURE, Meaning.EXPIRED})
UNFINISHED = frozenset({Meaning.NOT_STARTED, Meaning.IN_PROGRESS})

# Stage words stay behind in `detail.status` after a retry that worked: they contradict no success.
STAGE_FAILURES = frozenset({"video_generation_failed", "video_upsampling_failed"})


def status_word(value: object) -> str | None:
    """A status word as it is compared and stored; None if absent.

    Without blanks and quotes around it, case-folded, bounded.
    """
    if not isinstance(value, str):
        return None
    # A word that was cut by a NUL is marked, not mended: mended, it could become a final one.
    marked = clean_text(value.replace("\x00", "\ufffd"))
    return unquoted(marked).casefold()[:WORD_LIMIT] or None


def meaning_of(word: str | None) -> Meaning:
    """The meaning of a status word; UNKNOWN for all that was never seen (`error` needs context)."""
    return MEANINGS.get(word, Meaning.UNKNOWN) if word else Meaning.UNKNOWN
