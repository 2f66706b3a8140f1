"""Learning from finished jobs how long the next ones will take."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Row, and_, func, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.rules.status import State
from reelwatch.rules.timing import curves
from reelwatch.rules.timing.curves import Course, Known, Progressed, Sample
from reelwatch.rules.timing.schedule import Plans, price_for
from reelwatch.rules.timing.simulation import Video
from reelwatch.storage import db, forecasts, heartbeat
from reelwatch.storage.models import table_of

log = structlog.get_logger(__name__)

jobs = table_of("jobs")
transitions = table_of("transitions")

LEARN = "learn"  # the heartbeat's name
APART = timedelta(seconds=10)  # several beats at once learn no more often than this
JOBS_LEAST = 3  # ended jobs that a curve takes; prefixes of fewer go by the prior, and leave no row
KINDS_AT_ONCE = 20  # curves that are learned in one go
NEWEST = 1_000  # finished jobs that a curve is learned from
OPEN_MOST = 1_000
HALF_LIFE = 300  # jobs later, a job counts half
CLOCKS_APART = timedelta(seconds=60)  # upstream's and ours at most, as far as durations go
AT_ONCE = timedelta(seconds=0.5)  # of a job that ended in the second in which it began
IDS_AT_ONCE = 500  # values in one IN list

# Ends that upstream did not set a time to, or that are none of a video.
NO_DURATION = ("not_found", "no_result")

DURATION_COLUMNS = (
    jobs.c.id, jobs.c.tracked_at, jobs.c.upstream_created_at, jobs.c.finished_at,
    jobs.c.upstream_finished_at,
)  # fmt: skip

_BEGAN = func.coalesce(jobs.c.upstream_created_at, jobs.c.tracked_at).label("began")


def learn(database_url: str, plans: Plans) -> int:
    """Bring the curves up to date; returns how many were learned anew.

    `plans` says within which bounds and for which delay looks are to be priced. Does nothing when
    another process has just learned. However many prefixes the ids have, it takes no longer than
    `KINDS_AT_ONCE` curves do.
    """
    with db.at_once(database_url) as session:
        since = heartbeat.last(session, LEARN)
        if heartbeat.beat(session, LEARN, APART) is None:
            return 0
        kinds = _changed(session, since)
    for account, model in kinds:
        with db.reading(database_url) as session:
            curve = _curve(session, account, model)
        known = Known(curve, price_for(curve, plans.pace, plans.target_delay))
        with db.transaction(database_url) as session:
            forecasts.keep(session, account, model, known, db.now(session))
        log.info("learned", account=account, model=model, jobs=curve.jobs, look_price=known.price)
    return len(kinds)


def _changed(session: Session, since: datetime | None) -> Sequence[tuple[str, str]]:
    """The accounts and models to learn: some job has ended since then, and enough ever have.

    Those that were learned longest ago come first, so that of too many each has its turn.
    """
    ended = select(jobs.c.account, jobs.c.model).where(
        jobs.c.model.is_not(None), jobs.c.finished_at.is_not(None)
    )
    if since is not None:
        # What was still being committed then counts now: a little overlap costs little.
        ended = ended.where(jobs.c.finished_at >= since - APART)
    kinds, known = ended.distinct().subquery(), forecasts.table
    least = (  # the last of as many jobs as it takes, if there are so many
        select(jobs.c.id)
        .where(jobs.c.account == kinds.c.account, jobs.c.model == kinds.c.model, *_has_duration())
        .order_by(jobs.c.finished_at.desc())
        .limit(1)
        .offset(JOBS_LEAST - 1)
        .scalar_subquery()
    )
    mine = and_(known.c.account == kinds.c.account, known.c.model == kinds.c.model)
    query = (
        select(kinds.c.account, kinds.c.model)
        .outerjoin_from(kinds, known, mine)
        .where(least.is_not(None))
        .order_by(known.c.learned_at.is_not(None), known.c.learned_at)
        .limit(KINDS_AT_ONCE)
    )
    return [(row[0], row[1]) for row in session.execute(query)]


def _curve(session: Session, account: str, model: str) -> curves.Curve:
    now = db.now(session)
    ended = _ended(session, account, model)
    weights = {row["id"]: 0.5 ** (rank / HALF_LIFE) for rank, row in enumerate(ended)}
    spans = {row["id"]: span for row in ended if (span := _span(row)) is not None}
    return curves.learn(
        model,
        [
            *(Sample(_seconds(*span), began_ago=_seconds(span[0], now)) for span in spans.values()),
            *_cancelled(session, account, model, now, len(ended)),
            *_open(session, account, model, now),
        ],
        _courses(session, spans, weights),
        _progressed(ended, spans, weights),
        half_life=_age(ended, HALF_LIFE, now),
        horizon=_age(ended, NEWEST, now),
    )


def _age(ended: Sequence[RowMapping], count: int, now: datetime) -> float:
    """How many seconds ago the `count`th last end was; infinite where there were not so many."""
    if len(ended) < count:
        return math.inf
    return max(1.0, _seconds(ended[count - 1]["finished_at"], now))


def _ended(session: Session, account: str, model: str) -> Sequence[RowMapping]:
    """The jobs that ended last, the last first."""
    query = (
        select(*DURATION_COLUMNS, jobs.c.progress, jobs.c.progress_at)
        .where(jobs.c.account == account, jobs.c.model == model, *_has_duration())
        .order_by(jobs.c.finished_at.desc())
        .limit(NEWEST)
    )
    return session.execute(query).mappings().all()


def _has_duration() -> Sequence[ColumnElement[bool]]:
    """The conditions for a job to have ended upstream."""
    return (
        jobs.c.finished_at.is_not(None),
        jobs.c.state.in_([State.COMPLETED, State.FAILED]),
        func.coalesce(jobs.c.error_code, "").not_in(NO_DURATION),
    )


def _span(row: RowMapping) -> tuple[datetime, datetime] | None:
    """From creation to end, by upstream's clock as far as it told; None: there is no span.

    Most failures tell of their end alone. What was tracked just before then counts from there: to
    take our own time for the end, of which a look may have told a minute later, would be to learn
    that nothing fails at once. If the clocks are far apart, ours is all there is.
    """
    begin, end, noticed = (
        row["upstream_created_at"], row["upstream_finished_at"], row["finished_at"]
    )  # fmt: skip
    if begin is None:
        begin = row["tracked_at"]
        if end is not None and end >= begin - CLOCKS_APART:
            end = min(max(begin, end), noticed)
    if end is None or end < begin:
        end = noticed
    return (begin, max(end, begin + AT_ONCE)) if end >= begin else None


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()


def _open(session: Session, account: str, model: str, now: datetime) -> list[Sample]:
    """The jobs that have not ended, up to the last look that said so."""
    mine = (
        jobs.c.account == account,
        jobs.c.model == model,
        jobs.c.next_poll_at.is_not(None),
        jobs.c.last_polled_at.is_not(None),
    )
    query = select(_BEGAN, jobs.c.last_polled_at).where(*mine).limit(OPEN_MOST)
    rows = session.execute(query).all()
    weight = 1.0
    if len(rows) == OPEN_MOST:  # these stand for the others
        weight = session.execute(select(func.count()).where(*mine)).scalar_one() / OPEN_MOST
    return _censored(rows, now, weight)


def _cancelled(
    session: Session, account: str, model: str, now: datetime, most: int
) -> list[Sample]:
    """The jobs that nobody wanted to wait for any more, up to the last look.

    They took longer than that: who cancels what takes long would leave the quick ones to be learned
    from. The newest, no more than there are of those that ended.
    """
    query = (
        select(_BEGAN, jobs.c.last_polled_at)
        .where(
            jobs.c.account == account,
            jobs.c.model == model,
            jobs.c.finished_at.is_not(None),
            jobs.c.state == State.CANCELLED,
            jobs.c.last_polled_at.is_not(None),
        )
        .order_by(jobs.c.finished_at.desc())
        .limit(most)
    )
    return _censored(session.execute(query).all(), now)


def _censored(rows: Iterable[Row[Any, Any]], now: datetime, weight: float = 1.0) -> list[Sample]:
    """Of (began, last look): jobs that had not ended by then."""
    return [
        Sample(age, ended=False, weight=weight, began_ago=_seconds(began, now))
        for began, looked_at in rows
        if (age := _seconds(began, looked_at)) > 0
    ]


def _courses(
    session: Session,
    spans: Mapping[int, tuple[datetime, datetime]],
    weights: Mapping[int, float],
) -> list[Course]:
    """How upstream's words followed each other."""
    stages: dict[int, list[tuple[float, str]]] = {}
    for job_id, word, began in _words(session, spans):
        begin, end = spans[job_id]
        share = min(1.0, max(0.0, _seconds(begin, began) / _seconds(begin, end)))
        stages.setdefault(job_id, []).append((share, word))
    return [
        Course([(0.0, steps[0][1]), *steps[1:]], weights[job_id])
        for job_id, steps in stages.items()
    ]


def _words(
    session: Session, spans: Mapping[int, tuple[datetime, datetime]]
) -> Iterator[tuple[int, str, datetime]]:
    """When upstream's words began, in order, job by job."""
    job_ids = list(spans)
    for start in range(0, len(job_ids), IDS_AT_ONCE):
        chosen = transitions.c.job_id.in_(job_ids[start : start + IDS_AT_ONCE])
        query = (
            select(
                transitions.c.job_id,
                transitions.c.to_status,
                transitions.c.at,
                transitions.c.upstream_at,
            )
            .where(
                chosen,
                transitions.c.to_status.is_not(None),
                transitions.c.to_state.in_([State.PENDING, State.RUNNING]),
            )
            .order_by(transitions.c.job_id, transitions.c.sequence)
        )
        for job_id, word, at, said_at in session.execute(query):
            # Upstream's own time where it lies before ours: we notice late.
            earlier = said_at is not None and spans[job_id][0] < said_at < at
            yield job_id, word, said_at if earlier else at


def _progressed(
    ended: Iterable[RowMapping],
    spans: Mapping[int, tuple[datetime, datetime]],
    weights: Mapping[int, float],
) -> Iterator[Progressed]:
    for row in ended:
        if row["progress"] is None or row["id"] not in spans:
            continue
        begin, end = spans[row["id"]]
        share = _seconds(begin, row["progress_at"]) / _seconds(begin, end)
        if 0 < share <= 1:
            yield Progressed(share, row["progress"], weights[row["id"]])


def recorded(session: Session, account: str, limit: int) -> list[Video]:
    """The last `limit` finished jobs of an account as they ran, for playing them again.

    Times are in seconds from the creation of the first of them.
    """
    query = (
        select(*DURATION_COLUMNS, jobs.c.model)
        .where(jobs.c.account == account, *_has_duration())
        .order_by(jobs.c.finished_at.desc())
        .limit(limit)
    )
    rows = {row["id"]: row for row in session.execute(query).mappings()}
    spans = {job_id: span for job_id, row in rows.items() if (span := _span(row)) is not None}
    stages: dict[int, list[tuple[float, str]]] = {}
    for job_id, word, began in _words(session, spans):
        stages.setdefault(job_id, []).append((_seconds(spans[job_id][0], began), word))
    start = min((begin for begin, _ in spans.values()), default=None)
    return [
        Video(
            _seconds(start or begin, begin),
            _seconds(begin, end),
            rows[job_id]["model"],
            [(0.0, word) if place == 0 else (age, word)
             for place, (age, word) in enumerate(stages.get(job_id, []))],
        )
        for job_id, (begin, end) in spans.items()
    ]  # fmt: skip
