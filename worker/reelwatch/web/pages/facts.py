"""Facts: what is well and what is not, each in a sentence; and those about accounts."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.rules import notices
from reelwatch.rules.rests import BY_HAND, Rest, rest_of
from reelwatch.rules.wording import plain
from reelwatch.storage import incidents
from reelwatch.web.pages.words import number, rate

NO_NAME = re.compile(r"[^\w.@-]+")
APART_MOST = 3  # accounts of which the same is told one by one
NAMED_MOST = 3  # of those of which it is told together
REASONS_MOST = 2


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is `well`, `odd` or `bad`, in a sentence; `since` and `until` are times."""

    kind: str
    text: str
    detail: str = ""
    link: str = ""
    since: datetime | None = None
    until: datetime | None = None
    of: str = ""  # what it is about, the same while other things come and go
    group: tuple[str, str] = ("", "")  # what many accounts are, and which of them this one is

    @property
    def key(self) -> str:
        """The id of its place on the page."""
        return "fact-" + NO_NAME.sub("-", self.of)


@dataclass(frozen=True, slots=True)
class Begun:
    """Since when accounts are held up, by their names."""

    paused: Mapping[str, datetime]
    slowed: Mapping[str, datetime]


def begun(session: Session) -> Begun:
    """Since when accounts are paused and slowed, as far as that is known."""
    kinds = (notices.NoticeType.ACCOUNT_PAUSED, notices.SLOWED)
    paused, slowed = (incidents.begun(session, kind) for kind in kinds)
    return Begun(paused, slowed)


def account_fact(row: Mapping[Any, Any], now: datetime, begun: Begun) -> Fact | None:
    """What holds up an account, if anything does."""
    name, link = row["name"], f"/accounts#{row['name']}"
    rest: Rest | None = rest_of(row, now)
    if rest is not None and row["pause_reason"] is not None:
        by_hand = rest.reason.startswith(BY_HAND)
        text = f"Account {name} is paused" + (" by hand" if by_hand else ", as upstream refuses it")
        why = rest.reason.removeprefix(BY_HAND).removeprefix(": ")
        ends = rest.until if rest.until and rest.until > now else None
        said = "it is asked whether it works again" if ends else ""
        paused_since = begun.paused.get(name)
        text += ". That began" if paused_since else "."
        kind = "odd" if by_hand else "bad"
        group = "paused by hand" if by_hand else "paused, as upstream refuses them"
        detail = plain(why or said)
        return Fact(kind, text, detail, link, paused_since, ends, of=link, group=(group, name))
    if row["slowed_at"] is not None:
        slowed_since = begun.slowed.get(name)
        kept = f"Account {name} is slowed to {rate(row['requests_per_second'])} by upstream's 429s"
        kept += "; the first came" if slowed_since else "."
        until = rest.until if rest else None
        slowed = ("slowed by upstream's 429s", name)
        return Fact("odd", kept, "", link, slowed_since, until, of=link, group=slowed)
    return None


def together(found: Sequence[Fact]) -> Iterator[Fact]:
    """Facts about accounts: where many have the same trouble, as in an outage, one for all."""
    for said, facts in groupby(sorted(found, key=lambda fact: fact.group), lambda f: f.group[0]):
        same = list(facts)
        if len(same) <= APART_MOST:
            yield from same
        else:
            yield _of_all(said, same)


def _of_all(said: str, facts: Sequence[Fact]) -> Fact:
    since = min((fact.since for fact in facts if fact.since), default=None)
    text = f"{number(len(facts))} accounts are {said}."
    reasons = Counter(fact.detail for fact in facts if fact.detail).most_common(REASONS_MOST + 1)
    why = [reason for reason, _ in reasons[:REASONS_MOST]]
    why += ["and more"] if len(reasons) > REASONS_MOST else []
    detail = f"{some([fact.group[1] for fact in facts])}. {'; '.join(why)}".rstrip()
    text += " The first of these pauses began" if since and "paused" in said else ""
    text += " The first 429 came" if since and "slowed" in said else ""
    return Fact(facts[0].kind, text, detail, "/accounts", since, of=f"accounts {said}")


def some(names: Sequence[str]) -> str:
    """`a, b, c and 57 others`."""
    others = len(names) - NAMED_MOST
    if others <= 0:
        return ", ".join(names)
    more = "1 other" if others == 1 else f"{number(others)} others"
    return f"{', '.join(names[:NAMED_MOST])} and {more}"
