"""The counters beside the facts that they count: they are to be the same, whatever happened."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from reelwatch.rules import metrics
from reelwatch.rules.metrics import Metric, Series, Tally

Rows = Callable[[str], Sequence[Any]]  # the rows of a query
Counts = dict[tuple[str, ...], float]

ENDED = "('completed', 'failed', 'expired', 'cancelled')"
OF_JOBS = "JOIN jobs j ON j.id = job_id"
READINGS = 3  # between a counter and its facts a poll may be written: not three times in a row
# The labels by which a counter is compared, and the facts by these.
FACTS: Mapping[str, tuple[tuple[str, ...], str]] = {
    metrics.POLLS.name: (
        ("account",),
        "SELECT account, sum(polls) FROM jobs WHERE polls > 0 GROUP BY account",
    ),
    metrics.FIRST_POLLS.name: (
        ("account",),
        "SELECT account, count(*) FROM jobs WHERE polls > 0 GROUP BY account",
    ),
    metrics.POLL_ERRORS.name: (
        ("account", "kind"),
        f"SELECT j.account, kind, sum(count) FROM poll_errors {OF_JOBS} GROUP BY j.account, kind",
    ),
    metrics.TRANSITIONS.name: (
        ("account", "state"),
        f"SELECT j.account, to_state, count(*) FROM transitions {OF_JOBS} "
        "GROUP BY j.account, to_state",
    ),
    metrics.ENDS.name: (
        ("account", "state"),
        f"SELECT j.account, to_state, count(*) FROM transitions {OF_JOBS} "
        f"WHERE to_state <> from_state AND to_state IN {ENDED} GROUP BY j.account, to_state",
    ),
    metrics.EVENTS.name: (
        ("type", "channel"),
        "SELECT event_type, channel, count(*) FROM deliveries GROUP BY event_type, channel",
    ),
    metrics.ATTEMPTS.name: (
        ("channel", "host"),
        "SELECT channel, destination, count(*) FROM attempts "
        "JOIN deliveries d ON d.id = delivery_id GROUP BY channel, destination",
    ),
    metrics.ATTEMPT_SECONDS.name: (
        ("channel",),
        "SELECT channel, count(*) FROM attempts JOIN deliveries d ON d.id = delivery_id "
        "GROUP BY channel",
    ),
    metrics.POLL_SECONDS.name: (
        ("account",),
        "SELECT account, sum(polls) FROM jobs WHERE polls > 0 GROUP BY account",
    ),
}


def wrong_counts(rows: Rows) -> Iterator[str]:
    """What the counters say that is not so."""
    for name, (labels, query) in FACTS.items():
        for _ in range(READINGS):
            counted = _counted(_tally(rows), metrics.ALL[name], labels)
            facts = {tuple(row[:-1]): float(row[-1]) for row in rows(query)}
            if counted == facts:
                break
        else:
            yield f"{name} counts {counted}, the facts are {facts}"
    yield from _wrong_settled(_tally(rows), rows)


def _wrong_settled(tally: Tally, rows: Rows) -> Iterator[str]:
    """A delivery that was ordered again may settle twice: then it counts twice."""
    settled = _counted(tally, metrics.SETTLED, ("state",))
    query = "SELECT state, count(*) FROM deliveries WHERE state <> 'pending' GROUP BY state"
    for state, count in rows(query):
        if settled.get((state,), 0) < count:
            yield f"{count} deliveries are {state}, counted are {settled.get((state,), 0):g}"


def _tally(rows: Rows) -> Tally:
    query = "SELECT name, labels, sum(value) FROM counters GROUP BY name, labels"
    return Tally(
        {
            Series(name, tuple(json.loads(labels).items())): value
            for name, labels, value in rows(query)
        }
    )


def _counted(tally: Tally, metric: Metric, labels: Sequence[str]) -> Counts:
    end = "bucket" if metric.buckets else "total"
    found: Counts = {}
    for series, value in tally.items():
        if series.name == f"{metric.name}_{end}":
            all_labels = dict(series.labels)
            at = tuple(all_labels[label] for label in labels)
            found[at] = found.get(at, 0.0) + value
    return found
