"""How an upstream account stands: may it be asked, how fast, and if not, until when and why. Pure.

An answer may speak of the account or of one job alone, and says the same words for both. What tells
them apart is what the account's other jobs get. A refusal (the key, the quota, access) counts as
the account's when `REFUSALS` polls in a row were refused; a 429 when nothing works, or when it
meets jobs that are answered well otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, Self

from reelwatch.rules import recovery
from reelwatch.rules.answer_errors import ACCOUNT_SLOWS, AnswerError
from reelwatch.rules.rests import BY_HAND
from reelwatch.rules.states import Account as Effect

REFUSALS = 3  # polls in a row, of whichever jobs, until the account rests for them
LIMITED_SECONDS = 60.0  # two jobs that were well and get a 429 within it meet a limit
TOGETHER_SECONDS = 10.0  # so do any two within this: odd jobs seldom come so close to each other
ALONE_NEW = 2  # as below, of jobs that were never well
ALONE = 3  # 429s in a row that one job alone got, and the rate was not cut for what upstream allows
LONG_HOLD = 10.0  # seconds; who is told to wait for longer rests, and asks once when it is over
PROBE_AGAIN = 5.0  # seconds until the next probe after one that proved nothing


def row_now(row: Mapping[Any, Any], configured: float | None, now: datetime) -> dict[Any, Any]:
    """A row of `accounts` as it stands at `now`; `configured` None: as far as is stored."""
    stored = Standing.of(row)
    standing = stored if configured is None else stored.now(configured, now)
    return {**row, **standing.changed(stored)}


@dataclass(frozen=True, slots=True)
class Asked:
    """What bears on the account of one poll's answer. `probe`: the account rested, this poll asked
    whether it works again.
    """

    job_id: int
    effect: Effect
    error: AnswerError | None = None
    probe: bool = False
    in_row: int = 0  # errors of the job, this one included
    well: bool = True  # the job was answered well before, at any time


@dataclass(frozen=True, slots=True)
class Standing:
    """One account's standing: the columns of its row in `accounts` that answers and claims change.

    It rests while it has a `pause_reason`; without `paused_until`, until somebody resumes it.
    """

    requests_per_second: float
    next_slot_at: datetime | None = None
    slowed_at: datetime | None = None
    refused_rate: float | None = None
    paused_until: datetime | None = None
    pause_reason: str | None = None
    pauses_in_row: int = 0
    refusals: int = 0  # polls in a row that were refused, while it does not rest for them
    limited_at: datetime | None = None  # the last 429 that counted
    limited_by: int | None = None  # the job that got it, unless that was never well
    worked_at: datetime | None = None  # an answer that the key was accepted for, after a suspicion

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> Self:
        """The standing that a row holds."""
        return cls(**{each.name: row[each.name] for each in fields(cls)})

    def changed(self, before: Self) -> dict[str, Any]:
        """The columns to write so that a row which held `before` holds this one."""
        names = [each.name for each in fields(self)]
        return {
            name: getattr(self, name)
            for name in names
            if getattr(self, name) != getattr(before, name)
        }

    @property
    def rests(self) -> bool:
        """Is it asked by probes alone, if at all?"""
        return self.pause_reason is not None

    @property
    def by_hand(self) -> bool:
        """Did somebody pause it? Then only somebody resumes it."""
        return self.rests and self.paused_until is None

    @property
    def suspected(self) -> bool:
        """Was something refused that no answer since has shown to be one job's alone?"""
        return self.refusals > 0 or self._nothing_worked

    @property
    def refused_seconds(self) -> float:
        """For how long it has been refused at least: what it has rested for that."""
        longest = 12  # pauses later all are as long
        grown = sum(map(recovery.pause_seconds, range(1, min(self.pauses_in_row, longest) + 1)))
        return grown + recovery.PAUSE_MAX * max(0, self.pauses_in_row - longest)

    def now(self, configured: float, now: datetime) -> Self:
        """With the rate that is in force at `now`: what was cut comes back while it is quiet."""
        full = replace(self, requests_per_second=configured, slowed_at=None, refused_rate=None)
        if self.slowed_at is None:
            return full
        quiet = (now - self.slowed_at).total_seconds()
        cut = recovery.Recovery(self.requests_per_second, quiet, self.refused_rate)
        found = recovery.recovered(cut, configured)
        if found.rate >= configured:
            return full
        since = self.slowed_at if quiet < 0 else now - timedelta(seconds=found.quiet_seconds)
        return replace(
            self, requests_per_second=found.rate, slowed_at=since, refused_rate=found.refused
        )

    def probing(self, until: datetime) -> Self:
        """A probe is under way; the next one follows at `until` if nothing is heard of it."""
        return replace(self, paused_until=until)

    # ------------------------------------------------------------- answers

    def after(self, asked: Asked, now: datetime) -> Self:
        """What the answer to a poll, written down at `now`, makes of it.

        Whoever paused it by hand is not overruled by any.
        """
        if self.by_hand:
            return self
        if asked.effect is Effect.PAUSE and asked.error is not None:
            return self._refused(asked.error, now, probe=asked.probe)
        if asked.effect is Effect.SLOW and asked.error is not None:
            return self._limited(asked, asked.error, now)
        if asked.effect is Effect.WORKS:
            return self._worked(now, probe=asked.probe)
        cleared = self._cleared() if self._was_alone(asked) else self
        return cleared._unheard(now, probe=asked.probe)

    def unsent(self, now: datetime) -> Self:
        """A probe was not sent: another may go at once."""
        return replace(self, paused_until=now) if self.rests and not self.by_hand else self

    def _worked(self, now: datetime, *, probe: bool) -> Self:
        if self.rests and not probe:  # it was under way when the account began to rest
            return self
        well = replace(self, worked_at=now) if self.suspected or self.rests else self
        return replace(well, paused_until=None, pause_reason=None, pauses_in_row=0, refusals=0)

    def _unheard(self, now: datetime, *, probe: bool) -> Self:
        """A probe that brought no news of the account is soon followed by another job's."""
        if not (probe and self.rests):
            return self
        return replace(self, paused_until=now + timedelta(seconds=PROBE_AGAIN))

    def _refused(self, error: AnswerError, now: datetime, *, probe: bool) -> Self:
        if self.rests and not probe:  # it was under way, and counts once
            return self
        if not self.rests and self.refusals + 1 < REFUSALS:
            return replace(self, refusals=self.refusals + 1)
        pauses = self.pauses_in_row + 1
        until = now + timedelta(seconds=recovery.pause_seconds(pauses))
        reason = f"{error.kind.value}: {error.message}"
        return replace(
            self, paused_until=until, pause_reason=reason, pauses_in_row=pauses, refusals=0
        )

    def _limited(self, asked: Asked, error: AnswerError, now: datetime) -> Self:
        """After a 429: a short hold for one that may be a job's own, else the rate is cut as well.

        It shows that the key is accepted; what else a probe was to find out is found.
        """
        if self.rests and not asked.probe:
            return self
        wait = recovery.HOLD_SECONDS if error.retry_after is None else error.retry_after
        moment = now + timedelta(seconds=min(wait, recovery.HOLD_SECONDS))
        noted = replace(self, limited_at=now, limited_by=asked.job_id if asked.well else None)
        if not asked.probe and not self._is_limited(asked, now):
            # However many odd jobs come, all of them together hold it for a moment in a minute.
            if self.slowed_at is not None and not asked.well:  # who taught the limit stays known
                noted = replace(noted, limited_by=self.limited_by)
            return noted if self._was_limited(now, LIMITED_SECONDS) else noted._held(moment)
        trusted = asked.probe or asked.well
        if not trusted:  # what jobs that were never well are told may be for them alone
            if self._was_limited(now, recovery.HOLD_SECONDS):  # it was under way: one burst
                return self
            if self.slowed_at is None or now <= self.slowed_at:
                return noted._slowed(now, moment)._held(moment)
        until = now + timedelta(seconds=min(wait, recovery.PAUSE_MAX))
        slowed = noted._slowed(now, until)
        if wait <= LONG_HOLD:
            awake = replace(slowed, paused_until=None, pause_reason=None, pauses_in_row=0)
            return awake._held(until)
        asked_for = f"{error.kind.value}: {error.message}; to be asked again in {wait:.0f} s"
        # Whether nothing works for others either is asked soon; the probe's answer is believed.
        until = until if trusted else now + timedelta(seconds=recovery.PAUSE_FIRST)
        return replace(slowed, paused_until=until, pause_reason=asked_for)

    def _was_limited(self, now: datetime, seconds: float) -> bool:
        """Was a 429 noted within so many seconds?"""
        return self.limited_at is not None and (now - self.limited_at).total_seconds() <= seconds

    def _is_limited(self, asked: Asked, now: datetime) -> bool:
        """Is this 429 the account's? A limit refuses whoever is polled next; an odd job's 429s
        are always its own, and it is never answered well.
        """
        if not self._was_limited(now, LIMITED_SECONDS):
            return False
        if self._nothing_worked or (
            asked.in_row <= 1
            and self._was_limited(now, TOGETHER_SECONDS)
            and asked.job_id != self.limited_by
        ):
            return True
        was_well = asked.well and asked.in_row <= 1
        return was_well and self.limited_by not in (None, asked.job_id)

    @property
    def _nothing_worked(self) -> bool:
        """Has nothing worked since the last 429 that was noted?"""
        since = self.limited_at
        return since is not None and (self.worked_at is None or self.worked_at < since)

    def _was_alone(self, asked: Asked) -> bool:
        """Did the job that got the last 429 that counted go on to get them alone?

        For one that was never well, another such stands: they came one after the other.
        """
        if self.limited_by is None:
            limited = asked.error is not None and asked.error.kind in ACCOUNT_SLOWS
            return limited and not asked.well and asked.in_row >= ALONE_NEW
        return asked.job_id == self.limited_by and asked.in_row >= ALONE

    def _cleared(self) -> Self:
        """No limit is known: the jobs that got 429s one after the other are all odd."""
        return replace(self, slowed_at=None, refused_rate=None)

    def _held(self, until: datetime) -> Self:
        """No slot before that; those that are reserved stay so."""
        return replace(self, next_slot_at=max(self.next_slot_at or until, until))

    def _slowed(self, now: datetime, held_until: datetime) -> Self:
        """Cut the rate once for a burst of 429s: what was under way when the hold began belongs to
        it, and quiet begins when it is over.
        """
        if self.slowed_at is not None and now <= self.slowed_at:
            return self
        refused = self.requests_per_second
        return replace(
            self,
            requests_per_second=recovery.slower(refused),
            slowed_at=held_until,
            refused_rate=refused,
        )

    # --------------------------------------------------------------- hands

    def paused(self, reason: str = "") -> Self:
        """Paused by somebody until somebody resumes it; with no reason, an earlier one stays."""
        if self.by_hand and not reason:
            return self
        said = f"{BY_HAND}: {reason}" if reason else BY_HAND
        return replace(self, paused_until=None, pause_reason=said, pauses_in_row=0, refusals=0)

    def resumed(self, now: datetime) -> Self:
        """Nothing holds it any more, whatever did.

        A limit that was learned stays known: the rate is at once as high as may be below it.
        """
        rate, slowed_at = self.requests_per_second, None
        if self.slowed_at is not None and self.refused_rate is not None:
            rate = max(rate, self.refused_rate * recovery.BELOW_REFUSED)
            slowed_at = min(self.slowed_at, now)
        return replace(
            self,
            requests_per_second=rate,
            slowed_at=slowed_at,
            next_slot_at=None,
            paused_until=None,
            pause_reason=None,
            pauses_in_row=0,
            refusals=0,
            limited_at=None,
            limited_by=None,
        )
