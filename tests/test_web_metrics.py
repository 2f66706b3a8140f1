"""`/metrics` shows what the database has, to whom it may; `/ready` says what is missing."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as plain_families

from reelwatch.config.settings import Settings
from reelwatch.rules.metrics import ALL, EVENTS, POLL_SECONDS, POLLS, Kind, Tally
from reelwatch.storage import counters, db, heartbeat, incidents
from reelwatch.storage.models import Endpoint
from reelwatch.web import metrics, probes
from tests import seeding
from tests.environment import set_variables
from tests.servers import PostgresServer, RedisServer, eventually
from tests.web import VARIABLE, Web, served

open_families: Any = parser.text_string_to_metric_families  # it has no types
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture
def web(url: str) -> Iterator[Web]:
    with served() as running:
        yield running


def samples(web: Web) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = web.get("/metrics", headers=OPENMETRICS)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in open_families(answer.text)
        for sample in family.samples
    }


def value(web: Web, name: str, **labels: str) -> float | None:
    return samples(web).get((name, frozenset(labels.items())))


def test_every_family_is_there_in_valid_openmetrics(web: Web) -> None:
    answer = web.get("/metrics", headers=OPENMETRICS)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {each.name: each for each in open_families(answer.text)}
    assert families.keys() == ALL.keys()
    for name, metric in ALL.items():
        assert (families[name].type, families[name].documentation) == (metric.kind, metric.help)


def test_who_asks_for_the_older_form_gets_it(web: Web) -> None:
    odd = [f"application/openmetrics-text; version={said}" for said in ("abc", "1.²")]  # no numbers
    for accepted in ("text/plain", *odd):
        answer = web.get("/metrics", headers={"Accept": accepted.encode("latin-1")})
        assert answer.headers["content-type"].startswith("text/plain")
    assert {family.name for family in plain_families(answer.text)} >= {"reelwatch_polls"}


def test_counters_and_histograms_are_the_rows(url: str, web: Web) -> None:
    for _ in range(2):
        tally = Tally()
        tally.count(POLLS, 'a "quoted"\nname', by=3)
        tally.observe_all(POLL_SECONDS, [0.2], "a")
        tally.count(EVENTS, "video.completed", "webhook")
        with db.transaction(url) as session:
            counters.add(session, tally)
    found = samples(web)
    assert found["reelwatch_polls_total", frozenset({("account", 'a "quoted"\nname')})] == 6
    bucket = frozenset({("account", "a"), ("le", "0.25")})
    assert found["reelwatch_poll_seconds_bucket", bucket] == 2
    assert found["reelwatch_poll_seconds_count", frozenset({("account", "a")})] == 2
    assert found["reelwatch_poll_seconds_sum", frozenset({("account", "a")})] == pytest.approx(0.4)


def test_gauges_say_what_is_there(url: str, web: Web) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session, "a", pause_reason="by hand")
        seeding.add_account(session, "b", requests_per_second=2.5, look_price=1.0)
        for state in ("running", "running", "pending"):
            for account in ("a", "b"):
                seeding.add_job(
                    session, state, account=account, next_poll_at=seeding.at(seconds=40)
                )
        seeding.add_job(session, "completed", account="b")
        seeding.add_owed(session, created_at=seeding.at(minutes=5))
        seeding.add_owed(session, state="dead", next_attempt_at=None)
        session.add(
            Endpoint(
                name="e",
                host="e",
                failures=5,
                openings=1,
                allowance=1,
                open_until=seeding.at(seconds=-60),
                changed_at=seeding.at(),
            )
        )
        incidents.begin(session, "upstream.outage", "a", seeding.at())
        incidents.begin(session, "delivery.dead", "https://a.example/", seeding.at())
        heartbeat.beat(session, heartbeat.TICK, timedelta(seconds=1))
    begun = {"account.paused": 1, "endpoint.failing": 1, "upstream.outage": 1, "budget.short": 0}
    for kind, count in begun.items():
        assert value(web, "reelwatch_open_incidents", type=kind) == count
    assert value(web, "reelwatch_open_incidents", type="delivery.dead") is None  # it has no end
    assert value(web, "reelwatch_open_jobs", account="a", state="running") == 2
    assert value(web, "reelwatch_due_jobs", account="b") == 3
    assert 40 <= (value(web, "reelwatch_oldest_due_seconds", account="b") or 0) < 100
    for name in ("reelwatch_due_jobs", "reelwatch_oldest_due_seconds"):
        assert value(web, name, account="a") is None  # it is paused: its jobs wait
    assert value(web, "reelwatch_account_paused", account="a") == 1
    assert value(web, "reelwatch_account_paused", account="b") == 0
    assert value(web, "reelwatch_account_budget_short", account="b") == 1
    assert value(web, "reelwatch_account_requests_per_second", account="b") == 2.5
    assert value(web, "reelwatch_pending_deliveries") == 1
    assert value(web, "reelwatch_dead_deliveries") == 1
    assert 300 <= (value(web, "reelwatch_oldest_pending_delivery_seconds") or 0) < 360
    assert value(web, "reelwatch_database_up") == 1


def test_a_scrape_does_not_wait_for_a_database_that_is_away(
    postgres_server: PostgresServer, pg: str
) -> None:
    with served() as web:
        tally = Tally()
        tally.count(POLLS, "a")
        with db.transaction(pg) as session:
            counters.add(session, tally)
        assert value(web, "reelwatch_polls_total", account="a") == 1
        postgres_server.stop()
        eventually(lambda: value(web, "reelwatch_database_up") == 0, 30)
        assert value(web, "reelwatch_polls_total", account="a") == 1
        assert value(web, "reelwatch_pending_deliveries") is None
        assert "the database" in web.get("/ready").json()["missing"]
        postgres_server.start()
        eventually(lambda: value(web, "reelwatch_database_up") == 1, 30)


def test_a_token_of_a_role_read_opens_it(lite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, REELWATCH_API_TOKENS=VARIABLE)
    with served() as web:
        assert web.get("/metrics").status_code == 401
        assert web.get("/metrics", role="produce").status_code == 403
        assert web.get("/metrics", role="read").status_code == 200
        assert web.get("/live").status_code == 204
    set_variables(monkeypatch, REELWATCH_METRICS_PUBLIC="1")
    with served() as web:
        assert web.get("/metrics").status_code == 200


def test_ready_names_what_is_missing(
    url: str, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer, redis_url: str
) -> None:
    set_variables(monkeypatch, BROKER_URL=redis_url)
    with served() as web:
        tick = "a tick or poll in the last minute"
        assert web.get("/ready").json() == {"ready": False, "missing": [tick]}
        with db.transaction(url) as session:
            heartbeat.beat(session, heartbeat.TICK, timedelta(seconds=1))
        eventually(lambda: web.get("/ready").status_code == 200, 10)
        assert web.get("/ready").json() == {"ready": True, "missing": []}
        redis_server.stop()
        eventually(lambda: web.get("/ready").json()["missing"] == ["the broker"], 10)


def test_what_ready_finds_out_holds_for_a_moment(
    lite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked: it is open to everybody."""
    asked = []

    def missing(settings: Settings) -> list[str]:
        asked.append(settings)
        return ["the broker"]

    monkeypatch.setattr(probes, "missing", missing)
    monkeypatch.setattr(probes, "HOLDS_SECONDS", 60.0)
    with served() as web:
        for _ in range(3):
            assert web.get("/ready").json()["missing"] == ["the broker"]
    assert len(asked) == 1


def test_figures_are_read_no_longer_once_nobody_asks(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(metrics, "UNASKED_SECONDS", 0.1)
    reader = metrics.Reader(url)
    try:
        for _ in range(2):
            assert reader.latest().gauges
            eventually(lambda: reader._thread is None, 20)
    finally:
        reader.stop()


def test_ready_tells_no_address(lite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, BROKER_URL="redis://:secret@127.0.0.1:9/0")
    with served() as web:
        answer = web.get("/ready")
    assert answer.status_code == 503
    assert not re.search(r"secret|127|reelwatch\.db", answer.text)


def test_no_label_can_be_an_id_or_a_url() -> None:
    ids = {"job", "id", "video_id", "event", "url", "target", "endpoint", "request_id"}
    assert not any(ids & set(metric.labels) for metric in ALL.values())
    assert all(metric.kind in Kind for metric in ALL.values())
