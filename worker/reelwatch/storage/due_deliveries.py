"""Which events go now, and taking them; what waits for dead receivers costs a claim nothing.

A survey walks along an index from endpoint to endpoint and sees the first few due events of each,
however many wait behind them. The rules of `breaker` say which of them may go. Only taking those
writes anything.
"""

import json
import random
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.rules import breaker
from reelwatch.rules.breaker import ALLOWANCE_FIRST, Room, Waiting, allowed
from reelwatch.rules.channels import WEBHOOK
from reelwatch.storage import db, walking
from reelwatch.storage.destinations import standing_of
from reelwatch.storage.walking import Owed

WINDOW = 400  # events and endpoints that one survey sees of a host at most
HOSTS_AT_ONCE = 16  # that one statement walks through; the next ones follow while there is room


@dataclass(frozen=True, slots=True)
class InHand:
    """What a worker has claimed and not written down yet, and how it claims more.

    It may claim for a host ahead of the places that this has, but not for one that is `slow`.
    """

    at_host: Mapping[str, int] = field(default_factory=dict)
    at_endpoint: Mapping[str, int] = field(default_factory=dict)
    ahead: int = 1  # times the places
    slow: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """The ids of events that may go, and how many at once each host has places for, for us."""

    ids: Sequence[str] = ()
    places: Mapping[str, int] = field(default_factory=dict)


NOTHING_IN_HAND = InHand()

# Where the walk through a host's endpoints was cut, to go on from there. A host has so many
# endpoints only where each job has a URL of its own.
_cut_at: dict[str, str] = {}


def survey(
    session: Session,
    limit: int,
    now: datetime,
    known: Collection[str] | None = None,
    in_hand: InHand = NOTHING_IN_HAND,
) -> Survey:
    """Up to `limit` due events that may go now; nothing is written or locked.

    `known`: webhooks of these accounts only; None: of all, which is quicker.
    """
    allowances = {
        row.name: row.allowance or ALLOWANCE_FIRST for row in session.execute(walking.HOSTS)
    }  # fmt: skip
    hosts = list(allowances)
    random.shuffle(hosts)  # where a claim can't take all, none is always the last
    search = _Search(session, now, known, in_hand)
    for start in range(0, len(hosts), HOSTS_AT_ONCE):
        some = {host: allowances[host] for host in hosts[start : start + HOSTS_AT_ONCE]}
        search.at(some, limit)
        if len(search.chosen) >= limit:
            break
    return Survey(list(search.chosen), search.places)


def take(session: Session, ids: Sequence[str], now: datetime, lease: timedelta) -> list[Owed]:
    """Lease those of the events that are still due; returns their rows, in the order to begin."""
    if not ids:
        return []
    values = {
        "ids": list(ids),
        "now": now,
        "leased_until": now + lease,
        "token": secrets.token_hex(16),
    }
    rows = [Owed._make(row) for row in session.execute(walking.claim(db.dialect(session)), values)]
    return sorted(rows, key=lambda row: (row.failures, row.created_at, row.sequence))


def rehearse(session: Session, now: datetime) -> None:
    """Run all statements of a claim, for no event at all."""
    session.execute(walking.HOSTS)
    _Search(session, now, None, NOTHING_IN_HAND).at({"": ALLOWANCE_FIRST}, 1)
    _under_way(session, now)
    take(session, [""], now, timedelta(0))


# ------------------------------------------------------------------ the survey


class _Search:
    """One survey: `chosen` are ids with their hosts, `places` the calls that hosts may get."""

    def __init__(
        self, session: Session, now: datetime, known: Collection[str] | None, in_hand: InHand
    ) -> None:
        self.chosen: dict[str, str] = {}
        self.places: dict[str, int] = {}
        self._session, self._now, self._known = session, now, known
        self._in_hand = in_hand

    def at(self, allowances: Mapping[str, int], limit: int) -> None:
        """Choose events of these hosts.

        What a host brings none of may stand where nobody looked: before the place where this
        walk went on, or behind the one where it was cut. So it is walked a second time from there.
        """
        partly = set(_cut_at)
        chosen = self._walk(allowances, limit - len(self.chosen))
        partly |= set(_cut_at)
        self.chosen |= chosen
        others = {
            host: places
            for host, places in allowances.items()
            if host in partly and host not in chosen.values()
        }
        if others and len(self.chosen) < limit:
            self.chosen |= self._walk(others, limit - len(self.chosen))

    def _walk(self, allowances: Mapping[str, int], limit: int) -> dict[str, str]:
        """The ids of the events of these hosts that one walk sees and that may go; and the hosts.

        The walk through a host goes on where the one before was cut.
        """
        starts = [
            [host, _cut_at.pop(host, ""), str(allowance * self._ahead(host, allowance))]
            for host, allowance in allowances.items()
        ]
        values: dict[str, Any] = {
            "hosts": json.dumps(starts), "now": self._now, "window": WINDOW, "most": limit,
        }  # fmt: skip
        if self._known is not None:
            values["known"] = list(self._known)
        walk = walking.walk(db.dialect(self._session), of_known=self._known is not None)
        rows = self._session.execute(walk, values).mappings().all()
        _cut_at.update({row["destination"]: row["target"] for row in rows if row["seen"] >= WINDOW})
        due = [row for row in rows if row["next_attempt_at"] <= self._now]
        return self._share(due, allowances, limit) if due else {}

    def _share(
        self, due: Sequence[RowMapping], allowances: Mapping[str, int], limit: int
    ) -> dict[str, str]:
        # Counted after the walk: what somebody takes meanwhile is counted, or can't be taken again.
        at_endpoint, at_host = _under_way(self._session, self._now)
        at_host.subtract(self._in_hand.at_host)
        at_endpoint.subtract(self._in_hand.at_endpoint)
        places = {host: allowance - at_host[host] for host, allowance in allowances.items()}
        free = {
            host: room * self._ahead(host, allowances[host]) - self._in_hand.at_host.get(host, 0)
            for host, room in places.items()
        }
        self.places |= places
        hosts = {row["id"]: row["destination"] for row in due}
        rooms = {
            row["target"]: self._room(row, at_endpoint[row["target"]], allowances) for row in due
        }
        chosen = breaker.share(map(_waiting, due), rooms, free, limit, self._now)
        return {event_id: hosts[event_id] for event_id in chosen}

    def _room(self, row: RowMapping, others: int, allowances: Mapping[str, int]) -> Room:
        standing = breaker.WELL if row["allowance"] is None else standing_of(row)
        well, host = standing == breaker.WELL, row["destination"]
        ahead = self._ahead(host, allowances[host]) if well else 1
        free = (allowed(standing, self._now) - others) * ahead
        return Room(free - self._in_hand.at_endpoint.get(row["target"], 0), well)

    def _ahead(self, host: str, allowance: int) -> int:
        """How many times its places may be claimed for a host: ahead only where all is well."""
        is_well = allowance >= breaker.ALLOWANCE_MAX and host not in self._in_hand.slow
        return self._in_hand.ahead if is_well else 1


def _under_way(session: Session, now: datetime) -> tuple[Counter[str], Counter[str]]:
    """How many calls are under way at each endpoint, and at each host."""
    at_endpoint: Counter[str] = Counter()
    at_host: Counter[str] = Counter()
    for row in session.execute(walking.UNDER_WAY, {"now": now}):
        at_endpoint[row.target] += row.calls
        if row.channel == WEBHOOK:
            at_host[row.destination] += row.calls
    return at_endpoint, at_host


def _waiting(row: RowMapping) -> Waiting:
    bound = row["channel"] == WEBHOOK  # what is not a stranger's has no limits
    return Waiting(row["id"], row["destination"], row["target"], row["delivery_failures"],
                   row["next_attempt_at"], bound)  # fmt: skip
