"""Tells a job's story in sentences, in time order, to somebody who knows nothing of the code. Pure.

A story is what `history.story` returns.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from reelwatch.rules import ages
from reelwatch.rules.actions import ActionName
from reelwatch.rules.answer_errors import MEANINGS
from reelwatch.rules.answers import Report, interpret
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import State
from reelwatch.rules.wording import clock, receiver

Row = Mapping[str, Any]
Sentence = tuple[datetime, str]

MOVES = (ActionName.CANCEL, ActionName.RECHECK)  # what may come with a transition
OF_ACCOUNT = {ActionName.PAUSE: "paused", ActionName.RESUME: "resumed"}


def tell(story: Mapping[str, Any]) -> list[Sentence]:
    """The whole story of a job, oldest sentence first."""
    job = story["job"]
    sentences = [
        (job["tracked_at"], "tracked"),
        *(_poll_error(error) for error in story["poll_errors"]),
        *_transitions(job, story["transitions"], story["actions"]),
        *(told for delivery in story["deliveries"] for told in _delivery(job, delivery)),
        *_actions(job, story["actions"], story["transitions"]),
        *_giving_up(job),
    ]
    return sorted(sentences, key=lambda sentence: sentence[0])  # what came at once stays in order


# ------------------------------------------------------------------- polls


def _poll_error(error: Row) -> Sentence:
    at = error["first_at"]
    head = f"{error['http_status'] or ''} {error['kind']}".strip()
    if error["count"] > 1:
        head += f" ×{error['count']} until {clock(error['last_at'], at)}"  # noqa: RUF001 - a count
    meaning = MEANINGS.get(error["kind"], "the poll failed")
    asked = f" (request id {error['request_id']})" if error["request_id"] else ""
    return at, f"{head}: {meaning}: {error['message']}{asked}"


# ------------------------------------------------------------- transitions


def _transitions(
    job: Row, transitions: Sequence[Row], actions: Sequence[Row]
) -> Iterator[Sentence]:
    by = {each["at"]: _by(each) for each in actions if each["action"] in MOVES}
    for transition in transitions:
        who = by.get(transition["at"], "")
        yield from ((transition["at"], text) for text in _transition(job, transition, who))


def _transition(job: Row, transition: Row, by: str) -> Iterator[str]:
    said = f"upstream: {transition['from_status'] or 'no status yet'} → {transition['to_status']}"
    if transition["from_state"] == transition["to_state"] == State.COMPLETED:
        yield f"its video URL was found: {job['video_url']}"
        return
    moved, spoken = (
        transition["from_state"] != transition["to_state"],
        transition["from_status"] != transition["to_status"],
    )
    if not moved or (spoken and transition["to_state"] == State.RUNNING):
        yield f"{said}; running" if moved else said
        return
    if spoken:
        yield said
    report = _report(job, transition)
    yield _state_sentence(job, transition, report, by)
    if report is not None and report.failure is None and report.errors:
        yield f"upstream's record keeps errors of tries before: {'; '.join(report.errors)}"


def _state_sentence(job: Row, transition: Row, report: Report | None, by: str) -> str:
    state = transition["to_state"]
    if state == State.EXPIRED:
        return "deadline passed: expired, fate unknown; still polled, slowly"
    if state == State.CANCELLED:
        return f"cancelled{by}: not tracked any more"
    late = " after the deadline" if transition["from_state"] == State.EXPIRED else ""
    if state == State.COMPLETED:
        lacking = (report and report.lacking) or "gave no video URL"
        return f"became completed{late}: {job['video_url'] or f'upstream says so and {lacking}'}"
    if state == State.FAILED:
        return f"became failed{late}: {_reason(job, transition, report)}"
    again = transition["from_state"] in (State.EXPIRED, State.FAILED, State.CANCELLED)
    return f"taken up again{by}: {state}" if again else f"became {state}"


def _reason(job: Row, transition: Row, report: Report | None) -> str:
    """Why it failed; the job's row knows of its latest failure only, older ones had an answer."""
    if transition["sequence"] == job["sequence"]:
        asked = f" (request id {job['error_request_id']})" if job["error_request_id"] else ""
        return f"{job['error_code']}: {job['error_message']}{asked}"
    if report is not None and report.failure is not None:
        return f"{report.failure.code}: {report.failure.message}"
    return "upstream did not know the id any more"


def _report(job: Row, transition: Row) -> Report | None:
    """The answer behind a transition, read again; None if none tells how the job was doing."""
    if transition["answer"] is None:
        return None
    body = json.dumps(transition["answer"]).encode()
    answer = interpret(job["video_id"], 200, {}, body, transition["at"])
    return answer if isinstance(answer, Report) else None


def _giving_up(job: Row) -> Iterator[Sentence]:
    if job["abandoned_at"]:
        text = "abandoned: no further polls, fate unknown; `reelwatch recheck` takes it up again"
        yield job["abandoned_at"], text


# --------------------------------------------------------------- deliveries


def _delivery(job: Row, delivery: Row) -> Iterator[Sentence]:
    created, what = delivery["created_at"], delivery["event_type"]
    told = receiver(delivery["channel"], delivery["target"])
    yield created, f"event {what} ({delivery['id']}) owed to {told}"
    log = delivery["attempts_log"]
    first = next((number for number, each in enumerate(log, 1) if each["error"] is None), None)
    for number, attempt in enumerate(log, 1):
        # The clock of a worker may lag behind the database's: no attempt precedes its event.
        at = max(attempt["at"], created)
        after = _after(delivery, at) if number == len(log) else ""
        late = ages.told_late(job, delivery, at) if number == first else ""
        yield at, f"{what}, attempt {number}: {_outcome(attempt)}{late and f', {late}'}{after}"


def _outcome(attempt: Row) -> str:
    took = f"{attempt['duration_ms']} ms"
    if attempt["error"] is None:
        status = f" ({attempt['http_status']})" if attempt["http_status"] else ""
        return f"delivered{status} in {took}"
    return f"{attempt['error']}, after {took}"


def _next_attempt(delivery: Row, at: datetime) -> str:
    expected, reason = delivery["next_attempt_expected_at"], delivery["next_attempt_reason"]
    when = f"next attempt at {clock(expected, at)}" if expected else "the next attempt is not known"
    return f"{when} ({reason})" if reason else when


def _after(delivery: Row, at: datetime) -> str:
    """What follows from the last attempt so far."""
    if delivery["state"] == DeliveryState.PENDING:
        return f"; {_next_attempt(delivery, at)}"
    if delivery["state"] == DeliveryState.DEAD:
        return f"; given up, dead: `reelwatch redeliver {delivery['id']}` tries again"
    return ""


# ----------------------------------------------------------------- actions


def _actions(job: Row, actions: Sequence[Row], transitions: Sequence[Row]) -> Iterator[Sentence]:
    """Who did something about the job, and what it changed of it; what moved it tells of itself."""
    moved = {each["at"] for each in transitions}
    for action in actions:
        if not (action["action"] in MOVES and action["at"] in moved):
            yield action["at"], _action(job, action)


def _action(job: Row, action: Row) -> str:
    name, by, details = action["action"], _by(action), action["details"] or {}
    if name in OF_ACCOUNT:
        why = f": {details['reason']}" if details.get("reason") else ""
        return f"account {job['account']} {OF_ACCOUNT[name]}{by}{why}"
    if name == ActionName.RECHECK:
        return f"poll it now: asked{by}"
    return f"{name}{by}{_changed(details)}"


def _by(action: Row) -> str:
    many = f" (of {action['count']:,})" if action["count"] > 1 and action["chosen_by"] else ""
    return f" by {action['who']}{many}"


def _changed(details: Row) -> str:
    if "events" in details and isinstance(details["events"], list):
        return f": {', '.join(details['events'])}"
    said = [f"{name} {_from_to(change)}" for name, change in details.items()]
    return f": {'; '.join(said)}" if said else ""


def _from_to(change: Row) -> str:
    before, after = (json.dumps(change[end], ensure_ascii=False) for end in ("from", "to"))
    return f"{before} → {after}"
