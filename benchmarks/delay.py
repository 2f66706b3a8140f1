"""How soon an end is noticed when 500 jobs share one key of 5 requests a second.

Reelwatch, a fixed round-robin of the same rate and the model of new-api's poller get the same jobs
at the same moments and run side by side, each with a key of its own. All spans are divided, and the
rates multiplied, by one factor. Reelwatch has watched other jobs of the same models before; what it
has learned from them is part of what it promises. A third account of its own asks an upstream that
allows less than was configured.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import trackers
from benchmarks.courses import Course, courses, endless
from benchmarks.result import Row
from benchmarks.trackers import Tracker
from benchmarks.upstream import Note, Upstream, upstream
from reelwatch.jobs import tracking
from reelwatch.rules.timing.pace import TARGET_DELAY
from tests.processes import Folder

GOAL = "delay"
SHARE_OF_NEWAPI = 0.25
SHARE_OF_ROUNDROBIN = 0.8
SHARE_WITH_STATUSES = 0.65

RATE = 5.0  # requests per second, before the factor
POLL_MIN, POLL_MAX = 5.0, 60.0
ALLOWED = 0.6  # of the configured rate, by the upstream that allows less
LEARNED_SECONDS = 90.0  # not divided: steps of the rate are spans of real time
ARRIVALS = 10  # the jobs come in so many parts
OURS = ("plain", "words", "limited")  # Reelwatch's accounts


@dataclass(frozen=True)
class Plan:
    """Sizes and spans; the latter in seconds before the factor."""

    scale: float
    jobs: int
    before: int  # jobs that Reelwatch has watched before
    before_seconds: float
    arrival_seconds: float
    seconds: float  # from the first arrival to the end

    @property
    def rate(self) -> float:
        """Requests per second, after the factor."""
        return RATE * self.scale

    @property
    def allowed(self) -> int:
        """What the stricter upstream allows."""
        return int(ALLOWED * self.rate)


FULL = Plan(3.0, 500, 300, 330.0, 60.0, 400.0)
QUICK = Plan(40.0, 60, 20, 40.0, 20.0, 120.0)


@dataclass
class Race:
    """All who take part, and what each is asked about."""

    plan: Plan
    asked: Upstream
    reelwatch: Tracker
    roundrobin: Tracker
    newapi: Tracker
    cut_at: float = field(default=0.0, init=False)  # unix seconds; what is unnoticed then, stays so

    def learn(self) -> None:
        """Let Reelwatch watch other jobs of these models, and the stricter upstream, first."""
        self._begin("limited", endless(int(self.plan.rate * POLL_MAX / self.plan.scale), "limited"))
        for name in ("plain", "words"):
            self._begin(name, self._courses(f"before-{name}-", self.plan.before, seed=7))
        time.sleep(self.plan.before_seconds / self.plan.scale)
        with trackers.configured(self.reelwatch.environment):
            for note in self.asked.notes("before-"):
                if note.told_at is None:
                    account = "words" if "words" in note.video_id else "plain"
                    tracking.cancel(note.video_id, account=account)

    def run(self) -> None:
        """The same jobs for all, part by part."""
        parts = {
            name: _parts(self._courses(f"{name}-", self.plan.jobs, seed=11))
            for name in ("plain", "words", "roundrobin", "newapi")
        }
        began = time.time()
        for number in range(ARRIVALS):
            arrival = self.plan.arrival_seconds / self.plan.scale * number / ARRIVALS
            time.sleep(max(0.0, began + arrival - time.time()))
            for name, part in parts.items():
                self._begin(name, part[number])
        time.sleep(max(0.0, began + self.plan.seconds / self.plan.scale - time.time()))
        self.cut_at = time.time()
        for tracker in (self.reelwatch, self.roundrobin, self.newapi):
            tracker.check()

    def _courses(self, prefix: str, count: int, seed: int) -> list[Course]:
        return courses(count, seed, self.plan.scale, f"{prefix}", statuses="words" in prefix)

    def _begin(self, name: str, part: Sequence[Course]) -> None:
        self.asked.begin(part)
        ids = [course.video_id for course in part]
        if name in OURS:
            self.reelwatch.take(ids, name)
        else:
            {"roundrobin": self.roundrobin, "newapi": self.newapi}[name].take(ids)

    def mean_delay(self, name: str) -> float:
        """From a job's end to the first answer that told of it; until now where there was none."""
        return mean(self.delays(name))

    def delays(self, name: str) -> list[float]:
        """The delay of each job that has ended, before the factor."""
        ended = [note for note in self._notes(name) if note.ends_at < self.cut_at]
        return [((n.told_at or self.cut_at) - n.ends_at) * self.plan.scale for n in ended]

    def told(self, name: str) -> str:
        """What else was counted, for a note."""
        notes, figures = self._notes(name), self.asked.figures(key(name))
        ended = [note for note in notes if note.ends_at < self.cut_at]
        missed = sum(note.told_at is None for note in ended)
        delays = sorted(self.delays(name))
        return (
            f"{len(ended)} ended, {missed} unnoticed; median {delays[len(delays) // 2]:.0f} s, "
            f"9 of 10 within {delays[len(delays) * 9 // 10]:.0f} s; "
            f"{sum(note.polls for note in notes) / len(notes):.1f} polls a job, "
            f"at most {figures.most_in_one_second} in a second"
        )

    def _notes(self, name: str) -> list[Note]:
        return self.asked.notes(f":{name}-")


def key(name: str) -> str:
    """The key that this one asks with."""
    return f"sk-benchmark-{name}-0123456789"


def rows(quick: bool) -> list[Row]:
    """One race, at a factor that is told in the notes."""
    plan = QUICK if quick else FULL
    asked = upstream()
    with ExitStack() as stack:
        asked.limit(key("limited"), plan.allowed)
        race = Race(
            plan,
            asked,
            stack.enter_context(_reelwatch(asked, plan, stack)),
            stack.enter_context(trackers.roundrobin(asked, key("roundrobin"), plan.rate)),
            stack.enter_context(trackers.newapi(asked, key("newapi"), plan.scale)),
        )
        began = time.time()
        race.learn()
        race.run()
        return [*_delays(race), *_missed(race), *_refusals(race, began)]


def _reelwatch(asked: Upstream, plan: Plan, stack: ExitStack) -> Any:
    folder = Folder("accounts")
    stack.callback(folder.remove)
    return trackers.reelwatch(
        asked,
        REELWATCH_ACCOUNTS_FILE=str(_accounts_file(folder.path, plan)),
        REELWATCH_POLL_MIN=str(POLL_MIN / plan.scale),
        REELWATCH_POLL_MAX=str(POLL_MAX / plan.scale),
        REELWATCH_TARGET_DELAY=str(TARGET_DELAY / plan.scale),
        **{f"KEY_{name.upper()}": key(name) for name in OURS},
    )


def _accounts_file(folder: Path, plan: Plan) -> Path:
    file = folder / "accounts.toml"
    file.write_text(
        "".join(
            f'[accounts.{name}]\napi_key_env = "KEY_{name.upper()}"\n'
            f"requests_per_second = {plan.rate}\n"
            for name in OURS
        )
    )
    return file


def _delays(race: Race) -> Iterator[Row]:
    names = {
        "new-api's poller": "newapi", "round-robin": "roundrobin",
        "Reelwatch": "plain", "Reelwatch, statuses": "words",
    }  # fmt: skip
    means = {who: race.mean_delay(name) for who, name in names.items()}
    for who, name in names.items():
        yield Row(GOAL, f"{who}: mean delay", means[who], "s", None, "lower", race.told(name))
    plan = race.plan
    note = f"{plan.jobs} jobs, {RATE:g} requests/s; run {plan.scale:g} times as fast"
    for who, other, limit in (
        ("Reelwatch", "new-api's poller", SHARE_OF_NEWAPI),
        ("Reelwatch", "round-robin", SHARE_OF_ROUNDROBIN),
        ("Reelwatch, statuses", "round-robin", SHARE_WITH_STATUSES),
    ):
        ratio = means[who] / means[other]
        yield Row(GOAL, f"mean delay, {who} / {other}", ratio, "", limit, "lower", note)


def _missed(race: Race) -> Iterator[Row]:
    """What a machine that is too busy does to a tracker that keeps to its slots."""
    missed = sum(said["count"] for said in race.reelwatch.logged("slots_missed"))
    polls = sum(race.asked.figures(key(name)).requests for name in OURS)
    yield Row(GOAL, "Reelwatch: slots that came too late to be used",
              100 * missed / max(1, missed + polls), "%", None, "lower")  # fmt: skip


def _refusals(race: Race, began: float) -> Iterator[Row]:
    figures = race.asked.figures(key("limited"))
    learned_at = began + min(LEARNED_SECONDS, (race.cut_at - began) / 2)
    late = sum(at > learned_at for at in figures.refused_at)
    note = (
        f"upstream allows {race.plan.allowed}/s of the {race.plan.rate:g}/s configured; "
        f"{len(figures.refused_at)} refusals in all, in {race.cut_at - began:.0f} s"
    )
    yield Row(GOAL, f"429s after the first {learned_at - began:.0f} s", late, "", 0, "lower", note)
    used = (figures.requests - len(figures.refused_at)) / (race.cut_at - began)
    share = used / race.plan.allowed
    yield Row(GOAL, "share of the allowed rate that is used", share, "", None, "higher")


def _parts(whole: Sequence[Course]) -> list[Sequence[Course]]:
    """The whole in the order of its numbers, in so many parts."""
    return [whole[number * len(whole) // ARRIVALS : (number + 1) * len(whole) // ARRIVALS]
            for number in range(ARRIVALS)]  # fmt: skip
