"""The errors of polls: equal ones that follow each other are one row with a count."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import String, bindparam, func, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.rules.answers import Answer, AnswerError
from reelwatch.rules.changes import Change
from reelwatch.storage import list_parameters
from reelwatch.storage.models import PollError, table_of

ERRORS = table_of("poll_errors")


def repeats(
    session: Session, asked: Sequence[tuple[Mapping[str, Any], Answer]]
) -> Mapping[int, tuple[int, datetime]]:
    """How often, and since when, each job's last error was the one that its answer is now.

    By the jobs' ids; only for errors that are about the job, most answers cost nothing here.
    """
    about = [
        (row, answer)
        for row, answer in asked
        if isinstance(answer, AnswerError) and answer.about_the_job and row["errors_in_row"]
    ]
    if not about:
        return {}
    columns = (PollError.id, PollError.message, PollError.count, PollError.first_at)
    query = select(*columns).where(PollError.id.in_([row["last_error_id"] for row, _ in about]))
    found = {each["id"]: each for each in session.execute(query).mappings()}
    return {
        row["id"]: (last["count"], last["first_at"])
        for row, answer in about
        if (last := found.get(row["last_error_id"])) and last["message"] == answer.message
    }


def write_errors(session: Session, failing: Sequence[Change], at: datetime) -> dict[int, int]:
    """Record each change's error; equal consecutive ones fold. Returns row ids by job id."""
    before = _last_errors(session, failing)
    folded, new = [], []
    for change in failing:
        error, last = _error(change, at), before.get(change.row["last_error_id"])
        if last and all(last[key] == error[key] for key in ("kind", "http_status", "message")):
            folded.append({"row_id": last["id"], "at": at, "ids": error["request_id"]})
        else:
            new.append(error)
    _fold_errors(session, folded)
    kept = {c.row["id"]: c.row["last_error_id"] for c in failing}
    return kept | list_parameters.insert_rows(session, ERRORS, new, ids_by="job_id")


def _last_errors(session: Session, failing: Sequence[Change]) -> Mapping[int, RowMapping]:
    ids = [c.row["last_error_id"] for c in failing if c.row["last_error_id"]]
    if not ids:
        return {}
    columns = (PollError.id, PollError.kind, PollError.http_status, PollError.message)
    found = session.execute(select(*columns).where(PollError.id.in_(ids))).mappings()
    return {row["id"]: row for row in found}


def _fold_errors(session: Session, folded: Sequence[dict[str, Any]]) -> None:
    if not folded:
        return
    statement = (
        update(ERRORS)
        .where(ERRORS.c.id == bindparam("row_id"))
        .values(
            count=ERRORS.c.count + 1,
            last_at=bindparam("at"),
            request_id=func.coalesce(bindparam("ids", type_=String), ERRORS.c.request_id),
        )
    )
    session.connection().execute(statement, folded)


def _error(change: Change, at: datetime) -> dict[str, Any]:
    error = change.decision.error
    assert error is not None
    return {
        "job_id": change.row["id"],
        "kind": error.kind,
        "http_status": error.http_status,
        "message": error.message,
        "request_id": error.request_id,
        "first_at": at,
        "last_at": at,
    }
