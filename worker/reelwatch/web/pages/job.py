"""One job: what happened to this video, and why?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session

from reelwatch.jobs import history
from reelwatch.rules import ages
from reelwatch.rules.answer_errors import MEANINGS
from reelwatch.rules.rests import of_the_past
from reelwatch.rules.signed_urls import ends_at
from reelwatch.rules.states import FINAL, State
from reelwatch.rules.timing.eta import in_words
from reelwatch.rules.wording import destinations, plain
from reelwatch.storage import db, forecasts, prospects
from reelwatch.storage.models import table_of
from reelwatch.web.pages import job_deliveries, job_story
from reelwatch.web.pages.job_deliveries import Delivery
from reelwatch.web.pages.job_story import Answer, Line
from reelwatch.web.pages.timeline import Timeline, drawn
from reelwatch.web.pages.words import (
    capitalized,
    counting,
    covered,
    covered_within,
    document,
    endpoint,
    expected,
    many,
)

jobs = table_of("jobs")
deliveries = table_of("deliveries")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """The page. `open`: will it be polled again? `video`: may its URL be shown?"""

    row: Row
    name: str
    verdict: str
    told: Sequence[str]
    why: str
    next: str
    eta: str
    timeline: Timeline
    story: Sequence[Line]
    answers: Sequence[Answer]
    deliveries: Sequence[Delivery]
    receivers: str
    url_ends_at: datetime | None
    metadata: str
    whole_metadata: str
    can: Sequence[str]
    when: str
    whole: bool
    now: datetime

    @property
    def open(self) -> bool:
        """Is it still polled?"""
        return self.row["next_poll_at"] is not None


def named(session: Session, job_id: int) -> tuple[str, str] | None:
    """The video id and account of a job; None if there is none."""
    found = session.execute(
        select(jobs.c.video_id, jobs.c.account).where(jobs.c.id == job_id)
    ).one_or_none()
    return None if found is None else (found[0], found[1])


def of_event(session: Session, event_id: str) -> int | None:
    """The number of the job that an event is about; None if there is no such event."""
    query = select(deliveries.c.job_id).where(deliveries.c.id == event_id)
    return session.execute(query).scalar_one_or_none()


def view(session: Session, job_id: int, *, until_end: bool = False) -> Job | None:
    """The page of the job with that number; None if there is none."""
    name = named(session, job_id)
    if name is None:
        return None
    now = db.now(session)  # what is expected later than it is never told as `now`
    story = history.story(session, *name, signatures=True)
    job, told = (
        story["job"],
        [job_deliveries.delivery_of(row, story["job"], now) for row in story["deliveries"]],
    )
    return Job(
        row=job,
        name=plain(job["video_id"]),
        verdict=_verdict(job, now),
        told=list(job_deliveries.told(told)),
        why=_why(job),
        next=_next(job, now),
        eta=capitalized(forecasts.awaited(session, job))
        or _eta(job, now)
        or capitalized(forecasts.why_none(session, job)),
        timeline=drawn(story, now, until_end=until_end),
        story=list(job_story.lines(story)),
        answers=list(job_story.answers(story["transitions"])),
        deliveries=told,
        receivers=destinations(_by_host(job)),
        url_ends_at=ends_at(job["video_url"]) if job["video_url"] else None,
        metadata=document(covered_within(job["metadata"])) if job["metadata"] else "",
        whole_metadata=document(job["metadata"]) if job["metadata"] else "",
        can=list(_can(job)),
        when=prospects.when_asked(session, job["account"], now),
        whole=not until_end,
        now=now,
    )


# ------------------------------------------------------------- in one sentence


def _verdict(job: Row, now: datetime) -> str:
    took = ages.in_words(job)
    late = " after its deadline" if job["expired_at"] and job["finished_at"] else ""
    status = f" Upstream says {plain(job['upstream_status'])}." if job["upstream_status"] else ""
    age = counting(ages.age_seconds(job, now), now)
    if job["state"] == State.PENDING:
        return Markup("Waits to begin, {} old.{}").format(age, status)
    if job["state"] == State.RUNNING:
        return Markup("Under way for {}.{}").format(age, status)
    said = {
        State.COMPLETED: f"Completed{late}. It took {took}.",
        State.FAILED: f"Failed{late}. It took {took}.",
        State.EXPIRED: "Its deadline passed and its fate is not known.",
        State.CANCELLED: "Cancelled: it is not tracked any more.",
    }
    if job["error_code"] == "no_result":
        return f"Completed{late}, and upstream shows no video URL that can be used. It took {took}."
    return said[State(job["state"])]


def _why(job: Row) -> str:
    if job["error_code"]:
        said = of_the_past(plain(covered(job["error_message"] or "")))
        return f"{job['error_code']}: {said}"
    if job["next_poll_at"] and job["errors_in_row"]:
        meaning = MEANINGS.get(job["last_error"], "the poll failed")
        return f"The last {many(job['errors_in_row'], 'poll')} brought no news: {meaning}."
    return ""


def _eta(job: Row, now: datetime) -> str:
    words = in_words(job, lambda seconds: counting(seconds, now, down=True))
    return Markup(capitalized(words))  # noqa: S704 - numbers and words of ours


def _next(job: Row, now: datetime) -> str:
    if job["next_poll_at"] is None:
        return ""
    reason = job["next_poll_reason"]
    if job["next_poll_held_by_account"]:
        link = f"/accounts#{quote(job['account'])}"
        reason = Markup('<a href="{}">{}</a>').format(link, reason)
    return expected(job["next_poll_expected_at"], reason, now)


def _can(job: Row) -> Iterator[str]:
    """What somebody may do about it."""
    state = job["state"]
    lost = state == State.FAILED and job["error_code"] == "not_found"
    lacking = state == State.COMPLETED and job["error_code"] == "no_result"
    if state not in FINAL or lost or lacking or state == State.CANCELLED:
        yield "recheck"
    if state not in FINAL:
        yield "cancel"
        yield "update"


def _by_host(job: Row) -> Row:
    return {**job, "webhook_url": endpoint(job["webhook_url"]) if job["webhook_url"] else None}
