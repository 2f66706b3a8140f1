"""The page Accounts, where there are many: who is in trouble comes first, the others are short."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from reelwatch.jobs import pausing
from reelwatch.storage import db, figures, standings
from reelwatch.storage.models import Account
from reelwatch.web.pages import standing
from tests import seeding
from tests.test_page import seen
from tests.web import TOKENS, Web

CUT = {"pause_reason": "quota: used up"}
SLOWED = {"slowed_at": seeding.at(seconds=20), "requests_per_second": 0.8, "refused_rate": 2.0}


def add(session: Session, **accounts: dict[str, Any]) -> None:
    for name, columns in accounts.items():
        seeding.add_account(session, name, **columns)


def why_late(session: Session) -> list[str]:
    now = db.now(session)
    return figures.slowed_and_late(session, standings.rows_now(session, now), now)


def some_in_trouble(session: Session) -> None:
    """Their names are in the order of the alphabet, and not in that of their troubles."""
    by_hand = {"pause_reason": "by hand: a new key"}
    add(session, a={}, b={}, c=SLOWED, d=by_hand, e=CUT, f={}, z=CUT)
    seeding.add_job(session, account="b", next_poll_at=seeding.at(minutes=2))
    seeding.add_job(session, account="f", next_poll_at=seeding.at(seconds=2))


def test_who_has_trouble_comes_first_and_the_rest_by_name(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        some_in_trouble(session)
    page = web.get("/accounts").text
    assert re.findall(r'<tr id="(\w+)" class="(\w+)"', page) == [
        ("e", "amiss"), ("z", "amiss"), ("d", "amiss"), ("c", "amiss"), ("b", "amiss"),
        ("a", "fine"), ("f", "fine"),
    ]  # fmt: skip
    said = seen(web, "/accounts")
    assert "7 accounts: 3 are paused, 1 is slowed, 1 has late polls, 2 poll as configured." in said
    assert "1 poll is late, due for more than a minute. More workers, or" in said
    assert "a new key" in said


def test_few_accounts_have_a_card_each(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        add(session, a={}, b={}, c=CUT)
    page = web.get("/accounts").text
    assert re.findall(r'<section class="card account" id="(\w+)"', page) == ["c", "a", "b"]
    assert "<table" not in page


def test_each_of_many_accounts_can_be_paused_and_resumed_by_who_may(
    guarded_web: Web, lite: str
) -> None:
    with db.transaction(lite) as session:
        some_in_trouble(session)
    read, operate = (
        guarded_web.get("/accounts", headers={"Authorization": f"Bearer {TOKENS[role]}"}).text
        for role in ("read", "operate")
    )
    assert '<form method="post" action="/accounts' not in read
    assert set(re.findall(r'action="/accounts/(\w)/pause"', operate)) == set("abcefz")
    assert set(re.findall(r'action="/accounts/(\w)/resume"', operate)) == set("cdez")


@pytest.mark.parametrize("view", [standing.view, why_late])
@pytest.mark.parametrize(
    "columns",
    [{}, CUT, {"pause_reason": "by hand"}, SLOWED],
    ids=["well", "cut", "paused", "slowed"],
)
def test_many_accounts_are_read_by_no_more_statements_than_few(
    url: str,
    columns: dict[str, Any],
    view: Callable[[Session], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    counts = []
    for number in range(2):
        with db.transaction(url) as session:
            for name in range(2 + 30 * number):
                account = f"tenant-{number}-{name}"
                seeding.add_account(session, account, **columns)
                seeding.add_job(session, account=account, next_poll_at=seeding.at(minutes=2))
        counts.append(statements(url, view))
    assert 0 < counts[0] == counts[1]


def statements(url: str, view: Callable[[Session], Any]) -> int:
    """How many reading the page takes."""
    found = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    with db.reading(url) as session:
        event.listen(session.get_bind(), "before_cursor_execute", note)
        view(session)
        event.remove(session.get_bind(), "before_cursor_execute", note)
    return len(found)


def test_each_account_says_who_paused_it(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        add(session, a={}, b={}, c={}, d={})
    for name, who in (("b", "ben"), ("b", "anna"), ("d", "dan")):
        pausing.pause_account(name, f"for {who}", by=who)
    with db.transaction(url) as session:  # of one that was paused before there were actions
        session.get_one(Account, "c").pause_reason = "by hand"
    said = seen(web, "/accounts")
    assert re.findall(r"(\w) ! paused.*?(?:Paused by (\w+)\.|none)", said) == [
        ("b", "anna"), ("c", ""), ("d", "dan"),
    ]  # fmt: skip


def test_what_many_accounts_suffer_is_one_thing_on_the_first_page(web: Web, url: str) -> None:
    """In an outage there are as many as there are accounts: what else is amiss would be lost."""
    with db.transaction(url) as session:
        for number in range(5):
            seeding.add_account(session, f"cut-{number}", **CUT)
            seeding.add_account(session, f"by-hand-{number}", pause_reason=f"by hand: {number}")
            late = {"deadline_at": seeding.at(minutes=30), "next_poll_at": seeding.at(minutes=4)}
            seeding.add_job(session, "expired", account=f"cut-{number}", **late)
        for number in range(3):
            seeding.add_account(session, f"slow-{number}", slowed_at=seeding.at(seconds=1),
                                requests_per_second=0.5, refused_rate=1.0)  # fmt: skip
    said = seen(web, "/")
    assert "5 accounts are paused, as upstream refuses them." in said
    assert "cut-0, cut-1, cut-2 and 2 others. quota: used up" in said
    assert "5 accounts are paused by hand." in said
    assert "by-hand-0, by-hand-1, by-hand-2 and 2 others. 0; 1; and more" in said
    assert "Jobs of 5 accounts are past their deadline, or their polls bring errors alone" in said
    for number in range(3):
        assert f"Account slow-{number} is slowed to 0.5" in said
    assert "Account cut" not in said


def test_many_accounts_that_are_held_up_say_when_that_began(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        for number in range(4):
            seeding.add_account(session, f"a{number}")
    for number in range(4):
        pausing.pause_account(f"a{number}")
    assert re.search(
        r"4 accounts are paused by hand\. The first of these pauses began (now|\ds ago) ?\.",
        seen(web, "/"),
    )
