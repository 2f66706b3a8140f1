"""The page Accounts, where there are many: who is in trouble comes first, the others are short."""

import re
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from reelwatch.jobs import pausing
from reelwatch.storage import db
from reelwatch.storage.models import Account
from reelwatch.web.pages import standing
from tests import seeding
from tests.test_page import seen
from tests.web import TOKENS, Web

CUT = {"pause_reason": "quota: used up"}


def add(session: Session, **accounts: dict[str, Any]) -> None:
    for name, columns in accounts.items():
        seeding.add_account(session, name, **columns)


def some_in_trouble(session: Session) -> None:
    """Their names are in the order of the alphabet, and not in that of their troubles."""
    slowed = {"slowed_at": seeding.at(seconds=20), "requests_per_second": 0.8, "refused_rate": 2.0}
    by_hand = {"pause_reason": "by hand: a new key"}
    add(session, a={}, b={}, c=slowed, d=by_hand, e=CUT, f={}, z=CUT)
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


@pytest.mark.parametrize("columns", [{}, CUT, {"pause_reason": "by hand"}], ids=str)
def test_many_accounts_are_read_by_no_more_statements_than_few(
    url: str, columns: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    counts = []
    for number in range(2):
        with db.transaction(url) as session:
            for name in range(2 + 30 * number):
                seeding.add_account(session, f"tenant-{number}-{name}", **columns)
        counts.append(statements(url))
    assert 0 < counts[0] == counts[1]


def statements(url: str) -> int:
    """How many reading the page takes."""
    found = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        found.append(statement)

    with db.reading(url) as session:
        event.listen(session.get_bind(), "before_cursor_execute", note)
        standing.view(session)
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
