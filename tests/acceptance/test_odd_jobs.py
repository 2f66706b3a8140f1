"""One odd job among thirty, whatever its polls get for ever, costs the others next to nothing.

Claims and results as workers make them, on a clock that is stepped: what counts is how often the
others are polled, with the odd one and without it, before its deadline and after. The account has
fewer slots than its jobs could do with, so that each one that is lost shows.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from requests.structures import CaseInsensitiveDict
from sqlalchemy import insert, select, update
from structlog.testing import capture_logs

from reelwatch.config.accounts import Account as Configured
from reelwatch.jobs import applying, claiming, polling
from reelwatch.jobs.applying import Polled
from reelwatch.net.upstream import DEADLINE_SECONDS, Poll
from reelwatch.rules import deadlines, standing
from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, Meaning, Report, interpret
from reelwatch.sandbox.odd import ODD
from reelwatch.storage import db, migrating
from reelwatch.storage.models import Account, Job

START = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
PHASE = 120.0  # seconds until the odd one's deadline, and after it
LATENCY = 0.05
STEP = 1.0
CONFIGURED = Configured("default", "http://127.0.0.1:1", "sk-test-0123456789", 2.0)
GOOD = 30
RUNNING = Report("running", Meaning.IN_PROGRESS, body={"status": "running"})
REFUSED = AnswerError(ErrorKind.UNAUTHORIZED, "invalid token", 401)
SILENCE = AnswerError(ErrorKind.TIMEOUT, "no answer within 15 s")

Upstream = Callable[[str, datetime], Answer]  # what a job's poll at that time is answered


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def odd_answer(script: str) -> Answer:
    """What the sandbox's job of that script gets."""
    given = ODD[script][1]
    if given.delay:
        return SILENCE
    headers = CaseInsensitiveDict(given.headers)
    return interpret("odd", given.status, headers, given.body, START)


def kind_of(video_id: str) -> str:
    return video_id.partition("-")[0]


def hand_in(url: str, good: int, odd: int) -> None:
    row = {
        "account": "default", "state": "pending", "metadata_": {}, "tracked_at": START,
        "next_poll_at": START, "events": ["completed", "failed", "expired"],
    }  # fmt: skip
    ends = {"good": after(86_400), "odd": after(PHASE)}
    names = [f"odd-{n:02}" for n in range(odd)] + [f"good-{n:02}" for n in range(good)]
    with db.transaction(url) as session:
        session.execute(insert(Account).values(name="default", requests_per_second=2.0))
        rows = [row | {"video_id": n, "deadline_at": ends[kind_of(n)]} for n in names]
        session.execute(insert(Job), rows)


@dataclass
class Played:
    """Polls by (kind of job, phase), and how often the account was paused."""

    polls: Counter[tuple[str, int]] = field(default_factory=Counter)
    pauses: int = 0


def play(url: str, answer: Upstream, seconds: float = 2 * PHASE) -> Played:
    """Claim and write down as workers do, for so long."""
    played, rules = Played(), deadlines.Rules()
    under_way: list[tuple[datetime, Polled]] = []
    now = START
    with capture_logs() as logs:
        while now < after(seconds):
            ready = [each for each in under_way if each[0] <= now]
            under_way = [each for each in under_way if each[0] > now]
            with db.transaction(url) as session:
                applying.apply(session, rules, [polled for _, polled in ready], now)
            with db.transaction(url) as session:
                room = polling.THREADS - len(under_way)
                taken = claiming.claim(session, CONFIGURED, room, now=now, rules=rules).items
            for claimed in taken:
                at = claimed.slot.at or now
                found = answer(claimed.row["video_id"], at)
                played.polls[kind_of(claimed.row["video_id"]), int(at >= after(PHASE))] += 1
                poll = Poll(found, found.http_status, 50)
                wait = DEADLINE_SECONDS if found is SILENCE else LATENCY
                under_way.append((at + timedelta(seconds=wait), Polled(claimed, poll)))
            now += timedelta(seconds=STEP)
    played.pauses = sum(line["event"] == "account_paused" for line in logs)
    return played


def among(odd: Answer) -> Upstream:
    return lambda video_id, _at: odd if video_id.startswith("odd") else RUNNING


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Thirty jobs without an odd one among them."""
    url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed')}/reelwatch.db"
    migrating.migrate(url)
    hand_in(url, GOOD, 0)
    return play(url, among(RUNNING))


def told(url: str) -> dict[str, str]:
    query = select(Job.video_id, Job.state).where(Job.video_id.startswith("odd"))
    with db.reading(url) as session:
        return {row.video_id: row.state for row in session.execute(query)}


@pytest.mark.parametrize("script", ODD)
def test_an_odd_job_holds_up_no_other(sqlite_url: str, undisturbed: Played, script: str) -> None:
    hand_in(sqlite_url, GOOD, 1)
    played = play(sqlite_url, among(odd_answer(script)))
    for phase in (0, 1):
        assert played.polls["good", phase] >= 0.95 * undisturbed.polls["good", phase]
        assert played.polls["odd", phase] >= 2
    assert played.pauses == 0
    assert told(sqlite_url) == {"odd-00": "expired"}


@pytest.mark.parametrize(("every", "wait"), [(60.0, 8.0), (20.0, 60.0)])
def test_odd_jobs_that_keep_arriving_hold_up_no_other(
    sqlite_url: str, undisturbed: Played, every: float, wait: float
) -> None:
    """Their own polls take slots as everybody's; nothing else is lost."""
    count = int(2 * PHASE / every) - 1
    hand_in(sqlite_url, GOOD, count)
    with db.transaction(sqlite_url) as session:
        for number in range(count):
            at = after(every * (number + 1))
            arrives = update(Job).where(Job.video_id == f"odd-{number:02}")
            session.execute(arrives.values(next_poll_at=at, deadline_at=after(86_400)))
    limited = AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=wait)
    played = play(sqlite_url, among(limited))
    assert played.polls.total() >= 0.95 * undisturbed.polls.total()
    assert played.pauses == 0


@pytest.mark.parametrize("wait", [None, 60.0])
def test_two_odd_jobs_from_the_start_hold_up_no_other(
    sqlite_url: str, undisturbed: Played, wait: float | None
) -> None:
    hand_in(sqlite_url, GOOD, 2)
    limited = AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=wait)
    played = play(sqlite_url, among(limited))
    for phase in (0, 1):
        polls = played.polls["good", phase] + played.polls["odd", phase]
        assert polls >= 0.95 * undisturbed.polls["good", phase]
    assert played.pauses == 0


@pytest.mark.parametrize("refused", [5, 3])
def test_a_limit_below_the_rate_is_learned_of_new_jobs(sqlite_url: str, refused: int) -> None:
    """Upstream refuses each so manieth poll in a row that comes sooner than every 0.7 s."""
    hand_in(sqlite_url, GOOD, 0)
    sent: list[datetime] = []
    limits: list[datetime] = []

    def upstream(_video_id: str, at: datetime) -> Answer:
        fast = bool(sent) and at - sent[-1] < timedelta(seconds=0.7)
        sent.append(at)
        if fast and len(sent) % refused == 0:
            limits.append(at)
            return AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429)
        return RUNNING

    play(sqlite_url, upstream)
    assert 0 < len(limits) <= 9
    assert limits[-1] < after(60)


def test_an_odd_job_that_is_told_to_wait_for_an_hour_holds_up_no_other(
    sqlite_url: str, undisturbed: Played
) -> None:
    hand_in(sqlite_url, GOOD, 1)
    limited = AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=3_600.0)
    played = play(sqlite_url, among(limited))
    for phase in (0, 1):
        assert played.polls["good", phase] >= 0.95 * undisturbed.polls["good", phase]
    assert played.pauses == 0


def test_an_odd_job_holds_up_no_other_on_postgresql_either(
    postgresql_url: str, undisturbed: Played
) -> None:
    hand_in(postgresql_url, GOOD, 1)
    played = play(postgresql_url, among(odd_answer("refused")))
    for phase in (0, 1):
        assert played.polls["good", phase] >= 0.95 * undisturbed.polls["good", phase]
    assert played.pauses == 0


def test_a_model_that_is_denied_leaves_the_others_alone(sqlite_url: str) -> None:
    hand_in(sqlite_url, 8, 6)
    played = play(sqlite_url, among(odd_answer("nomodel")), PHASE)
    assert played.pauses == 0
    with db.reading(sqlite_url) as session:
        good = select(Job.polls).where(Job.video_id.startswith("good"))
        assert min(session.scalars(good)) >= 3


def test_several_odd_ones_at_once_cost_the_others_little_in_the_end(sqlite_url: str) -> None:
    """When nothing else has been polled yet, they look like the account's errors at first."""
    hand_in(sqlite_url, 8, 6)
    played = play(sqlite_url, among(odd_answer("limited")))
    assert played.polls["good", 1] > played.polls["good", 0] > 0.6 * played.polls["good", 1]
    with db.reading(sqlite_url) as session:
        assert session.scalars(select(Account.requests_per_second)).one() == 2.0


def test_the_key_may_fail_for_a_while_beside_one_that_is_always_refused(sqlite_url: str) -> None:
    """Those who ask whether it works again are jobs that were well before."""
    hand_in(sqlite_url, 8, 1)

    def upstream(video_id: str, at: datetime) -> Answer:
        glitch = after(60) <= at < after(100)
        return REFUSED if glitch or video_id.startswith("odd") else RUNNING

    played = play(sqlite_url, upstream, 150)
    assert played.pauses >= 1
    with db.reading(sqlite_url) as session:
        last = session.scalars(select(Job.last_polled_at).where(Job.video_id.startswith("good")))
        assert min(at for at in last if at) > after(110)
        assert session.scalars(select(Account.pause_reason)).one() is None


def test_a_key_that_is_refused_pauses_within_three_polls(sqlite_url: str) -> None:
    hand_in(sqlite_url, GOOD, 1)
    play(sqlite_url, among(REFUSED), 60)
    now, polls = after(61), 0
    with capture_logs() as logs:
        while not any(line["event"] == "account_paused" for line in logs):
            with db.transaction(sqlite_url) as session:
                (claimed, *_) = claiming.claim(session, CONFIGURED, 1, now=now).items
            if claimed.row["video_id"].startswith("odd"):  # its errors say nothing more
                now += timedelta(seconds=STEP)
                continue
            with db.transaction(sqlite_url) as session:
                polled = Polled(claimed, Poll(REFUSED, 401, 50))
                applying.apply(session, deadlines.Rules(), [polled], now)
            polls += 1
            now += timedelta(seconds=STEP)
    assert polls <= standing.REFUSALS == 3
