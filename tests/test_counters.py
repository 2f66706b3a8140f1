"""Counters as rows: exact, never waiting for each other, and bounded in number."""

import pytest
from sqlalchemy import func, select, text

from reelwatch.config import settings
from reelwatch.jobs import delivery, polling, tracking
from reelwatch.rules.metrics import (
    ALL,
    ATTEMPTS,
    OTHER,
    POLL_SECONDS,
    POLLS,
    VALUES_MOST,
    Kind,
    Metric,
    Series,
    Tally,
    cumulated,
)
from reelwatch.sandbox.listener import Listener
from reelwatch.sandbox.upstream import Sandbox, scripted_id
from reelwatch.storage import counters, db
from reelwatch.storage.models import Delivery, Job
from tests.counted import wrong_counts
from tests.environment import SECRET, set_variables
from tests.servers import eventually


def polls_of(account: str, by: float = 1) -> Tally:
    tally = Tally()
    tally.count(POLLS, account, by=by)
    return tally


def polls(tally: Tally) -> dict[str, float]:
    return {dict(each.labels)["account"]: value for each, value in tally.items()}


def totals(url: str) -> Tally:
    with db.reading(url) as session:
        return counters.totals(session)


def rows(url: str) -> int:
    with db.reading(url) as session:
        return session.execute(select(func.count()).select_from(counters.counters)).scalar_one()


def test_what_is_added_adds_up(url: str) -> None:
    for by in (1, 2.5):
        with db.transaction(url) as session:
            counters.add(session, polls_of("a", by))
    with db.transaction(url) as session:
        counters.add(session, polls_of("b"))
        counters.add(session, Tally())
    assert polls(totals(url)) == {"a": 3.5, "b": 1.0}


def test_what_is_rolled_back_was_never_counted(url: str) -> None:
    with db.transaction(url) as session:
        counters.add(session, polls_of("a"))
        session.rollback()
    assert totals(url) == {}


def test_nobody_waits_for_a_transaction_of_another_that_counts_the_same(pg: str) -> None:
    """A worker may be stopped in the middle of one."""
    with db.transaction(pg) as held:  # by the same thread: waiting would be for ever
        counters.add(held, polls_of("a"))
        with db.transaction(pg) as session:
            session.execute(text("SET LOCAL lock_timeout = '5s'"))
            counters.add(session, polls_of("a"))
    assert polls(totals(pg)) == {"a": 2.0}


def test_folding_keeps_every_total_and_passes_over_what_somebody_holds(pg: str) -> None:
    for _ in range(3):
        with db.transaction(pg) as session:
            counters.add(session, polls_of("a"))
        db.dispose()
    with db.transaction(pg) as holder:
        counters.add(holder, polls_of("a", 10))
        with db.transaction(pg) as session:
            counters.fold(session)
    assert polls(totals(pg)) == {"a": 13.0}
    with db.transaction(pg) as session:
        counters.fold(session)
    assert (polls(totals(pg)), rows(pg)) == ({"a": 13.0}, 1)


def test_labels_beyond_the_bound_are_counted_together(url: str) -> None:
    """Each video may have a receiver at a host of its own."""
    count = VALUES_MOST + 20
    for at in range(count):
        tally = Tally()
        tally.count(ATTEMPTS, "webhook", f"h{at}.example.com", "accepted")
        with db.transaction(url) as session:
            counters.add(session, tally)
        if at % 7 == 0:
            counters.forget()  # as a new process, which has seen none of them
    found = {dict(each.labels)["host"]: value for each, value in totals(url).items()}
    assert len(found) == VALUES_MOST + 1
    assert found[OTHER] == 20
    assert sum(found.values()) == count


def test_a_histogram_is_shown_cumulated() -> None:
    tally = Tally()
    tally.observe_all(POLL_SECONDS, [-3.0, 0.01, 0.02], "a")
    tally.observe_all(POLL_SECONDS, [0.3, 100.0], "a")
    tally.observe_all(POLL_SECONDS, [], "a")
    of_it = {dict(s.labels)["le"]: n for s, n in tally.items() if s.name.endswith("_bucket")}
    shown = dict(cumulated(of_it, POLL_SECONDS))
    assert (shown["0.01"], shown["0.025"], shown["0.25"], shown["0.5"]) == (2, 3, 3, 4)
    assert (shown["25.0"], shown["+Inf"]) == (4, 5)
    assert tally[Series("reelwatch_poll_seconds_sum", (("account", "a"),))] == pytest.approx(100.33)


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL)
def test_names_and_labels_follow_the_conventions(metric: Metric) -> None:
    assert metric.name.startswith("reelwatch_")
    assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
    assert set(metric.labels) <= {
        "account", "channel", "code", "host", "kind", "outcome", "state", "type", "version",
    }  # fmt: skip
    if metric.kind is Kind.HISTOGRAM:
        assert metric.name.endswith("_seconds")
        assert list(metric.buckets) == sorted(metric.buckets) != []
    assert metric.help.endswith(".")


def test_counters_are_the_facts_after_polls_deliveries_and_orders(
    url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of jobs that end in all ways, errors on the way, and a receiver that fails at first."""
    refusals = iter([500, 404])
    with Listener([SECRET], answer=lambda _event: next(refusals, 200)).start() as receiver:
        set_variables(
            monkeypatch, QUICKROUTER_BASE_URL=sandbox.url, WEBHOOK_ALLOW="127.0.0.1",
            REELWATCH_REQUESTS_PER_SECOND="1000", REELWATCH_POLL_MIN="10ms",
            REELWATCH_POLL_MAX="50ms", REELWATCH_RETRY_SCHEDULE="1ms,1ms,1ms",
            REELWATCH_NOT_FOUND_AFTER="100ms",
        )  # fmt: skip
        scripts = ("ok", "policy", "flaky", "gone", "html", "ok")
        ids = [scripted_id("grok", script, 0.2, f"c{n}") for n, script in enumerate(scripts)]
        last = tracking.track_many(ids, webhook_url=f"{receiver.url}/hook")[-1]
        tracking.cancel(last.video_id)

        def settled() -> bool:
            polling.poll(settings.current(), "default", batch_seconds=0.5)
            delivery.deliver(settings.current(), lambda *_: None, batch_seconds=0.5)
            with db.reading(url) as session:
                left = select(func.count()).where(Job.finished_at.is_(None))
                owed = select(func.count()).where(Delivery.state == "pending")
                return not session.execute(left).scalar_one() + session.execute(owed).scalar_one()

        eventually(settled, 60)
    with db.reading(url) as session:
        assert list(wrong_counts(lambda query: session.execute(text(query)).all())) == []
        found = counters.totals(session)
    states = {dict(each.labels).get("state") for each in found if "jobs_ended" in each.name}
    assert states == {"completed", "failed", "cancelled"}
    assert any(each.name == "reelwatch_notice_delay_seconds_sum" for each in found)
    verdicts = {dict(each.labels).get("outcome") for each in found if "attempts" in each.name}
    assert verdicts == {"accepted", "refused", "failed"}
