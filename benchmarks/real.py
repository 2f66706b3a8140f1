"""Requests per job by the real system: 2,000 jobs, real workers, PostgreSQL, Redis and HTTP.

    python -m benchmarks.real

`benchmarks.schedule` asks the same of a simulation. Here the jobs of both models come in evenly,
Reelwatch has seen some of each end before, and all that a real system adds is in the delay: claims,
threads, writing down. For each model the polls that it made are held against those of the best
fixed interval at the delay that it had, which is reckoned from the same jobs' durations and adds
nothing; the first poll, which makes sure of the id, is not counted. Spans are divided by a factor.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from statistics import fmean

from benchmarks import schedule, trackers
from benchmarks.__main__ import show
from benchmarks.courses import MODELS, courses
from benchmarks.result import Row
from benchmarks.upstream import Note, upstream

GOAL = "1. requests per job, the real system"
SCALE = 4.0
JOBS, BEFORE = 2_000, 600
BEFORE_SECONDS, ARRIVAL_SECONDS, SECONDS = 240.0, 320.0, 760.0  # before the factor
TARGET_DELAY = 6.0
POLL_MIN, POLL_MAX = 1.0, 600.0
PARTS = 80  # in which the jobs come in
OF_OPTIMUM = 1.05  # after 100 ended jobs; 300 of each model have come before


def rows(jobs: int) -> Iterator[Row]:
    """Both models' figures."""
    asked = upstream()
    with trackers.reelwatch(
        asked,
        REELWATCH_REQUESTS_PER_SECOND="1000",
        REELWATCH_POLL_MIN=str(POLL_MIN / SCALE),
        REELWATCH_POLL_MAX=str(POLL_MAX / SCALE),
        REELWATCH_TARGET_DELAY=str(TARGET_DELAY / SCALE),
    ) as tracker:
        began = time.time()
        for prefix, seed, count, since, span in (
            ("before-", 7, BEFORE, 0.0, BEFORE_SECONDS / 2),
            ("", 11, jobs, BEFORE_SECONDS, ARRIVAL_SECONDS),
        ):
            whole = courses(count, seed, SCALE, f"{prefix}real-", statuses=False)
            for part in range(PARTS):
                _sleep_until(began + (since + span * part / PARTS) / SCALE)
                now = whole[part * count // PARTS : (part + 1) * count // PARTS]
                asked.begin(now)
                tracker.take([course.video_id for course in now])
        _sleep_until(began + SECONDS / SCALE)
        cut_at = time.time()
        tracker.check()
        notes = asked.notes(":real-")
    for place, (model, median, _sigma) in enumerate(MODELS):
        mine = [note for note in notes if note.video_id.startswith(f"{model}:")]
        yield from _told(mine, cut_at, f"median {median:g} s", schedule.optimum(place))


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.time()))


def _told(notes: Sequence[Note], cut_at: float, kind: str, optimum: float) -> Iterator[Row]:
    ended = [note for note in notes if note.ends_at < cut_at]
    late = fmean((note.told_at or cut_at) - note.ends_at for note in ended)
    polls = fmean(note.polls - 1 for note in notes)
    # What goes on at the end of the run was polled until then, by the fixed interval, too.
    lasted = [min(note.ends_at, cut_at) - note.starts_at for note in notes]
    durations = [note.ends_at - note.starts_at for note in ended]
    fixed = schedule.fixed_polls(durations, late, lasted)
    note = (
        f"{len(notes)} jobs, {len(ended)} ended, {polls:.1f} polls a job and the first; "
        f"{SCALE * late:.2f} s late on average; run {SCALE:g} times as fast"
    )
    yield Row(GOAL, f"{kind}, of fixed", polls / fixed, "", 1.0, "lower", note)
    yield Row(GOAL, f"{kind}, of the optimum by age", polls / fixed / optimum, "",
              OF_OPTIMUM, "lower")  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=JOBS)
    show(list(rows(parser.parse_args().jobs)), quick=False)


if __name__ == "__main__":
    main()
