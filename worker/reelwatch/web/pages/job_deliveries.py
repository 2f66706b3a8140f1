"""Who was told of a job, on its page: each event that is owed, and each attempt to tell it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from markupsafe import Markup

from reelwatch.rules import ages
from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.wording import plain
from reelwatch.web.pages.words import (
    covered,
    covered_within,
    document,
    endpoint,
    expected,
    many,
    took,
)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try: what was sent, as far as it is no secret, and what came back.

    `signed` is for those who may send it again: `request` with the headers that say so. The
    `answer` shows URLs by their hosts.
    """

    number: int
    at: datetime
    well: bool
    sent: str
    status: int | None
    said: str
    milliseconds: int
    request: str
    signed: str
    answer: str
    whole_answer: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event that is owed to one endpoint; its `body` shows URLs by their hosts."""

    id: str
    type: str
    state: str
    endpoint: str
    channel: str
    created_at: datetime
    delivered_at: datetime | None
    late: str
    attempts: Sequence[Attempt]
    next_at: datetime | None
    next: str
    body: str
    whole: str
    target: str


def told(deliveries: Sequence[Delivery]) -> Iterator[str]:
    """Of each event, the newest first: has its receiver got it?"""
    for each in reversed(deliveries):
        tries = many(len(each.attempts), "attempt")
        last = f", the last: {each.attempts[-1].said}" if each.attempts else ""
        if each.state == DeliveryState.DELIVERED:
            yield f"✓ {each.endpoint} has {each.type}{each.late or f' ({tries})'}"
        elif each.state == DeliveryState.DEAD:
            yield f"✗ {each.endpoint} never took {each.type}: {tries}{last}"
        else:
            owed = f"○ {each.endpoint} is still owed {each.type}: {tries} so far{last}"
            yield Markup("{}. Next attempt: {}.").format(owed, each.next)


def delivery_of(row: Row, job: Row, now: datetime) -> Delivery:
    """One of the deliveries of a job's story, as it stands at `now`."""
    at = row["next_attempt_expected_at"]
    reason = plain(covered(row["next_attempt_reason"] or "", [row["target"]]))
    return Delivery(
        id=row["id"],
        type=row["event_type"],
        state=row["state"],
        endpoint=endpoint(row["target"], row["channel"]),
        channel=row["channel"],
        created_at=row["created_at"],
        delivered_at=row["delivered_at"],
        late=_late(row, job),
        attempts=[
            _attempt(row, number, tried) for number, tried in enumerate(row["attempts_log"], 1)
        ],
        next_at=at,
        next=expected(at, reason, now),
        body=_body(row["body"], row["target"]),
        whole=_body(row["body"]),
        target=row["target"],
    )


def _late(row: Row, job: Row) -> str:
    """`, told 13m31s after its end, at attempt 3`: the first that did."""
    log = enumerate(row["attempts_log"], 1)
    number, at = next(((n, tried["at"]) for n, tried in log if not tried["error"]), (0, None))
    late = at and ages.told_late(job, row, at)
    return f", told {late}, at attempt {number}" if late else ""


def _attempt(row: Row, number: int, tried: Row) -> Attempt:
    error = plain(covered(tried["error"] or "", [row["target"]]))
    return Attempt(
        number,
        tried["at"],
        not error,
        _sent(row["channel"], tried),
        tried["http_status"],
        error or "delivered",
        tried["duration_ms"],
        _request(row, _unsigned(row, tried)),
        _request(row, tried["request_headers"] or _unsigned(row, tried)),
        covered(tried["response_excerpt"] or "", [row["target"]]),
        tried["response_excerpt"] or "",
    )


NEVER_SENT = (
    "no connection to", "the proxy: no connection", "TLS failed", "the certificate was refused",
)  # fmt: skip
NEVER_SENT_OF = (" was not found: ", "is not a permitted address", "the event can't be signed")


def _sent(channel: str, tried: Row) -> str:
    """Was it sent, as far as the attempt's error tells?"""
    error = tried["error"]
    if channel != "webhook" or not error or tried["http_status"] is not None:
        return "Sent"
    if error.startswith(NEVER_SENT) or any(each in error for each in NEVER_SENT_OF):
        return "Nothing was sent; it would have been"
    return "Perhaps sent"


def _request(row: Row, headers: str) -> str:
    """What was sent, with these headers of its own."""
    size = len(row["body"].encode())
    if row["channel"] != "webhook":
        task = endpoint(row["target"], "celery")
        return f"send_task {task}\ntask_id: {row['id']}\n({size} bytes)"
    to = endpoint(row["target"])
    return f"POST {to}\ncontent-type: application/json\n{headers}\n({size} bytes of body)"


def _unsigned(row: Row, tried: Row) -> str:
    """The headers of an attempt without its signature, and why it is missing."""
    kept = "shown to the role operate" if tried["request_headers"] else "not kept"
    return (
        f"webhook-id: {row['id']}\nwebhook-timestamp: {int(tried['at'].timestamp())}\n"
        f"webhook-signature: v1,… ({kept})"
    )


def _body(text: str, target: str | None = None) -> str:
    """As it is read; with a target, without the URLs in it."""
    try:
        value = json.loads(text)
    except ValueError:
        return text if target is None else covered(text, [target])
    return document(value if target is None else covered_within(value, [target]))


def seconds_text(milliseconds: int) -> str:
    """How long an attempt took."""
    return f"{milliseconds} ms" if milliseconds < 1_000 else took(milliseconds / 1_000)
