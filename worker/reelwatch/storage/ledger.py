"""Writes decisions down: the job, its transition, its errors and the events it owes, together.

The caller owns the transaction and has locked the rows; what is written here commits as one.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import String, Table, bindparam, func, insert, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.rules import events
from reelwatch.rules.answers import Answer, ErrorKind, Failure, Report, Trouble, bounded
from reelwatch.rules.status import FINAL, NO_RESULT, Decision, EventType, Job, State
from reelwatch.rules.timing import curves
from reelwatch.rules.timing.curves import Curve, Eta
from reelwatch.rules.timing.remaining import remaining
from reelwatch.storage import lists
from reelwatch.storage.models import Delivery, PollError, Transition, table_of

jobs: Table = table_of("jobs")

UPSTREAM_ID_LIMIT = 255  # the column's size
DEFAULT_QUEUE = "celery"  # where `send_task` sends what names no queue

CurveOf = Callable[[str | None], Curve]  # a model's curve


@dataclass(frozen=True, slots=True)
class Change:
    """One decision about one row of `jobs`, and the answer behind it (None: an operator's act)."""

    row: Mapping[str, Any]  # all columns where it has `moved`
    decision: Decision
    answer: Answer | None = None
    deadline_at: datetime | None = None  # a new one, where the job was reopened

    @property
    def moved(self) -> bool:
        """Does more change than when to look again?"""
        return self.decision.step or self.decision.abandoned

    @property
    def was_final(self) -> bool:
        """Had the job ended before?"""
        return self.row["state"] in FINAL and self.decision.final

    @property
    def report(self) -> Report | None:
        """The answer, if it was a good one."""
        return self.answer if isinstance(self.answer, Report) else None

    @property
    def polls(self) -> int:
        """Looks at the job, this one included."""
        return int(self.row["polls"]) + (self.answer is not None)

    @property
    def sequence(self) -> int:
        """The job's sequence after this change."""
        return int(self.row["sequence"]) + self.decision.step


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


def repeats(
    session: Session, asked: Sequence[tuple[Mapping[str, Any], Answer]]
) -> Mapping[int, tuple[int, datetime]]:
    """How often, and since when, each job's last error was the one that its answer is now.

    By the jobs' ids; only for errors that are about the job, most answers cost nothing here.
    """
    about = [
        (row, answer)
        for row, answer in asked
        if isinstance(answer, Trouble) and answer.about_the_job and row["errors_in_row"]
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


def write(
    session: Session, changes: Sequence[Change], at: datetime, curve_of: CurveOf = curves.prior
) -> int:
    """Write all changes as of `at`; returns the number of events they owe.

    Events foretell a job's end by `curve_of` its model; priors foretell nothing.
    """
    error_ids = _write_errors(session, [c for c in changes if c.decision.trouble], at)
    _write_jobs(session, changes, error_ids, at)
    steps = [change for change in changes if change.decision.step]
    return _write_events(session, steps, _write_transitions(session, steps, at), at, curve_of)


# -------------------------------------------------------------------- jobs


def _write_jobs(
    session: Session, changes: Sequence[Change], error_ids: Mapping[int, int], at: datetime
) -> None:
    found = [(change, _values(change, error_ids, at)) for change in changes]
    for moved in (False, True):
        alike = [each for each in found if each[0].moved is moved]
        # Most looks change four columns of thirty-four; what was read of the others still holds.
        written = {
            name
            for change, values in alike
            for name, value in values.items()
            if value != change.row[name]
        }
        rows = [
            {lists.ROW_ID: change.row["id"]} | {name: values[name] for name in sorted(written)}
            for change, values in alike
        ]
        lists.update_rows(session, jobs, rows)


def _values(change: Change, error_ids: Mapping[int, int], at: datetime) -> dict[str, Any]:
    values = _look_values(change, error_ids, at)
    return values | _step_values(change, at) if change.moved else values


def _look_values(change: Change, error_ids: Mapping[int, int], at: datetime) -> dict[str, Any]:
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


def _step_values(change: Change, at: datetime) -> dict[str, Any]:
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
        "finished_at": _finished_at(change, at),
        "upstream_finished_at": _upstream_end(change),
        "expired_at": decision.expired_at,
        "abandoned_at": at if decision.abandoned else None,
        "deadline_at": change.deadline_at or row["deadline_at"],
    }


def _finished_at(change: Change, at: datetime) -> datetime | None:
    """When the job ended; what is learned of it afterwards does not move its end."""
    if not change.decision.final:
        return None
    ended: datetime = change.row["finished_at"] if change.was_final else at
    return ended


def _upstream_end(change: Change) -> datetime | None:
    if not change.decision.final or change.report is None:
        return None
    if change.was_final:
        ended: datetime | None = change.row["upstream_finished_at"]
        return ended
    return change.report.completed_at or change.report.updated_at


# ------------------------------------------------------------- transitions


def _write_transitions(session: Session, steps: Sequence[Change], at: datetime) -> list[int]:
    if not steps:
        return []
    rows = [_transition(change, at) for change in steps]
    statement = insert(Transition).returning(Transition.id, sort_by_parameter_order=True)
    return list(session.execute(statement, rows).scalars())


def _transition(change: Change, at: datetime) -> dict[str, Any]:
    return {
        "job_id": change.row["id"],
        "sequence": change.sequence,
        "from_state": change.row["state"],
        "to_state": change.decision.state,
        "from_status": change.row["upstream_status"],
        "to_status": change.decision.status,
        "at": at,
        "upstream_at": change.report and change.report.updated_at,
        "answer": bounded(change.answer.body) if change.answer else None,
    }


# ------------------------------------------------------------------ errors


def _write_errors(session: Session, troubled: Sequence[Change], at: datetime) -> dict[int, int]:
    """Record each change's trouble; equal consecutive ones fold. Returns row ids by job id."""
    before = _last_errors(session, troubled)
    folded, new = [], []
    for change in troubled:
        error, last = _error(change, at), before.get(change.row["last_error_id"])
        if last and all(last[key] == error[key] for key in ("kind", "http_status", "message")):
            folded.append({"row_id": last["id"], "at": at, "ids": error["request_id"]})
        else:
            new.append(error)
    _fold_errors(session, folded)
    kept = {c.row["id"]: c.row["last_error_id"] for c in troubled}
    return kept | _insert_errors(session, new)


def _last_errors(session: Session, troubled: Sequence[Change]) -> Mapping[int, RowMapping]:
    ids = [c.row["last_error_id"] for c in troubled if c.row["last_error_id"]]
    if not ids:
        return {}
    columns = (PollError.id, PollError.kind, PollError.http_status, PollError.message)
    found = session.execute(select(*columns).where(PollError.id.in_(ids))).mappings()
    return {row["id"]: row for row in found}


def _fold_errors(session: Session, folded: Sequence[dict[str, Any]]) -> None:
    if not folded:
        return
    table = table_of("poll_errors")
    statement = (
        update(table)
        .where(table.c.id == bindparam("row_id"))
        .values(
            count=table.c.count + 1,
            last_at=bindparam("at"),
            request_id=func.coalesce(bindparam("ids", type_=String), table.c.request_id),
        )
    )
    session.connection().execute(statement, folded)


def _insert_errors(session: Session, new: Sequence[dict[str, Any]]) -> dict[int, int]:
    if not new:
        return {}
    statement = insert(PollError).returning(PollError.id, sort_by_parameter_order=True)
    ids = session.execute(statement, new).scalars()
    return {error["job_id"]: row_id for error, row_id in zip(new, ids, strict=True)}


def _error(change: Change, at: datetime) -> dict[str, Any]:
    trouble = change.decision.trouble
    assert trouble is not None
    return {
        "job_id": change.row["id"],
        "kind": trouble.kind,
        "http_status": trouble.http_status,
        "message": trouble.message,
        "request_id": trouble.request_id,
        "first_at": at,
        "last_at": at,
    }


# ------------------------------------------------------------------ events


def _write_events(
    session: Session,
    steps: Sequence[Change],
    transition_ids: Sequence[int],
    at: datetime,
    curve_of: CurveOf,
) -> int:
    rows = [
        delivery
        for change, transition_id in zip(steps, transition_ids, strict=True)
        for delivery in _deliveries(change, transition_id, at, curve_of)
    ]
    if rows:
        session.execute(insert(Delivery), rows)
    return len(rows)


def _deliveries(
    change: Change, transition_id: int, at: datetime, curve_of: CurveOf
) -> list[dict[str, Any]]:
    event = change.decision.event
    if event is None or not events.subscribed(event, change.row["events"]):
        return []
    shared = {
        "job_id": change.row["id"],
        "transition_id": transition_id,
        "sequence": change.sequence,
        "event_type": event,
        "body": events.encode(_event_body(event, change, at, curve_of)),
        "state": "pending",
        "created_at": at,
        "next_attempt_at": at,
    }
    return [shared | channel | {"id": _event_id(at)} for channel in _channels(change.row)]


def _channels(row: Mapping[str, Any]) -> list[dict[str, str]]:
    channels = []
    if row["webhook_url"]:
        url = row["webhook_url"]
        destination = urlsplit(url).netloc.casefold()[:300]
        channels.append({"channel": "webhook", "target": url, "destination": destination})
    if row["callback_task"]:
        queue = row["callback_queue"] or DEFAULT_QUEUE
        target = f"{row['callback_task']}@{queue}"
        channels.append({"channel": "celery", "target": target, "destination": "celery"})
    return channels


def _event_id(at: datetime) -> str:
    """A new event id; its first part rises with time, which keeps the index's new end together."""
    return f"evt_{int(at.timestamp() * 1000):012x}{secrets.token_hex(10)}"


def _event_body(
    event: EventType, change: Change, at: datetime, curve_of: CurveOf
) -> dict[str, Any]:
    report = change.report
    said = report.updated_at if report and event is not EventType.EXPIRED else None
    subject = _subject(change, at, curve_of)
    return events.body(event, said or at, subject, report, _told_failure(change))


def _told_failure(change: Change) -> Failure | None:
    """A job that stays expired carries its failure; an event about a new stage word does not."""
    return None if change.decision.event is EventType.STATUS_CHANGED else change.decision.failure


def _subject(change: Change, at: datetime, curve_of: CurveOf) -> events.Subject:
    row, decision, report = change.row, change.decision, change.report
    return events.Subject(
        video_id=row["video_id"],
        account=row["account"],
        model=row["model"] or (report.model if report else None),
        state=decision.state,
        upstream_status=decision.status,
        sequence=change.sequence,
        polls=change.polls,
        tracked_at=row["tracked_at"],
        upstream_created_at=(report and report.created_at) or row["upstream_created_at"],
        upstream_finished_at=_upstream_end(change),
        finished_at=_finished_at(change, at),
        late=decision.final and decision.expired_at is not None,
        metadata=row["metadata"],
        eta=_eta(change, at, curve_of),
    )


def _eta(change: Change, at: datetime, curve_of: CurveOf) -> Eta | None:
    """By the row as this change leaves it."""
    after = {**change.row, **_look_values(change, {}, at), **_step_values(change, at)}
    return remaining(after, curve_of(after["model"]), at)
