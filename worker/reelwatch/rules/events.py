"""What a producer is told, and in which words. Pure; the body is frozen when the change commits.

Form: Standard Webhooks (https://www.standardwebhooks.com): `type`, `timestamp`, `data`.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from reelwatch.errors import Refused
from reelwatch.rules.ages import duration_seconds
from reelwatch.rules.answers import Failure, Report, bounded
from reelwatch.rules.states import FINAL, EventType
from reelwatch.rules.timing.eta import as_json
from reelwatch.rules.timing.plan import Eta

SHORT_NAMES: Mapping[str, EventType] = {
    event.value.removeprefix("video."): event for event in EventType
}
ENDS_TOLD = frozenset({EventType.COMPLETED, EventType.FAILED, EventType.UPDATED})
ANSWER_LIMIT = 16_384  # bytes of upstream's answer that an event holds
DEFAULT_EVENTS = ("completed", "failed", "expired")
_AS_STORED = ("video_id", "account", "model", "state", "upstream_status", "sequence")


def subscribed(event: EventType | None, wanted: Iterable[str]) -> bool:
    """Does a job that asked for the short names `wanted` want to be told of `event`?

    Who is told of completed videos is told of a URL that is found afterwards.
    """
    names = set(wanted)
    if event is EventType.UPDATED and "completed" in names:
        return True
    return event is not None and event.value.removeprefix("video.") in names


def check_events(events: Iterable[str]) -> list[str]:
    """The short names, each once, in order; raises `Refused` for one that does not exist."""
    names = list(events)
    for name in names:
        if not isinstance(name, str) or name not in SHORT_NAMES:
            known = ", ".join(SHORT_NAMES)
            raise Refused(f"events: {name!r} is not one of {known}")
    return list(dict.fromkeys(names))


def body(
    event: EventType,
    at: datetime,
    row: Mapping[str, Any],
    report: Report | None,
    failure: Failure | None,
    eta: Eta | None = None,
) -> dict[str, Any]:
    """The body of one event, of the job's `row` as the change leaves it.

    `at` is when it happened: by upstream's clock where it said so.
    """
    return {
        "type": event.value,
        "timestamp": timestamp(at),
        "data": {
            **{name: row[name] for name in _AS_STORED},
            **_result(report),
            "error": _error(failure),
            "upstream_errors": list(report.errors) if report else [],
            "answer": _answer(report) if report and event in ENDS_TOLD else None,
            "late": row["state"] in FINAL and row["expired_at"] is not None,
            "metadata": dict(row["metadata"]),
            "tracked_at": timestamp(row["tracked_at"]),
            "upstream_created_at": timestamp(row["upstream_created_at"]),
            "finished_at": timestamp(row["finished_at"]),
            "duration_seconds": duration_seconds(row),
            "eta": as_json(eta),
            "polls": row["polls"],
        },
    }


def encode(event_body: Mapping[str, Any]) -> str:
    """The JSON text that is stored, signed and sent, byte for byte the same on every attempt."""
    return json.dumps(event_body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def timestamp(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with microseconds and `Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z" if at else None


def _answer(report: Report) -> Any:
    """Upstream's own JSON as it came, or, where it is too large, an excerpt of it."""
    answer = bounded(report.body, ANSWER_LIMIT)
    size = len(json.dumps(answer, ensure_ascii=False).encode())
    return answer if size <= ANSWER_LIMIT else bounded(report.body, 0)


def _result(report: Report | None) -> dict[str, Any]:
    return {
        "video_url": report.video_url if report else None,
        "video_urls": dict(report.video_urls or {}) if report else {},
        "enhanced_prompt": report.enhanced_prompt if report else None,
    }


def _error(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {
        "code": failure.code,
        "message": failure.message,
        "retryable": failure.retryable,
        "request_id": failure.request_id,
    }
