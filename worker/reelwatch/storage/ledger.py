"""Writes decisions down: the job, its transition, its errors and the events it owes, together.

The caller owns the transaction and has locked the rows; what is written here commits as one.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.rules import counting
from reelwatch.rules.answers import bounded
from reelwatch.rules.changes import Change
from reelwatch.storage import counters, list_parameters
from reelwatch.storage.job_columns import jobs, poll_values, transition_values
from reelwatch.storage.models import table_of
from reelwatch.storage.outbox import NOTHING_KNOWN, Kinds, write_events
from reelwatch.storage.poll_errors import write_errors
from reelwatch.storage.quiet import Postponed, postpone

TRANSITIONS = table_of("transitions")


def write(
    session: Session,
    changes: Sequence[Change],
    at: datetime,
    kinds: Kinds = NOTHING_KNOWN,
    seconds: Sequence[float] = (),
) -> int:
    """Write all changes as of `at`, and count them; returns the number of events they owe.

    Events foretell a job's end by what is known of its model, if anything is. `seconds`: how long
    the polls took.
    """
    error_ids = write_errors(session, [c for c in changes if c.decision.error], at)
    _write_jobs(session, changes, error_ids, at)
    transitions = [change for change in changes if change.decision.transition]
    owed = write_events(
        session, transitions, _write_transitions(session, transitions, at), at, kinds
    )
    counters.add(session, counting.of_changes(changes, at, seconds))
    return owed


def postponed(change: Change) -> Postponed | None:
    """What a change comes to after which nothing is new but when to poll again."""
    row, due = change.row, change.decision.due
    if due is None or not change.is_quiet:
        return None
    return Postponed(row["id"], row["lease_token"], due)


def _write_jobs(
    session: Session, changes: Sequence[Change], error_ids: Mapping[int, int], at: datetime
) -> None:
    quiet, found = [], []
    for change in changes:
        if (row := postponed(change)) is not None:
            quiet.append(row)
        else:
            found.append((change, _values(change, error_ids, at)))
    postpone(session, quiet, at)
    for moved in (False, True):
        alike = [each for each in found if each[0].moved is moved]
        # Few columns of many change; what was read of the others still holds.
        written = {
            name
            for change, values in alike
            for name, value in values.items()
            if value != change.row[name]
        }
        rows = [
            {list_parameters.ROW_ID: change.row["id"]}
            | {name: values[name] for name in sorted(written)}
            for change, values in alike
        ]
        list_parameters.update_rows(session, jobs, rows)


def _values(change: Change, error_ids: Mapping[int, int], at: datetime) -> dict[str, Any]:
    values = poll_values(change, error_ids, at)
    return values | transition_values(change, at) if change.moved else values


def _write_transitions(session: Session, transitions: Sequence[Change], at: datetime) -> list[int]:
    rows = [_transition(change, at) for change in transitions]
    ids = list_parameters.insert_rows(session, TRANSITIONS, rows, ids_by="job_id")
    return [ids[row["job_id"]] for row in rows]


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
