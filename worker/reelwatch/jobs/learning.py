"""Learning from finished jobs how long the next ones will take."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, Row, and_, func, select, union
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.rules import ages
from reelwatch.rules.states import State
from reelwatch.rules.timing import fitting
from reelwatch.rules.timing.fitting import HALF_LIFE, NEWEST, Course, Learned, Progressed, Sample
from reelwatch.rules.timing.planner import Plans, solve
from reelwatch.rules.timing.simulator import Video
from reelwatch.storage import db, forecasts, heartbeat
from reelwatch.storage.models import table_of

log = structlog.get_logger(__name__)

jobs = table_of("jobs")
transitions = table_of("transitions")

LEARN = "learn"  # the heartbeat's name
APART = timedelta(seconds=10)  # several beats at once learn no more often than this
JOBS_LEAST = 3  # ended jobs that a curve takes; prefixes of fewer go by the prior, and leave no row
KINDS_AT_ONCE = 20  # curves that are learned in one go
OPEN_MOST = 1_000
AT_ONCE = timedelta(seconds=0.5)  # of a job that ended in the second in which it began
IDS_AT_ONCE = 500  # values in one IN list

DURATION_COLUMNS = (
    jobs.c.id, jobs.c.tracked_at, jobs.c.upstream_created_at, jobs.c.finished_at,
    jobs.c.upstream_finished_at,
)  # fmt: skip

Span = tuple[datetime, datetime]

_BEGAN = func.coalesce(jobs.c.upstream_created_at, jobs.c.tracked_at).label("began")


def learn(database_url: str, plans: Plans) -> int:
    """Bring curves and plans up to date; returns how many were learned anew.

    `plans` says within which bounds and for which delay plans are to be solved. Does nothing when
    another process has just learned. However many prefixes the ids have, it takes no longer than
    `KINDS_AT_ONCE` curves do.
    """
    with db.at_once(database_url) as session:
        since = heartbeat.last(session, LEARN)
        if heartbeat.beat(session, LEARN, APART) is None:
            return 0
        kinds = _changed(session, since, plans.solved_for)
    for account, model in kinds:
        with db.reading(database_url) as session:
            learned = known_of(session, account, model)
        plan = solve(learned, plans.pace, plans.target_delay)
        known = forecasts.Forecast(learned.curve, plan, plans.solved_for)
        with db.transaction(database_url) as session:
            forecasts.keep(session, account, model, known, db.now(session))
        log.info("learned", account=account, model=model, jobs=plan.jobs, price=plan.price)
    return len(kinds)


def _changed(
    session: Session, since: datetime | None, solved_for: str
) -> Sequence[tuple[str, str]]:
    """The accounts and models to learn: some job has ended since then, and enough ever have, or
    what was solved was solved for something else.

    Those that were learned longest ago come first, so that of too many each has its turn.
    """
    ended = select(jobs.c.account, jobs.c.model).where(
        jobs.c.model.is_not(None), jobs.c.finished_at.is_not(None)
    )
    if since is not None:
        # What was still being committed then counts now: a little overlap costs little.
        ended = ended.where(jobs.c.finished_at >= since - APART)
    known = forecasts.table
    other = select(known.c.account, known.c.model).where(
        known.c.solved_for.is_distinct_from(solved_for)
    )
    kinds = union(ended, other).subquery()
    least = (  # the last of as many jobs as it takes, if there are so many
        select(jobs.c.id)
        .where(
            jobs.c.account == kinds.c.account,
            jobs.c.model == kinds.c.model,
            *forecasts.has_duration(),
        )
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


def known_of(session: Session, account: str, model: str) -> Learned:
    now = db.now(session)
    ended = _ended(session, NEWEST, jobs.c.account == account, jobs.c.model == model)
    weights = {row["id"]: 0.5 ** (rank / HALF_LIFE) for rank, row in enumerate(ended)}
    spans = _spans(ended)
    return fitting.learn(
        model,
        [
            *(Sample(_seconds(*span), began_ago=_seconds(span[0], now)) for span in spans.values()),
            *_cancelled(session, account, model, now, len(ended)),
            *_open(session, account, model, now),
        ],
        [
            _course(stages, spans[job_id], weights[job_id])
            for job_id, stages in _stages(session, spans).items()
        ],
        _progressed(ended, spans, weights),
        half_life=_age(ended, HALF_LIFE, now),
        horizon=_age(ended, NEWEST, now),
    )


def _age(ended: Sequence[RowMapping], count: int, now: datetime) -> float:
    """How many seconds ago the `count`th last end was; infinite where there were not so many."""
    if len(ended) < count:
        return math.inf
    return max(1.0, _seconds(ended[count - 1]["finished_at"], now))


def _ended(session: Session, most: int, *which: ColumnElement[bool]) -> Sequence[RowMapping]:
    """Those jobs that ended last, the last first."""
    query = (
        select(*DURATION_COLUMNS, jobs.c.model, jobs.c.progress, jobs.c.progress_at)
        .where(*which, *forecasts.has_duration())
        .order_by(jobs.c.finished_at.desc())
        .limit(most)
    )
    return session.execute(query).mappings().all()


def _spans(rows: Iterable[RowMapping]) -> dict[int, Span]:
    """By id: the duration, from when to when; without those that have none that could be."""
    return {
        row["id"]: (found[0], max(found[1], found[0] + AT_ONCE))
        for row in rows
        if (found := ages.lasted(row)) is not None
    }


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()


def _open(session: Session, account: str, model: str, now: datetime) -> list[Sample]:
    """The jobs that have not ended, up to the last poll that said so."""
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
    """The jobs that nobody wanted to wait for any more, up to the last poll.

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
    """Of (began, last poll): jobs that had not ended by then."""
    return [
        Sample(age, ended=False, weight=weight, began_ago=_seconds(began, now))
        for began, polled_at in rows
        if (age := _seconds(began, polled_at)) > 0
    ]


def _course(stages: Iterable[tuple[float, str]], span: Span, weight: float) -> Course:
    whole = _seconds(*span)
    return Course([(min(1.0, max(0.0, age / whole)), status) for age, status in stages], weight)


def _stages(session: Session, spans: Mapping[int, Span]) -> dict[int, list[tuple[float, str]]]:
    """By job: the ages at which upstream's statuses began, in order; the first at its beginning."""
    stages: dict[int, list[tuple[float, str]]] = {}
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
        for job_id, status, at, said_at in session.execute(query):
            # Upstream's own time where it lies before ours: we notice late.
            begin = spans[job_id][0]
            began = said_at if said_at is not None and begin < said_at < at else at
            known = stages.setdefault(job_id, [])
            known.append((_seconds(begin, began) if known else 0.0, status))
    return stages


def _progressed(
    ended: Iterable[RowMapping], spans: Mapping[int, Span], weights: Mapping[int, float]
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
    ended = _ended(session, limit, jobs.c.account == account)
    spans, models = _spans(ended), {row["id"]: row["model"] for row in ended}
    stages = _stages(session, spans)
    start = min((begin for begin, _ in spans.values()), default=None)
    return [
        Video(
            _seconds(start or begin, begin),
            _seconds(begin, end),
            models[job_id],
            stages.get(job_id, []),
        )
        for job_id, (begin, end) in spans.items()
    ]
