"""Tells a job's story in sentences, in time order, to somebody who knows nothing of the code. Pure.

A story is what `history.story` returns.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from reelwatch.rules.answers import Report, interpret
from reelwatch.rules.status import State
from reelwatch.rules.troubles import MEANINGS
from reelwatch.rules.wording import clock, receiver

Row = Mapping[str, Any]
Sentence = tuple[datetime, str]


def tell(story: Mapping[str, Any]) -> list[Sentence]:
    """The whole story of a job, oldest sentence first."""
    job = story["job"]
    sentences = [
        (job["tracked_at"], "tracked"),
        *(_look_error(error) for error in story["poll_errors"]),
        *_steps(job, story["transitions"]),
        *(told for delivery in story["deliveries"] for told in _delivery(delivery)),
        *_giving_up(job),
    ]
    return sorted(sentences, key=lambda sentence: sentence[0])  # what came at once stays in order


# ------------------------------------------------------------------- looks


def _look_error(error: Row) -> Sentence:
    at = error["first_at"]
    head = f"{error['http_status'] or ''} {error['kind']}".strip()
    if error["count"] > 1:
        head += f" ×{error['count']} until {clock(error['last_at'], at)}"  # noqa: RUF001 - a count
    meaning = MEANINGS.get(error["kind"], "the look failed")
    asked = f" (request id {error['request_id']})" if error["request_id"] else ""
    return at, f"{head}: {meaning}: {error['message']}{asked}"


# ------------------------------------------------------------- transitions


def _steps(job: Row, transitions: Sequence[Row]) -> Iterator[Sentence]:
    for step in transitions:
        yield from ((step["at"], text) for text in _step(job, step))


def _step(job: Row, step: Row) -> Iterator[str]:
    word = f"upstream: {step['from_status'] or 'no word yet'} → {step['to_status']}"
    if step["from_state"] == step["to_state"] == State.COMPLETED:
        yield f"its video URL was found: {job['video_url']}"
        return
    moved, spoken = step["from_state"] != step["to_state"], step["from_status"] != step["to_status"]
    if not moved or (spoken and step["to_state"] == State.RUNNING):
        yield f"{word}; running" if moved else word
        return
    if spoken:
        yield word
    report = _report(job, step)
    yield _state_sentence(job, step, report)
    if report is not None and report.failure is None and report.errors:
        yield f"upstream's record keeps errors of tries before: {'; '.join(report.errors)}"


def _state_sentence(job: Row, step: Row, report: Report | None) -> str:
    state = step["to_state"]
    if state == State.EXPIRED:
        return "deadline passed: expired, fate unknown; still looked at, slowly"
    if state == State.CANCELLED:
        return "cancelled: the producer asked to stop tracking"
    late = " after the deadline" if step["from_state"] == State.EXPIRED else ""
    if state == State.COMPLETED:
        result = job["video_url"] or "upstream says so and gave no video URL"
        return f"became completed{late}: {result}"
    if state == State.FAILED:
        return f"became failed{late}: {_reason(job, step, report)}"
    again = step["from_state"] in (State.EXPIRED, State.FAILED, State.CANCELLED)
    return f"taken up again: {state}" if again else f"became {state}"


def _reason(job: Row, step: Row, report: Report | None) -> str:
    """Why it failed; the job's row knows of its latest failure only, older ones had an answer."""
    if step["sequence"] == job["sequence"]:
        asked = f" (request id {job['error_request_id']})" if job["error_request_id"] else ""
        return f"{job['error_code']}: {job['error_message']}{asked}"
    if report is not None and report.failure is not None:
        return f"{report.failure.code}: {report.failure.message}"
    return "upstream did not know the id any more"


def _report(job: Row, step: Row) -> Report | None:
    """The answer behind a step, read again; None if there was none or it was no word of the job."""
    if step["answer"] is None:
        return None
    body = json.dumps(step["answer"]).encode()
    answer = interpret(job["video_id"], 200, {}, body, step["at"])
    return answer if isinstance(answer, Report) else None


def _giving_up(job: Row) -> Iterator[Sentence]:
    if job["abandoned_at"]:
        text = "abandoned: no further looks, fate unknown; `reelwatch recheck` takes it up again"
        yield job["abandoned_at"], text


# --------------------------------------------------------------- deliveries


def _delivery(delivery: Row) -> Iterator[Sentence]:
    created, what = delivery["created_at"], delivery["event_type"]
    told = receiver(delivery["channel"], delivery["target"])
    yield created, f"event {what} ({delivery['id']}) owed to {told}"
    log = delivery["attempts_log"]
    for number, attempt in enumerate(log, 1):
        # The clock of a worker may lag behind the database's: no attempt precedes its event.
        at = max(attempt["at"], created)
        after = _after(delivery, at) if number == len(log) else ""
        yield at, f"{what}, attempt {number}: {_outcome(attempt)}{after}"


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
    if delivery["state"] == "pending":
        return f"; {_next_attempt(delivery, at)}"
    if delivery["state"] == "dead":
        return f"; given up, dead: `reelwatch redeliver {delivery['id']}` tries again"
    return ""
