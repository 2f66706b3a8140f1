"""Every query of docs/history.md is run on both databases and gives what Python counts."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest

from reelwatch.rules import ages
from reelwatch.storage import db
from reelwatch.storage.models import Base
from tests import seeding
from tests.seeding import Row

DOCUMENT = Path(__file__).parent.parent / "docs" / "history.md"
THE_VIDEO = "veo3.1-fast:1770350082-trii1OXZc3"
STATES = ("pending", "running", "completed", "failed", "expired", "cancelled")


@dataclass
class Seeded:
    """What is in the database, as Python knows it."""

    jobs: list[Row] = field(default_factory=list)
    transitions: list[Row] = field(default_factory=list)
    errors: list[Row] = field(default_factory=list)
    deliveries: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    accounts: list[Row] = field(default_factory=list)

    def attempts_of(self, delivery: Row) -> list[Row]:
        return [row for row in self.attempts if row["delivery_id"] == delivery["id"]]


def queries() -> Iterator[tuple[str, str, str]]:
    """Each block of the document: its heading, its database (or `both`), its text."""
    for section in re.split(r"^## ", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        for block in re.findall(
            r"^```sql\n-- (\w+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE
        ):
            yield heading, block[0].lower(), block[1]


def query(heading: str, url: str) -> str:
    kind = "sqlite" if url.startswith("sqlite") else "postgresql"
    return next(
        text for name, database, text in queries() if name == heading and database in (kind, "both")
    )


# -------------------------------------------------------------------- seed


@pytest.fixture
def seeded(database_url: str) -> Seeded:
    seeded, random = Seeded(), Random(7)
    with db.transaction(database_url) as session:
        seeded.accounts = [
            seeding.add_account(session),
            seeding.add_account(session, "slow", slowed_at=seeding.at(minutes=1)),
            seeding.add_account(
                session, "resting", paused_until=seeding.at(minutes=-5), pause_reason="quota: empty"
            ),
        ]
        for number in range(90):
            _seed_job(session, seeded, random, STATES[number % len(STATES)], number)
        # One of today, however short today has been.
        seeded.errors.append(seeding.add_error(session, seeded.jobs[0], first_at=seeding.at()))
    return seeded


def _seed_job(session: Any, seeded: Seeded, random: Random, state: str, number: int) -> None:
    columns = _columns(random, state, number)
    job = seeding.add_job(session, state, **columns)
    seeded.jobs.append(job)
    step = seeding.add_transition(session, job, to_state=state if state != "pending" else "running")
    seeded.transitions.append(step)
    for _ in range(random.randrange(3)):
        when = seeding.at(hours=random.uniform(0, 40))
        kind = random.choice(("server_error", "not_json", "timeout"))
        seeded.errors.append(
            seeding.add_error(
                session, job, kind=kind, first_at=when, last_at=when, count=random.randrange(1, 5)
            )
        )
    if state in ("completed", "failed", "expired"):
        _seed_delivery(session, seeded, random, job, step)


def _columns(random: Random, state: str, number: int) -> Row:
    tracked = seeding.at(days=random.uniform(0.1, 45))
    took = timedelta(seconds=random.randrange(20, 400) + 0.3)
    columns: Row = {
        "account": random.choice(("default", "slow", "resting")),
        "model": random.choice(("veo3.1-fast", "sora-2", "grok")),
        "tracked_at": tracked,
        "polls": random.randrange(1, 30),
    }
    if number == 2:
        columns |= {"account": "default", "video_id": THE_VIDEO}
    if state in ("completed", "failed"):
        columns["finished_at"] = tracked + took
        if random.random() < 0.8:  # upstream told of its end, sometimes by a clock that is odd
            ended = tracked + took - timedelta(seconds=random.choice((-5, 1, 3, 8, 410, 900)))
            columns["upstream_finished_at"] = ended
        if random.random() < 0.7:
            columns["upstream_created_at"] = tracked - timedelta(seconds=2)
        if random.random() < 0.3:
            columns["expired_at"] = tracked + timedelta(seconds=10)
    if state == "failed":
        columns["error_code"] = random.choice(("content_policy", "upstream_failed", "not_found"))
    if state == "expired" and random.random() < 0.5:
        columns["abandoned_at"] = tracked + timedelta(days=1)
    return columns


def _seed_delivery(session: Any, seeded: Seeded, random: Random, job: Row, step: Row) -> None:
    host = random.choice(("a.example.com", "b.example.com", "c.example.com"))
    state = random.choice(("delivered", "pending", "dead"))
    tries = random.randrange(0 if state == "pending" else 1, 4)
    delivery = seeding.add_delivery(
        session, job, step, state, target=f"https://{host}/hook", attempts=tries
    )
    seeded.deliveries.append(delivery)
    for number in range(tries):
        arrived = state == "delivered" and number == tries - 1
        seeded.attempts.append(
            seeding.add_attempt(
                session,
                delivery,
                at=delivery["created_at"] + timedelta(seconds=number + 1),
                http_status=200 if arrived else 500,
                error=None if arrived else "the receiver answered 500",
                duration_ms=random.randrange(5, 900),
            )
        )


# ---------------------------------------------------------------- expected


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def finished_within(seeded: Seeded, days: int, *states: str) -> list[Row]:
    since = seeding.at(days=days)
    return [j for j in seeded.jobs if j["state"] in states and j["finished_at"] >= since]


def failures(seeded: Seeded) -> set[Any]:
    groups = grouped(finished_within(seeded, 7, "failed"), "error_code")
    return {
        (code, len(jobs), max(j["finished_at"] for j in jobs)) for (code,), jobs in groups.items()
    }


def seconds_of(job: Row) -> float:
    seconds = ages.duration_seconds(job)
    assert seconds is not None
    return round(seconds, 1)


def rank(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


def completion(seeded: Seeded) -> set[Any]:
    groups = grouped(finished_within(seeded, 30, "completed"), "model")
    took = {model: [seconds_of(job) for job in jobs] for (model,), jobs in groups.items()}
    return {(m, len(all_), rank(all_, 0.5), rank(all_, 0.95)) for m, all_ in took.items()}


def undelivered(seeded: Seeded) -> list[Any]:
    ids = {job["id"]: job["video_id"] for job in seeded.jobs}
    rows = []
    for d in sorted(seeded.deliveries, key=lambda d: (d["created_at"], d["id"])):
        last = (seeded.attempts_of(d) or [{"http_status": None, "error": None}])[-1]
        if d["state"] != "delivered":
            statuses = (
                d["event_type"],
                d["target"],
                d["state"],
                d["attempts"],
                d["next_attempt_at"],
            )
            rows.append(
                (d["id"], ids[d["job_id"]], *statuses, last["http_status"], last["error"]),
            )
    return rows


def story(seeded: Seeded) -> list[Any]:
    job = next(job for job in seeded.jobs if job["video_id"] == THE_VIDEO)
    mine = [d for d in seeded.deliveries if d["job_id"] == job["id"]]
    steps = [t for t in seeded.transitions if t["job_id"] == job["id"]]
    errors = [e for e in seeded.errors if e["job_id"] == job["id"]]
    told = [
        *(
            (t["at"], f"{t['from_state']} -> {t['to_state']}, upstream says processing")
            for t in steps
        ),
        *((e["first_at"], f"{e['count']} x {e['kind']}: {e['message']}") for e in errors),
        *(
            (a["at"], f"{d['event_type']} to {d['target']}: {a['error'] or 'delivered'}")
            for d in mine
            for a in seeded.attempts_of(d)
        ),
    ]
    assert steps
    assert mine
    return sorted(told)


def longest(seeded: Seeded) -> list[Any]:
    going = [job for job in seeded.jobs if job["state"] in ("pending", "running")]
    going.sort(key=lambda job: (job["upstream_created_at"] or job["tracked_at"], job["id"]))
    return [
        (j["account"], j["video_id"], j["model"], j["state"], j["upstream_status"], j["polls"],
         j["upstream_created_at"] or j["tracked_at"], j["deadline_at"])
        for j in going[:20]
    ]  # fmt: skip


def unknown_fate(seeded: Seeded) -> list[Any]:
    jobs = [job for job in seeded.jobs if job["state"] == "expired"]
    names = (
        "account",
        "video_id",
        "model",
        "upstream_status",
        "polls",
        "expired_at",
        "abandoned_at",
    )
    return [
        tuple(j[n] for n in names) for j in sorted(jobs, key=lambda j: (j["expired_at"], j["id"]))
    ]


def late(seeded: Seeded) -> set[Any]:
    jobs = [j for j in seeded.jobs if j["expired_at"] and j["state"] in ("completed", "failed")]
    return {
        (
            *key,
            len(group),
            min(j["expired_at"] for j in group),
            max(j["finished_at"] for j in group),
        )
        for key, group in grouped(jobs, "model", "state").items()
    }


def polls(seeded: Seeded) -> set[Any]:
    jobs = [job for job in seeded.jobs if job["state"] in ("completed", "failed")]
    return {
        (model, len(group), min(polls), half_up(sum(polls) / len(polls)), max(polls))
        for (model,), group in grouped(jobs, "model").items()
        for polls in [[job["polls"] for job in group]]
    }


def errors_today(seeded: Seeded) -> set[Any]:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    today = [e | {"hour": f"{e['last_at']:%H}"} for e in seeded.errors if e["last_at"] >= midnight]
    return {
        (*key, sum(e["count"] for e in group), len({e["job_id"] for e in group}))
        for key, group in grouped(today, "hour", "kind").items()
    }


def receivers(seeded: Seeded) -> set[Any]:
    places = {d["id"]: d["destination"] for d in seeded.deliveries}
    tried = [a | {"place": places[a["delivery_id"]]} for a in seeded.attempts]
    return {
        (
            place,
            len(group),
            failed,
            half_up(100 * failed / len(group)),
            max(a["duration_ms"] for a in group),
        )
        for (place,), group in grouped(tried, "place").items()
        for failed in [sum(a["error"] is not None for a in group)]
    }


def noticed(seeded: Seeded) -> set[Any]:
    jobs = [j for j in finished_within(seeded, 7, *STATES[2:4]) if j["upstream_finished_at"]]
    return {
        (model, len(group), half_up(sum(waits) / len(waits)), half_up(max(waits)))
        for (model,), group in grouped(jobs, "model").items()
        for waits in [
            [(j["finished_at"] - j["upstream_finished_at"]).total_seconds() for j in group]
        ]
    }


def accounts(seeded: Seeded) -> set[Any]:
    return {
        (a["name"], 5.0, a["paused_until"], a["pause_reason"], a["slowed_at"],
         sum(j["account"] == a["name"] and j["next_poll_at"] is not None for j in seeded.jobs))
        for a in seeded.accounts
        if a["paused_until"] or a["slowed_at"]
    }  # fmt: skip


def half_up(value: float) -> float:
    return math.floor(value * 10 + 0.5 + 1e-6) / 10


EXPECTED: dict[str, Callable[[Seeded], Any]] = {
    "Failures by reason this week": failures,
    "Time to completion by model, p50 and p95": completion,
    "Undelivered webhooks": undelivered,
    "What happened to this video": story,
    "Jobs running longest": longest,
    "Expired jobs whose fate is unknown": unknown_fate,
    "Late verdicts": late,
    "Polls per finished job by model": polls,
    "Errors by kind per hour today": errors_today,
    "Receivers by failure rate": receivers,
    "How late results were noticed": noticed,
    "Accounts that rest or were slowed": accounts,
}


# ------------------------------------------------------------------- tests


def plain(value: Any) -> Any:
    """A value as both databases would give it."""
    if isinstance(value, Decimal):
        return (
            int(value) if value == int(value) and value.as_tuple().exponent == 0 else float(value)
        )
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", value):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value.astimezone(UTC) if isinstance(value, datetime) else value


@pytest.mark.parametrize("heading", EXPECTED)
def test_a_query_of_the_document_gives_what_python_counts(
    heading: str, seeded: Seeded, database_url: str
) -> None:
    with db.engine(database_url).connect() as connection:
        found = connection.exec_driver_sql(query(heading, database_url)).all()
    rows = [tuple(plain(value) for value in row) for row in found]
    expected = EXPECTED[heading](seeded)
    assert expected, "nothing was seeded that this query could find"
    assert rows == expected if isinstance(expected, list) else set(rows) == expected
    assert len(rows) == len(expected)


def test_every_query_is_tested_and_there_is_one_for_each_database() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for heading, database, _ in queries():
        found[heading].add(database)
    assert set(found) == set(EXPECTED)
    assert all(kinds in ({"both"}, {"postgresql", "sqlite"}) for kinds in found.values())


def test_no_sql_block_escapes_the_test() -> None:
    assert DOCUMENT.read_text("utf-8").count("```sql\n") == len(list(queries()))


def test_the_document_names_every_table() -> None:
    text = DOCUMENT.read_text("utf-8").partition("## Failures")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(Base.metadata.tables)


def test_the_python_of_the_document_runs(
    seeded: Seeded,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    code = re.findall(
        r"^```python\n(.*?)^```$", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    for block in code:
        exec(compile(block, str(DOCUMENT), "exec"), {})
    assert capsys.readouterr().out == "completed 1 transitions\n"
