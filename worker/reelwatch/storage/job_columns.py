"""What decisions read of a row of `jobs`, and the columns that follow from a decision."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Table

from reelwatch.rules.answers import ErrorKind
from reelwatch.rules.changes import Change
from reelwatch.rules.states import NO_RESULT, Job, State
from reelwatch.storage import db
from reelwatch.storage.models import table_of

jobs: Table = table_of("jobs")
TOKENS = db.tokens_of(jobs, key_share=True)

UPSTREAM_ID_LIMIT = 255  # the column's size


def job_of(row: Mapping[str, Any]) -> Job:
    """What decisions need to know of a row."""
    return Job(
        state=State(row["state"]),
        status=row["upstream_status"],
        tracked_at=row["tracked_at"],
        deadline_at=row["deadline_at"],
        model=row["model"],
        created_at=row["upstream_created_at"],
        expired_at=row["expired_at"],
        error_code=row["error_code"],
        last_polled_at=row["last_polled_at"],
        watched_since=row["watched_since"],
        foreign_id=row["upstream_id"],
        errors_in_row=row["errors_in_row"],
        errors_since=row["errors_since"],
        last_error=ErrorKind(row["last_error"]) if row["last_error"] else None,
        not_found_count=row["not_found_count"],
        not_found_since=row["not_found_since"],
        resultless_count=row["resultless_count"],
        resultless_since=row["resultless_since"],
    )


def poll_values(change: Change, error_ids: Mapping[int, int], at: datetime) -> dict[str, Any]:
    row, decision, report = change.row, change.decision, change.report
    return {
        "next_poll_at": decision.due,
        "last_polled_at": at if change.answer else row["last_polled_at"],
        "polls": change.polls,
        "lease_token": None,
        "watched_since": decision.watched_since,
        "upstream_id": _upstream_id(change),
        "errors_in_row": decision.errors_in_row,
        "errors_since": decision.errors_since,
        "last_error": decision.last_error,
        "last_error_id": error_ids.get(row["id"]),
        "not_found_count": decision.not_found_count,
        "not_found_since": decision.not_found_since,
        "resultless_count": decision.resultless_count,
        "resultless_since": decision.resultless_since,
        "model": row["model"] or (report and report.model),
        **_progress(change, at),
        "upstream_created_at": (report and report.created_at) or row["upstream_created_at"],
    }


def _upstream_id(change: Change) -> str | None:
    name = change.decision.foreign_id
    return name[:UPSTREAM_ID_LIMIT] if name else None


def _progress(change: Change, at: datetime) -> dict[str, Any]:
    """The last progress before the end: at the end it says no more than that."""
    row, report = change.row, change.report
    if report is None or report.progress is None or change.decision.final:
        return {"progress": row["progress"], "progress_at": row["progress_at"]}
    return {"progress": report.progress, "progress_at": at}


def transition_values(change: Change, at: datetime) -> dict[str, Any]:
    row, decision, report = change.row, change.decision, change.report
    failure = decision.failure
    lacks_result = failure is not None and failure.code == NO_RESULT.code
    return {
        "state": decision.state,
        "upstream_status": decision.status,
        "sequence": change.sequence,
        "video_url": None if lacks_result else (report and report.video_url) or row["video_url"],
        "error_code": failure and failure.code,
        "error_message": failure and failure.message,
        "error_request_id": failure and failure.request_id,
        "finished_at": finished_at(change, at),
        "upstream_finished_at": upstream_end(change),
        "expired_at": decision.expired_at,
        "abandoned_at": at if decision.abandoned else None,
        "deadline_at": change.deadline_at or row["deadline_at"],
    }


def finished_at(change: Change, at: datetime) -> datetime | None:
    """When the job ended; what is learned of it afterwards does not move its end."""
    if not change.decision.final:
        return None
    ended: datetime = change.row["finished_at"] if change.was_final else at
    return ended


def upstream_end(change: Change) -> datetime | None:
    if not change.decision.final or change.report is None:
        return None
    if change.was_final:
        ended: datetime | None = change.row["upstream_finished_at"]
        return ended
    return change.report.completed_at or change.report.updated_at
