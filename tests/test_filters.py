"""Which jobs a filter finds: the same on both databases, and on every page."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from reelwatch.errors import Refused
from reelwatch.jobs import history, tracking
from reelwatch.rules.cleaning import clean_text
from reelwatch.storage import db, paging, surveys
from reelwatch.storage.filters import EventFilter, JobFilter
from reelwatch.storage.models import Job
from tests import seeding

JOBS: Mapping[str, Mapping[str, Any]] = {
    "veo3:1": {"model": "veo3", "metadata": {"order": 42, "who": "ann"}, "state": "completed"},
    "veo3:2": {"model": "veo3", "metadata": {"order": "42", "who": "ANN"}, "state": "failed"},
    "veo3%:3": {"model": "veo3%", "metadata": {"order": 42.0, "paid": True}, "state": "running"},
    "VEO3:4": {"model": "VEO3", "metadata": {"order": 420, "paid": 1}, "state": "running"},
    "grok:5": {"model": "grok", "metadata": {"note": None, "a.b": 'q"q'}, "state": "cancelled"},
    "x": {"model": None, "metadata": {"order": [42], "é": "ö"}, "state": "expired"},
}


@pytest.fixture
def url(database_url: str) -> str:
    with db.transaction(database_url) as session:
        seeding.add_account(session)
        seeding.add_account(session, "acme")
        for hours, (name, columns) in enumerate(JOBS.items(), 1):
            made = seeding.at(hours=hours)
            account = "acme" if name == "grok:5" else "default"
            seeding.add_job(session, video_id=name, account=account, tracked_at=made, **columns)
    return database_url


def found(url: str, **asked: Any) -> set[str]:
    with db.reading(url) as session:
        return {row["video_id"] for row in history.list_jobs(session, JobFilter(**asked))}


ASKED: list[tuple[Mapping[str, Any], set[str]]] = [
    ({}, set(JOBS)),
    ({"model": "veo3"}, {"veo3:1", "veo3:2"}),
    ({"model": "veo3", "state": "failed"}, {"veo3:2"}),
    ({"prefix": "veo3"}, {"veo3:1", "veo3:2", "veo3%:3"}),
    ({"prefix": "veo3%"}, {"veo3%:3"}),
    ({"prefix": "veo_"}, set()),
    ({"prefix": "%"}, set()),
    ({"prefix": "VEO3:4"}, {"VEO3:4"}),
    ({"prefix": "VEO3:45"}, set()),
    ({"account": "acme"}, {"grok:5"}),
    ({"account": "acme", "prefix": "grok"}, {"grok:5"}),
    ({"account": "acme", "prefix": "veo3"}, set()),
    ({"account": "default", "prefix": "veo3"}, {"veo3:1", "veo3:2", "veo3%:3"}),
    ({"account": "default", "metadata": {"order": "42"}}, {"veo3:1", "veo3:2", "veo3%:3"}),
    ({"metadata": {"order": "42"}}, {"veo3:1", "veo3:2", "veo3%:3"}),
    ({"metadata": {"order": 42}}, {"veo3:1", "veo3%:3"}),
    ({"metadata": {"order": 42.0}}, {"veo3:1", "veo3%:3"}),
    ({"metadata": {"who": "ann"}}, {"veo3:1"}),
    ({"metadata": {"order": "42", "who": "ANN"}}, {"veo3:2"}),
    ({"metadata": {"paid": True}}, {"veo3%:3"}),
    ({"metadata": {"paid": "true"}}, {"veo3%:3"}),
    ({"metadata": {"paid": 1}}, {"VEO3:4"}),
    ({"metadata": {"paid": "1"}}, {"VEO3:4"}),
    ({"metadata": {"note": None}}, {"grok:5"}),
    ({"metadata": {"note": "null"}}, {"grok:5"}),
    ({"metadata": {"a.b": 'q"q'}}, {"grok:5"}),
    ({"metadata": {"a": "b"}}, set()),
    ({"metadata": {"é": "ö"}}, {"x"}),
    ({"metadata": {"order": "[42]"}}, set()),
    ({"metadata": {"order": "9" * 30}}, set()),
    ({"metadata": {"order": "NaN"}}, set()),
    ({"metadata": {"order": "1e999"}}, set()),
    ({"metadata": {"order\0": "\0"}}, set()),
    ({"since": seeding.at(hours=2, minutes=30)}, {"veo3:1", "veo3:2"}),
    ({"until": seeding.at(hours=4, minutes=30)}, {"grok:5", "x"}),
    ({"since": seeding.at(hours=5), "until": seeding.at(hours=3), "model": "VEO3"}, {"VEO3:4"}),
    ({"state": "running", "prefix": "V"}, {"VEO3:4"}),
    ({"ids": ["x", "veo3:1"], "model": "veo3"}, {"veo3:1"}),
]


def test_a_filter_finds_what_has_all_of_it(url: str) -> None:
    for asked, expected in ASKED:
        assert found(url, **asked) == expected, asked


@pytest.mark.parametrize("scanned", [1, 2, 5])
def test_a_filter_finds_the_same_in_small_steps(
    scanned: int, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No statement goes far, and no job is missed or told twice for that, in order."""
    monkeypatch.setattr(paging, "SCANNED_MOST", scanned)
    for asked, expected in ASKED:
        wanted = JobFilter(**asked)
        rows: list[dict[str, Any]] = []
        with db.reading(url) as session:
            page = history.page_of_jobs(session, wanted, limit=2)
            rows += page.rows
            while page.next:
                page = history.page_of_jobs(session, wanted, limit=2, before=page.next)
                rows += page.rows
        names = [row["video_id"] for row in rows]
        assert len(names) == len(set(names))
        assert set(names) == expected, asked
        times = [row["tracked_at"] for row in rows]
        assert times == sorted(times, reverse=True)


METADATA = st.dictionaries(
    st.text(max_size=5),
    st.text(max_size=8) | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.none(),
    max_size=3,
).filter(lambda each: len({*map(clean_text, each)}) == len(each))  # no two keys are stored as one


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(metadata=METADATA, other=METADATA)
def test_what_was_handed_in_is_found_by_it(
    metadata: dict[str, Any], other: dict[str, Any], lite: str
) -> None:
    """By each of its members, whatever is in it; and not by another's that it has not."""
    with db.transaction(lite) as session:
        session.execute(delete(Job))
        tracking.track("a", metadata=metadata, session=session)
    for key, value in metadata.items():
        assert found(lite, metadata={key: value}) == {"a"}
    for key, value in other.items():
        if clean_text(key) not in map(clean_text, metadata):
            assert found(lite, metadata={key: value}) == set()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"state": "done"}, "state: 'done'; accepted: pending, running"),
        ({"prefix": ""}, "prefix: ''; accepted"),
        ({"prefix": "a\0b"}, "prefix: "),
        ({"model": 7}, "model: 7"),
        ({"account": "\ud800"}, "account: "),
        ({"metadata": {"order": [42]}}, "metadata: order: a text, number"),
        ({"since": seeding.at(hours=1), "until": seeding.at(hours=2)}, "is not before until"),
    ],
)
def test_what_can_not_be_looked_for_is_refused(asked: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        JobFilter(**asked)


def test_a_filter_of_events_refuses_what_is_no_state_or_endpoint() -> None:
    with pytest.raises(Refused, match="state: 'done'; accepted: pending, delivered, dead"):
        EventFilter(state="done")
    with pytest.raises(Refused, match="endpoint: ''"):
        EventFilter(endpoint="")


def test_many_are_cancelled_in_batches_that_leave_out_what_has_ended(url: str) -> None:
    """Between the survey and its turn a job may end, or be pruned."""
    chosen = surveys.to_cancel(url, JobFilter())
    assert chosen.groups == {("default", "veo3%", "running"): 1, ("default", "VEO3", "running"): 1,
                             ("default", "", "expired"): 1}  # fmt: skip
    assert list(tracking.cancel_chosen(url, [*chosen.ids, 4_711])) == [3]
    assert list(tracking.cancel_chosen(url, chosen.ids)) == [0]
    assert surveys.to_cancel(url, JobFilter()).count == 0
    with pytest.raises(Refused, match="has ended: there is nothing to cancel"):
        surveys.to_cancel(url, JobFilter(state="completed"))
