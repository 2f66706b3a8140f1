"""Polls jobs: who may poll when, what is written down, and what an answer does to an account."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import IntegrityError, OperationalError
from structlog.testing import capture_logs

from reelwatch.config import settings
from reelwatch.config.accounts import Account as Configured
from reelwatch.config.planning import plans_of
from reelwatch.jobs import applying, claiming, fanout, history, overdue, polling, tracking
from reelwatch.jobs.applying import Polled
from reelwatch.jobs.claiming import Claimed, Slot
from reelwatch.net import upstream
from reelwatch.net.upstream import Poll
from reelwatch.rules import account as account_rules
from reelwatch.rules import deadlines, recovery, standing
from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, Failure, Meaning, Report
from reelwatch.rules.changes import Change
from reelwatch.rules.timing import priority
from reelwatch.rules.timing.fitting import Sample, learn
from reelwatch.rules.timing.hazard import MIDDLES, Curve
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.planner import Plans, solve
from reelwatch.sandbox.upstream import Sandbox
from reelwatch.storage import db, due_jobs, forecasts, mixups
from reelwatch.storage.models import Account, Delivery, Job, PollError, Transition
from tests import seeding
from tests.kinds import forecast
from tests.servers import eventually

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
KEY = "sk-test-0123456789"
ACCOUNT = Configured("default", "http://127.0.0.1:1", KEY, 5.0)
RULES = deadlines.Rules()
SPAN = timedelta(seconds=(1 + account_rules.SLACK) / ACCOUNT.requests_per_second)
LEAD = timedelta(seconds=claiming.LEAD_MIN)

RUNNING = Report("running", Meaning.IN_PROGRESS, body={"status": "running"})
DONE = Report(
    "completed", Meaning.SUCCESS, "https://cdn.example.com/a.mp4", body={"status": "completed"}
)
BROKEN = AnswerError(ErrorKind.SERVER_ERROR, "internal error", 500)
LIMITED = AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429)
UNAUTHORIZED = AnswerError(ErrorKind.UNAUTHORIZED, "invalid token", 401)
FORBIDDEN = AnswerError(ErrorKind.FORBIDDEN, "access denied", 403)
USED_UP = AnswerError(ErrorKind.QUOTA, "used up", 402)


Configure = Callable[..., settings.Settings]

# ------------------------------------------------------------------ rows


def add_account(url: str, name: str = "default", **values: Any) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session, name, **values)


def add_jobs(
    url: str, ids: Iterable[str], due: datetime = NOW, account: str = "default", **values: Any
) -> None:
    with db.transaction(url) as session:
        seeding.add_new_jobs(session, ids, due, account=account, **values)


def ids(count: int, script: str = "ok.0s") -> list[str]:
    return [f"veo3:{script}-{number:03}" for number in range(count)]


def rows(url: str, table: Any, **where: Any) -> Sequence[RowMapping]:
    columns = table.__table__
    query = select(columns).filter_by(**where).order_by(columns.c.id)
    with db.reading(url) as session:
        return session.execute(query).mappings().all()


def job(url: str, video_id: str) -> RowMapping:
    (row,) = rows(url, Job, video_id=video_id)
    return row


def account(url: str, name: str = "default") -> RowMapping:
    query = select(Account.__table__).filter_by(name=name)
    with db.reading(url) as session:
        return session.execute(query).mappings().one()


def set_account(url: str, **values: Any) -> None:
    with db.transaction(url) as session:
        session.execute(update(Account).values(values))


def claim(
    url: str,
    limit: int = 64,
    now: datetime | None = NOW,
    lead: float = claiming.LEAD_MIN,
    configured: Configured = ACCOUNT,
) -> fanout.Batch[Claimed]:
    with db.transaction(url) as session:
        return claiming.claim(session, configured, limit, lead, now)


def poller_of(
    made: settings.Settings,
    nudge: Callable[[], None] = lambda: None,
    ask: polling.Asker | None = None,
) -> polling._Poller:
    return polling._Poller(made, made.accounts["default"], plans_of(made), nudge, ask)


def polled(claimed: Claimed, answer: Answer | None) -> Polled:
    """The claimed job with what a poll brought; None: its slot was missed."""
    return Polled(claimed, None if answer is None else Poll(answer, answer.http_status, 7))


def apply(
    url: str, results: Sequence[Polled], now: datetime = NOW
) -> tuple[list[tuple[Change, Polled]], int]:
    with db.transaction(url) as session:
        return applying.apply(session, RULES, results, now)


def poll_one(url: str, answer: Answer, now: datetime = NOW, video_id: str | None = None) -> None:
    """Claim one due job (that one, if it is named) and write down that a poll brought `answer`."""
    if video_id is not None:
        with db.transaction(url) as session:
            late = update(Job).where(Job.video_id != video_id, Job.next_poll_at <= now)
            session.execute(late.values(next_poll_at=now + timedelta(seconds=1)))
    (claimed,) = claim(url, 1, now).items
    apply(url, [polled(claimed, answer)], now)


def refuse(url: str, error: AnswerError = UNAUTHORIZED, now: datetime = NOW) -> None:
    """As many polls are refused as the account comes to rest for."""
    for _ in range(standing.REFUSALS):
        poll_one(url, error, now)


def limit(url: str, error: AnswerError = LIMITED, now: datetime = NOW) -> None:
    """Two jobs get a 429: it is not one's own affair."""
    one, another = claim(url, 2, now).items
    apply(url, [polled(one, error), polled(another, error)], now)


def due_accounts(url: str, now: datetime = NOW) -> list[str]:
    with db.reading(url) as session:
        return sorted(session.scalars(due_jobs.due_accounts(now)))


def after(seconds: float, since: datetime = NOW) -> datetime:
    return since + timedelta(seconds=seconds)


# ------------------------------------------------------------------ claims


class TestClaim:
    def test_takes_only_due_jobs_of_its_account(self, database_url: str) -> None:
        add_account(database_url)
        add_account(database_url, "other")
        add_jobs(database_url, ["due"])
        add_jobs(database_url, ["later"], after(0.001))
        add_jobs(database_url, ["theirs"], account="other")
        assert [c.row["video_id"] for c in claim(database_url).items] == ["due"]
        assert job(database_url, "theirs")["lease_token"] is None

    def test_takes_the_oldest_first_and_no_more_than_it_may(self, database_url: str) -> None:
        add_account(database_url)
        for number, video_id in enumerate(["newest", "middle", "oldest"]):
            add_jobs(database_url, [video_id], after(-number))
        assert [c.row["video_id"] for c in claim(database_url, 2).items] == ["oldest", "middle"]
        assert job(database_url, "newest")["next_poll_at"] == NOW

    def test_leaves_the_one_due_longest_the_first_slot(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ["later"], after(-2), last_polled_at=after(-60))
        add_jobs(database_url, ["sooner"], after(-3), last_polled_at=after(-5))
        first, second = claim(database_url).items
        assert (first.row["video_id"], second.row["video_id"]) == ("sooner", "later")
        assert first.slot.opens < second.slot.opens

    def test_leases_what_it_takes(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ids(2))
        first, second = claim(database_url).items
        assert first.row["lease_token"] == second.row["lease_token"]
        stored = rows(database_url, Job)
        assert {row["next_poll_at"] for row in stored} == {NOW + claiming.LEASE}
        assert {row["lease_token"] for row in stored} == {first.row["lease_token"]}

    def test_takes_nothing_twice_while_the_lease_lasts(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ["a"])
        (before,) = claim(database_url).items
        assert claim(database_url, now=NOW + claiming.LEASE - timedelta(seconds=1)).items == []
        (again,) = claim(database_url, now=NOW + claiming.LEASE).items
        assert again.row["lease_token"] != before.row["lease_token"]

    def test_a_limit_holds_though_the_planner_believes_the_table_tiny(
        self, postgresql_url: str
    ) -> None:
        """By such statistics PostgreSQL runs a subquery, its LIMIT included, once for each row."""
        add_account(postgresql_url)
        add_jobs(postgresql_url, ["a"])
        with db.engine(postgresql_url).connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
        add_jobs(postgresql_url, ids(40))
        assert len(claim(postgresql_url, 2).items) == 2

    def test_slots_are_spaced_from_a_moment_ahead(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ids(3))
        began = time.monotonic()
        slots = [claimed.slot for claimed in claim(database_url, lead=0.25).items]
        assert slots[0].opens >= began + 0.25
        for one, next_one in pairwise(slots):
            assert next_one.opens - one.opens == pytest.approx(SPAN.total_seconds())
        assert account(database_url)["next_slot_at"] == after(0.25) + 3 * SPAN

    def test_slots_begin_where_the_reserved_ones_end(self, database_url: str) -> None:
        add_account(database_url, next_slot_at=after(0.5))
        add_jobs(database_url, ids(1))
        (claimed,) = claim(database_url).items
        assert account(database_url)["next_slot_at"] == after(0.5) + SPAN
        assert claimed.slot.opens - time.monotonic() <= 0.5

    def test_old_reservations_give_nothing_to_catch_up_with(self, database_url: str) -> None:
        add_account(database_url, next_slot_at=after(-60))
        add_jobs(database_url, ids(1))
        claim(database_url)
        assert account(database_url)["next_slot_at"] == NOW + LEAD + SPAN

    def test_a_slot_closes_a_little_after_it_opens(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ids(1))
        (claimed,) = claim(database_url).items
        assert claimed.slot.opens <= claimed.slot.closes <= claimed.slot.opens + claiming.LATE

    def test_nothing_is_reserved_further_ahead_than_the_horizon(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ids(30))
        first = claim(database_url)
        assert len(first.items) == 5  # at 0.02, 0.24, … 0.9 s; the sixth slot is at 1.12 s
        assert claim(database_url).items == []
        assert len(claim(database_url, now=after(0.5)).items) == 2
        assert account(database_url)["next_slot_at"] <= after(0.5 + account_rules.HORIZON) + SPAN

    @pytest.mark.parametrize("rate", [0.3, 1.0, 33.0, 400.0])
    def test_no_second_holds_more_slots_than_the_rate(self, database_url: str, rate: float) -> None:
        add_account(database_url)
        add_jobs(database_url, ids(450))
        configured = Configured("default", ACCOUNT.base_url, KEY, rate)
        sent: list[float] = []
        for step in range(8):
            now = after(0.3 * step)
            opens = [
                claimed.slot.opens
                for claimed in claim(database_url, 1_000, now, configured=configured).items
            ]
            end = (account(database_url)["next_slot_at"] - NOW).total_seconds()
            distance = (1 + account_rules.SLACK) / rate
            sent += [end - distance - (opens[-1] - moment) for moment in opens]
        assert sent
        # However late each poll may be, a second never holds more than the rate (rounded up).
        assert busiest(sent, 1.0 + account_rules.SLACK - 1e-4) <= max(1, rate)

    def test_a_long_lead_still_gets_a_slot(self, database_url: str) -> None:
        """On a disk so slow that a commit takes longer than the horizon, polls go on."""
        add_account(database_url)
        add_jobs(database_url, ids(3))
        assert len(claim(database_url, lead=polling.LEAD_MAX).items) == 1
        assert claim(database_url, lead=polling.LEAD_MAX).items == []

    def test_a_slot_is_open_however_long_the_claim_waited_for_its_turn(
        self, database_url: str
    ) -> None:
        add_account(database_url)
        add_jobs(database_url, ids(1))
        with ThreadPoolExecutor(1) as pool:
            with db.transaction(database_url) as session:
                session.execute(update(Account).values(pauses_in_row=0))
                waiting = pool.submit(claim, database_url, 64, None)
                time.sleep(0.4)
            (claimed,) = waiting.result().items
        assert claimed.slot.closes - claimed.slot.opens > claiming.LATE - 0.2

    def test_a_producer_with_an_open_transaction_does_not_block_polls(
        self, postgresql_url: str
    ) -> None:
        """Its new job refers to the account's row, which the database keeps locked till it ends."""
        add_account(postgresql_url)
        add_jobs(postgresql_url, ["a"])
        with db.transaction(postgresql_url) as session:
            seeding.add_new_jobs(session, ["b"], NOW)
            with ThreadPoolExecutor(1) as pool:
                taken = pool.submit(claim, postgresql_url).result(20).items
        assert [claimed.row["video_id"] for claimed in taken] == ["a"]

    def test_a_job_that_somebody_is_changing_is_passed_over(self, postgresql_url: str) -> None:
        add_account(postgresql_url)
        add_jobs(postgresql_url, ["a", "b"])
        with db.transaction(postgresql_url) as session:
            session.execute(update(Job).where(Job.video_id == "a").values(polls=1))
            with ThreadPoolExecutor(1) as pool:
                taken = pool.submit(claim, postgresql_url).result(20).items
        assert [claimed.row["video_id"] for claimed in taken] == ["b"]

    def test_says_when_to_ask_again(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ids(6))
        full = claim(database_url)
        assert full.again == pytest.approx(0.02 + 5 * 0.22 - account_rules.HORIZON / 2)
        assert claim(database_url).again == pytest.approx(full.again)  # no slot is free before
        fuller = claim(database_url, 1, now=after(10))
        assert fuller.again == 0.0  # it took all that it could: at once
        assert claim(database_url, now=after(11)).again == claiming.IDLE_AGAIN  # nothing is due

    def test_an_account_that_rests_is_left_alone(self, database_url: str) -> None:
        add_account(database_url, paused_until=after(20), pause_reason="quota: used up")
        add_jobs(database_url, ids(3))
        batch = claim(database_url)
        assert (batch.items, batch.again) == ([], 20.0)


def busiest(moments: Iterable[float], window: float) -> int:
    """The most moments that any half-open window of so many seconds holds."""
    times = sorted(moments)
    return max((sum(start <= t < start + window for t in times) for start in times), default=0)


def take_all(url: str, rate: float) -> list[int]:
    """Claim, three at a time, until nothing is due: the jobs' ids."""
    configured = Configured("default", ACCOUNT.base_url, KEY, rate)
    taken: list[int] = []
    while batch := claim(url, 3, configured=configured).items:
        taken += [claimed.row["id"] for claimed in batch]
    return taken


class TestConcurrentClaims:
    COUNT = 150
    RATE = 2_000.0  # all slots lie within the horizon

    @pytest.fixture
    def crowded_url(self, database_url: str) -> str:
        add_account(database_url)
        add_jobs(database_url, ids(self.COUNT))
        return database_url

    def check(self, url: str, batches: Iterable[Sequence[int]]) -> None:
        taken = Counter(job_id for batch in batches for job_id in batch)
        assert taken == Counter(row["id"] for row in rows(url, Job))
        # All claims were made at the same `now`: were one slot reserved twice, fewer were gone.
        span = timedelta(seconds=(1 + account_rules.SLACK) / self.RATE)
        assert account(url)["next_slot_at"] == NOW + LEAD + self.COUNT * span

    def test_four_threads_take_no_job_and_no_slot_twice(self, crowded_url: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            batches = [pool.submit(take_all, crowded_url, self.RATE) for _ in range(4)]
        self.check(crowded_url, [batch.result() for batch in batches])

    def test_two_processes_take_no_job_and_no_slot_twice(self, crowded_url: str) -> None:
        # Spawned: a fork would copy whatever locks this process's other threads hold.
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            batches = pool.starmap(take_all, [(crowded_url, self.RATE)] * 2)
            # Ended in peace: a signal could find the coverage tool of a child holding its lock.
            pool.close()
            pool.join()
        self.check(crowded_url, batches)


# ------------------------------------------- more jobs are due than there are slots


def add_polled(url: str, names: Iterable[str], ago: float, age: float, **values: Any) -> None:
    """Jobs that are due, of this age, polled so many seconds ago."""
    columns: dict[str, Any] = {
        "state": "running", "upstream_status": "running", "tracked_at": after(-age),
        "last_polled_at": after(-ago), "deadline_at": after(3_600),
    }  # fmt: skip
    add_jobs(url, names, after(-1), **(columns | values))


class TestMoreAreDueThanMayBePolled:
    @pytest.fixture
    def url(self, database_url: str) -> str:
        add_account(database_url)
        return database_url

    def taken(self, url: str, slots: int, now: datetime = NOW) -> set[str]:
        """By an account that may ask so often in a second."""
        rate = Configured("default", ACCOUNT.base_url, KEY, float(slots))
        set_account(url, next_slot_at=None)
        found = {each.row["video_id"] for each in claim(url, 64, now, configured=rate).items}
        assert len(found) <= slots
        return found

    def test_those_go_first_that_have_probably_ended_for_longest(self, url: str) -> None:
        add_polled(url, ["young"], 5, 40)
        add_polled(url, ["just polled"], 5, 150)
        add_polled(url, ["likely"], 20, 150)
        add_polled(url, ["forgotten"], 55, 150)
        order = [self.taken(url, 1) for _ in range(4)]
        assert order == [{"forgotten"}, {"likely"}, {"just polled"}, {"young"}]

    def test_what_was_learned_of_a_model_counts(self, url: str) -> None:
        """At the age of 100 s: these end between 60 and 130 s, those not before 150 s."""
        kinds = {
            model: solve(learn(model, [Sample(first + n) for n in range(70)]), Pace(), 3.0)
            for model, first in (("soon", 60.0), ("late", 150.0))
        }
        plans = Plans(kinds=kinds)
        add_polled(url, ids(5), 30, 100, model="late")
        add_polled(url, ["a", "b"], 20, 100, model="soon")
        with db.transaction(url) as session:
            batch = claiming.claim(session, replace(ACCOUNT, requests_per_second=2.0), 64, now=NOW,
                                   rules=deadlines.Rules(plans=plans))  # fmt: skip
        assert {each.row["video_id"] for each in batch.items} == {"a", "b"}

    def test_the_configured_rate_is_written_down_for_who_does_not_know_it(self, url: str) -> None:
        for rate in (2.0, 3.0):
            add_jobs(url, [f"at {rate}"], after(-2))
            assert claim(url, configured=replace(ACCOUNT, requests_per_second=rate)).items
            assert account(url)["configured_rate"] == rate
            set_account(url, next_slot_at=None)
        assert not claim(url, configured=replace(ACCOUNT, requests_per_second=4.0)).items
        assert account(url)["configured_rate"] == 3.0  # that would be a statement of its own

    def test_new_ones_wait_for_their_turn(self, url: str) -> None:
        add_jobs(url, ["new"], after(-2))
        add_polled(url, ["running"], 30, 100)
        assert self.taken(url, 1) == {"running"}
        assert job(url, "new")["next_poll_at"] == after(-2)
        assert self.taken(url, 1) == {"new"}

    def test_a_deadline_is_told_in_time(self, url: str) -> None:
        add_polled(url, ids(3), 60, 100)
        add_polled(url, ["over"], 1, 100, deadline_at=after(-0.5))
        add_polled(url, ["told"], 1, 100, deadline_at=after(-60), state="expired",
                      expired_at=after(-59), error_code="deadline")  # fmt: skip
        assert self.taken(url, 1) == {"over"}
        assert "told" not in self.taken(url, 3)

    def test_a_finished_job_without_its_url_is_asked_again_first(self, url: str) -> None:
        add_polled(url, ids(3), 6, 100)
        add_polled(url, ["finished"], 5, 100, resultless_since=after(-5), resultless_count=1)
        assert self.taken(url, 1) == {"finished"}

    def test_each_gets_its_turn(self, url: str) -> None:
        """However many likelier ones there are: one that never ends is polled, too."""
        add_polled(url, ["old"], 10, 50_000, deadline_at=after(9_999_999))
        add_polled(url, ids(8), 20, 120)
        others = update(Job).where(Job.video_id != "old")
        taken = []
        for second in range(0, 2_000, 40):
            with db.transaction(url) as session:  # they go on as they are
                session.execute(others.values(
                    tracked_at=after(second - 120), last_polled_at=after(second - 20),
                    next_poll_at=after(second - 1), deadline_at=after(second + 3_600),
                ))  # fmt: skip
            taken.append(self.taken(url, 4, after(second)))
        assert "old" not in taken[0]
        assert any("old" in each for each in taken)

    def test_a_claim_chooses_from_those_that_are_due_longest(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claiming, "RIVALS", due_jobs.RIVALS.limit(3))
        add_jobs(url, ids(3), after(-60))
        add_polled(url, ["likely"], 60, 150)
        assert "likely" not in self.taken(url, 2)

    @pytest.mark.parametrize("limit", [2, 16])
    def test_where_slots_are_not_what_is_short_those_go_first_that_are_due_longest(
        self, url: str, limit: int
    ) -> None:
        """Few places are free often: to rank hundreds for them would cost more than it gains."""
        add_jobs(url, ids(20, "waited"), after(-60), tracked_at=after(-60))
        add_polled(url, ids(20, "likely"), 60, 150)
        quick = replace(ACCOUNT, requests_per_second=100.0)
        taken = [each.row["video_id"] for each in claim(url, limit, configured=quick).items]
        assert len(taken) == limit
        assert all("waited" in name for name in taken)

    def in_order(self, url: str, order: priority.Order, now: datetime = NOW) -> list[str]:
        """Two that a claim takes by this order, or by a new one."""
        quick = replace(ACCOUNT, requests_per_second=2.0)
        set_account(url, next_slot_at=None, look_price=7.0)
        with db.transaction(url) as session:
            batch = claiming.claim(session, quick, 64, now=now, rules=RULES, order=order)
        return [each.row["video_id"] for each in batch.items]

    def test_claims_go_by_one_order_for_a_moment(self, url: str) -> None:
        order = priority.Order()
        add_polled(url, ids(9), 20, 150)
        assert len(self.in_order(url, order)) == 2
        add_polled(url, ["likely"], 60, 150)
        assert "likely" not in self.in_order(url, order)
        assert "likely" in self.in_order(url, order, after(1))

    def test_an_order_of_which_others_have_taken_some_is_made_anew(self, url: str) -> None:
        order = priority.Order()
        add_polled(url, ids(9), 20, 150)
        self.in_order(url, order)
        others = {job_id for job_id, _ in order.ranked[:2]}
        with db.transaction(url) as session:
            session.execute(update(Job).where(Job.id.in_(others)).values(next_poll_at=after(30)))
        taken = self.in_order(url, order)
        assert len(taken) == 2
        assert not others & {job(url, name)["id"] for name in taken}

    def test_the_slots_are_for_those_that_were_chosen(self, url: str) -> None:
        add_polled(url, ids(30), 30, 100)
        batch = claim(url)
        assert len(batch.items) == 5
        assert len({each.slot.opens for each in batch.items}) == 5
        assert batch.again < account_rules.HORIZON

    @pytest.mark.parametrize("flagged", [0.0, 7.0])
    def test_those_that_others_hold_are_left_to_them(
        self, postgresql_url: str, flagged: float
    ) -> None:
        add_account(postgresql_url, look_price=flagged)
        add_polled(postgresql_url, ["held"], 60, 150)
        add_polled(postgresql_url, ids(4), 20, 150)
        with db.transaction(postgresql_url) as session:
            held = select(Job.id).where(Job.video_id == "held").with_for_update()
            session.execute(held)
            assert "held" not in self.taken(postgresql_url, 2)

    def test_one_that_is_cancelled_meanwhile_is_not_claimed(
        self, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_account(postgresql_url, look_price=7.0)  # it has been short for a while
        add_polled(postgresql_url, ids(9), 30, 100)
        choose = priority.best_first

        def chosen(*args: Any) -> list[tuple[int, float]]:
            found = choose(*args)
            with db.transaction(postgresql_url) as session:
                over = update(Job).where(Job.id == found[0][0])
                session.execute(over.values(state="cancelled", next_poll_at=None, finished_at=NOW))
            return found

        monkeypatch.setattr(priority, "best_first", chosen)
        assert len(claim(postgresql_url).items) == 4
        (cancelled,) = rows(postgresql_url, Job, state="cancelled")
        assert (cancelled["next_poll_at"], cancelled["lease_token"]) == (None, None)


class TestPriceOfAPoll:
    """What `reelwatch accounts` tells of a budget that is too short."""

    @pytest.fixture
    def url(self, database_url: str) -> str:
        add_account(database_url)
        return database_url

    def price(self, url: str, name: str = "default") -> float:
        found: float = account(url, name)["look_price"]
        return found

    def test_is_nothing_while_all_get_their_slots(self, url: str) -> None:
        add_polled(url, ids(5), 60, 100)
        claim(url)
        assert self.price(url) == 0

    def test_is_what_the_last_one_that_was_chosen_is_worth(self, url: str) -> None:
        add_polled(url, ids(5), 40, 100)
        add_polled(url, ids(5, "less"), 20, 100)
        assert len(claim(url).items) == 5
        (worth,) = {
            priority.gain(dict(row), RULES.plans, NOW)
            for row in rows(url, Job) if "less" not in row["video_id"]
        }  # fmt: skip
        assert self.price(url) == pytest.approx(worth)

    def test_few_free_threads_tell_it_too(self, url: str) -> None:
        add_polled(url, ids(9), 60, 100)
        quick = replace(ACCOUNT, requests_per_second=100.0)
        assert len(claim(url, 2, configured=quick).items) == 2
        assert self.price(url) == pytest.approx(
            priority.gain(dict(rows(url, Job)[0]), RULES.plans, NOW)
        )

    def test_is_nothing_while_those_left_over_have_just_become_due(self, url: str) -> None:
        """That many are due within one moment is no shortage yet."""
        add_polled(url, ids(9), 8, 100)
        assert len(claim(url).items) == 5
        assert self.price(url) == 0

    def test_is_nothing_again_when_slots_suffice(self, url: str) -> None:
        set_account(url, look_price=7.0)
        add_polled(url, ids(4), 60, 100)
        assert len(claim(url).items) == 4
        assert self.price(url) == 0

    def test_is_nothing_again_when_nothing_is_due(self, url: str) -> None:
        set_account(url, look_price=7.0)
        assert not claim(url).items
        assert self.price(url) == 0

    def test_is_a_number_after_a_deadline(self, url: str) -> None:
        add_polled(url, ids(9), 60, 100, deadline_at=after(-1))
        claim(url)
        assert self.price(url) == claiming.PRICE_MOST

    @pytest.mark.parametrize(
        "values",
        [
            {"next_slot_at": after(5)},
            {"paused_until": after(20), "pause_reason": "quota: used up"},
            {"paused_until": after(-1), "pause_reason": "quota: used up"},
        ],
        ids=["no slot is free", "it rests", "it is probed"],
    )
    def test_keeps_still_where_nothing_can_be_learned(self, url: str, values: Any) -> None:
        set_account(url, look_price=1.0, **({"next_slot_at": NOW} | values))
        add_polled(url, ids(9), 60, 100)
        claim(url)
        assert self.price(url) == 1.0

    def test_is_each_accounts_own(self, url: str) -> None:
        add_account(url, "other", look_price=1.0)
        add_polled(url, ids(9), 60, 100)
        claim(url)
        assert self.price(url) != self.price(url, "other") == 1.0


# ---------------------------------------------------------------- the fence


def recorded(url: str) -> list[Any]:
    """All that polls write."""
    return [rows(url, table) for table in (Job, Transition, PollError, Delivery)]


class TestFence:
    """A poll whose row was taken from it changes nothing, whatever it brought."""

    @pytest.fixture
    def url(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("DATABASE_URL", database_url)
        add_account(database_url)
        add_jobs(database_url, ["a"], webhook_url="https://hooks.example.com/a")
        return database_url

    def check_nothing_changes(self, url: str, claimed: Claimed) -> None:
        before, standing = recorded(url), account(url)
        for answer in (DONE, RUNNING, BROKEN, UNAUTHORIZED, LIMITED, None):
            assert apply(url, [polled(claimed, answer)], after(1)) == ([], 0)
        assert recorded(url) == before
        assert account(url) == standing

    def test_another_worker_has_taken_it_over(self, url: str) -> None:
        (claimed,) = claim(url).items
        (again,) = claim(url, now=NOW + claiming.LEASE).items
        self.check_nothing_changes(url, claimed)
        changes, owed = apply(url, [polled(again, DONE)])
        assert (len(changes), owed) == (1, 1)

    @pytest.mark.parametrize("answer", [RUNNING, BROKEN], ids=["as it was", "an error"])
    def test_the_same_process_has_claimed_it_anew(self, url: str, answer: Answer) -> None:
        """One that was stopped for long has both results in hand, in one group."""
        (first,) = claim(url).items
        apply(url, [polled(first, RUNNING)])
        (stopped,) = claim(url, now=NOW + timedelta(hours=1)).items
        (again,) = claim(url, now=NOW + timedelta(hours=1) + claiming.LEASE).items
        results = [polled(stopped, answer), polled(again, answer)]
        if applying.apply_quiet(url, RULES, results) is None:
            changes, _ = apply(url, results, NOW + timedelta(hours=2))
            assert [change.row["lease_token"] for change, _ in changes] == [
                again.row["lease_token"]
            ]
        assert job(url, "a")["polls"] == 2

    def test_it_was_written_down_already(self, url: str) -> None:
        (claimed,) = claim(url).items
        apply(url, [polled(claimed, RUNNING)])
        self.check_nothing_changes(url, claimed)

    def test_it_was_cancelled(self, url: str) -> None:
        (claimed,) = claim(url).items
        tracking.cancel("a")
        self.check_nothing_changes(url, claimed)
        assert job(url, "a")["state"] == "cancelled"

    def test_it_was_rechecked(self, url: str) -> None:
        (claimed,) = claim(url).items
        tracking.recheck("a")
        assert job(url, "a")["lease_token"] is None
        self.check_nothing_changes(url, claimed)

    def test_it_was_deleted(self, url: str) -> None:
        (claimed,) = claim(url).items
        with db.transaction(url) as session:
            session.execute(text("DELETE FROM jobs"))
        self.check_nothing_changes(url, claimed)

    def test_only_the_one_that_was_taken_is_left_out(self, url: str) -> None:
        add_jobs(url, ["b", "c"])
        claimed = claim(url).items
        tracking.cancel("b")
        changes, _ = apply(url, [polled(one, DONE) for one in claimed])
        assert sorted(change.row["video_id"] for change, _ in changes) == ["a", "c"]
        assert [row["state"] for row in rows(url, Job)] == ["completed", "cancelled", "completed"]


# ------------------------------------------------------------------- apply


class TestApply:
    @pytest.fixture
    def url(self, database_url: str) -> str:
        add_account(database_url)
        return database_url

    def test_a_group_is_written_together(self, url: str) -> None:
        add_jobs(url, ["done", "on", "lost"], webhook_url="https://hooks.example.com/a")
        by_id = {claimed.row["video_id"]: claimed for claimed in claim(url).items}
        answers: dict[str, Answer] = {"done": DONE, "on": RUNNING, "lost": BROKEN}
        results = [polled(by_id[name], answer) for name, answer in answers.items()]
        changes, owed = apply(url, results, after(1))
        assert [change.row["video_id"] for change, _ in changes] == list(answers)
        assert owed == 1
        stored = {name: job(url, name) for name in answers}
        assert [row["state"] for row in stored.values()] == ["completed", "running", "pending"]
        assert {row["lease_token"] for row in stored.values()} == {None}
        assert {(r["polls"], r["last_polled_at"]) for r in stored.values()} == {(1, after(1))}
        assert stored["done"]["next_poll_at"] is None
        assert after(1) < stored["on"]["next_poll_at"] <= after(1 + 60 * 1.1)
        assert len(rows(url, Transition)) == 2
        assert [row["job_id"] for row in rows(url, PollError)] == [stored["lost"]["id"]]

    def test_a_missed_slot_gives_the_job_back_unpolled(self, url: str) -> None:
        add_jobs(url, ["missed", "asked"])
        by_id = {claimed.row["video_id"]: claimed for claimed in claim(url).items}
        results = [polled(by_id["missed"], None), polled(by_id["asked"], RUNNING)]
        with capture_logs() as logs:
            changes, owed = apply(url, results, after(1))
        assert ([c.row["video_id"] for c, _ in changes], owed) == (["asked"], 0)
        row = job(url, "missed")
        assert (row["next_poll_at"], row["lease_token"], row["polls"]) == (after(1), None, 0)
        assert row["last_polled_at"] is None
        (line,) = logs
        assert (line["event"], line["account"], line["count"]) == ("slots_missed", "default", 1)

    def test_a_group_of_missed_slots_alone_is_written(self, url: str) -> None:
        add_jobs(url, ids(3))
        results = [polled(claimed, None) for claimed in claim(url).items]
        assert apply(url, results, after(1)) == ([], 0)
        assert len(claim(url, now=after(2)).items) == 3

    def test_a_group_of_none_writes_nothing(self, url: str) -> None:
        assert apply(url, []) == ([], 0)

    def test_a_group_that_fails_leaves_nothing(self, url: str) -> None:
        """The transition, the event and the error that come with a change share its commit."""
        add_jobs(url, ["a", "b"], webhook_url="https://hooks.example.com/a")
        first, second = claim(url).items
        before = recorded(url)
        break_deliveries(url)
        with pytest.raises((IntegrityError, OperationalError)):
            apply(url, [polled(first, BROKEN), polled(second, DONE)])
        assert recorded(url) == before

    def test_equal_intervals_are_spread(self, url: str) -> None:
        """A thousand jobs that were refused together do not come back together."""
        add_account(url, "many", requests_per_second=1_000.0)
        add_jobs(url, ids(40), account="many")
        configured = Configured("many", ACCOUNT.base_url, KEY, 1_000.0)
        apply(url, [polled(claimed, BROKEN) for claimed in claim(url, configured=configured).items])
        dues = {row["next_poll_at"] for row in rows(url, Job)}
        assert len(dues) > 30

    @pytest.mark.parametrize(
        "error",
        [
            BROKEN,
            AnswerError(ErrorKind.NOT_JSON, "<html>", 200),
            AnswerError(ErrorKind.TIMEOUT, "no complete answer within 15 s"),
        ],
        ids=lambda error: str(error.kind),
    )
    def test_errors_back_off_and_lose_nothing(self, url: str, error: AnswerError) -> None:
        add_jobs(url, ["a"])
        now, waits = NOW, []
        standing = account(url)["requests_per_second"], account(url)["pause_reason"]
        for _ in range(7):
            poll_one(url, error, now)
            due = job(url, "a")["next_poll_at"]
            waits.append((due - now).total_seconds())
            now = due
        assert waits == [pytest.approx(wait, rel=0.25) for wait in (5, 10, 20, 40, 60, 60, 60)]
        row = job(url, "a")
        assert (row["state"], row["polls"], row["errors_in_row"]) == ("pending", 7, 7)
        assert (account(url)["requests_per_second"], account(url)["pause_reason"]) == standing
        poll_one(url, DONE, now)
        assert job(url, "a")["state"] == "completed"


def break_deliveries(url: str, event_type: str = "video.completed") -> None:
    """Have the database refuse every new delivery of that event."""
    with db.transaction(url) as session:
        if url.startswith("sqlite"):
            session.execute(
                text(
                    "CREATE TRIGGER broken BEFORE INSERT ON deliveries "
                    f"WHEN new.event_type = '{event_type}' "
                    "BEGIN SELECT RAISE(ABORT, 'broken'); END"
                )
            )
        else:
            check = f"CHECK (event_type <> '{event_type}')"
            session.execute(text(f"ALTER TABLE deliveries ADD CONSTRAINT broken {check}"))


# ----------------------------------------------------------------- accounts


class TestMixups:
    """An answer about another tracked job is never believed; the channel's own name for one is."""

    @pytest.mark.parametrize(
        ("tracked", "answered"),
        [
            ("sora-2:b", "sora-2:b"),
            ("sora-2:b", "b"),
            ("grok:b", "b"),
            ("b", "grok:b"),
            ("veo3:b", "b"),
        ],
        ids=["same", "own-prefix", "prefix-of-the-answers-model", "without", "known-prefix"],
    )
    def test_anothers_end_is_an_error(self, database_url: str, tracked: str, answered: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ["sora-2:a"], model="sora-2")
        add_jobs(database_url, [tracked], after(60))
        answer = replace(DONE, foreign_id=answered, model="grok")
        with db.transaction(database_url) as session:
            asked = [(dict(job(database_url, "sora-2:a")), answer)]
            (found,) = mixups.sorted_out(session, asked, {"veo3", "veo3.1"})
        assert found == AnswerError(
            ErrorKind.BAD_SHAPE,
            f"the answer is about another tracked job: {answered}",
            200,
            body=DONE.body,
        )

    def test_the_channels_own_name_is_no_error(self, database_url: str) -> None:
        add_account(database_url)
        add_account(database_url, "other")
        add_jobs(database_url, ["sora-2:a"])
        add_jobs(database_url, ["internal_7f3a"], after(60), "other")
        poll_one(database_url, replace(RUNNING, foreign_id="internal_7f3a"))
        poll_one(database_url, replace(DONE, foreign_id="internal_7f3a"), after(60))
        assert job(database_url, "sora-2:a")["state"] == "completed"

    def test_what_is_another_jobs_name_upstream_is_not_this_ones(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ["a"], upstream_id="internal_7f3a")
        add_jobs(database_url, ["b"], upstream_id=None)
        poll_one(database_url, replace(DONE, foreign_id="internal_7f3a"), video_id="b")
        assert job(database_url, "b")["upstream_id"] is None
        (error,) = rows(database_url, PollError)
        assert error["message"] == "the answer is about another tracked job: internal_7f3a"

    def test_a_name_under_which_another_has_been_tracked_since_is_anothers(
        self, database_url: str
    ) -> None:
        """A relay's mix-up gave it that name, while nobody had tracked the other one yet."""
        add_account(database_url)
        add_jobs(database_url, ["sora-2:a"])
        poll_one(database_url, replace(RUNNING, foreign_id="sora-2:b"))
        assert job(database_url, "sora-2:a")["upstream_id"] == "sora-2:b"
        add_jobs(database_url, ["sora-2:b"], after(600))
        poll_one(database_url, replace(DONE, foreign_id="sora-2:b"), after(60))
        assert job(database_url, "sora-2:a")["state"] == "running"
        (error,) = rows(database_url, PollError)
        assert error["message"] == "the answer is about another tracked job: sora-2:b"

    def test_those_of_a_group_are_told_apart(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ["a", "b", "c"], upstream_id="z")
        claimed = claim(database_url).items
        answers = (DONE, replace(DONE, foreign_id="a"), replace(DONE, foreign_id="z"))
        apply(database_url, list(map(polled, claimed, answers)))
        states = {row["video_id"]: row["state"] for row in rows(database_url, Job)}
        assert states == {"a": "completed", "b": "pending", "c": "completed"}
        (error,) = rows(database_url, PollError)
        assert (error["job_id"], error["kind"]) == (job(database_url, "b")["id"], "bad_shape")


class TestErrorsAboutTheJob:
    def test_the_same_again_and_again_is_the_jobs_end(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ["a"])
        said = AnswerError(
            ErrorKind.BAD_SHAPE, "Asset upload returned 403", 200, about_the_job=True
        )
        for number in range(4):
            poll_one(database_url, said, after(100 * number))
        assert job(database_url, "a")["state"] == "pending"
        poll_one(database_url, replace(said, message="another image"), after(400))
        assert job(database_url, "a")["state"] == "pending"  # not the same
        for number in range(5):
            poll_one(database_url, said, after(500 + 100 * number))
        row = job(database_url, "a")
        assert (row["state"], row["error_code"]) == ("failed", "upstream_failed")
        assert row["error_message"] == "Asset upload returned 403"

    def test_an_answer_that_is_not_believed_leaves_no_facts(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ["a"])
        poll_one(database_url, replace(DONE, foreign_id="z", model="grok", created_at=NOW))
        row = job(database_url, "a")
        assert (row["state"], row["upstream_id"]) == ("pending", "z")
        assert (row["model"], row["upstream_created_at"], row["errors_in_row"]) == (None, None, 1)


class TestSlowing:
    @pytest.fixture
    def url(self, database_url: str) -> str:
        add_account(database_url)
        add_jobs(database_url, ids(12), after(-60), polls=1)  # all were well
        return database_url

    @pytest.mark.parametrize("kind", [ErrorKind.RATE_LIMITED, ErrorKind.SATURATED])
    def test_a_429_cuts_the_rate_and_holds_the_account(self, url: str, kind: ErrorKind) -> None:
        limit(url, AnswerError(kind, "slow down", 429))
        row = account(url)
        held_until = after(recovery.HOLD_SECONDS)
        assert (row["requests_per_second"], row["slowed_at"]) == (3.5, held_until)
        assert row["next_slot_at"] == held_until
        assert row["pause_reason"] is None
        assert claim(url, now=after(0.5)).items == []
        assert due_accounts(url, after(1.9)) == []
        assert due_accounts(url, after(2.0)) == ["default"]
        assert len(claim(url, now=after(2.0)).items) == 4  # 0.31 s apart within a second

    def test_retry_after_holds_it_for_as_long_as_asked(self, url: str) -> None:
        limit(url, AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=9.0))
        assert account(url)["next_slot_at"] == after(9)
        assert claim(url, now=after(7.9)).items == []
        assert len(claim(url, now=after(9)).items) > 1

    def test_a_long_retry_after_is_a_rest_that_a_single_poll_ends(self, url: str) -> None:
        limit(url, AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=90.0))
        row = account(url)
        assert (row["paused_until"], row["pauses_in_row"]) == (after(90), 0)
        said = "rate_limited: slow down; to be asked again in 90 s"
        assert (row["pause_reason"], row["requests_per_second"]) == (said, 3.5)
        assert claim(url, now=after(80)).items == []
        poll_one(url, RUNNING, after(90))
        row = account(url)
        assert (row["pause_reason"], row["requests_per_second"]) == (None, 3.5)
        assert len(claim(url, now=after(92)).items) > 1

    def test_nobody_is_silent_for_an_hour_unasked(self, url: str) -> None:
        asked = AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=3_600.0)
        limit(url, asked)
        assert account(url)["paused_until"] == after(recovery.PAUSE_MAX)
        poll_one(url, asked, after(recovery.PAUSE_MAX))
        assert account(url)["paused_until"] == after(2 * recovery.PAUSE_MAX)

    def test_a_429_of_one_job_holds_the_account_for_a_moment(self, url: str) -> None:
        poll_one(url, AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=3_600.0))
        row = account(url)
        assert row["next_slot_at"] == after(recovery.HOLD_SECONDS)
        assert (row["requests_per_second"], row["pause_reason"]) == (5.0, None)

    def test_one_job_that_always_gets_it_slows_nobody(self, url: str) -> None:
        name, now = ids(1)[0], NOW
        for _ in range(9):
            poll_one(url, LIMITED, now, name)
            poll_one(url, RUNNING, after(3, now))
            now = after(70, now)
        row = account(url)
        assert (row["requests_per_second"], row["slowed_at"]) == (5.0, None)
        assert job(url, name)["errors_in_row"] == 9
        poll_one(url, LIMITED, now, name)
        assert account(url)["next_slot_at"] < after(1, now)

    def test_retry_after_of_nothing_still_leaves_the_reserved_slots(self, url: str) -> None:
        claimed = claim(url, 4).items
        reserved = account(url)["next_slot_at"]
        error = AnswerError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after=0.0)
        apply(url, [polled(claimed[0], error)])
        assert account(url)["next_slot_at"] == reserved

    def test_a_burst_counts_once(self, url: str) -> None:
        claimed = claim(url).items
        apply(url, [polled(one, LIMITED) for one in claimed[:3]])
        apply(url, [polled(one, LIMITED) for one in claimed[3:]], after(recovery.HOLD_SECONDS))
        row = account(url)
        assert (row["requests_per_second"], row["slowed_at"]) == (3.5, after(recovery.HOLD_SECONDS))
        assert row["next_slot_at"] == after(2 * recovery.HOLD_SECONDS)  # held anew all the same

    def test_the_next_burst_cuts_again(self, url: str) -> None:
        rates = []
        for number in range(3):  # each of them the first look after the hold of the one before
            limit(url, LIMITED, after((recovery.HOLD_SECONDS + 0.1) * number))
            rates.append(round(account(url)["requests_per_second"], 3))
        assert rates == [3.5, 2.45, 1.715]

    def test_its_jobs_do_not_suffer(self, url: str) -> None:
        (claimed,) = claim(url, 1).items
        apply(url, [polled(claimed, LIMITED)])
        row = job(url, claimed.row["video_id"])
        assert (row["state"], row["errors_in_row"], row["last_error"]) == (
            "pending", 1, "rate_limited",
        )  # fmt: skip
        assert row["next_poll_at"] <= after(10)

    def test_recovers_in_steps_up_to_the_configured_rate(self, url: str) -> None:
        set_account(url, requests_per_second=2.5, slowed_at=NOW)
        quiet = recovery.QUIET_SECONDS
        seen = []
        for steps in (0.9, 1.0, 1.5, 2.0, 4.5, 5.0):
            claim(url, 1, after(steps * quiet))
            row = account(url)
            seen.append((row["requests_per_second"], row["slowed_at"]))
        assert seen == [
            (2.5, NOW),
            (3.0, after(quiet)),
            (3.0, after(quiet)),
            (3.5, after(2 * quiet)),
            (4.5, after(4 * quiet)),
            (5.0, None),
        ]

    def test_since_when_it_is_slowed_is_kept_while_its_rate_rises(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def told(seconds: float) -> tuple[Any, Any]:
            monkeypatch.setattr(db, "now", lambda _: after(seconds))
            with db.transaction(url) as session:
                [row] = history.list_accounts(session)
                return row["slowed_since"], row["slowed_at"]

        assert told(0) == (None, None)
        limit(url)
        assert told(1) == (NOW, after(recovery.HOLD_SECONDS))
        claim(url, 1, after(20))
        assert account(url)["requests_per_second"] == 4.0
        assert told(20) == (NOW, after(17))
        assert told(40) == (NOW, after(32))
        assert told(9_000) == (None, None)  # though nobody has claimed
        limit(url, now=after(18_100))
        assert told(18_100)[0] == after(18_100)

    def test_keeps_below_what_was_refused(self, url: str) -> None:
        limit(url)
        assert account(url)["refused_rate"] == 5.0
        seen = []
        for seconds in (20, 35, 50, 500, 640):
            claim(url, 1, after(seconds))
            row = account(url)
            seen.append((round(row["requests_per_second"], 6), row["refused_rate"]))
        assert seen == [(4.0, 5.0), (4.1, 5.0), (4.1, 5.0), (4.1, 5.0), (4.6, None)]

    def test_a_long_quiet_time_gives_all_of_it_back_at_once(self, url: str) -> None:
        set_account(url, requests_per_second=0.05, slowed_at=after(-3_600))
        assert len(claim(url).items) == 5

    def test_recovering_needs_no_job(self, database_url: str) -> None:
        add_account(database_url, requests_per_second=1.0, slowed_at=after(-3_600))
        claim(database_url)
        assert account(database_url)["requests_per_second"] == 5.0

    def test_a_clock_that_was_set_back_takes_nothing_away(self, url: str) -> None:
        set_account(url, requests_per_second=0.5, slowed_at=after(3_600))
        claim(url)
        row = account(url)
        assert (row["requests_per_second"], row["slowed_at"]) == (0.5, after(3_600))

    @pytest.mark.parametrize("rate", [1.0, 9.0])
    def test_a_new_configured_rate_is_taken_over(self, url: str, rate: float) -> None:
        claim(url, 1, configured=Configured("default", ACCOUNT.base_url, KEY, rate))
        assert account(url)["requests_per_second"] == rate

    def test_a_lower_configured_rate_ends_a_recovery(self, url: str) -> None:
        set_account(url, requests_per_second=2.5, slowed_at=NOW)
        claim(url, 1, configured=Configured("default", ACCOUNT.base_url, KEY, 2.0))
        row = account(url)
        assert (row["requests_per_second"], row["slowed_at"]) == (2.0, None)

    def test_other_accounts_go_on(self, url: str) -> None:
        add_account(url, "other")
        add_jobs(url, ["theirs"], account="other")
        before = account(url, "other")
        limit(url)
        assert due_accounts(url) == ["other"]
        assert account(url, "other") == before


class TestPausing:
    @pytest.fixture
    def url(self, database_url: str) -> str:
        add_account(database_url)
        add_jobs(database_url, ids(4), after(-60))
        return database_url

    @pytest.mark.parametrize(
        "error",
        [UNAUTHORIZED, FORBIDDEN, AnswerError(ErrorKind.QUOTA, "used up", 402)],
        ids=lambda error: str(error.kind),
    )
    def test_a_refusal_pauses_the_account_not_its_jobs(self, url: str, error: AnswerError) -> None:
        refuse(url, error)
        row = account(url)
        assert row["paused_until"] == after(recovery.PAUSE_FIRST)
        assert row["pause_reason"] == f"{error.kind}: {error.message}"
        assert row["requests_per_second"] == 5.0
        assert due_accounts(url, after(recovery.PAUSE_FIRST - 1)) == []
        assert claim(url, now=after(recovery.PAUSE_FIRST - 1)).items == []
        assert {row["state"] for row in rows(url, Job)} == {"pending"}
        assert rows(url, Transition) == []
        assert {row["kind"] for row in rows(url, PollError)} == {error.kind}

    def test_polls_that_were_under_way_count_once(self, url: str) -> None:
        apply(url, [polled(each, UNAUTHORIZED) for each in claim(url).items])
        assert account(url)["pauses_in_row"] == 1
        assert account(url)["paused_until"] == after(recovery.PAUSE_FIRST)

    def test_one_probe_at_a_time_finds_out_whether_it_works_again(self, url: str) -> None:
        refuse(url)
        assert due_accounts(url, after(30)) == ["default"]
        (probe,) = claim(url, now=after(30)).items
        assert probe.probe
        assert claim(url, now=after(31)).items == []
        assert due_accounts(url, after(31)) == []

    def test_a_worker_that_dies_with_the_probe_costs_a_lease(self, url: str) -> None:
        refuse(url)
        claim(url, now=after(30))
        lease = claiming.LEASE.total_seconds()
        assert claim(url, now=after(30 + lease - 1)).items == []
        (probe,) = claim(url, now=after(30 + lease)).items
        assert probe.probe

    def test_a_probe_that_misses_its_slot_makes_room_for_the_next(self, url: str) -> None:
        refuse(url)
        (probe,) = claim(url, now=after(30)).items
        apply(url, [polled(probe, None)], after(31))
        assert due_accounts(url, after(31)) == ["default"]
        (again,) = claim(url, now=after(31)).items
        assert again.probe
        assert account(url)["pauses_in_row"] == 1

    def test_a_probe_that_was_taken_over_makes_no_room(self, url: str) -> None:
        refuse(url)
        (probe,) = claim(url, now=after(30)).items
        with db.transaction(url) as session:
            session.execute(update(Job).values(lease_token="another", next_poll_at=after(90)))
        apply(url, [polled(probe, None)], after(31))
        assert claim(url, now=after(32)).items == []
        assert account(url)["paused_until"] == after(30) + claiming.LEASE

    @pytest.mark.parametrize("answer", [BROKEN, RUNNING, None])
    def test_a_probe_of_a_resumed_account_is_a_poll_like_others(
        self, url: str, answer: Answer | None
    ) -> None:
        """A worker that was stopped for long comes back with one."""
        refuse(url)
        (probe,) = claim(url, now=after(30)).items
        set_account(url, paused_until=None, pause_reason=None, pauses_in_row=0)
        apply(url, [polled(probe, answer)], after(31))
        row = account(url)
        assert (row["paused_until"], row["pause_reason"], row["pauses_in_row"]) == (None, None, 0)
        assert job(url, probe.row["video_id"])["lease_token"] is None

    def test_probing_needs_a_job(self, database_url: str) -> None:
        add_account(database_url, paused_until=NOW, pause_reason="quota: used up")
        assert claim(database_url).items == []
        assert account(database_url)["paused_until"] == NOW

    def test_the_pause_doubles_up_to_a_ceiling(self, url: str) -> None:
        refuse(url)
        now, pauses = account(url)["paused_until"], []
        for _ in range(8):
            poll_one(url, UNAUTHORIZED, now)
            until = account(url)["paused_until"]
            pauses.append((until - now).total_seconds())
            now = until
        assert pauses == [10, 20, 40, 80, 160, 320, 600, 600]
        assert {row["state"] for row in rows(url, Job)} == {"pending"}

    @pytest.mark.parametrize(
        "answer", [RUNNING, DONE, AnswerError(ErrorKind.NOT_FOUND, "task_not_exist", 400)]
    )
    def test_a_probe_that_works_resumes_the_account(self, url: str, answer: Answer) -> None:
        refuse(url)
        poll_one(url, UNAUTHORIZED, after(30))
        poll_one(url, answer, after(90))
        row = account(url)
        assert (row["paused_until"], row["pause_reason"], row["pauses_in_row"]) == (None, None, 0)
        assert len(claim(url, now=after(100)).items) > 1
        well = [polled(each, RUNNING) for each in claim(url, now=after(180)).items]
        apply(url, well, after(180))
        refuse(url, now=after(300))
        assert account(url)["paused_until"] == after(
            300 + recovery.PAUSE_FIRST
        )  # counted from the start

    @pytest.mark.parametrize("answer", [BROKEN, AnswerError(ErrorKind.TIMEOUT, "nothing")])
    def test_a_probe_without_news_of_the_key_asks_again_soon(
        self, url: str, answer: Answer
    ) -> None:
        refuse(url)
        poll_one(url, answer, after(30))
        row = account(url)
        assert row["paused_until"] == after(30 + standing.PROBE_AGAIN)
        assert (row["pause_reason"], row["pauses_in_row"]) == ("unauthorized: invalid token", 1)

    def test_a_probe_that_is_told_to_slow_down_resumes_at_a_lower_rate(self, url: str) -> None:
        refuse(url)
        poll_one(url, LIMITED, after(30))
        row = account(url)
        assert (row["pause_reason"], row["requests_per_second"]) == (None, 3.5)
        assert row["next_slot_at"] == after(32)

    def test_an_answer_that_was_under_way_does_not_resume_it(self, url: str) -> None:
        *refused, answered = claim(url).items
        apply(url, [*(polled(each, UNAUTHORIZED) for each in refused), polled(answered, RUNNING)])
        assert account(url)["pause_reason"] is not None

    @pytest.mark.parametrize("error", [FORBIDDEN, UNAUTHORIZED, USED_UP], ids=lambda t: t.kind)
    def test_one_job_that_is_always_refused_pauses_nobody(
        self, url: str, error: AnswerError
    ) -> None:
        now, refused = NOW, ids(1)[0]
        for _ in range(12):
            results = [
                polled(each, error if each.row["video_id"] == refused else RUNNING)
                for each in claim(url, now=now).items
            ]
            apply(url, results, now)
            assert account(url)["pause_reason"] is None
            now = after(20, now)
        polls = {row["video_id"]: row["polls"] for row in rows(url, Job)}
        assert polls.pop(refused) > 3
        assert min(polls.values()) > 6
        assert job(url, refused)["state"] == "pending"

    def test_it_backs_off_alone(self, url: str) -> None:
        now, waits, refused = NOW, [], ids(1)[0]
        for _ in range(4):
            poll_one(url, UNAUTHORIZED, now, refused)
            due = job(url, refused)["next_poll_at"]
            waits.append((due - now).total_seconds())
            poll_one(url, RUNNING, after(1, now))
            now = due
        assert waits == [pytest.approx(wait, rel=0.25) for wait in (5, 10, 20, 40)]

    def test_a_poll_that_works_is_asked_of_a_job_that_was_well(self, url: str) -> None:
        for number, name in enumerate(ids(4)):
            poll_one(url, RUNNING, after(2 * number), name)
        for number, name in enumerate(ids(3)):
            poll_one(url, UNAUTHORIZED, after(100 + 2 * number), name)
        assert account(url)["pause_reason"] is not None
        (probe,) = claim(url, now=after(160)).items
        assert (probe.probe, probe.row["video_id"]) == (True, ids(4)[3])

    def test_the_next_probe_is_another_jobs(self, url: str) -> None:
        refuse(url)
        (first,) = claim(url, now=after(60)).items
        apply(url, [polled(first, BROKEN)], after(60))
        (second,) = claim(url, now=after(60 + standing.PROBE_AGAIN)).items
        assert second.row["id"] != first.row["id"]

    def test_other_accounts_go_on(self, url: str) -> None:
        add_account(url, "other")
        add_jobs(url, ["theirs"], account="other")
        refuse(url)
        assert due_accounts(url) == ["other"]
        assert account(url, "other")["pause_reason"] is None


class TestDeadlinesOfAnAccountThatRests:
    """Its jobs are polled one at a time; that others' deadlines pass is told all the same."""

    def rests(self, url: str) -> None:
        reason, over = "unauthorized: invalid token", [f"over-{number}" for number in range(3)]
        add_account(url, paused_until=after(600), pause_reason=reason, pauses_in_row=3)
        add_jobs(url, over, after(-5), callback_task="shop.done", deadline_at=after(-1))
        add_jobs(url, ["early"], after(-4))

    def told(self, url: str) -> dict[str, tuple[str, str | None]]:
        return {row["video_id"]: (row["state"], row["error_code"]) for row in rows(url, Job)}

    def tell(self, url: str, now: datetime = NOW) -> None:
        with db.transaction(url) as session:
            overdue.tell_of_resting(session, "default", RULES, now)

    def test_are_told(self, database_url: str) -> None:
        self.rests(database_url)
        self.tell(database_url)
        over = ("expired", "deadline")
        assert self.told(database_url) == {
            "over-0": over, "over-1": over, "over-2": over, "early": ("pending", None),
        }  # fmt: skip
        row = job(database_url, "over-0")
        assert row["error_message"].endswith(": its account rests, unauthorized: invalid token")
        assert (row["polls"], row["expired_at"], row["sequence"]) == (0, NOW, 1)
        assert row["next_poll_at"] > NOW
        owed = rows(database_url, Delivery)
        assert [each["event_type"] for each in owed] == ["video.expired"] * 3

    def test_are_told_once(self, database_url: str) -> None:
        self.rests(database_url)
        self.tell(database_url)
        self.tell(database_url, after(3_600))
        assert len(rows(database_url, Delivery)) == 3

    def test_are_left_to_the_polls_while_it_works(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ["over"], after(-5), deadline_at=after(-1))
        self.tell(database_url)
        (claimed,) = claim(database_url).items
        assert (claimed.row["video_id"], claimed.row["state"]) == ("over", "pending")


class TestDueAccounts:
    def test_names_those_with_jobs_due(self, database_url: str) -> None:
        for name in ("due", "later", "empty"):
            add_account(database_url, name)
        add_jobs(database_url, ["a"], account="due")
        add_jobs(database_url, ["b"], after(1), account="later")
        assert due_accounts(database_url) == ["due"]
        assert due_accounts(database_url, after(1)) == ["due", "later"]

    def test_leaves_out_the_paused_until_their_time_comes(self, database_url: str) -> None:
        add_account(database_url, paused_until=after(10), pause_reason="quota: used up")
        add_jobs(database_url, ["a"])
        assert due_accounts(database_url, after(9)) == []
        assert due_accounts(database_url, after(10)) == ["default"]

    def test_leaves_out_those_a_worker_is_busy_with(self, database_url: str) -> None:
        add_account(database_url)
        add_jobs(database_url, ids(9))
        claim(database_url)
        assert due_accounts(database_url) == []
        assert due_accounts(database_url, after(2)) == ["default"]


# -------------------------------------------------------------------- batches


@pytest.fixture
def configured(database_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Settings for the account `default` at the sandbox, with the variables that a test adds."""

    def make(**variables: str) -> settings.Settings:
        values = {
            "DATABASE_URL": database_url,
            "QUICKROUTER_API_KEY": KEY,
            "QUICKROUTER_BASE_URL": sandbox.url,
            "REELWATCH_REQUESTS_PER_SECOND": "100",
            "REELWATCH_POLL_MIN": "50ms",
            "REELWATCH_POLL_MAX": "200ms",
        }
        for name, value in (values | variables).items():
            monkeypatch.setenv(name, value)
        made = settings.load()
        tracking.sync_accounts(made)
        return made

    return make


def add_due_jobs(url: str, names: Iterable[str], **values: Any) -> None:
    add_jobs(url, names, datetime.now(UTC), **values)


def states(url: str) -> Counter[str]:
    return Counter(row["state"] for row in rows(url, Job))


def poll_until_completed(made: settings.Settings, count: int) -> None:
    def all_completed() -> bool:
        polling.poll(made, "default")
        return states(made.database_url)["completed"] == count

    eventually(all_completed, 30.0)


class TestBatch:
    def test_polls_all_that_is_due(self, database_url: str, configured: Configure) -> None:
        made = configured()
        add_due_jobs(database_url, ids(25))
        nudges: list[None] = []
        done = 0

        def all_completed() -> bool:
            nonlocal done
            done += polling.poll(made, "default", nudge=lambda: nudges.append(None))
            return states(database_url) == {"completed": 25}

        eventually(all_completed, 30.0)
        assert done >= 25
        assert nudges == []  # nobody wants to be told

    def test_nudges_after_a_commit_that_owes_events(
        self, database_url: str, configured: Configure
    ) -> None:
        made = configured()
        add_due_jobs(database_url, ids(3), webhook_url="https://hooks.example.com/a")
        stored: list[int] = []

        def nudge() -> None:
            stored.append(len(rows(database_url, Delivery)))

        eventually(lambda: polling.poll(made, "default", nudge=nudge) and 3 in stored, 30.0)
        assert stored[-1] == 3
        assert all(stored)

    def test_writes_one_line_a_poll(self, database_url: str, configured: Configure) -> None:
        made = configured()
        add_due_jobs(database_url, ["veo3:ok.0s-a", "veo3:unknown-b", "veo3:forever.9s-c"])
        add_due_jobs(
            database_url,
            ["veo3:forever-d"],
            state="expired",
            error_code="deadline",
            upstream_status="pending",
            tracked_at=after(-200_000, datetime.now(UTC)),
            deadline_at=after(-100_000, datetime.now(UTC)),
            expired_at=after(-100_000, datetime.now(UTC)),
            last_polled_at=after(-900, datetime.now(UTC)),
        )
        lines: dict[str, Any] = {}

        def all_polled() -> bool:
            with capture_logs() as logs:
                polling.poll(made, "default", batch_seconds=0.5)
            assert KEY not in str(logs)
            for line in logs:
                if line["event"] == "poll":
                    lines.setdefault(line["video_id"], line)
            return len(lines) == 4

        eventually(all_polled, 30.0)
        told = ("account", "http_status", "status", "error", "decision")
        assert {name: tuple(line[key] for key in told) for name, line in lines.items()} == {
            "veo3:ok.0s-a": ("default", 200, "completed", None, "completed"),
            "veo3:unknown-b": ("default", 400, None, "not_found: task_not_exist", "poll_again"),
            "veo3:forever.9s-c": ("default", 200, "pending", None, "status_changed"),
            "veo3:forever-d": ("default", 200, "pending", None, "abandoned"),
        }  # fmt: skip
        assert all(line["duration_ms"] >= 0 and line["job"] for line in lines.values())

    @pytest.mark.parametrize("mode", ["500", "html", "garbage", "429", "401", "403"])
    def test_upstream_in_error_ends_no_job(
        self, database_url: str, sandbox: Sandbox, configured: Configure, mode: str
    ) -> None:
        made = configured()
        add_due_jobs(database_url, ids(6))
        sandbox.set_fault(mode)
        eventually(
            lambda: (
                polling.poll(made, "default", batch_seconds=0.5) and rows(database_url, PollError)
            ),
            30.0,
        )
        assert states(database_url) == {"pending": 6}
        sandbox.set_fault("none")
        set_account(database_url, paused_until=None, pause_reason=None, next_slot_at=None)
        poll_until_completed(made, 6)

    def test_a_hanging_poll_holds_up_no_other(
        self,
        database_url: str,
        sandbox: Sandbox,
        configured: Configure,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(upstream, "DEADLINE_SECONDS", 60.0)
        made = configured()
        add_due_jobs(database_url, ["veo3:hang.0s-x", *ids(19)])
        with ThreadPoolExecutor(1) as pool:
            batch = pool.submit(polling.poll, made, "default")
            eventually(lambda: states(database_url)["completed"] == 19, 20.0)
            assert not batch.done()
            assert job(database_url, "veo3:hang.0s-x")["polls"] == 0
            sandbox.stop()  # cuts the connection that hangs
            batch.result()
        assert job(database_url, "veo3:hang.0s-x")["last_error"] == "connection"
        sandbox.start(port=int(made.base_url.rpartition(":")[2]))
        poll_until_completed(made, 20)

    def test_a_hanging_poll_that_outlasts_its_batch_holds_up_no_other(
        self,
        database_url: str,
        sandbox: Sandbox,
        configured: Configure,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The process waits for it in any case, and the others are polled meanwhile."""
        monkeypatch.setattr(upstream, "DEADLINE_SECONDS", 300.0)
        monkeypatch.setattr(claiming, "LATE", 60.0)  # a busy machine polls it in time too
        made = configured()
        add_due_jobs(database_url, ["veo3:silence-x", *ids(9, "forever")])

        def polls() -> list[int]:
            return [row["polls"] for row in rows(database_url, Job)]

        with ThreadPoolExecutor(1) as pool:
            over = time.monotonic() + 2.0
            batch = pool.submit(polling.poll, made, "default", batch_seconds=2.0)
            try:
                eventually(lambda: time.monotonic() > over and sorted(polls())[1] > 0, 120.0)
                by_then = sum(polls())
                eventually(lambda: sum(polls()) >= by_then + 9, 120.0)
                assert not batch.done()
                assert job(database_url, "veo3:silence-x")["polls"] == 0
            finally:
                sandbox.stop()  # cuts the connection that hangs
            batch.result()
        assert job(database_url, "veo3:silence-x")["polls"] > 0

    def test_an_answer_that_never_comes_is_a_timeout(
        self, database_url: str, configured: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(upstream, "DEADLINE_SECONDS", 0.2)
        made = configured()
        add_due_jobs(database_url, ["veo3:hang.0s-x"])
        eventually(
            lambda: (
                polling.poll(made, "default", batch_seconds=0.5) and rows(database_url, PollError)
            ),
            30.0,
        )
        (error,) = rows(database_url, PollError)
        assert (error["kind"], error["http_status"]) == ("timeout", None)
        poll_until_completed(made, 1)

    def test_a_poll_that_misses_its_slot_is_not_sent(
        self, database_url: str, configured: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = configured()
        add_due_jobs(database_url, ids(3))
        monkeypatch.setattr(claiming, "LATE", -1.0)  # every slot is over before it opens
        asked: list[str] = []

        def ask(_: Configured, video_id: str, __: datetime) -> Poll:
            asked.append(video_id)
            return Poll(DONE, 200, 1)

        polling.poll(made, "default", ask=ask, batch_seconds=0.1)
        assert asked == []
        stored = rows(database_url, Job)
        assert all(row["lease_token"] is None and row["polls"] == 0 for row in stored)
        assert all(row["next_poll_at"] <= datetime.now(UTC) for row in stored)

    def test_a_poll_waits_for_its_slot(self, database_url: str, configured: Configure) -> None:
        made = configured()
        add_due_jobs(database_url, ids(1))
        (claimed,) = claim(database_url, 1, None, 0.3, made.accounts["default"]).items
        moments: list[float] = []

        def ask(_: Configured, __: str, ___: datetime) -> Poll:
            moments.append(time.monotonic())
            return Poll(DONE, 200, 1)

        poller = poller_of(made, ask=ask)
        found = poller.poll(claimed)
        assert all(moment >= claimed.slot.opens for moment in moments)
        assert (found.poll is not None) == bool(moments)
        late = Claimed(claimed.row, Slot(0.0, time.monotonic() - 0.001), probe=False)
        assert poller.poll(late) == Polled(late, None)

    def test_a_slow_commit_puts_the_next_slots_further_ahead(
        self, database_url: str, configured: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = configured()
        poller = poller_of(made)
        leads: list[float] = []

        def slow_claim(
            _: Any, __: Configured, ___: int, lead: float, **____: Any
        ) -> fanout.Batch[Claimed]:
            leads.append(lead)
            time.sleep(0.1 if len(leads) == 1 else 0)
            return fanout.Batch([], 0.0)

        monkeypatch.setattr(polling, "claim", slow_claim)
        for _ in range(3):
            poller.claim(1)
        assert leads[0] == claiming.LEAD_MIN
        assert 0.15 <= leads[1] <= polling.LEAD_MAX
        assert leads[2] >= 0.9 * leads[1]  # forgotten slowly

    def test_one_result_that_cannot_be_written_stops_no_other(
        self, database_url: str, configured: Configure
    ) -> None:
        made = configured()
        url = "https://hooks.example.com/a"
        add_due_jobs(database_url, [*ids(5), "veo3:policy.0s-x"], webhook_url=url)
        break_deliveries(database_url, "video.failed")
        taken = claim(database_url, 64, None, configured=made.accounts["default"]).items
        rejected = Report(
            "failed", Meaning.FAILURE, failure=Failure("content_policy", "unsafe", retryable=False)
        )
        results = [
            polled(claimed, rejected if "policy" in claimed.row["video_id"] else DONE)
            for claimed in taken
        ]
        nudges: list[None] = []
        poller = poller_of(made, lambda: nudges.append(None))
        with capture_logs() as logs:
            poller.record(results)
        assert states(database_url) == {"completed": 5, "pending": 1}
        stuck = job(database_url, "veo3:policy.0s-x")
        assert (stuck["polls"], stuck["errors_in_row"], stuck["lease_token"]) == (1, 1, None)
        (line,) = [line for line in logs if line["event"] == "poll_not_written"]
        assert line["job"] == stuck["id"]
        assert len(nudges) == 5

    def test_a_database_that_is_away_ends_the_batch(
        self, configured: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = configured()
        poller = poller_of(made)
        tries: list[None] = []

        def away(*_: Any) -> Any:
            tries.append(None)
            raise OperationalError("SELECT", {}, OSError("connection refused"))

        monkeypatch.setattr(polling, "apply", away)
        slot = Slot(0.0, 0.0)
        results = [Polled(Claimed({"id": n}, slot), None) for n in (1, 2)]
        with pytest.raises(OperationalError):
            poller.record(results)
        assert len(tries) == 1


class TestWhatABatchKnows:
    # Nothing ends in the first thousand seconds, all of it soon after.
    CURVE = Curve(tuple(1e-6 if middle < 1_000 else 0.1 for middle in MIDDLES), 50)

    @pytest.mark.parametrize(
        ("model", "seconds"), [("veo3", 54.5), ("sora-2", 5.6)], ids=["learned", "not learned"]
    )
    def test_polls_go_by_what_was_learned_of_the_model(
        self, database_url: str, configured: Configure, model: str, seconds: float
    ) -> None:
        made = configured(REELWATCH_POLL_MIN="5s", REELWATCH_POLL_MAX="60s")
        with db.transaction(database_url) as session:
            forecasts.keep(session, "default", "veo3", forecast(self.CURVE), db.now(session))
        add_due_jobs(database_url, [f"{model}:a"], model=model)

        def ask(_: Configured, __: str, ___: datetime) -> Poll:
            return Poll(RUNNING, 200, 1)

        def polled_at() -> bool:
            polling.poll(made, "default", ask=ask, batch_seconds=0.1)
            return bool(rows(database_url, Job)[0]["polls"])

        eventually(polled_at, 30.0)
        (row,) = rows(database_url, Job)
        wait = (row["next_poll_at"] - row["last_polled_at"]).total_seconds()
        assert wait == pytest.approx(seconds, rel=0.15)


class TestAccountsOfABatch:
    def test_an_account_whose_key_is_elsewhere_is_left_to_others(
        self, database_url: str, sandbox: Sandbox, configured: Configure
    ) -> None:
        without, others = configured(QUICKROUTER_API_KEY=""), configured()
        add_due_jobs(database_url, ids(2))
        before = account(database_url)
        overdue._left.clear()
        with capture_logs() as logs:
            assert polling.poll(without, "default") == 0
            assert polling.poll(without, "default") == 0
        (line,) = logs  # it is said once a minute
        assert line["event"] == "account_left_to_others"
        assert line["reason"] == "no API key: set QUICKROUTER_API_KEY"
        assert account(database_url) == before
        assert sandbox.stats()["requests"] == 0
        poll_until_completed(others, 2)

    def test_an_account_that_is_not_configured_here_is_left_to_others(
        self, database_url: str, configured: Configure
    ) -> None:
        made = configured()
        add_account(database_url, "theirs")
        add_due_jobs(database_url, ids(1), account="theirs")
        before = account(database_url, "theirs")
        assert polling.poll(made, "theirs") == 0
        assert account(database_url, "theirs") == before

    @pytest.mark.parametrize(
        ("due", "polled", "state"),
        [(90, None, "expired"), (90, 90, "expired"), (90, 9, "pending"), (9, 90, "pending")],
        ids=["by nobody ever", "by nobody", "by others", "just now"],
    )
    def test_deadlines_of_one_that_nobody_polls_are_told_all_the_same(
        self, database_url: str, configured: Configure, due: float, polled: float, state: str
    ) -> None:
        made, now = configured(QUICKROUTER_API_KEY=""), datetime.now(UTC)
        set_account(database_url, next_slot_at=polled and after(-polled, now))
        past = after(-due, now)
        add_jobs(database_url, ["over"], past, deadline_at=past)
        polling.poll(made, "default")
        row = job(database_url, "over")
        assert row["state"] == state
        said = "no worker polls its account (no API key: set QUICKROUTER_API_KEY)"
        assert state == "pending" or row["error_message"].endswith(said)

    def test_one_poll_finds_out_that_the_key_is_refused(
        self, database_url: str, sandbox: Sandbox, configured: Configure
    ) -> None:
        made = configured()
        add_due_jobs(database_url, ids(4))
        sandbox.set_fault("401")
        set_account(
            database_url, paused_until=datetime.now(UTC), pause_reason="unauthorized: invalid token"
        )
        eventually(lambda: polling.poll(made, "default") and sandbox.stats()["requests"], 30.0)
        assert sandbox.stats()["requests"] == 1
        assert account(database_url)["pauses_in_row"] == 1


class TestRate:
    """Counted where it matters: at the peer."""

    RATE = 25
    COUNT = 45

    def test_several_pollers_together_stay_within_the_rate(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, configured: Configure
    ) -> None:
        arrivals: dict[str, float] = {}
        sent: dict[str, float] = {}

        def arrive(video_id: str) -> None:
            arrivals[video_id] = time.monotonic()

        def ask(account: Configured, video_id: str, now: datetime) -> Poll:
            sent[video_id] = time.monotonic()
            return upstream.poll(account, video_id, now)

        with Sandbox(arrive) as recording:
            made = configured(
                QUICKROUTER_BASE_URL=recording.url, REELWATCH_REQUESTS_PER_SECOND=str(self.RATE)
            )
            add_due_jobs(database_url, ids(self.COUNT))

            def keep_polling() -> None:
                while states(database_url)["completed"] < self.COUNT:
                    polling.poll(made, "default", ask=ask)
                    time.sleep(0.02)

            with ThreadPoolExecutor(4) as pool:
                for batch in [pool.submit(keep_polling) for _ in range(4)]:
                    batch.result()
            requests = recording.stats()["requests"]
        assert requests == self.COUNT == len(arrivals)  # nothing was asked about twice
        assert max(row["polls"] for row in rows(database_url, Job)) == 1
        # On a busy machine a request may spend a while between the two: that much is not ours.
        transit = max(arrivals[name] - sent[name] for name in sent)
        allowed_for = max(0.0, transit - (account_rules.SLACK - claiming.LATE))
        assert busiest(arrivals.values(), 1.0 - allowed_for) <= self.RATE
        assert busiest(sent.values(), 1.0) <= self.RATE
